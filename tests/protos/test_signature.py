"""Signature: which tensors fit, and what is said about those that do not."""

import json
import math
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from headrace.datatypes import DATATYPES, needs_exact_check, widens
from headrace.signature import (
    SHOWN_NAMES_MAX,
    Given,
    ParamSpec,
    Signature,
    SignatureMismatch,
    TensorSpec,
    common_rows,
)
from strategies import fitting, names, signatures

IRIS = Signature(
    (
        TensorSpec("length", "FP64", (-1,), "double"),
        TensorSpec("width", "FP32", (-1,), "float"),
        TensorSpec("city", "BYTES", (-1,), "string", optional=True),
    )
)
IMAGE = Signature((TensorSpec("image", "FP32", (-1, 3, 8, -1)),))


def columns(rows: int = 2, **changed: Given) -> list[Given]:
    """Tensors that fit IRIS, but for what is *changed*."""
    tensors = {
        "length": Given("length", "FP64", (rows,)),
        "width": Given("width", "FP32", (rows,)),
    }
    return list({**tensors, **changed}.values())


@given(signatures(), st.integers(0, 5), st.data())
def test_tensors_fit_in_any_order_and_fill_the_inputs_in_the_signatures(
    signature: Signature, rows: int, data: st.DataObject
) -> None:
    tensors = data.draw(fitting(signature, rows))

    fit = signature.fit(tensors)

    assert fit.rows == rows
    assert fit.exact == ()
    filled = {spec.name: at for spec, at in zip(signature.inputs, fit.order, strict=True)}
    given_at = {tensor.name: at for at, tensor in enumerate(tensors)}
    assert filled == {spec.name: given_at.get(spec.name, -1) for spec in signature.inputs}


@given(signatures(), st.integers(1, 3), st.data())
def test_a_tensor_that_must_be_given_is_missed(
    signature: Signature, rows: int, data: st.DataObject
) -> None:
    tensors = data.draw(fitting(signature, rows))
    missing = data.draw(st.sampled_from([spec for spec in signature.inputs if not spec.optional]))
    left = [tensor for tensor in tensors if tensor.name != missing.name]

    with pytest.raises(SignatureMismatch) as caught:
        signature.fit(left)

    assert f"missing input {missing.name!r}" in str(caught.value)


@given(signatures(), st.integers(1, 3), names, st.data())
def test_a_tensor_that_no_input_has_the_name_of_is_refused(
    signature: Signature, rows: int, name: str, data: st.DataObject
) -> None:
    assume(all(spec.name != name for spec in signature.inputs))
    tensors = data.draw(fitting(signature, rows))
    at = data.draw(st.integers(0, len(tensors)))

    with pytest.raises(SignatureMismatch) as caught:
        signature.fit([*tensors[:at], Given(name, "FP32", (rows,)), *tensors[at:]])

    assert f"unknown input {name!r}" in str(caught.value)


@pytest.mark.parametrize("source", DATATYPES.values(), ids=lambda row: row.name)
def test_a_narrower_datatype_fits_exactly_where_it_widens(source: object) -> None:
    for one, target in product(DATATYPES.values(), DATATYPES.values()):
        if one is not source:
            continue
        signature = Signature((TensorSpec("x", target.name, (-1, 2)),))
        tensors = [Given("x", one.name, (4, 2))]
        if widens(one, target):
            fit = signature.fit(tensors)
            assert fit.exact == ((0,) if needs_exact_check(one, target) else ())
        else:
            with pytest.raises(SignatureMismatch) as caught:
                signature.fit(tensors)
            assert str(caught.value) == f"input 'x': expected {target.name}, got {one.name}"


def test_exact_names_the_given_tensors_by_their_own_positions() -> None:
    """Not by those of the inputs that they fill."""
    signature = Signature(tuple(TensorSpec(name, "FP64", (-1,), "double") for name in "abc"))
    tensors = [Given("c", "INT64", (1,)), Given("a", "UINT64", (1,)), Given("b", "FP32", (1,))]

    fit = signature.fit(tensors)

    assert fit.order == (1, 2, 0)
    assert set(fit.exact) == {0, 1}


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_a_column_takes_one_value_per_row_with_or_without_an_axis_for_it(
    shape: tuple[int, ...],
) -> None:
    fit = IRIS.fit([Given("length", "FP64", shape), Given("width", "FP32", (5,))])

    assert fit.rows == 5


def test_a_tensor_of_one_axis_does_not_take_a_second() -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1,)),))

    with pytest.raises(SignatureMismatch, match=r"expected shape \[-1\], got \[5, 1\]"):
        signature.fit([Given("x", "FP32", (5, 1))])


def test_a_tensor_without_axes_has_no_rows() -> None:
    signature = Signature((TensorSpec("x", "FP32", ()),))

    assert signature.fit([Given("x", "FP32", ())]).rows is None


@pytest.mark.parametrize(
    ("signature", "tensors", "message"),
    [
        pytest.param(
            IRIS,
            [*columns(), Given("length", "FP64", (2,))],
            "input 'length' is given twice",
            id="twice",
        ),
        pytest.param(
            IRIS,
            columns(height=Given("height", "FP64", (2,))),
            "unknown input 'height': expected ['length', 'width', 'city']",
            id="unknown",
        ),
        pytest.param(
            IRIS,
            [Given("width", "FP32", (2,))],
            "missing input 'length': expected ['length', 'width', 'city'], got ['width']",
            id="missing",
        ),
        pytest.param(
            IRIS,
            columns(width=Given("width", "FP64", (2,))),
            "input 'width': expected FP32, got FP64",
            id="datatype",
        ),
        pytest.param(
            IRIS,
            columns(width=Given("width", "FLOAT", (2,))),
            "input 'width': unknown datatype 'FLOAT', expected one of BOOL, UINT8, UINT16, UINT32, "
            "UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64, BYTES, BF16",
            id="no datatype",
        ),
        pytest.param(
            IRIS,
            columns(width=Given("width", "FP32", (2, 2))),
            "input 'width': expected shape [-1], got [2, 2]",
            id="column with two values",
        ),
        pytest.param(
            IRIS,
            columns(width=Given("width", "FP32", (2, 1, 1))),
            "input 'width': expected shape [-1], got [2, 1, 1]",
            id="column with two axes more",
        ),
        pytest.param(
            IRIS,
            columns(width=Given("width", "FP32", ())),
            "input 'width': expected shape [-1], got []",
            id="column without rows",
        ),
        pytest.param(
            IMAGE,
            [Given("image", "FP32", (2, 4, 8, 5))],
            "input 'image': expected shape [-1, 3, 8, -1], got [2, 4, 8, 5]",
            id="size",
        ),
        pytest.param(
            IMAGE,
            [Given("image", "FP32", (3, 8, 5))],
            "input 'image': expected shape [-1, 3, 8, -1], got [3, 8, 5]",
            id="axes",
        ),
        pytest.param(
            IRIS,
            columns(width=Given("width", "FP32", (3,))),
            "input 'width' has 3 rows, but 'length' has 2: all columns of a request need the same "
            "number of rows",
            id="rows",
        ),
        pytest.param(
            Signature((TensorSpec("x", "FP32", (-1,), "double", optional=True),)),
            [],
            "a request needs at least one input, got none",
            id="nothing",
        ),
    ],
)
def test_a_refusal_names_the_tensor_and_what_was_expected_and_given(
    signature: Signature, tensors: list[Given], message: str
) -> None:
    with pytest.raises(SignatureMismatch) as caught:
        signature.fit(tensors)

    assert str(caught.value) == message


def test_a_refusal_lists_only_so_many_names() -> None:
    wide = Signature(
        tuple(TensorSpec(f"x{i}", "FP64", (-1,), "double") for i in range(SHOWN_NAMES_MAX + 3))
    )

    with pytest.raises(SignatureMismatch) as caught:
        wide.fit([Given("y", "FP64", (1,))])

    assert str(caught.value) == (
        "unknown input 'y': expected ['x0', 'x1', 'x2', 'x3', 'x4', 'x5', 'x6', 'x7', and 3 more]"
    )


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4))
def test_rows_are_common_or_not_counted(rows: list[int]) -> None:
    tensors = [Given(str(i), "FP32", (count, 2)) for i, count in enumerate(rows)]
    scalar = Given("t", "FP32", ())

    if len(set(rows)) == 1:
        assert common_rows(tensors) == rows[0]
    else:
        assert common_rows(tensors) is None
    assert common_rows([scalar, *tensors]) is None


@pytest.mark.parametrize(
    ("shapes", "is_batchable"),
    [
        ([(-1,)], True),
        ([(-1, 4), (-1,)], True),
        ([(-1, 4), (8, 4)], False),
        ([(1, 4)], False),
        ([()], False),
    ],
)
def test_a_model_batches_when_every_input_leaves_the_rows_open(
    shapes: list[tuple[int, ...]], is_batchable: bool
) -> None:
    inputs = tuple(TensorSpec(str(i), "FP32", shape) for i, shape in enumerate(shapes))

    assert Signature(inputs).is_batchable is is_batchable


@given(signatures(), signatures())
def test_a_signature_survives_json(one: Signature, other: Signature) -> None:
    params = (
        ParamSpec("temperature", "float", 0.5),
        ParamSpec("stop", "string", ["a", "b"], (-1,)),
        ParamSpec("limit", "long", None),
    )
    signature = Signature(one.inputs, other.inputs, params)

    assert Signature.from_json(json.loads(json.dumps(signature.to_json()))) == signature


def test_defaults_that_are_no_numbers_survive_json() -> None:
    params = (
        ParamSpec("scale", "double", math.inf),
        ParamSpec("sizes", "float", [1.0, -math.inf], (-1,)),
        ParamSpec("name", "string", "Infinity"),
    )
    signature = Signature((), params=params)

    text = json.dumps(signature.to_json(), allow_nan=False)

    assert Signature.from_json(json.loads(text)) == signature

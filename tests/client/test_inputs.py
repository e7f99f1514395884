"""How data becomes the tensors that a model's metadata asks for."""

import datetime as dt
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.datatypes import DATATYPES
from headrace.signature import Signature, TensorSpec
from headrace.tensors import decode
from headrace_client import InputMismatch, InvalidArgument, ModelMetadata
from headrace_client.inputs import Form, Tensors, tensors_of


def form(*inputs: TensorSpec) -> Form:
    return Form(ModelMetadata("m", ("1",), "mlflow_double", inputs, ()))


def columns(**datatypes: str) -> Form:
    return form(*(TensorSpec(name, datatype, (-1,)) for name, datatype in datatypes.items()))


def values(tensors: Tensors) -> dict[str, Any]:
    """What a server reads, as lists."""
    return {
        name: decode(bytes(raw), DATATYPES[datatype], shape).tolist()
        for name, datatype, shape, raw in zip(*tensors, strict=True)
    }


AB = columns(a="FP64", b="FP64")
MIXED = columns(name="BYTES", age="INT32", weight="FP32", is_new="BOOL")
MATRIX = form(TensorSpec("x", "FP32", (-1, 3)))
ROW = {"name": "Ann", "age": 30, "weight": 61.5, "is_new": True}
LISTS = {"name": [b"Ann"], "age": [30], "weight": [61.5], "is_new": [True]}


@pytest.mark.parametrize(
    "data",
    [
        np.array([[1.0, 2.0], [3.0, 4.0]]),
        np.array([[1, 2], [3, 4]], np.int8),
        np.array([[1, 2], [3, 4]], ">i8"),
        np.asfortranarray(np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)),
        np.array([[1.0, 2.0], [3.0, 4.0]], object),
        [[1.0, 2.0], [3.0, 4.0]],
        [(1, 2), (3, 4)],
        {"a": [1.0, 3.0], "b": [2.0, 4.0]},
        {"b": np.array([2, 4]), "a": np.array([1, 3], np.float16)},
        [{"a": 1.0, "b": 2}, {"b": 4, "a": 3.0}],
        pd.DataFrame({"a": [1, 3], "b": [2.0, 4.0]}),
        pd.DataFrame({"b": [2.0, 4.0], "a": [1.0, 3.0]}),
        pd.DataFrame({"a": [1, 3], "b": [2, 4]}, dtype="Int64"),
    ],
    ids=repr,
)
def test_every_form_of_the_same_table_gives_the_same_columns(data: Any) -> None:
    tensors = AB.fill(data)

    assert tensors.names == ("a", "b")
    assert tensors.datatypes == ("FP64", "FP64")
    assert tensors.shapes == ((2,), (2,))
    assert values(tensors) == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


@pytest.mark.parametrize(
    "data",
    [
        ROW,
        LISTS,
        [ROW],
        pd.DataFrame([ROW]),
        pd.DataFrame([ROW]).convert_dtypes(),
        np.array([["Ann", 30, 61.5, True]], object),
    ],
    ids=["scalars", "lists", "rows", "frame", "nullable frame", "object array"],
)
def test_columns_of_several_datatypes_are_cast_each_to_its_own(data: Any) -> None:
    tensors = MIXED.fill(data)

    assert tensors.datatypes == ("BYTES", "INT32", "FP32", "BOOL")
    assert values(tensors) == LISTS


def test_models_whose_column_names_are_numbers_take_frames_of_such_columns() -> None:
    frame = pd.DataFrame([[1.0, 2.0]])

    assert values(columns(**{"0": "FP64", "1": "FP64"}).fill(frame)) == {"0": [1.0], "1": [2.0]}


def test_an_array_that_already_lies_right_is_not_copied() -> None:
    array = np.ones((200, 3), np.float32)

    (raw,) = MATRIX.fill(array).raws

    assert np.shares_memory(np.frombuffer(raw, np.uint8), array)


def test_a_column_of_one_value_per_row_may_be_tall() -> None:
    tensors = AB.fill({"a": np.ones((2, 1)), "b": np.ones(2)})

    assert tensors.shapes == ((2, 1), (2,))


@pytest.mark.parametrize(
    "data",
    [
        np.arange(3.0).reshape(1, 3),
        [[0, 1, 2]],
        {"x": [[0.0, 1.0, 2.0]]},
        [{"x": [0.0, 1.0, 2.0]}],
        pd.DataFrame([[0.0, 1.0, 2.0]], columns=["p", "q", "r"]),
    ],
    ids=["array", "list", "dict", "rows", "frame"],
)
def test_the_only_input_of_a_tensor_model_takes_every_form(data: Any) -> None:
    tensors = MATRIX.fill(data)

    assert tensors.shapes == ((1, 3),)
    assert values(tensors) == {"x": [[0.0, 1.0, 2.0]]}


def tensors(*inputs: TensorSpec) -> Form:
    """The form of a model whose server tells that its inputs are tensors."""
    return Form(ModelMetadata("m", ("1",), "mlflow_onnx", inputs, (), signature=Signature(inputs)))


@pytest.mark.parametrize(
    ("specs", "shapes"),
    [
        ({"x": (-1, 2), "k": ()}, {"x": (3, 2), "k": ()}),
        ({"x": (-1, 2), "k": (1,)}, {"x": (3, 2), "k": (1,)}),
        ({"a": (-1, 2), "b": (2, -1)}, {"a": (3, 2), "b": (2, 4)}),
        ({"nodes": (-1, 3), "edges": (-1, 2)}, {"nodes": (4, 3), "edges": (7, 2)}),
        ({"words": (-1,), "offsets": (-1,)}, {"words": (9,), "offsets": (2,)}),
    ],
    ids=["a scalar", "one of a kind", "a fixed first axis", "a graph", "bags"],
)
def test_tensors_of_a_signature_are_sent_as_it_prescribes(
    specs: dict[str, tuple[int, ...]], shapes: dict[str, tuple[int, ...]]
) -> None:
    target = tensors(*(TensorSpec(name, "FP32", shape) for name, shape in specs.items()))

    filled = target.fill({name: np.ones(shape, np.float32) for name, shape in shapes.items()})

    assert dict(zip(filled.names, filled.shapes, strict=True)) == shapes


def test_a_scalar_may_be_a_number_of_pythons() -> None:
    target = tensors(TensorSpec("x", "FP32", (-1, 1)), TensorSpec("k", "FP32", ()))

    assert target.fill({"x": [[1.0], [2.0]], "k": 2.0}).shapes == ((2, 1), ())


def test_columns_have_one_number_of_rows_whether_the_server_tells_their_kind_or_not() -> None:
    kinds = tuple(TensorSpec(name, "FP64", (-1,), "double") for name in "ab")
    told = Form(ModelMetadata("m", ("1",), "", AB.metadata.inputs, (), signature=Signature(kinds)))

    for target in (AB, told, form(*kinds)):
        with pytest.raises(InputMismatch, match="expected 2 rows as in 'a', got 1 rows"):
            target.fill({"a": [1.0, 2.0], "b": [1.0]})


def test_what_converts_to_an_array_is_one() -> None:
    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.ones((1, 3))

    assert values(MATRIX.fill(Tensor())) == {"x": [[1.0, 1.0, 1.0]]}


def test_no_rows_are_rows_too() -> None:
    for data in (np.empty((0, 2)), np.empty((0, 2), object), pd.DataFrame({"a": [], "b": []})):
        tensors = AB.fill(data)

        assert tensors.shapes == ((0,), (0,))
        assert [bytes(raw) for raw in tensors.raws] == [b"", b""]
    assert MIXED.fill({name: [] for name in ROW}).shapes == ((0,),) * 4


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (np.array(["2024-01-02"], "datetime64[D]"), 1_704_153_600_000_000_000),
        (pd.Series([pd.Timestamp("2024-01-02")]), 1_704_153_600_000_000_000),
        (pd.Series([pd.Timestamp("2024-01-02", tz="Europe/Rome")]), 1_704_150_000_000_000_000),
    ],
    ids=["numpy", "pandas", "zoned"],
)
def test_instants_travel_as_nanoseconds(data: Any, expected: int) -> None:
    seen = columns(seen_at="INT64")

    assert values(seen.fill(pd.DataFrame({"seen_at": data}))) == {"seen_at": [expected]}
    if isinstance(data, np.ndarray):
        assert values(seen.fill({"seen_at": data})) == {"seen_at": [expected]}


def test_what_is_missing_is_nan_where_there_is_nan() -> None:
    weights = columns(weight="FP32")
    rows: list[dict[str, float | None]] = [{"weight": 1.0}, {"weight": None}]
    for tensors in (
        weights.fill({"weight": [1.0, None]}),
        weights.fill(rows),
        weights.fill(pd.DataFrame({"weight": pd.array([1.0, None], "Float64")})),
    ):
        assert str(values(tensors)["weight"]) == "[1.0, nan]"


def test_zeros_at_the_end_of_bytes_are_kept() -> None:
    blobs = columns(blob="BYTES")

    assert values(blobs.fill({"blob": [b"a\0", b"\0"]})) == {"blob": [b"a\0", b"\0"]}
    assert values(tensors_of({"blob": [b"a\0", b"\0"]})) == {"blob": [b"a\0", b"\0"]}


@pytest.mark.parametrize(
    ("target", "data", "message"),
    [
        (AB, {"a": [1.0]}, r"input 'b': expected inputs \['a', 'b'\], got \['a'\]"),
        (AB, {"a": [1], "b": [1], "c": [1]}, r"input 'c': expected only \['a', 'b'\]"),
        (AB, pd.DataFrame({"a": [1.0]}), "input 'b': expected inputs"),
        (
            AB,
            [{"a": 1, "b": 2}, {"a": 1}],
            "input 'b': expected the same names in every row, got row 1 without it",
        ),
        (AB, [{"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}], "input 'c': .* got row 1 with it"),
        (
            AB,
            np.zeros((2, 3)),
            r"expected shape \[-1, 2\], a column for each of \['a', 'b'\], got \[2, 3\]",
        ),
        (AB, np.zeros(2), r"got \[2\]"),
        (AB, {"a": [1.0, 2.0], "b": [1.0]}, "input 'b': expected 2 rows as in 'a', got 1 rows"),
        (AB, {"a": [["1"]], "b": [1.0]}, "input 'a': expected FP64, got text"),
        (AB, np.array([["1", "2"]]), "input 'a': expected FP64, got text"),
        (AB, {"a": [1.0], "b": [[1.0, 2.0]]}, r"input 'b': expected shape \[-1\], got \[1, 2\]"),
        (AB, {"a": [1.0], "b": [1.0 + 2j]}, "input 'b': expected FP64, got complex128"),
        (AB, {"a": [1.0], "b": [2**53 + 1]}, "input 'b': expected FP64 from -90.* got int64 from"),
        (AB, np.array([[0, 2**60]]), "input 'b': expected FP64 from"),
        (AB, {"a": [[1.0], [1.0, 2.0]], "b": [1.0]}, "input 'a': expected values of one shape"),
        (MIXED, ROW | {"age": 2**31}, "input 'age': expected INT32 from -2147483648 to 2147483647"),
        (MIXED, ROW | {"age": 2**70}, "input 'age': expected INT32 values, got 1180"),
        (MIXED, ROW | {"age": 1.5}, "input 'age': expected INT32, got float64"),
        (MIXED, ROW | {"age": None}, "input 'age': expected INT32, got no value in row 0"),
        (MIXED, ROW | {"weight": 1e39}, "input 'weight': expected FP32 values, got float64 beyond"),
        (
            MIXED,
            ROW | {"weight": 10**400},
            "'weight': expected FP32 values, got an integer of 1329 bits",
        ),
        (MIXED, ROW | {"is_new": 1}, "input 'is_new': expected BOOL, got int64"),
        (MIXED, ROW | {"name": 3}, r"input 'name': expected BYTES \(str or bytes\), got int"),
        (MIXED, ROW | {"name": None}, "input 'name': .* got no value in row 0"),
        (MIXED, ROW | {"name": "\ud800"}, "input 'name': .* got text that has no UTF-8"),
        (MIXED, ROW | {"name": np.array([1])}, "input 'name': expected BYTES, got int64"),
        (
            MIXED,
            pd.DataFrame([ROW | {"name": None}, ROW]),
            "input 'name': .* got no value in row 0",
        ),
        (
            columns(a="UINT8"),
            {"a": [-1]},
            "input 'a': expected UINT8 from 0 to 255, got int64 from -1",
        ),
        (columns(a="FP16"), {"a": [100_000]}, "input 'a': expected FP16 values"),
        (columns(a="INT64"), {"a": [dt.timedelta(1)]}, "input 'a': expected INT64"),
        (MATRIX, np.zeros((2, 4)), r"input 'x': expected shape \[-1, 3\], got \[2, 4\]"),
        (MATRIX, np.zeros(3), r"input 'x': expected shape \[-1, 3\], got \[3\]"),
        (MATRIX, [], r"input 'x': expected shape \[-1, 3\], got \[0\]"),
        (form(), np.zeros(3), "expected arrays by name for a model without a signature"),
        (
            form(TensorSpec("p", "FP32", (-1, 2)), TensorSpec("q", "FP32", (-1,))),
            np.zeros((1, 2)),
            r"expected arrays by name for \['p', 'q'\]",
        ),
        (
            form(*(TensorSpec(f"c{i}", "FP64", (-1,)) for i in range(20))),
            {},
            r"'c7', and 12 more\]",
        ),
    ],
)
def test_what_does_not_fit_says_which_input_what_was_expected_and_what_came(
    target: Form, data: Any, message: str
) -> None:
    with pytest.raises(InputMismatch, match=message) as caught:
        target.fill(data)
    assert isinstance(caught.value, InvalidArgument)
    assert f"expected {caught.value.expected}, got {caught.value.got}" in str(caught.value)


@pytest.mark.parametrize("data", ["text", b"bytes", 1.5, None, {1.0, 2.0}])
def test_data_that_is_no_table_at_all_is_a_type_error(data: Any) -> None:
    with pytest.raises(TypeError, match="expected an array, a mapping, a sequence of mappings"):
        AB.fill(data)


def test_a_model_without_a_signature_takes_named_arrays_as_they_are() -> None:
    tensors = form().fill({"x": np.ones(2, np.float16), "s": ["a", "b"], "n": [1, 2]})

    assert tensors.datatypes == ("FP16", "BYTES", "INT64")
    assert values(tensors) == {"x": [1.0, 1.0], "s": [b"a", b"b"], "n": [1, 2]}


def test_arrays_as_they_are_must_have_a_datatype() -> None:
    with pytest.raises(InputMismatch, match=r"input 'x': .*got complex128"):
        tensors_of({"x": np.ones(2, complex)})
    with pytest.raises(InputMismatch, match="expected at least one input, got none"):
        tensors_of({})


INTEGERS = [name for name, row in DATATYPES.items() if row.dtype.kind in "iu"]


def test_a_list_of_integers_may_have_some_that_need_64_bits_without_a_sign() -> None:
    tensors = columns(a="UINT64").fill({"a": [1, 2**64 - 1]})

    assert bytes(tensors.raws[0]) == np.array([1, 2**64 - 1], "<u8").tobytes()
    with pytest.raises(InputMismatch, match=f"'a': expected INT64 values, got {2**63}"):
        columns(a="INT64").fill({"a": [1, 2**63]})


@given(
    value=st.integers(-(2**63), 2**64 - 1),
    source=st.sampled_from(INTEGERS),
    target=st.sampled_from(INTEGERS),
)
def test_integers_arrive_as_they_are_or_not_at_all(value: int, source: str, target: str) -> None:
    try:
        array = np.array([value], DATATYPES[source].dtype)
    except OverflowError:
        return
    try:
        tensors = columns(a=target).fill({"a": array})
    except InputMismatch:
        bounds = np.iinfo(DATATYPES[target].dtype.str)
        assert not bounds.min <= value <= bounds.max
    else:
        assert values(tensors) == {"a": [value]}


@given(st.floats())
def test_floats_arrive_rounded_but_never_beyond_the_range(value: float) -> None:
    try:
        (arrived,) = values(columns(a="FP32").fill({"a": [value]}))["a"]
    except InputMismatch:
        assert abs(value) > float(np.finfo(np.float32).max)
    else:
        np.testing.assert_equal(arrived, float(np.float32(value)))


@pytest.mark.slow
def test_the_client_never_imports_pandas_or_the_server() -> None:
    script = (
        "import sys, headrace_client\n"
        "from headrace_client.inputs import tensors_of\n"
        "tensors_of({'x': [1.0]})\n"
        "bad = {'pandas', 'mlflow', 'headrace_server'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")

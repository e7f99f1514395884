"""The datatypes of outputs: settled once, and every answer brought into them row by row."""

import datetime as dt
import decimal
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.datatypes import BYTES, DATATYPES
from headrace.signature import TensorSpec
from headrace_server.adapters import LoadError
from headrace_server.adapters.base import Array, Tensors
from headrace_server.adapters.conforming import Form, OutputsUnlike, conform, settle
from headrace_server.adapters.raw import objects

NAN = float("nan")
LONG = TensorSpec("y", "INT64", (-1,), "long")
INTEGER = TensorSpec("y", "INT32", (-1,), "integer")
DOUBLE = TensorSpec("y", "FP64", (-1,), "double")
FLOAT = TensorSpec("y", "FP32", (-1,), "float")
BOOLEAN = TensorSpec("y", "BOOL", (-1,), "boolean")
STRING = TensorSpec("y", "BYTES", (-1,), "string")
BINARY = TensorSpec("y", "BYTES", (-1,), "binary")
INSTANT = TensorSpec("y", "INT64", (-1,), "datetime")
JSON = TensorSpec("y", "BYTES", (-1,), "json")
PAIRS = TensorSpec("y", "FP64", (-1, 2))
TEXTS = TensorSpec("y", "BYTES", (-1, 2))
ANY_TEXT = TensorSpec("y", "BYTES", (-1,))
COLUMNS = (LONG, INTEGER, DOUBLE, FLOAT, BOOLEAN, STRING, BINARY, INSTANT, JSON)


def raw(values: Any) -> Array:
    return values if isinstance(values, np.ndarray) else objects(values)


def settled(*answers: Any, declared: TensorSpec | None = None) -> TensorSpec:
    """The spec of the output 'y' by *answers*, each an array or a list of one value per row."""
    pairs: list[tuple[int, Tensors]] = [(len(raw(one)), {"y": raw(one)}) for one in answers]
    (spec,) = settle(() if declared is None else (declared,), pairs)
    return spec


def carried(values: Any, spec: TensorSpec) -> tuple[list[Any], dict[int, str]]:
    """What is sent of *values*, and which rows are refused."""
    tensors, refused = conform({"y": raw(values)}, {"y": spec})
    wanted = np.dtype("M8[ns]") if spec.kind == "datetime" else DATATYPES[spec.datatype].dtype
    assert tensors["y"].dtype == wanted
    return tensors["y"].tolist(), dict(refused)


# Settling.


@pytest.mark.parametrize(
    ("declared", "answers"),
    [
        (LONG, [[1, None]]),
        (LONG, [[1, 2.5]]),
        (LONG, [[None]]),
        (LONG, [np.array([1], "i4")]),
        (LONG, [np.array([1.0, NAN])]),
        (LONG, [np.array([1]), np.array([1.0, NAN])]),
        (INTEGER, [[1]]),
        (INTEGER, [np.array([1], "i2")]),
        (DOUBLE, [[1, None]]),
        (DOUBLE, [[0.5, "n/a"]]),
        (DOUBLE, [np.array([1.5], "f4")]),
        (DOUBLE, [np.array([1])]),
        (FLOAT, [np.array([1.5], "f2")]),
        (FLOAT, [np.array([1], "i2")]),
        (FLOAT, [[1, 2]]),
        (BOOLEAN, [[True, None]]),
        (STRING, [["a", None]]),
        (STRING, [np.array(["a"])]),
        (STRING, [np.array([b"a"])]),
        (STRING, [["Łódź".encode()]]),
        (BINARY, [[b"a"]]),
        (INSTANT, [[dt.date(2024, 1, 2), None]]),
        (INSTANT, [np.array(["2024"], "M8[Y]")]),
        (JSON, [[1.5, "a", None, [1]]]),
        (JSON, [np.array([1.5])]),
        (PAIRS, [[[1, None]], [[1.5, 2]]]),
        (PAIRS, [np.array([[1.5, 2]], "f4")]),
        (TEXTS, [[["a", "b"]]]),
    ],
)
def test_a_declared_datatype_holds_where_what_was_seen_fits_it(
    declared: TensorSpec, answers: Sequence[Any]
) -> None:
    assert settled(*answers, declared=declared) == declared


@pytest.mark.parametrize(
    ("declared", "answers", "datatype", "shape"),
    [
        (FLOAT, [np.array([1.5])], "FP64", (-1,)),
        (FLOAT, [[0.5]], "FP64", (-1,)),
        (FLOAT, [np.array([1.5], "f4"), np.array([1.5])], "FP64", (-1,)),
        (FLOAT, [np.array([1])], "INT64", (-1,)),
        (INTEGER, [np.array([1])], "INT64", (-1,)),
        (LONG, [[0.5]], "FP64", (-1,)),
        (LONG, [np.array([1.0, 2.0])], "FP64", (-1,)),
        (LONG, [["a"]], "BYTES", (-1,)),
        (STRING, [[b"\xff"]], "BYTES", (-1,)),
        (BOOLEAN, [np.array([1])], "INT64", (-1,)),
        (DOUBLE, [np.array([True])], "BOOL", (-1,)),
        (STRING, [[1]], "INT64", (-1,)),
        (DOUBLE, [np.zeros((1, 2))], "FP64", (-1, 2)),
        (DOUBLE, [[[1, 2]]], "FP64", (-1, 2)),
    ],
)
def test_what_does_not_fit_at_all_or_is_wider_corrects_what_is_declared(
    declared: TensorSpec, answers: Sequence[Any], datatype: str, shape: tuple[int, ...]
) -> None:
    found = settled(*answers, declared=declared)

    assert (found.datatype, found.shape) == (datatype, shape)


def test_a_declared_datatype_of_another_shape_keeps_the_datatype() -> None:
    assert settled(np.zeros((1, 2), "f4"), declared=DOUBLE) == TensorSpec("y", "FP64", (-1, 2))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([[1, 2]], TensorSpec("y", "INT64", (-1,))),
        ([[1], [2.5]], TensorSpec("y", "FP64", (-1,))),
        ([[1, None]], TensorSpec("y", "FP64", (-1,))),
        ([[None, 1.5]], TensorSpec("y", "FP64", (-1,))),
        ([[NAN]], TensorSpec("y", "FP64", (-1,))),
        ([[2**63]], TensorSpec("y", "UINT64", (-1,))),
        ([np.array([1], "i4"), np.array([1.5], "f4")], TensorSpec("y", "FP64", (-1,))),
        ([[True]], TensorSpec("y", "BOOL", (-1,))),
        ([["a"]], ANY_TEXT),
        ([["a", b"b"]], ANY_TEXT),
        ([[b"a"]], BINARY),
        ([[pd.Timestamp("2024"), None]], INSTANT),
        ([[[1, 2]], [[3, 4], [5, 6.5]]], TensorSpec("y", "FP64", (-1, 2))),
        ([[[1.5, None]]], TensorSpec("y", "FP64", (-1, 2))),
        ([[np.zeros(3, "f4")]], TensorSpec("y", "FP32", (-1, 3))),
        # What has no type of its own, or several.
        ([[1], ["a"]], JSON),
        ([[True, 1]], JSON),
        ([[True, None]], JSON),
        ([["a", None]], JSON),
        ([["a", NAN]], JSON),
        ([[2**70]], JSON),
        ([[None]], JSON),
        ([[{"a": 1}]], JSON),
        ([[[1, 2]], [[1, 2, 3]]], JSON),
        ([[["a", "b"]]], JSON),
        ([[1, [2]]], JSON),
    ],
)
def test_where_nothing_is_declared_all_values_tell(
    answers: Sequence[Any], expected: TensorSpec
) -> None:
    assert settled(*answers) == expected


def test_an_optional_output_that_lacks_values_is_json_which_has_a_null() -> None:
    optional = TensorSpec("y", "BYTES", (-1,), "string", optional=True)

    assert settled(["a"], declared=optional) == optional
    assert settled(["a", None], declared=optional).kind == "json"


def test_an_output_that_some_answers_lack_is_optional() -> None:
    specs = settle((), [(1, {"a": objects([1]), "b": objects([1])}), (1, {"a": objects([2])})])

    assert [(spec.name, spec.optional) for spec in specs] == [("a", False), ("b", True)]


def test_sizes_that_differ_are_open_and_so_are_those_of_open_inputs() -> None:
    wide = [(1, {"y": np.zeros((1, 1))}), (3, {"y": np.zeros((3, 3))})]

    assert settle((), wide)[0].shape == (-1, -1)
    assert settle((), wide[:1])[0].shape == (-1, 1)
    assert settle((), wide[:1], is_inner_free=True)[0].shape == (-1, -1)
    assert settle((), [(1, {"y": np.zeros(7)})])[0].shape == (-1,)
    assert settle((), [(1, {"y": np.zeros(())}), (2, {"y": np.zeros(2)})])[0].shape == (-1,)


@pytest.mark.parametrize(
    ("values", "got"),
    [
        (np.array([1j]), "numpy type complex128 has no datatype"),
        (np.array([1], "m8[s]"), "numpy type timedelta64.s. has no datatype"),
        ([decimal.Decimal(1)], "it holds a value of type Decimal"),
        ([{"a": {"b": object()}}], "it holds a value of type object"),
        ([{(1, 2): 3}], "it holds an object with a name of type tuple"),
    ],
)
def test_what_neither_a_datatype_nor_json_carries_is_refused_by_name(values: Any, got: str) -> None:
    with pytest.raises(LoadError, match=f"^output 'y' cannot be sent: {got}"):
        settled(values)


# Conforming.


def test_an_array_that_is_what_it_must_be_stays_itself() -> None:
    array = np.arange(6.0).reshape(3, 2)

    assert conform({"y": array}, {"y": PAIRS}).tensors["y"] is array


@pytest.mark.parametrize(
    ("spec", "values", "expected"),
    [
        (LONG, [1, np.int8(2), True, 3.0], [1, 2, 1, 3]),
        (LONG, np.array([1.0, 2.0]), [1, 2]),
        (DOUBLE, [1, None, 0.5, pd.NA, np.float32(0.25)], [1.0, NAN, 0.5, NAN, 0.25]),
        (DOUBLE, np.array([1, 2**53]), [1.0, 2.0**53]),
        (FLOAT, np.array([0.5, NAN, math.inf]), [0.5, NAN, math.inf]),
        (BOOLEAN, np.array([0, 1]), [False, True]),
        (STRING, np.array(["a", "Łódź"]), ["a", "Łódź"]),
        (STRING, ["a", "Łódź".encode()], ["a", "Łódź".encode()]),
        (BINARY, [b"a\0", bytearray(b"b"), b"\xff"], [b"a\0", b"b", b"\xff"]),
        (ANY_TEXT, ["a", b"\xff"], ["a", b"\xff"]),
        (JSON, [None, NAN, pd.NA, "a", {"n": NAN}], ["null"] * 3 + ['"a"', '{"n": "NaN"}']),
        (JSON, np.array([[1.5, math.inf]]), ['[1.5, "Infinity"]']),
        (JSON, [np.float32(0.1)], ["0.10000000149011612"]),
        (PAIRS, [[1, 2], (None, 0.5), np.array([1, 2])], [[1.0, 2.0], [NAN, 0.5], [1.0, 2.0]]),
        (PAIRS, [np.ma.array([1.5, 2.5], mask=[False, True])], [[1.5, NAN]]),
        (TEXTS, [["a", "b"]], [["a", "b"]]),
    ],
)
def test_values_that_fit_are_carried_as_they_are(
    spec: TensorSpec, values: Any, expected: list[Any]
) -> None:
    found, refused = carried(values, spec)

    assert not refused
    np.testing.assert_equal(found, expected)


MOMENT = dt.datetime(2024, 5, 6, 7, 8, 9)  # noqa: DTZ001 - MLflow's have no time zone.


@pytest.mark.parametrize(
    "value",
    [
        MOMENT,
        pd.Timestamp(MOMENT),
        np.datetime64(MOMENT),
        MOMENT.replace(tzinfo=dt.timezone(dt.timedelta(hours=2))) + dt.timedelta(hours=2),
        pd.Timestamp(MOMENT).tz_localize("UTC").tz_convert("Europe/Oslo"),
    ],
)
def test_instants_of_every_form_are_nanoseconds_in_utc(value: Any) -> None:
    found, refused = carried([value, None, NAN], INSTANT)

    assert not refused
    # None is how numpy shows NaT.
    assert found == [pd.Timestamp(MOMENT).value, None, None]


@pytest.mark.parametrize(
    ("spec", "values", "why"),
    [
        (LONG, [1, None], "expected long (INT64), got null"),
        (LONG, [1, NAN], "expected long (INT64), got NaN"),
        (LONG, [1, 1.5], "expected long (INT64), got 1.5"),
        (LONG, [1, 2**63], "expected long (INT64), got 9223372036854775808"),
        (LONG, [1, "a"], "expected long (INT64), got text"),
        (LONG, np.array([1, 2**63], "u8"), "expected long (INT64), got 9223372036854775808"),
        (LONG, np.array([1.0, 1e17]), "expected long (INT64), got 1e+17"),
        (LONG, np.array([1, NAN], "f2"), "expected long (INT64), got NaN"),
        (INTEGER, np.array([1, 2**31]), "expected integer (INT32), got 2147483648"),
        (DOUBLE, [0.5, "n/a"], "expected double (FP64), got text"),
        (DOUBLE, [0.5, 2**53 + 1], "expected double (FP64), got 9007199254740993"),
        (DOUBLE, np.array([1, -(2**60)]), "expected double (FP64), got -1152921504606846976"),
        (DOUBLE, [0.5, [0.5]], "expected double (FP64), got an array"),
        (DOUBLE, [0.5, {}], "expected double (FP64), got an object"),
        (FLOAT, [0.5, 0.1], "expected float (FP32), got 0.1"),
        (FLOAT, np.array([0.5, 0.1]), "expected float (FP32), got 0.1"),
        (FLOAT, np.array([1, 2**24 + 1]), "expected float (FP32), got 16777217"),
        (BOOLEAN, [True, None], "expected boolean (BOOL), got null"),
        (BOOLEAN, np.array([1, 2]), "expected boolean (BOOL), got 2"),
        (STRING, ["a", None], "expected string (BYTES), got null"),
        (STRING, ["a", NAN], "expected string (BYTES), got null"),
        (STRING, ["a", 1], "expected string (BYTES), got 1"),
        (STRING, ["a", b"\xff"], "expected string (BYTES), got bytes that are no UTF-8"),
        (STRING, [b"a", b"\xff"], "expected string (BYTES), got bytes that are no UTF-8"),
        (STRING, ["a", "\ud800"], "expected string (BYTES), got text that has no UTF-8"),
        (BINARY, [b"a", "b"], "expected binary (BYTES), got text"),
        (ANY_TEXT, ["a", None], "expected BYTES, got null"),
        (INSTANT, [MOMENT, 1], "expected datetime (INT64), got 1"),
        (INSTANT, [MOMENT, dt.date(3000, 1, 1)], "expected datetime (INT64), got an instant bey"),
        (INSTANT, np.array(["2024", "3000"], "M8[Y]"), "expected datetime (INT64), got an instant"),
        (JSON, [1, {"a": object()}], "expected JSON, got a value of type object"),
        (PAIRS, [[1, 2], [1]], "expected shape [2], got shape [1]"),
        (PAIRS, [[1, 2], None], "expected shape [2], got null"),
        (PAIRS, [[1, 2], 3], "expected shape [2], got 3"),
        (PAIRS, [[1, 2], [1, "a"]], "expected FP64, got text"),
        (TEXTS, [["a", "b"], ["a", None]], "expected BYTES, got null"),
    ],
)
def test_a_row_that_cannot_be_carried_is_refused_alone(
    spec: TensorSpec, values: Any, why: str
) -> None:
    found, refused = carried(values, spec)
    first, _ = carried(values[:1], spec)

    assert list(refused) == [1]
    assert refused[1].startswith(f"output 'y': {why}")
    assert found[0] == first[0]


def test_a_value_that_holds_itself_is_refused_alone() -> None:
    inner: list[Any] = []
    inner.append(inner)
    deep: Any = None
    for _ in range(10**5):
        deep = [deep]

    texts, refused = carried([1, inner, deep], JSON)

    assert texts[0] == "1"
    assert list(refused) == [1, 2]


def test_rows_of_several_sizes_where_any_would_do_make_no_array() -> None:
    with pytest.raises(OutputsUnlike, match="'y' has rows of several shapes"):
        carried([[1, 2], [1]], TensorSpec("y", "FP64", (-1, -1)))


def test_outputs_that_are_unknown_or_missing_are_named() -> None:
    one = np.array([1])
    specs = {"a": TensorSpec("a", "INT64", (-1,)), "b": TensorSpec("b", "INT64", (-1,))}

    with pytest.raises(OutputsUnlike, match=r"unknown output 'c': expected \['a', 'b'\]"):
        conform({"a": one, "b": one, "c": one}, specs)
    with pytest.raises(OutputsUnlike, match=r"no output 'b': expected \['a', 'b'\], got \['a'\]"):
        conform({"a": one}, specs)
    optional = {**specs, "b": TensorSpec("b", "INT64", (-1,), optional=True)}
    assert list(conform({"a": one}, optional).tensors) == ["a"]


def test_outputs_that_only_parameters_bring_are_typed_by_their_own_values() -> None:
    form = Form([STRING], {"top_k": None})
    ranked = {"0": objects([{"label": "a"}])}

    assert form.conform(ranked, {"top_k": 2}).tensors["0"].tolist() == ['{"label": "a"}']
    with pytest.raises(OutputsUnlike, match="unknown output '0'"):
        form.conform(ranked, {"top_k": None})


def test_a_model_of_which_nothing_is_known_is_typed_by_each_answer() -> None:
    form = Form(())

    assert form.conform({"y": objects([1, 2])}).tensors["y"].dtype == np.int64
    assert form.conform({"y": objects(["a", None])}).tensors["y"].tolist() == ['"a"', "null"]
    with pytest.raises(OutputsUnlike, match="output 'y' cannot be sent"):
        form.conform({"y": np.array([1j])})


# Whatever shares the batch.

numbers = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats()
scalars = numbers | st.text() | st.binary(max_size=4) | st.datetimes()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(st.sampled_from(COLUMNS), st.lists(numbers | values, min_size=1, max_size=6))
def test_a_row_is_typed_as_if_it_were_alone(spec: TensorSpec, rows: list[Any]) -> None:
    together, refused = carried(rows, spec)

    for at, row in enumerate(rows):
        (alone,), why = carried([row], spec)
        assert refused.get(at) == why.get(0)
        if at not in refused:
            np.testing.assert_equal(together[at], alone)


@given(
    st.sampled_from([LONG, INTEGER, DOUBLE, FLOAT, BOOLEAN]),
    st.sampled_from(["?", "i1", "u2", "i4", "i8", "u8", "f2", "f4", "f8"]),
    st.lists(st.integers(-3, 3) | st.floats() | st.integers(2**24, 2**64), min_size=1, max_size=6),
)
def test_a_number_of_an_array_is_carried_without_loss_or_refused(
    spec: TensorSpec, dtype: str, numbers: list[Any]
) -> None:
    with np.errstate(all="ignore"):
        try:
            array = np.array(numbers).astype(dtype)
        except (OverflowError, TypeError):
            return
    together, refused = carried(array, spec)

    for at, number in enumerate(array.tolist()):
        (alone,), why = carried(array[at : at + 1], spec)
        assert refused.get(at) == why.get(0)
        if at not in refused:
            np.testing.assert_equal(together[at], alone)
            # A zero that is negative among floats is none among integers.
            assert alone == number or (math.isnan(alone) and math.isnan(number))


@given(st.lists(st.lists(values, min_size=1, max_size=3), min_size=1, max_size=4))
def test_all_that_was_seen_is_carried_in_what_it_settles(answers: list[list[Any]]) -> None:
    """Unless the type has no room for some of it: integers that no double is, far instants."""
    spec = settled(*answers)

    for rows in answers:
        _, refused = carried(rows, spec)
        assert not refused or spec.datatype in {"FP64", BYTES.name} or spec.kind == "datetime"


@given(st.lists(values, min_size=1, max_size=5))
def test_json_of_answers_is_json(rows: list[Any]) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    texts, refused = carried(rows, JSON)

    assert not refused
    for text in texts:
        json.loads(text, parse_constant=refuse)

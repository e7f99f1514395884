"""Missing values in a caller's data, of every form, as values and masks."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.datatypes import DATATYPES
from headrace.signature import TensorSpec
from headrace.tensors import decode
from headrace_client import InputMismatch, ModelMetadata
from headrace_client.contract import Contract, StubCodec
from headrace_client.inputs import Form, Tensors, tensors_of


def form(*inputs: TensorSpec) -> Form:
    return Form(ModelMetadata("m", ("1",), "mlflow_pyfunc", inputs, ()))


def values(tensors: Tensors) -> dict[str, Any]:
    return {
        name: decode(bytes(raw), DATATYPES[datatype], shape).tolist()
        for name, datatype, shape, raw in zip(*tensors, strict=True)
    }


def read(tensors: Tensors, name: str) -> list[Any]:
    """A column as a server reads it, with None where its mask is true."""
    told = values(tensors)
    mask = told.get(f"{name}.is_null")
    column = told.get(name, [None] * len(mask or ()))
    return [None if mask and mask[row] else cell for row, cell in enumerate(column)]


NAME = TensorSpec("name", "BYTES", (-1,), "string")
NOTE = TensorSpec("note", "BYTES", (-1,), "string", optional=True)
NEW = TensorSpec("is_new", "BOOL", (-1,), "boolean")
RAW = TensorSpec("raw", "BYTES", (-1,), "binary", optional=True)
AT = TensorSpec("at", "INT64", (-1,), "datetime")
SIZE = TensorSpec("size", "FP64", (-1,))
RANK = TensorSpec("rank", "INT64", (-1,), "long")
TABLE = form(NAME, NEW, SIZE)
SOME = form(NAME, NEW, SIZE, NOTE, RAW)

texts = st.lists(st.none() | st.text(max_size=5), min_size=1, max_size=9)
NULLS = (None, math.nan, pd.NA, pd.NaT, np.datetime64("NaT"), np.float64("nan"))
FORMS: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "lists": lambda columns: columns,
    "tuples": lambda columns: {name: tuple(cells) for name, cells in columns.items()},
    "objects": lambda columns: {
        name: np.fromiter(cells, object, len(cells)) for name, cells in columns.items()
    },
    "rows": lambda columns: [
        dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
    ],
    "frame": pd.DataFrame,
    "nullable frame": lambda columns: pd.DataFrame(columns).astype(
        {"name": "string", "is_new": "boolean", "size": "Float64"}
    ),
    "frame of objects": lambda columns: pd.DataFrame(columns, dtype=object),
    "matrix": lambda columns: np.array(list(columns.values()), object).T,
    "masked": lambda columns: {
        name: np.ma.MaskedArray(
            np.fromiter(("hidden" if cell is None else cell for cell in cells), object),
            [cell is None for cell in cells],
        )
        for name, cells in columns.items()
    },
}


@pytest.mark.parametrize("how", FORMS)
@given(data=st.data())
def test_every_form_of_the_same_rows_says_the_same(how: str, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 6))

    def drawn(some: st.SearchStrategy[Any]) -> list[Any]:
        found: list[Any] = data.draw(st.lists(st.none() | some, min_size=rows, max_size=rows))
        return found

    columns = {
        "name": drawn(st.text(st.characters(codec="utf-8"), max_size=4)),
        "is_new": drawn(st.booleans()),
        "size": drawn(st.floats(allow_nan=False)),
    }

    tensors = TABLE.fill(FORMS[how](columns))

    encoded = [None if text is None else text.encode() for text in columns["name"]]
    assert read(tensors, "name") == encoded
    assert read(tensors, "is_new") == columns["is_new"]
    sizes = [math.nan if size is None else size for size in columns["size"]]
    np.testing.assert_equal(values(tensors)["size"], sizes)
    assert "size.is_null" not in tensors.names
    for name in ("name", "is_new"):
        assert (f"{name}.is_null" in tensors.names) == (None in columns[name])
    assert set(tensors.shapes) == {(rows,)}


@pytest.mark.parametrize("null", NULLS, ids=repr)
def test_every_word_for_a_missing_value_is_one(null: Any) -> None:
    tensors = TABLE.fill({"name": ["a", null], "is_new": [null, True], "size": [1.0, 2.0]})

    assert values(tensors) == {
        "name": [b"a", b""],
        "is_new": [False, True],
        "size": [1.0, 2.0],
        "name.is_null": [False, True],
        "is_new.is_null": [True, False],
    }


def test_among_floats_and_instants_missing_values_need_no_mask() -> None:
    taken = form(SIZE, AT)

    tensors = taken.fill({"size": [1, None, pd.NA], "at": [0, None, pd.NaT]})

    assert tensors.names == ("size", "at")
    np.testing.assert_equal(
        values(tensors), {"size": [1.0, math.nan, math.nan], "at": [0, -(2**63), -(2**63)]}
    )
    with pytest.raises(InputMismatch, match="input 'size': expected FP64, got NaTType"):
        taken.fill({"size": [1.0, pd.NaT], "at": [0, 0]})


def test_none_for_a_column_is_none_in_every_row() -> None:
    tensors = SOME.fill({"name": ["a", "b"], "is_new": None, "size": None, "raw": None})

    assert tensors.names == ("name", "size", "is_new.is_null", "raw.is_null")
    np.testing.assert_equal(values(tensors)["size"], [math.nan] * 2)
    assert values(tensors)["raw.is_null"] == [True, True]
    one = SOME.fill({"name": None, "is_new": None, "size": None})
    assert one.shapes == ((1,),) * 3


def test_masks_go_by_the_name_of_their_column_in_the_models_order() -> None:
    lists = {"raw": [b"", None], "size": [1, 2], "note": ["x", None], "is_new": [True] * 2}

    tensors = SOME.fill({**lists, "name": [None, "b"]})

    assert tensors.names == (
        *("name", "is_new", "size", "note", "raw"),
        *("name.is_null", "note.is_null", "raw.is_null"),
    )
    assert tensors.datatypes[-3:] == ("BOOL",) * 3


def test_a_lone_column_may_lack_values_too() -> None:
    taken = form(NAME)

    for data in (["a", None], np.array(["a", None], object), np.array([["a"], [None]], object)):
        assert read(taken.fill(data), "name") == [b"a", None]
    assert taken.fill([None, None]).names == ("name.is_null",)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"name": ["a", None], "rank": [1, None]}, "'rank': expected INT64, got no value in row 1"),
        (
            {"name": ["a"] * 2, "rank": [np.int64(1), None]},
            "'rank': expected INT64, got no value in",
        ),
        ({"name": ["a"] * 2, "rank": [1, pd.NA]}, "'rank': expected INT64, got no value in row 1"),
        ({"name": ["a", 1], "rank": [1, 2]}, "'name': expected BYTES .*, got int"),
        ({"name": [None, 1], "rank": [1, 2]}, "'name': expected BYTES .*, got int"),
        ({"name": [None, "b", "c"], "rank": [1, 2]}, "'rank': expected 3 rows as in 'name', got 2"),
        ({"name": [None] * 3, "rank": [1, 2]}, "'rank': expected 3 rows as in 'name', got 2"),
    ],
)
def test_what_does_not_fit_beside_a_missing_value_is_told_as_ever(data: Any, why: str) -> None:
    with pytest.raises(InputMismatch, match=f"input {why}"):
        form(NAME, RANK).fill(data)


def test_a_mask_alone_has_as_many_rows_as_the_others() -> None:
    with pytest.raises(InputMismatch, match="'is_new': expected 2 rows as in the others, got 3"):
        form(NEW, RANK).fill({"is_new": [None] * 3, "rank": [1, 2]})


@pytest.mark.parametrize("cells", [[True, 2, None], ["x", None], [1.5, None]])
def test_what_is_no_truth_is_none_beside_a_missing_value(cells: list[Any]) -> None:
    with pytest.raises(InputMismatch, match="input 'is_new': expected BOOL"):
        form(NEW).fill({"is_new": cells})


@pytest.mark.parametrize("spec", [NOTE, NEW])
def test_a_server_that_takes_no_masks_is_sent_none(spec: TensorSpec) -> None:
    old = TensorSpec(spec.name, spec.datatype, (-1,), spec.kind, spec.optional, no_nulls=True)
    full = "a" if spec is NOTE else True

    with pytest.raises(InputMismatch, match=f"input '{spec.name}': expected .*, got no"):
        form(SIZE, old).fill({"size": [1.0, 2.0], spec.name: [full, None]})


def test_what_a_masked_array_hides_is_never_sent() -> None:
    hidden = np.ma.MaskedArray([1.0, 99.0], [False, True])
    column = form(TensorSpec("x", "FP64", (-1,)))

    np.testing.assert_equal(values(column.fill({"x": hidden}))["x"], [1.0, math.nan])
    matrix = np.ma.MaskedArray([[1.0, 2.0], [3.0, 99.0]], [[False, False], [False, True]])
    two = form(TensorSpec("x", "FP64", (-1,)), TensorSpec("y", "FP64", (-1,)))
    np.testing.assert_equal(values(two.fill(matrix)), {"x": [1.0, 3.0], "y": [2.0, math.nan]})
    # Without anything to hide it is an array like others.
    plain = np.ma.MaskedArray([1.0, 2.0])
    assert values(column.fill({"x": plain})) == {"x": [1.0, 2.0]}
    with pytest.raises(InputMismatch, match="expected a value in every place, got an array that"):
        form(TensorSpec("x", "FP64", (-1, 2))).fill(matrix)
    with pytest.raises(InputMismatch, match="input 'x': expected a plain array, got one with a"):
        tensors_of({"x": hidden})
    with pytest.raises(InputMismatch, match="input 'x': expected INT64, got no value in row 0"):
        form(TensorSpec("x", "INT64", (-1,))).fill(np.ma.MaskedArray([99, 1], [True, False]))


def test_rows_without_missing_values_are_sent_as_before() -> None:
    data = {"name": ["a", ""], "is_new": [True, False], "size": [1.0, math.nan], "note": ["", "b"]}

    assert SOME.fill(data).names == ("name", "is_new", "size", "note")


@given(texts, texts)
def test_a_stub_sends_what_the_client_sends(name: list[Any], note: list[Any]) -> None:
    rows = min(len(name), len(note))
    columns = [name[:rows], note[:rows]]
    codec = StubCodec(Contract("m", "1.AAAA", (NAME, NOTE)), "m", "")

    payload = codec.batch(columns, None)

    tensors = form(NAME, NOTE).fill({"name": columns[0], "note": columns[1]})
    for raw in tensors.raws:
        assert bytes(raw) in payload
    for column in ("name", "note"):
        assert (f"{column}.is_null".encode() in payload) == (f"{column}.is_null" in tensors.names)


def test_a_stub_leaves_out_none_in_a_row_and_wants_what_is_not_optional() -> None:
    codec = StubCodec(Contract("m", "1.AAAA", (NAME, NOTE)), "m", "")

    assert b"note" not in codec.row(["a", None], None)
    with pytest.raises(InputMismatch, match="input 'name': expected string: it is not optional"):
        codec.row([None, "x"], None)

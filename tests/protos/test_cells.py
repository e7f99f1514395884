"""Values that travel as JSON, against the types that an MLflow signature gives them."""

import json
import math
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cells import CellError, read_cell, revive, sample_cell, write_cell
from headrace.jsontext import read_json, spell, write_json
from headrace.signature import TensorSpec

DOUBLE = {"type": "double"}
OWNER = {
    "type": "object",
    "properties": {
        "id": {"type": "long", "required": True},
        "tags": {"type": "array", "items": {"type": "string"}, "required": False},
    },
}


def column(schema: dict[str, Any] | None, *, optional: bool = False) -> TensorSpec:
    text = "" if schema is None else json.dumps(schema)
    return TensorSpec("x", "BYTES", (-1,), "json", optional, text)


def array_of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        (array_of(DOUBLE), "[1, 2.5]", [1.0, 2.5]),
        (array_of(DOUBLE), "[]", []),
        (array_of(DOUBLE), '[1.5, "Infinity", "-Infinity"]', [1.5, math.inf, -math.inf]),
        (DOUBLE, '"-Infinity"', -math.inf),
        (array_of({"type": "string"}), '["NaN"]', ["NaN"]),
        ({"type": "any"}, '["NaN"]', ["NaN"]),
        (None, '["NaN"]', ["NaN"]),
        (array_of(DOUBLE), " [1]\n", [1.0]),
        (array_of({"type": "integer"}), "[2147483647, -2147483648]", [2147483647, -2147483648]),
        (array_of(array_of({"type": "integer"})), "[[1], []]", [[1], []]),
        (OWNER, '{"id": 3}', {"id": 3}),
        (OWNER, '{"id": 3, "tags": ["a"]}', {"id": 3, "tags": ["a"]}),
        (OWNER, '{"id": 3, "tags": null}', {"id": 3, "tags": None}),
        ({"type": "map", "values": {"type": "boolean"}}, '{"a": true}', {"a": True}),
        ({"type": "any"}, '{"a": [null, 1]}', {"a": [None, 1]}),
        ({"type": "any"}, "null", None),
        (array_of({"type": "any"}), "null", None),
        ({"type": "map", "values": {"type": "any"}}, "null", None),
        (array_of(array_of({"type": "any"})), "[null, [null]]", [None, [None]]),
        ({"type": "sparse_vector"}, "[1]", [1]),
        (None, '{"free": 1}', {"free": 1}),
        (array_of({"type": "string"}), '["Łódź"]', ["Łódź"]),
        (array_of({"type": "binary"}), '["AP8=", "", "YQ==\\n"]', [b"\0\xff", b"", b"a"]),
        (array_of(array_of({"type": "binary"})), '[["YQ=="], []]', [[b"a"], []]),
        ({"type": "map", "values": {"type": "binary"}}, '{"k": "YQA="}', {"k": b"a\0"}),
        # As numpy has it, and so MLflow.
        (array_of({"type": "binary"}), '["YQAA"]', [b"a"]),
        (array_of({"type": "string"}), '["\\u0000a\\u0000", "b"]', ["\0a", "b"]),
    ],
)
def test_values_of_the_columns_type_are_read(
    schema: dict[str, Any] | None, text: str, expected: Any
) -> None:
    assert read_cell(text.encode(), column(schema)) == expected
    assert read_cell(text, column(schema)) == expected


def test_an_integer_where_a_float_is_wanted_is_a_float() -> None:
    (value,) = read_cell("[1]", column(array_of({"type": "float"})))

    assert isinstance(value, float)


def test_nan_as_text_is_nan_where_a_float_is_wanted() -> None:
    (value,) = read_cell('["NaN"]', column(array_of({"type": "float"})))

    assert math.isnan(value)


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def strictly(text: str) -> Any:
    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


@given(documents)
def test_what_is_written_is_json_and_read_back_as_it_was(value: Any) -> None:
    text = write_json(value)

    strictly(text)
    assert read_json(text) == spell(value)


@given(st.lists(st.floats()))
def test_a_cell_of_floats_comes_back_as_it_was(numbers: list[float]) -> None:
    spec = column(array_of(DOUBLE))

    text = write_cell(numbers, spec.schema)

    strictly(text)
    np.testing.assert_equal(read_cell(text, spec), numbers)
    np.testing.assert_equal(revive(read_json(text), spec.schema), numbers)


@pytest.mark.parametrize("schema", [None, array_of({"type": "string"}), OWNER])
def test_a_cell_with_nan_where_no_float_is_wanted_is_not_written(schema: Any) -> None:
    with pytest.raises(CellError, match="NaN has a place in JSON only as a float or double"):
        write_cell([math.nan], column(schema).schema)


def test_instants_within_a_value_become_what_the_reader_asks_for() -> None:
    found = read_cell(
        '["2024-05-06T07:08:09"]', column(array_of({"type": "datetime"})), datetime.fromisoformat
    )

    assert found == [datetime.fromisoformat("2024-05-06T07:08:09")]


@pytest.mark.parametrize(
    ("schema", "text", "why"),
    [
        (array_of(DOUBLE), b"[NaN]", 'expected JSON, got bare NaN: JSON has it as the text "NaN"'),
        (None, b"-Infinity", "expected JSON, got bare -Infinity"),
        (array_of(DOUBLE), b"[1e999]", "expected double at '[0]', got a number beyond its range"),
        (array_of(DOUBLE), b"[1, -1e999]", "expected double at '[1]', got a number beyond its"),
        (array_of(DOUBLE), b'["nan"]', "expected double at '[0]', got text"),
        (array_of({"type": "long"}), b'["NaN"]', "expected long at '[0]', got text"),
        (array_of(DOUBLE), b"[1,", "expected JSON, got text that is none at character 3"),
        (array_of(DOUBLE), b"[1] 2", "expected JSON, got text that is none at character 4"),
        (array_of(DOUBLE), b"\xff", "expected JSON, got bytes that are not UTF-8"),
        (array_of(DOUBLE), b"", "expected JSON, got text that is none at character 0"),
        (None, b"[" * 100_000, "expected JSON, got text that is none"),
        (None, b"1" * 5000, "expected JSON, got text that is none"),
        (array_of(DOUBLE), b"1.5", "expected array, got a number"),
        (array_of(DOUBLE), b'[1, "a"]', "expected double at '[1]', got text"),
        (array_of(DOUBLE), b"[true]", "expected double at '[0]', got a boolean"),
        (array_of({"type": "long"}), b"[1, null]", "expected long at '[1]', got null"),
        (array_of({"type": "string"}), b'["a", null]', "expected string at '[1]', got null"),
        (array_of(array_of(DOUBLE)), b"[null]", "expected array at '[0]', got null"),
        (array_of(DOUBLE), b"null", "expected array, got null"),
        (array_of(DOUBLE), b"[1" + b"0" * 400 + b"]", "expected double at '[0]', got an integer b"),
        (array_of({"type": "integer"}), b"[2147483648]", "expected integer at '[0]', got an inte"),
        (array_of({"type": "long"}), b"[1.0]", "expected long at '[0]', got a number"),
        (array_of({"type": "datetime"}), b'["noon"]', "expected datetime at '[0]' in ISO 8601, "),
        (array_of({"type": "binary"}), b'["YQ"]', "expected binary at '[0]' in base64, got other"),
        (array_of({"type": "binary"}), b'["Y Q=="]', "expected binary at '[0]' in base64, got o"),
        (array_of({"type": "binary"}), '["é"]'.encode(), "expected binary at '[0]' in base64, got"),
        (array_of({"type": "binary"}), b"[1]", "expected binary at '[0]', got an integer"),
        (OWNER, b"[]", "expected object, got an array"),
        (OWNER, b"{}", "expected the property 'id', got an object without"),
        (OWNER, b'{"id": null}', "expected long at '.id', got null"),
        (OWNER, b'{"id": 1, "x": 2}', "expected the properties ['id', 'tags'], got 'x' too"),
        (OWNER, b'{"id": 1, "tags": [1]}', "expected string at '.tags[0]', got an integer"),
        (
            {"type": "map", "values": DOUBLE},
            b'{"k": {}}',
            "expected double at '.k', got an object",
        ),
    ],
)
def test_other_values_are_refused_with_what_was_expected_and_where(
    schema: dict[str, Any] | None, text: bytes, why: str
) -> None:
    with pytest.raises(CellError) as raised:
        read_cell(text, column(schema))

    assert str(raised.value).startswith(why)


INTEGERS = ["1", "0", "-2147483649", "9223372036854775808", "1" + "0" * 400]
JSON_SCALARS = st.sampled_from(
    [*INTEGERS, "1.5", "NaN", "true", "null", '"a"', '""', '"2024-05-06"', "[]"]
)


def test_null_in_an_array_is_what_mlflow_makes_of_it_where_it_makes_sense() -> None:
    """Of null in a list of texts or truths MLflow makes "n" and false, of long it refuses it."""
    for optional in (False, True):
        for kind in ("float", "double"):
            found = read_cell("[1, null]", column(array_of({"type": kind}), optional=optional))
            assert repr(found) == "[1.0, nan]"
        for kind in ("boolean", "integer", "long", "string", "binary", "datetime"):
            with pytest.raises(CellError, match=f"expected {kind} at '\\[0\\]', got null"):
                read_cell("[null]", column(array_of({"type": kind}), optional=optional))
    assert read_cell("[[1], null]", column(array_of(array_of(DOUBLE)), optional=True)) == [
        [1],
        None,
    ]


@given(
    st.lists(JSON_SCALARS, max_size=2),
    st.lists(JSON_SCALARS, max_size=1).map(lambda few: few * 4),
    st.sampled_from(["boolean", "integer", "long", "float", "double", "string", "datetime", "any"]),
    st.booleans(),
)
def test_an_array_is_read_as_its_items_are(
    some: list[str], same: list[str], name: str, optional: bool
) -> None:
    """Arrays whose items are all alike are looked at as a whole; null is a matter of its own."""
    item, whole = column({"type": name}), array_of({"type": name})
    if name in {"float", "double"}:
        some, same = ([t for t in texts if t != "null"] for texts in (some, same))
    texts = some + same
    try:
        expected = [repr(read_cell(text, item)) for text in texts]
    except CellError:
        with pytest.raises(CellError):
            read_cell(f"[{', '.join(texts)}]", column(whole, optional=optional))
        return

    found = read_cell(f"[{', '.join(texts)}]", column(whole, optional=optional))

    assert list(map(repr, found)) == expected


def test_null_is_a_value_of_an_optional_column() -> None:
    optional = column(array_of(DOUBLE), optional=True)

    assert read_cell("null", optional) is None


SCALARS = st.sampled_from(
    [
        {"type": name}
        for name in ("boolean", "integer", "long", "float", "double", "string", "datetime")
    ]
)
SCHEMAS = st.recursive(
    SCALARS | st.just({"type": "any"}),
    lambda inner: (
        inner.map(array_of)
        | inner.map(lambda one: {"type": "map", "values": one})
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(
            lambda found: {
                "type": "object",
                "properties": {name: {**kind, "required": True} for name, kind in found.items()},
            }
        )
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("text", ['""', '"YQA="'])
def test_bytes_by_themselves_keep_the_zeros_at_their_end(text: str) -> None:
    spec = column({"type": "binary"})

    assert read_cell(text, spec) == (b"" if text == '""' else b"a\0")
    assert read_cell(sample_cell(spec), spec) == b""


@given(SCHEMAS)
def test_made_up_values_are_of_their_type(schema: dict[str, Any]) -> None:
    spec = column(schema)

    assert read_cell(sample_cell(spec), spec) == json.loads(sample_cell(spec))


def test_a_made_up_value_of_no_type_is_null() -> None:
    assert sample_cell(column(None)) == "null"

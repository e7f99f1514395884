"""Instants, JSON and nulls in a caller's data."""

import datetime as dt
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headrace.datatypes import DATATYPES
from headrace.signature import TensorSpec
from headrace.tensors import decode
from headrace_client import InputMismatch, ModelMetadata
from headrace_client.inputs import Form, Tensors


def form(*inputs: TensorSpec) -> Form:
    return Form(ModelMetadata("m", ("1",), "mlflow_pyfunc", inputs, ()))


def values(tensors: Tensors) -> dict[str, Any]:
    return {
        name: decode(bytes(raw), DATATYPES[datatype], shape).tolist()
        for name, datatype, shape, raw in zip(*tensors, strict=True)
    }


SIZE = TensorSpec("size", "FP64", (-1,))
NOTE = TensorSpec("note", "BYTES", (-1,), "string", optional=True)
RANK = TensorSpec("rank", "INT32", (-1,), optional=True)
LOW = TensorSpec("low", "FP32", (-1,), optional=True)
OPTIONAL = form(SIZE, NOTE, RANK, LOW)
AT = form(TensorSpec("at", "INT64", (-1,), "datetime"), SIZE)
ARRAY = TensorSpec("path", "BYTES", (-1,), "json", schema='{"type": "array", "items": {}}')
OBJECT = TensorSpec("owner", "BYTES", (-1,), "json", schema='{"type": "object"}')
PATHS = form(ARRAY, SIZE)
OWNERS = form(OBJECT, SIZE)


@pytest.mark.parametrize(
    "data",
    [
        {"size": [1.0, 2.0]},
        [{"size": 1.0}, {"size": 2.0}],
        pd.DataFrame({"size": [1.0, 2.0]}),
    ],
    ids=repr,
)
def test_optional_columns_that_are_not_given_are_left_out(data: Any) -> None:
    tensors = OPTIONAL.fill(data)

    assert tensors.names == ("size",)
    assert values(tensors) == {"size": [1.0, 2.0]}


@pytest.mark.parametrize(
    "data",
    [
        {"size": np.array([1.0, 2.0]), "note": None},
        {"size": [1.0, 2.0], "note": [None, None]},
        {"size": [1.0, 2.0], "note": (None, pd.NA)},
        {"size": [1.0, 2.0], "note": np.array([None, None])},
        [{"size": 1.0, "note": None}, {"size": 2.0}],
        pd.DataFrame({"size": [1.0, 2.0], "note": [None, None]}),
        np.array([[1.0, None, None, None], [2.0, None, None, None]], object)[:, :2],
    ],
    ids=repr,
)
def test_a_column_of_nothing_but_none_is_a_mask_alone(data: Any) -> None:
    taken = form(SIZE, NOTE) if isinstance(data, np.ndarray) else OPTIONAL

    tensors = taken.fill(data)

    assert tensors.names == ("size", "note.is_null")
    assert tensors.datatypes == ("FP64", "BOOL")
    assert values(tensors) == {"size": [1.0, 2.0], "note.is_null": [True, True]}


@pytest.mark.parametrize(
    "note",
    [
        pd.Series([None, None], dtype="string"),
        pd.Series([None, None], dtype="str"),
        pd.Series(["a", None, None])[1:],
        pd.Series([None, None], dtype="category"),
    ],
    ids=repr,
)
def test_a_column_of_texts_without_any_value_keeps_its_type(note: Any) -> None:
    tensors = OPTIONAL.fill(pd.DataFrame({"size": [1.0, 2.0]}, note.index).assign(note=note))

    assert tensors.names == ("size", "note", "note.is_null")
    assert values(tensors) == {"size": [1, 2], "note": [b"", b""], "note.is_null": [True, True]}


def test_optional_columns_with_values_are_sent_in_the_models_order() -> None:
    tensors = OPTIONAL.fill({"rank": [3], "note": ["a"], "size": [1.0]})

    assert tensors.names == ("size", "note", "rank")
    assert values(tensors) == {"size": [1.0], "note": [b"a"], "rank": [3]}


def test_null_among_floats_is_nan_whether_optional_or_not() -> None:
    tensors = OPTIONAL.fill({"size": [None, 2.0], "low": [None, None]})

    assert tensors.names == ("size", "low")
    np.testing.assert_equal(values(tensors), {"size": [np.nan, 2.0], "low": [np.nan, np.nan]})


@pytest.mark.parametrize(
    ("data", "name", "row"),
    [
        ({"size": [1.0] * 3, "rank": [1, None, 3]}, "rank", 1),
        ({"size": [1.0] * 2, "rank": np.array([1, None])}, "rank", 1),
        ({"size": [1.0] * 2, "rank": [None, 2]}, "rank", 0),
        ({"size": [1.0] * 2, "rank": [None, None]}, "rank", 0),
        ({"size": [1.0] * 2, "rank": None}, "rank", 0),
        (pd.DataFrame({"size": [1.0], "rank": pd.Series([None], dtype="Int32")}), "rank", 0),
        ([{"size": 1.0, "rank": 1}, {"size": 2.0}], "rank", 1),
        (
            pd.DataFrame({"size": [1.0, 2.0], "rank": pd.Series([1, None], dtype="Int32")}),
            "rank",
            1,
        ),
        ({"size": [1.0] * 2, "rank": np.ma.MaskedArray([1, 2], [True, False])}, "rank", 0),
    ],
    ids=repr,
)
def test_integers_that_are_missing_are_refused_with_input_and_row(
    data: Any, name: str, row: int
) -> None:
    with pytest.raises(InputMismatch) as raised:
        OPTIONAL.fill(data)

    assert raised.value.input == name
    assert raised.value.expected == "INT32"
    assert raised.value.got == f"no value in row {row}: INT32 has no null"


def test_required_inputs_and_unknown_names_are_still_asked_for() -> None:
    with pytest.raises(InputMismatch, match="input 'size': expected inputs"):
        OPTIONAL.fill({"note": ["a"]})
    with pytest.raises(InputMismatch, match="input 'odd': expected only"):
        OPTIONAL.fill({"size": [1.0], "odd": ["a"]})
    with pytest.raises(InputMismatch, match="row 1 without it"):
        OPTIONAL.fill([{"size": 1.0}, {"note": "a"}])
    with pytest.raises(InputMismatch, match="expected a value of at least one input, got none"):
        form(RANK, NOTE).fill({})


NOON = 1_704_196_800_000_000_000
MOMENT = dt.datetime(2024, 1, 2, 12)  # noqa: DTZ001 - MLflow's have no time zone.


@pytest.mark.parametrize(
    "at",
    [
        [MOMENT],
        MOMENT,
        (MOMENT,),
        [np.datetime64("2024-01-02T12")],
        np.array(["2024-01-02T12:00"], "datetime64[m]"),
        np.array([MOMENT], object),
        [pd.Timestamp(MOMENT)],
        [pd.Timestamp(MOMENT, tz="UTC").tz_convert("Asia/Tokyo")],
        [MOMENT.replace(tzinfo=dt.UTC).astimezone(dt.timezone(dt.timedelta(hours=-3)))],
        ["2024-01-02T12:00:00"],
        ["2024-01-02T13:00:00+01:00"],
        [NOON],
        np.array([NOON]),
    ],
    ids=repr,
)
def test_instants_of_every_form_are_nanoseconds_in_utc(at: Any) -> None:
    assert values(AT.fill({"at": at, "size": [1.0]}))["at"] == [NOON]


def test_instants_of_a_frame_keep_their_nanoseconds_and_lose_their_zone() -> None:
    stamps = pd.to_datetime([NOON + 1, None])
    for column in (stamps, stamps.tz_localize("UTC").tz_convert("Asia/Tokyo")):
        told = values(AT.fill(pd.DataFrame({"at": column, "size": [1.0, 2.0]})))
        assert told["at"] == [NOON + 1, -(2**63)]


@pytest.mark.parametrize("null", [None, pd.NaT, np.datetime64("NaT"), float("nan")])
def test_null_among_instants_is_nat(null: Any) -> None:
    (told,) = values(AT.fill({"at": [null], "size": [1.0]}))["at"]

    assert np.isnat(np.datetime64(told, "ns"))


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (["noon"], "expected instants in ISO 8601, got other text in row 0"),
        ([MOMENT, 1.5], "expected instants, got float in row 1"),
        ([True], "expected instants, got bool in row 0"),
        (np.array([1.5]), "expected instants, got float64"),
        ([dt.datetime(3000, 1, 1)], "64 bits of nanoseconds hold"),  # noqa: DTZ001
        (np.array(["3000-01-01"], "datetime64[D]"), "64 bits of nanoseconds hold"),
    ],
    ids=repr,
)
def test_what_is_no_instant_is_refused(at: Any, message: str) -> None:
    with pytest.raises(InputMismatch, match=message) as raised:
        AT.fill({"at": at, "size": [1.0] * len(at)})

    assert raised.value.input == "at"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ([[1, 2.5], []], [[1, 2.5], []]),
        ([[1.0, 2.0], [3.0, 4.0]], [[1, 2], [3, 4]]),
        (np.array([[1.0, 2.0], [3.0, 4.0]]), [[1, 2], [3, 4]]),
        ([np.array([1, 2]), [np.float32(0.5)]], [[1, 2], [0.5]]),
        (["[1, 2]", b"[3]"], [[1, 2], [3]]),
        ([None, [1]], [None, [1]]),
        (pd.Series([[1], [2, 3]]).to_numpy(), [[1], [2, 3]]),
    ],
    ids=repr,
)
def test_lists_travel_as_json_one_per_row(path: Any, expected: Any) -> None:
    told = values(PATHS.fill({"path": path, "size": [1.0, 2.0]}))["path"]

    assert [json.loads(cell) for cell in told] == expected


@pytest.mark.parametrize("path", [[1, 2.5], ["a", "b"], [[1], 2]])
def test_a_list_that_no_row_could_be_is_the_value_of_one_row(path: Any) -> None:
    (told,) = values(PATHS.fill({"path": path, "size": 1.0}))["path"]

    assert json.loads(told) == path


@pytest.mark.parametrize(
    "owner",
    [
        {"id": 1, "at": MOMENT},
        [{"id": np.int64(1), "at": MOMENT}],
        ['{"id": 1, "at": "2024-01-02T12:00:00"}'],
    ],
)
def test_dicts_travel_as_json(owner: Any) -> None:
    (told,) = values(OWNERS.fill({"owner": owner, "size": [1.0]}))["owner"]

    assert json.loads(told) == {"id": 1, "at": "2024-01-02T12:00:00"}


BLOBS = form(
    TensorSpec("x", "BYTES", (-1,), "json", schema='{"type":"array","items":{"type":"binary"}}')
)


@pytest.mark.parametrize(
    "blobs",
    [
        [[b"\0\xff", b"a"], []],
        [[bytearray(b"\0\xff"), "YQ=="], np.array([], object)],
        [np.array([b"\0\xff", b"a"]), []],
        ['["AP8=", "YQ=="]', []],
    ],
    ids=repr,
)
def test_bytes_within_json_travel_in_base64(blobs: Any) -> None:
    told = values(BLOBS.fill({"x": blobs}))["x"]

    assert [json.loads(cell) for cell in told] == [["AP8=", "YQ=="], []]


def test_a_list_of_bytes_is_one_row_of_an_array_of_these() -> None:
    (told,) = values(BLOBS.fill({"x": [b"[1]", b"a"]}))["x"]

    assert json.loads(told) == ["WzFd", "YQ=="]


def test_text_that_is_not_json_is_a_json_text() -> None:
    assert values(OWNERS.fill({"owner": ["plain"], "size": [1.0]}))["owner"] == [b'"plain"']
    assert values(OWNERS.fill({"owner": ["[1"], "size": [1.0]}))["owner"] == [b'"[1"']


def test_the_only_input_may_be_given_as_its_values_or_by_name() -> None:
    only = form(TensorSpec("input-0", "BYTES", (-1,), "json"))
    cells = [{"item": "nut"}, {"item": "bolt"}]

    for data in (cells, {"input-0": cells}, [{"input-0": cell} for cell in cells]):
        told = values(only.fill(data))["input-0"]
        assert [json.loads(cell) for cell in told] == cells


FLOATS = TensorSpec(
    "path", "BYTES", (-1,), "json", schema='{"type": "array", "items": {"type": "float"}}'
)
FREE = TensorSpec("free", "BYTES", (-1,), "json")


def test_nan_and_infinities_are_text_where_the_schema_has_floats() -> None:
    told = values(form(FLOATS).fill({"path": [[1.5, math.nan, np.float32(math.inf), -math.inf]]}))

    assert [json.loads(cell) for cell in told["path"]] == [[1.5, "NaN", "Infinity", "-Infinity"]]
    array = values(form(FLOATS).fill({"path": [np.array([math.nan, 1.0])]}))
    assert array["path"] == [b'["NaN", 1.0]']


@pytest.mark.parametrize(
    ("spec", "cell"),
    [
        (FREE, {"p": math.nan}),
        (FREE, [math.inf]),
        (FREE, np.array([math.nan])),
        (FREE, '{"p": NaN}'),
        (ARRAY, [math.nan]),
        (OBJECT, {"p": {"q": math.nan}}),
        (FLOATS, "[Infinity]"),
    ],
)
def test_nan_where_json_has_no_place_for_it_is_refused_with_its_row(
    spec: TensorSpec, cell: Any
) -> None:
    """The model would get a text."""
    column = np.empty(2, object)
    column[:] = ["[]" if spec is not OBJECT else "{}", cell]

    with pytest.raises(InputMismatch, match=r"values that JSON has, got .*(NaN|Infinity).*row 1"):
        form(spec).fill({spec.name: column})


@pytest.mark.parametrize("null", [None, math.nan, pd.NA, pd.NaT])
def test_a_row_without_a_value_is_null_in_json(null: Any) -> None:
    column = np.empty(1, object)
    column[0] = null

    assert values(form(FREE).fill({"free": column})) == {"free": [b"null"]}


def test_what_json_has_no_word_for_is_refused_with_its_row() -> None:
    with pytest.raises(InputMismatch) as raised:
        OWNERS.fill({"owner": [{"id": 1}, {"id": {1, 2}}], "size": [1.0, 2.0]})

    assert (raised.value.input, raised.value.got) == ("owner", "others in row 1")

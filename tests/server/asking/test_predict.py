"""What `headrace predict` reads, asks and prints, against a double of the server."""

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oip_double
from headrace.signature import Signature, TensorSpec
from headrace_client import ModelMetadata
from headrace_client.testing import FakeServer
from headrace_server.asking.connecting import Connection
from headrace_server.asking.predict import predict
from headrace_server.asking.rowfiles import READERS
from headrace_server.errors import UsageError
from oip_double import Double, ServedModel, Tensors

IRIS_CSV = """sepal_length,sepal_width,petal_length,petal_width
5.1,3.5,1.4,0.2
6.3,2.9,5.6,1.8
"""
IRIS_ROWS = [[5.1, 3.5, 1.4, 0.2], [6.3, 2.9, 5.6, 1.8]]
IRIS_RECORDS = [dict(zip(oip_double.IRIS_COLUMNS, row, strict=True)) for row in IRIS_ROWS]
TYPES = (
    ("a_bool", "BOOL"),
    ("a_byte", "UINT8"),
    ("an_int", "INT32"),
    ("a_long", "INT64"),
    ("a_float", "FP32"),
    ("a_double", "FP64"),
    ("a_text", "BYTES"),
)


def echo(tensors: Tensors) -> Tensors:
    return {f"{name}_out": array for name, array in tensors.items()}


@pytest.fixture
def double() -> Iterator[Double]:
    models = {
        "iris": oip_double.iris(),
        "doubler": oip_double.doubler(),
        "types": ServedModel(tuple(TensorSpec(name, kind, (-1,)) for name, kind in TYPES), echo),
        "free": ServedModel((), echo),
        "frozen": ServedModel((TensorSpec("x", "FP64", (2,)),), echo),
        "number": ServedModel((TensorSpec("x", "FP64", (-1,)),), echo),
        "whole": ServedModel(
            (TensorSpec("x", "FP64", (-1,)),), lambda tensors: {"mean": np.zeros(1)}
        ),
        "centring": ServedModel(
            (TensorSpec("x", "FP64", (-1,)),),
            lambda tensors: {"y": tensors["x"] - tensors["x"].mean()},
            batching="whole",
        ),
        "series": ServedModel(
            (TensorSpec("start", "INT64", (-1,)), TensorSpec("end", "INT64", (-1,))),
            lambda tensors: {"y": np.arange(tensors["start"][0], tensors["end"][0] + 1.0)},
            batching="unproven",
        ),
        "scaled": ServedModel(
            (TensorSpec("x", "FP64", (-1,)), TensorSpec("k", "FP64", ())),
            lambda tensors: {"y": tensors["x"] * tensors["k"], "k": tensors["k"]},
        ),
        "product": ServedModel(
            (TensorSpec("a", "FP64", (-1, 2)), TensorSpec("b", "FP64", (2, -1))),
            lambda tensors: {"y": tensors["a"] @ tensors["b"]},
        ),
        "wide": ServedModel(
            (TensorSpec("x", "FP32", (-1, 1000, 100)),),
            lambda tensors: {"first": tensors["x"][:, 0, 0]},
        ),
    }
    with oip_double.serving(models) as double:
        yield double


@pytest.fixture
def ask(double: Double, tmp_path: Path) -> Any:
    """Predict the rows of a file with the given content; what it prints."""

    def run(model: str, name: str, content: str | bytes, **options: Any) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        out = io.StringIO()
        options.setdefault("output", "json")
        there = Connection(server=options.pop("server", double.target))
        predict(model, str(path), connection=there, out=out, **options)
        return out.getvalue()

    return run


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def parquet(columns: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    arrays = {
        name: values if isinstance(values, pa.Array) else pa.array(list(values))
        for name, values in columns.items()
    }
    pq.write_table(pa.table(arrays), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", IRIS_CSV),
        ("rows.CSV", "\ufeff" + IRIS_CSV.replace("\n", "\r\n") + "\n\n"),
        (
            "rows.json",
            json.dumps([dict(zip(oip_double.IRIS_COLUMNS, r, strict=True)) for r in IRIS_ROWS]),
        ),
        (
            "rows.json",
            json.dumps(
                dict(zip(oip_double.IRIS_COLUMNS, zip(*IRIS_ROWS, strict=True), strict=True))
            ),
        ),
        (
            "rows.jsonl",
            "\n".join(
                json.dumps(dict(zip(oip_double.IRIS_COLUMNS, r, strict=True))) for r in IRIS_ROWS
            )
            + "\n\n",
        ),
        ("rows.npy", npy(np.array(IRIS_ROWS))),
        (
            "rows.parquet",
            parquet(dict(zip(oip_double.IRIS_COLUMNS, zip(*IRIS_ROWS, strict=True), strict=True))),
        ),
    ],
)
def test_every_format_asks_the_same(ask: Any, double: Double, name: str, content: Any) -> None:
    answer = json.loads(ask("iris", name, content))

    assert [row["longest"] for row in answer] == [0, 0]
    assert [row["total"] for row in answer] == pytest.approx([10.2, 16.6])
    (request,) = double.infer_requests
    sent = oip_double.read_tensors(request)
    assert np.stack(list(sent.values()), axis=1).tolist() == IRIS_ROWS


def test_csv_cells_have_the_types_of_the_inputs(ask: Any) -> None:
    content = (
        "a_text,a_bool,a_byte,an_int,a_long,a_float,a_double\n"
        '"x, y",TRUE,255,-1,2024-01-02,0.1,\n'
        "é,0,0,2147483647,2024-01-02T01:00:00+01:00,nan,1e300\n"
        ",false,1,0,9007199254740993,-inf,0.1\n"
    )

    first, second, third = json.loads(ask("types", "rows.csv", content))

    instant = 1_704_153_600_000_000_000
    assert list(first.values()) == [True, 255, -1, instant, 0.1, "NaN", "x, y"]
    assert list(second.values()) == [False, 0, 2**31 - 1, instant, "NaN", 1e300, "é"]
    assert list(third.values()) == [False, 1, 0, 2**53 + 1, "-Infinity", 0.1, ""]


def test_nan_is_an_empty_cell_of_csv_and_infinity_is_none(ask: Any) -> None:
    content = "a_text,a_bool,a_byte,an_int,a_long,a_float,a_double\na,1,1,1,1,inf,nan\n"

    _, row = ask("types", "rows.csv", content, output="csv").splitlines()

    assert row == "True,1,1,1,inf,,a"


def test_a_missing_number_is_nan_for_the_model(ask: Any, double: Double) -> None:
    ask("iris", "rows.csv", "sepal_length,sepal_width,petal_length,petal_width\n1,,3,4\n")

    assert math.isnan(oip_double.read_tensors(double.infer_requests[0])["sepal_width"][0])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", '[{"x": null}, {"x": 2.5}]'),
        ("rows.json", '{"x": [null, 2.5], "unused": [null, 1]}'),
        ("rows.jsonl", '{"x": null}\n{"x": 2.5}'),
        ("rows.parquet", parquet({"x": [None, 2.5], "unused": ["a", None]})),
        ("rows.parquet", parquet({"x": [None, 2]})),
        ("rows.csv", "x,unused\n,\n2.5,1\n"),
    ],
)
def test_a_null_is_nan_for_a_float_in_every_format(
    ask: Any, double: Double, name: str, content: Any
) -> None:
    ask("number", name, content)

    first, second = oip_double.read_tensors(double.infer_requests[0])["x"].tolist()
    assert math.isnan(first)
    assert second >= 2


@pytest.mark.parametrize(
    ("column", "datatype", "value"),
    [("n", "INT32", 1), ("t", "BYTES", "a"), ("b", "BOOL", True)],
)
@pytest.mark.parametrize("form", ["json", "columns", "jsonl", "parquet"])
def test_any_other_null_is_refused_by_row_and_column(
    ask: Any, double: Double, column: str, datatype: str, value: Any, form: str
) -> None:
    double.models["one"] = ServedModel((TensorSpec(column, datatype, (-1,)),), echo)
    content = {
        "json": json.dumps([{column: value}, {column: None}]),
        "columns": json.dumps({column: [value, None]}),
        "jsonl": f"{json.dumps({column: value})}\n{json.dumps({column: None})}",
        "parquet": parquet({column: [value, None]}),
    }[form]
    name = {"columns": "rows.json"}.get(form, f"rows.{form}")

    with pytest.raises(UsageError, match=f"row 2, column '{column}': .* null, and {datatype} has"):
        ask("one", name, content)


def test_an_empty_cell_is_empty_text_but_no_integer(ask: Any) -> None:
    head = "a_text,a_bool,a_byte,an_int,a_long,a_float,a_double\n"

    assert json.loads(ask("types", "rows.csv", head + ",1,1,1,1,1,1\n"))[0]["a_text_out"] == ""
    with pytest.raises(UsageError, match="row 1, column 'an_int': the cell is empty"):
        ask("types", "rows.csv", head + "a,1,1,,1,1,1\n")


LACKING = Signature(
    (
        TensorSpec("name", "BYTES", (-1,), "string"),
        TensorSpec("note", "BYTES", (-1,), "string", optional=True),
        TensorSpec("is_new", "BOOL", (-1,), "boolean"),
        TensorSpec("at", "INT64", (-1,), "datetime", optional=True),
        TensorSpec("size", "FP64", (-1,), "double"),
        TensorSpec("path", "BYTES", (-1,), "json", optional=True, schema='{"type": "any"}'),
        TensorSpec("rank", "INT64", (-1,), "long", optional=True),
    ),
    (TensorSpec("y", "INT64", (-1,), "long"),),
)
LACKING_FULL = {
    "name": "a",
    "note": "x",
    "is_new": True,
    "at": "2024-01-02T00:00:00",
    "size": 1.5,
    "path": [1],
}
LACKING_NONE = dict.fromkeys(LACKING_FULL)


@pytest.fixture(name="lacking")
def _lacking(tmp_path: Path) -> Iterator[Any]:
    """Predict the rows of a file; what the model saw."""

    def answer(inputs: Mapping[str, Any]) -> Any:
        return np.zeros(len(next(iter(inputs.values()))), np.int64)

    with FakeServer() as server:
        server.serve("lacking", LACKING, answer)

        def run(name: str, content: str | bytes, output: str = "json") -> Any:
            path = tmp_path / name
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            out = io.StringIO()
            there = Connection(server=server.target)
            predict("lacking", str(path), connection=there, output=output, out=out)
            if output == "table":
                return out.getvalue()
            seen = [{k: v.tolist() for k, v in one.inputs.items()} for one in server.asked]
            return {name: [cell for one in seen for cell in one[name]] for name in seen[0]}

        yield run


@pytest.mark.parametrize("form", ["csv", "json", "columns", "jsonl", "parquet"])
def test_values_may_be_missing_in_every_format(lacking: Any, form: str) -> None:
    rows = [LACKING_FULL, LACKING_NONE]
    columns = {name: [LACKING_FULL[name], None] for name in LACKING_FULL}
    content = {
        "csv": "name,note,is_new,at,size,path\na,x,1,2024-01-02,1.5,[1]\n,,,,,\n",
        "json": json.dumps(rows),
        "columns": json.dumps(columns),
        "jsonl": "\n".join(map(json.dumps, rows)),
        "parquet": parquet({**columns, "at": [datetime(2024, 1, 2), None]}),  # noqa: DTZ001
    }[form]

    seen = lacking(f"rows.{ {'columns': 'json'}.get(form, form) }", content)

    expected = {name: [LACKING_FULL[name], None] for name in LACKING_FULL}
    # In CSV text that must be given is empty where its cell is.
    expected["name"][1] = "" if form == "csv" else None
    expected["at"] = [1_704_153_600_000_000_000, None]
    expected["size"] = [1.5, math.nan]
    np.testing.assert_equal(seen, expected)


@pytest.mark.parametrize("value", [None, True, 5, 0.5, "x", [None], {"a": None}])
def test_json_of_a_file_is_what_the_model_gets(lacking: Any, value: Any) -> None:
    rows = [{"name": "a", "is_new": True, "size": 1, "path": path} for path in ([1], value)]

    assert lacking("rows.json", json.dumps(rows))["path"] == [[1], value]


def test_a_null_is_nothing_in_a_table(lacking: Any) -> None:
    table = lacking("rows.csv", "name,note,is_new,size\na,,,2\nb,,1,3\n", "table")

    assert "None" not in table
    assert "--" not in table
    assert re.search(r"a\W+2\W+0", table)


def test_optional_columns_need_not_be_in_the_file(lacking: Any) -> None:
    contents = {
        "rows.csv": "size,is_new,name\n1,0,a\n",
        "rows.json": '[{"size": 1, "is_new": false, "name": "a"}]',
        "rows.jsonl": '{"size": 1, "is_new": false, "name": "a"}',
        "rows.parquet": parquet({"size": [1.0], "is_new": [False], "name": ["a"]}),
    }
    for number, (name, content) in enumerate(contents.items(), 1):
        seen = lacking(name, content)
        assert seen == {"name": ["a"] * number, "is_new": [False] * number, "size": [1.0] * number}
    with pytest.raises(UsageError, match="the file has no column 'is_new'"):
        lacking("rows.csv", "size,name\n1,a\n")


def test_an_optional_name_that_a_record_lacks_is_missing_there(lacking: Any) -> None:
    must = {"name": "a", "is_new": True, "size": 1.0}
    with_note, without = {**must, "note": "x"}, must

    assert lacking("rows.json", json.dumps([without, with_note]))["note"] == [None, "x"]
    lines = "\n".join(map(json.dumps, [with_note, without]))
    assert lacking("rows.jsonl", lines)["note"] == [None, "x", "x", None]
    lines = "\n".join(map(json.dumps, [without, with_note]))
    with pytest.raises(UsageError, match="row 2 has 'note', which the first row has not"):
        lacking("rows.jsonl", lines)
    with pytest.raises(UsageError, match="row 2 has no 'size'"):
        lacking("rows.json", json.dumps([with_note, {"name": "a", "is_new": True}]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "name,is_new,size,rank\na,1,1,1\nb,1,1,\n"),
        (
            "rows.json",
            '{"name": ["a", "b"], "is_new": [true, true], "size": [1, 2], "rank": [1, null]}',
        ),
    ],
)
def test_integers_that_are_missing_are_refused_by_row(
    lacking: Any, name: str, content: str
) -> None:
    with pytest.raises(
        UsageError, match=r"row 2, column 'rank': the (cell is empty|value is null)"
    ):
        lacking(name, content)


def test_parquet_columns_keep_their_types(ask: Any) -> None:
    instant = datetime(2024, 1, 2, tzinfo=UTC)
    content = parquet(
        {
            "a_bool": [True],
            "a_byte": pa.array([255], pa.uint8()),
            "an_int": pa.array([-1], pa.int16()),
            "a_long": pa.array([instant], pa.timestamp("us", "Europe/Berlin")),
            "a_float": pa.array([0.5], pa.float16()),
            "a_double": pa.array([Decimal("0.25")], pa.decimal128(5, 2)),
            "a_text": pa.array(["é"]).dictionary_encode(),
        }
    )

    (row,) = json.loads(ask("types", "rows.parquet", content))

    assert list(row.values()) == [True, 255, -1, 1_704_153_600_000_000_000, 0.5, 0.25, "é"]


def test_parquet_lists_and_many_columns_make_a_matrix(ask: Any) -> None:
    twice = [{"y": [2.0, 4.0, 6.0]}, {"y": [8.0, 10.0, 12.0]}]

    lists = parquet({"x": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]})
    columns = parquet({"p": [1, 4], "q": [2, 5], "r": [3.0, 6.0]})

    assert json.loads(ask("doubler", "rows.parquet", lists)) == twice
    assert json.loads(ask("doubler", "rows.parquet", columns)) == twice


def test_kinds_of_the_metadata_make_instants_and_json_of_values() -> None:
    """Told that an input is a datetime or JSON, JSON's own texts and objects are accepted."""
    metadata = ModelMetadata(
        "m",
        ("1",),
        "mlflow_pyfunc",
        (
            TensorSpec("at", "INT64", (-1,), "datetime"),
            TensorSpec("tags", "BYTES", (-1,), "array"),
        ),
        (),
    )
    rows = '[{"at": "2024-01-02", "tags": ["a", "b"]}, {"at": 5, "tags": "[1]"}]'

    (chunk,) = READERS["json"](io.StringIO(rows), metadata)

    assert chunk == {"at": [1_704_153_600_000_000_000, 5], "tags": ['["a", "b"]', "[1]"]}


def test_columns_the_model_does_not_take_are_noted_once(
    ask: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["id,b,sepal_length,sepal_width,petal_length,petal_width", *["7,8,1,2,3,4"] * 600]

    answer = json.loads(ask("iris", "rows.csv", "\n".join(lines)))

    assert len(answer) == 600
    assert capsys.readouterr().err == "note: the model does not take id, b\n"


def test_a_matrix_input_takes_all_columns_of_a_csv_file(ask: Any) -> None:
    answer = json.loads(ask("doubler", "rows.csv", "p,q,r\n1,2,3\n4,5,6\n"))

    assert answer == [{"y": [2.0, 4.0, 6.0]}, {"y": [8.0, 10.0, 12.0]}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.npy", npy(np.ones((2, 3)))),
        ("rows.json", '[{"x": [1, 1, 1]}, {"x": [1, 1, 1]}]'),
        ("rows.json", '{"x": [[1, 1, 1], [1, 1, 1]]}'),
    ],
)
def test_a_tensor_input_takes_arrays_and_nested_lists(ask: Any, name: str, content: Any) -> None:
    assert json.loads(ask("doubler", name, content)) == [{"y": [2.0] * 3}] * 2


def test_a_model_without_a_signature_takes_json_as_it_is(ask: Any) -> None:
    answer = json.loads(ask("free", "rows.jsonl", '{"n": 1, "s": "é"}\n{"n": 2, "s": "b"}'))

    assert answer == [{"n_out": 1, "s_out": "é"}, {"n_out": 2, "s_out": "b"}]


def test_long_files_travel_in_several_requests_and_come_back_in_order(
    ask: Any, double: Double
) -> None:
    rows = np.arange(4 * 3000.0).reshape(3000, 4)

    printed = ask("iris", "rows.npy", npy(rows), output="csv").splitlines()

    assert printed[0] == "longest,total"
    assert [float(line.split(",")[1]) for line in printed[1:]] == rows.sum(axis=1).tolist()
    assert len(double.infer_requests) == 12


def test_large_rows_travel_in_smaller_requests(ask: Any, double: Double) -> None:
    rows = np.zeros((25, 1000, 100), np.float32)
    rows[:, 0, 0] = range(25)

    answer = json.loads(ask("wide", "rows.npy", npy(rows)))

    assert [row["first"] for row in answer] == list(range(25))
    sizes = sorted(request.inputs[0].shape[0] for request in double.infer_requests)
    assert sizes == [5, 10, 10]


def test_a_model_frozen_at_some_rows_is_asked_with_as_many(ask: Any, double: Double) -> None:
    assert len(json.loads(ask("frozen", "rows.npy", npy(np.arange(6.0))))) == 6
    assert [request.inputs[0].shape[0] for request in double.infer_requests] == [2, 2, 2]


@pytest.mark.parametrize("output", ["csv", "json", "table"])
def test_a_model_that_does_not_answer_row_by_row_gets_the_whole_file(
    ask: Any, double: Double, output: str
) -> None:
    ask("centring", "rows.csv", "x\n" + "1\n" * 1000 + "1001\n", output=output)

    assert [request.inputs[0].shape[0] for request in double.infer_requests] == [1001]


def test_an_answer_of_other_rows_than_the_file_is_printed_with_its_own(ask: Any) -> None:
    content = "start,end\n3,5\n"

    assert json.loads(ask("series", "rows.csv", content)) == [{"y": 3.0}, {"y": 4.0}, {"y": 5.0}]
    assert ask("series", "rows.csv", content, output="csv") == "y\n3.0\n4.0\n5.0\n"
    table = ask("series", "rows.csv", content, output="table")
    assert "start" not in table
    assert [f" {row} " in table for row in (3, 4, 5)] == [True] * 3


def test_inputs_without_rows_stand_beside_those_with_rows(ask: Any, double: Double) -> None:
    content = json.dumps({"x": [1.0, 2.0], "k": 3})

    assert json.loads(ask("scaled", "rows.json", content)) == [{"y": [3.0, 6.0], "k": 3.0}]
    assert [list(one.shape) for one in double.infer_requests[0].inputs] == [[2], []]
    for output in ("csv", "table"):
        with pytest.raises(UsageError, match=r"no common rows \(y \[2\], k \[\]\): use --output j"):
            ask("scaled", "rows.json", content, output=output)


def test_an_input_whose_first_axis_is_fixed_counts_no_rows(ask: Any, double: Double) -> None:
    content = json.dumps({"a": [[1, 2], [3, 4], [5, 6]], "b": [[1, 0, 1, 0], [0, 1, 0, 1]]})

    answer = json.loads(ask("product", "rows.json", content))

    assert [row["y"] for row in answer] == [[1, 2, 1, 2], [3, 4, 3, 4], [5, 6, 5, 6]]


def test_csv_output_has_a_column_per_element(ask: Any) -> None:
    printed = ask("doubler", "rows.npy", npy(np.full((1, 3), 0.05)), output="csv")

    assert printed == "y[0],y[1],y[2]\n0.1,0.1,0.1\n"


def test_a_table_shows_the_first_rows_beside_their_inputs(
    ask: Any, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = IRIS_CSV.splitlines()

    printed = ask("iris", "rows.csv", "\n".join([lines[0], *lines[1:] * 600]), output="table")

    for name in (*oip_double.IRIS_COLUMNS, "longest", "total"):
        assert name in printed
    assert printed.count("10.2") == 10
    assert printed.endswith("... and 1,180 more rows\n")
    assert len(double.infer_requests) == 1


def test_a_narrow_table_leaves_out_inputs_but_no_outputs(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    printed = ask("iris", "rows.csv", IRIS_CSV, output="table")

    assert "sepal_length" in printed
    assert "petal_width" not in printed
    assert "longest" in printed
    assert "total" in printed
    assert "2 of 4 input columns are not shown" in printed
    assert max(map(len, printed.splitlines())) <= 60


def test_a_table_shortens_long_cells(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    record = {"long": "x" * 100, "many": [1.5] * 10, "exact": 0.1, "text": "[red]é"}

    printed = ask("free", "rows.json", json.dumps([record]), output="table")

    assert f"{'x' * 29}... " in printed
    assert "[1.5 1.5 1.5 1.5 ...]" in printed
    assert "[red]é" in printed


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("csv", IRIS_CSV.encode()),
        ("json", json.dumps(IRIS_RECORDS).encode()),
        ("jsonl", "\n".join(map(json.dumps, IRIS_RECORDS)).encode()),
        ("npy", npy(np.array(IRIS_ROWS))),
        (
            "parquet",
            parquet(dict(zip(oip_double.IRIS_COLUMNS, zip(*IRIS_ROWS, strict=True), strict=True))),
        ),
    ],
)
def test_standard_input_may_hold_text_or_an_array(
    double: Double, monkeypatch: pytest.MonkeyPatch, form: str, content: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
    out = io.StringIO()

    predict(
        "iris",
        "-",
        connection=Connection(server=double.target),
        input_format=form,
        output="csv",
        out=out,
    )

    assert out.getvalue().startswith("longest,total\n0,10.2")


@pytest.mark.slow
def test_the_command_needs_the_bare_install_alone(double: Double) -> None:
    script = (
        "import sys\n"
        "from headrace_server.asking.connecting import Connection\n"
        "from headrace_server.asking.predict import predict\n"
        "there = Connection(server=sys.argv[1])\n"
        "predict('iris', '-', connection=there, input_format='csv', output='csv')\n"
        "bare = {'pandas', 'mlflow', 'pydantic', 'structlog', 'pygrpc_native', 'pyarrow'}\n"
        "sys.exit(', '.join(bare & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, double.target],
        input=IRIS_CSV,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("longest,total\n0,10.2")


@pytest.mark.slow
def test_parquet_without_its_extra_names_the_pip_line(double: Double) -> None:
    script = (
        "import sys\n"
        "sys.modules['pyarrow'] = None\n"
        "from headrace_server.cli import main\n"
        "sys.argv = ['headrace', 'predict', 'iris', '--input', '-', '--format', 'parquet',\n"
        "            '--server', sys.argv[1]]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, double.target],
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert 'pip install "headrace[parquet]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


HEAD = IRIS_CSV.splitlines()[0]


@pytest.mark.parametrize(
    ("model", "name", "content", "message"),
    [
        (
            "iris",
            "rows.txt",
            "",
            "cannot tell the format of .*: say with --format which of csv, json, jsonl, npy, p",
        ),
        ("iris", "rows.csv", "", "the CSV file is empty"),
        ("iris", "rows.csv", HEAD, "the file has no rows"),
        (
            "iris",
            "rows.csv",
            "sepal_length\n1\n",
            "no column 'sepal_width': model 'iris' takes sepal_length,",
        ),
        (
            "iris",
            "rows.csv",
            f"{HEAD}\n1,2,3,4\n1,2,3\n",
            "row 2 has 3 cells, but the first line names 4",
        ),
        ("iris", "rows.csv", f"{HEAD}\n1,2,3,x\n", "row 1, column 'petal_width': cannot read 'x'"),
        ("iris", "rows.csv", f'{HEAD}\n1,2,3,"{"x" * 200_000}"\n', "the file is not CSV"),
        ("iris", "rows.csv", HEAD.encode() + b"\n\xff", "it is not UTF-8 text"),
        ("types", "rows.json", '[{"a_bool": true}]', "no column 'a_byte'"),
        ("iris", "rows.json", "{", "the file is not JSON"),
        ("iris", "rows.json", "[1]", "neither records"),
        ("iris", "rows.json", "{}", "neither records"),
        ("iris", "rows.json", "[]", "neither records"),
        ("free", "rows.json", "[{}]", "the file has no rows"),
        ("free", "rows.json", '{"a": []}', "the file has no rows"),
        ("free", "rows.json", '{"a": [1], "b": []}', r"different numbers of rows: \[0, 1\]"),
        ("free", "rows.jsonl", '{"a": 1}\n{"b": 1}', "row 2 has no 'a'"),
        ("free", "rows.jsonl", '{"a": 1}\n[]', "row 2 is not an object"),
        ("free", "rows.jsonl", '{"a": 1}\n{', "row 2 is not JSON"),
        ("free", "rows.csv", "a\n1\n", "'free' publishes no inputs, so what CSV columns hold"),
        (
            "free",
            "rows.npy",
            npy(np.ones(1)),
            "'free' publishes no inputs, so an array has no name",
        ),
        ("iris", "rows.npy", b"no", "the file is not a numpy array"),
        ("iris", "rows.parquet", b"no", "the file is not a Parquet file"),
        ("iris", "rows.parquet", parquet({"x": [1]}), "no column 'sepal_length'"),
        ("number", "rows.parquet", parquet({"x": pa.array([], "double")}), "the file has no rows"),
        ("free", "rows.json", '{"a": [null]}', "column 'a': the value is null, and the model does"),
        (
            "iris",
            "rows.npy",
            npy(np.ones((2, 3))),
            r"shape \[2, 3\], but model 'iris' has 4 inputs",
        ),
        ("doubler", "rows.npy", npy(np.float32(1)), "the array has no rows"),
        (
            "doubler",
            "rows.npy",
            npy(np.ones((2, 4))),
            r"input 'x': expected shape \[-1, 3\], got \[2, 4\]",
        ),
        ("wide", "rows.csv", "x\n1\n", "which no CSV column holds: use json or npy"),
        (
            "iris",
            "rows.json",
            '{"sepal_length": ["a"], "sepal_width": [1], "petal_length": [1], "petal_width": [1]}',
            "input 'sepal_length': expected FP64, got text",
        ),
        ("whole", "rows.npy", npy(np.ones(3)), r"output 'mean' has shape \[1\] for 3 rows"),
        ("nothing", "rows.csv", HEAD, "nothing at .*NOT_FOUND: no model 'nothing'"),
    ],
)
def test_a_persons_mistake_is_one_sentence(
    ask: Any, model: str, name: str, content: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        ask(model, name, content)
    assert "\n" not in str(caught.value)


def test_what_the_server_refuses_is_one_sentence(ask: Any, double: Double) -> None:
    double.failures = [(grpc.StatusCode.INTERNAL, "ValueError: no")]

    with pytest.raises(UsageError, match=r"iris at .*INTERNAL: ValueError: no"):
        ask("iris", "rows.csv", IRIS_CSV)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "xml"}, "cannot print 'xml': expected one of table, csv, json"),
        ({"input_format": "xlsx"}, "cannot tell the format"),
        ({"server": "http://here"}, "cannot connect to 'http://here'"),
        ({"version": "9"}, "no model 'iris' '9'"),
    ],
)
def test_an_option_that_makes_no_sense_is_one_sentence(
    ask: Any, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ask("iris", "rows.csv", IRIS_CSV, **options)


def test_a_file_that_is_not_there_is_one_sentence(double: Double, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*rows\.csv: No such file"):
        predict("iris", str(tmp_path / "rows.csv"), connection=Connection(server=double.target))


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(IRIS_CSV)
    with oip_double.serving({}) as gone:
        target = gone.target

    with pytest.raises(UsageError, match=f"iris at {target}: UNAVAILABLE"):
        predict("iris", str(path), connection=Connection(server=target))


def test_where_the_time_went_is_told_beside_the_answers(
    ask: Any, double: Double, capsys: pytest.CaptureFixture[str]
) -> None:
    double.timings = (
        '{"queue_ns": 1500000, "compute_ns": 250000, "total_ns": 1750000, "batch_rows": 8}'
    )

    answers = ask("iris", "rows.csv", IRIS_CSV, timings=True)

    assert len(json.loads(answers)) == 2
    told = capsys.readouterr().err
    lines = [re.findall(r"[\w.]+", line) for line in told.splitlines()]
    assert ["queue", "1.500", "1.500"] in lines
    assert ["compute", "0.250", "0.250"] in lines
    assert ["total", "1.750", "1.750"] in lines
    assert "requests: 1, rows of their batches: 8.0 in the mean" in told


def test_a_server_that_tells_no_timings_is_a_note(
    ask: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ask("iris", "rows.csv", IRIS_CSV, timings=True)

    assert capsys.readouterr().err == "note: the server tells no timings\n"

"""A client in Node, from nothing but the .proto file that `headrace stub` writes."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from foreign import IRIS, KINDS_SEEN, blocks, check_kinds_seen, write_proto
from headrace.typed.description import service_name
from headrace_client import Client
from serving import Daemon

HERE = Path(__file__).parent
NODE = shutil.which("node")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        NODE is None or not (HERE / "node_modules").is_dir(),
        reason="Node and its packages are there after `make test-node` alone",
    ),
]


def ask(daemon: Daemon, tmp_path: Path, model: str, *requests: tuple[str, Any]) -> list[Any]:
    """What a client in Node gets for each method and request."""
    file = write_proto(daemon, model, tmp_path)
    assert NODE is not None
    lines = [json.dumps({"method": method, "request": request}) for method, request in requests]
    ran = subprocess.run(
        [NODE, "ask.mjs", str(file), daemon.address, service_name(model)],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
        cwd=HERE,
    )
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.mark.parametrize("guide", ["node", "stubs"])
def test_what_the_guide_shows_runs(daemon: Daemon, tmp_path: Path, guide: str) -> None:
    (shown,) = blocks(f"{guide}.md", "js")
    file = write_proto(daemon, "iris", tmp_path)
    script = shown.replace("127.0.0.1:8001", daemon.address).replace("iris.proto", str(file))

    assert NODE is not None
    ran = subprocess.run(
        [NODE, "--input-type=module"],
        input=script,
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
        cwd=HERE,
    )

    assert "output_0: 0" in ran.stdout
    assert "model_version: '1'" in ran.stdout


def test_named_columns_are_asked_by_row_and_by_batch(daemon: Daemon, tmp_path: Path) -> None:
    rows = {name: [value, value + 3] for name, value in IRIS.items()}

    row, batch = ask(daemon, tmp_path, "iris", ("PredictRow", IRIS), ("Predict", rows))

    with Client(daemon.address) as client:
        expected = client.predict("iris", rows).array.tolist()
    (field,) = row["answer"].keys() - {"model_version"} - {f"_{name}" for name in row["answer"]}
    assert row["answer"][field] == expected[0]
    assert batch["answer"][field] == expected
    assert row["answer"]["model_version"] == "1"


def test_text_and_numbers_stand_in_one_request(daemon: Daemon, tmp_path: Path) -> None:
    rows = models.model("mixed_columns").rows(4)

    (batch,) = ask(
        daemon,
        tmp_path,
        "mixed",
        ("Predict", {name: values.tolist() for name, values in rows.items()}),
    )

    with Client(daemon.address) as client:
        expected = client.predict("mixed", rows).array
    found = [value for name, value in batch["answer"].items() if name != "model_version"]
    assert found[0] == pytest.approx(expected.ravel().tolist())


def test_a_tensor_travels_as_values_or_as_raw_bytes(daemon: Daemon, tmp_path: Path) -> None:
    rows = models.model("torch_pt2").rows(3)["input-0"]
    values = {"input_0": {"shape": [3, 4], "values": rows.ravel().tolist()}}
    raw = {"input_0": {"shape": [3, 4], "raw": base64.b64encode(rows.tobytes()).decode()}}

    by_values, by_raw = ask(daemon, tmp_path, "net", ("Predict", values), ("Predict", raw))

    with Client(daemon.address) as client:
        expected = client.predict("net", rows).array
    answer = by_values["answer"]["output_0"]
    assert answer["shape"] == [3, 3]
    assert answer["values"] == pytest.approx(expected.ravel().tolist())
    decoded = np.frombuffer(base64.b64decode(by_raw["answer"]["output_0"]["raw"]), "<f4")
    assert decoded.tolist() == expected.ravel().tolist()


def test_parameters_have_the_models_defaults(daemon: Daemon, tmp_path: Path) -> None:
    row = {"length": 1.0, "count": 3}
    since = {"seconds": 1_580_702_706}

    plain, given = ask(
        daemon,
        tmp_path,
        "weigher",
        ("PredictRow", row),
        ("PredictRow", {**row, "params": {"scale": 10, "tags": ["x", "y"], "since": since}}),
    )

    assert (plain["answer"]["total"], plain["answer"]["label"]) == (5.25, "pa/b2024-01-02")
    assert given["answer"]["total"] == 13.25
    assert given["answer"]["label"] == "px/y2020-02-03T04:05:06"


def test_optional_columns_may_be_left_out_and_a_null_array_is_none(
    daemon: Daemon, tmp_path: Path
) -> None:
    paths = [{"values": [1, 2.5]}, {"is_null": True}]

    row, batch = ask(
        daemon,
        tmp_path,
        "notes",
        ("PredictRow", {"size": 1.5}),
        ("Predict", {"size": [1.5, 2], "path": paths}),
    )

    assert row["answer"]["output_0"] == "size=1.5"
    assert batch["answer"]["output_0"] == ["size=1.5,path=[1.0, 2.5]", "size=2.0,path=None"]


def value(plain: Any) -> Any:
    """A google.protobuf.Value as protobufjs wants it."""
    match plain:
        case bool():
            return {"boolValue": plain}
        case int() | float():
            return {"numberValue": plain}
        case str():
            return {"stringValue": plain}
        case list():
            return {"listValue": {"values": [value(each) for each in plain]}}
        case dict():
            fields = {name: value(each) for name, each in plain.items()}
            return {"structValue": {"fields": fields}}
    raise AssertionError(plain)


def test_instants_bytes_arrays_objects_and_maps_are_messages(
    daemon: Daemon, tmp_path: Path
) -> None:
    row = {
        "at": {"seconds": 1_714_979_289, "nanos": 500_000_000},
        "raw": base64.b64encode(b"\x00\xff").decode(),
        "small": 1.5,
        "path": {"values": [1.5, -2]},
        "owner": value(KINDS_SEEN["owner"]),
        "flags": value(KINDS_SEEN["flags"]),
    }

    one, both = ask(
        daemon,
        tmp_path,
        "kinds",
        ("PredictRow", row),
        ("Predict", {name: [each] * 2 for name, each in row.items()}),
    )

    check_kinds_seen(one["answer"]["output_0"])
    assert both["answer"]["output_0"] == [one["answer"]["output_0"]] * 2


@pytest.mark.parametrize(("model", "served"), [("two_towers", "towers"), ("py_planes", "planes")])
def test_several_tensors_travel_by_their_names(
    daemon: Daemon, tmp_path: Path, model: str, served: str
) -> None:
    rows = models.model(model).rows(2)
    # A tensor of one axis is a column.
    batch = {
        name: {"shape": list(rows[name].shape), "values": rows[name].ravel().tolist()}
        if rows[name].ndim > 1
        else rows[name].tolist()
        for name in rows
    }
    single = {
        name: {"values": rows[name][0].tolist()} if rows[name].ndim > 1 else rows[name][0].item()
        for name in rows
    }

    several, one = ask(daemon, tmp_path, served, ("Predict", batch), ("PredictRow", single))

    with Client(daemon.address) as client:
        expected = client.predict(served, rows)
    for name in expected:
        array = expected[name]
        for answer, part in ((several, array), (one, array[0])):
            found = answer["answer"][name]
            values = found["values"] if array.ndim > 1 else found
            assert values == pytest.approx(part.ravel().tolist() if array.ndim > 1 else part)
            if array.ndim > 1:
                assert found["shape"] == list(part.shape)


def test_a_model_that_came_later_is_asked_alike(daemon: Daemon, tmp_path: Path) -> None:
    (row,) = ask(daemon, tmp_path, "late", ("PredictRow", IRIS))

    with Client(daemon.address) as client:
        expected = client.predict("late", {name: [each] for name, each in IRIS.items()}).array
    assert row["answer"]["y"]["values"] == pytest.approx(expected[0].tolist())


def test_errors_come_with_their_status_and_message(daemon: Daemon, tmp_path: Path) -> None:
    uneven = {**{name: [1] for name in IRIS}, "petal_width": [1, 2]}
    # Nothing tells a caller of protobufjs that there is no such field: it is not sent.
    misspelt = {**IRIS, "petal_widht": IRIS["petal_width"]}
    del misspelt["petal_width"]

    *refused, good = ask(
        daemon,
        tmp_path,
        "iris",
        ("PredictRow", {"sepal_length": 5.1}),
        ("PredictRow", misspelt),
        ("Predict", uneven),
        ("PredictRow", IRIS),
    )

    assert [each["error"]["code"] for each in refused] == [3, 3, 3]
    for each, said in zip(
        refused,
        (
            "missing input 'sepal_width'",
            "missing input 'petal_width'",
            "'petal_width' has 2 rows, but 'sepal_length' has 1",
        ),
        strict=True,
    ):
        assert said in each["error"]["details"]
    assert good["answer"]["model_version"] == "1"

"""A client in Node, from nothing but the .proto file that `headrace stub` writes."""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import models
from headrace.typed.description import service_name
from headrace_client import Client
from headrace_server.cli import app
from serving import Daemon

HERE = Path(__file__).parent
NODE = shutil.which("node")
SERVED = {
    "iris_pipeline": "iris",
    "mixed_columns": "mixed",
    "torch_pt2": "net",
    "py_weigher": "weigher",
    "py_notes": "notes",
}
IRIS = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        NODE is None or not (HERE / "node_modules").is_dir(),
        reason="Node and its packages are there after `make test-node` alone",
    ),
]


@pytest.fixture(scope="module", name="daemon")
def _daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("node")
    served = [f"{name}={models.model(model).path}" for model, name in SERVED.items()]
    running = Daemon(*served, cwd=folder, cache=folder / "cache")
    running.wait("ready")
    yield running
    assert running.stop() == 0


def ask(daemon: Daemon, tmp_path: Path, model: str, *requests: tuple[str, Any]) -> list[Any]:
    """What a client in Node gets for each method and request."""
    file = tmp_path / f"{model}.proto"
    options = ["--proto", "--server", daemon.address, "-o", str(file)]
    written = CliRunner().invoke(app, ["stub", model, *options], prog_name="headrace")
    assert written.exit_code == 0, written.output or written.exception
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


def test_optional_columns_may_be_left_out_and_others_are_asked_for(
    daemon: Daemon, tmp_path: Path
) -> None:
    without, wrong = ask(
        daemon, tmp_path, "notes", ("PredictRow", {"size": 1.5}), ("PredictRow", {"note": "x"})
    )

    texts = [value for name, value in without["answer"].items() if name != "model_version"]
    assert "size=1.5" in texts
    assert wrong["error"]["code"] == 3
    assert "'size'" in wrong["error"]["details"]

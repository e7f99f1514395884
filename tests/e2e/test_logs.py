"""The log of a real daemon: error ids, the request log, and one form for all its processes."""

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import grpc
import numpy as np
import numpy.typing as npt
import pytest

from headrace.oip.open_inference_pb2 import ModelInferRequest
from headrace_client import Client, HeadraceClientError, Internal
from serving import Daemon

pytestmark = pytest.mark.slow

INFER = "/inference.GRPCInferenceService/ModelInfer"
MLMODEL = """
flavors:
  sklearn:
    pickled_model: model.pkl
    serialization_format: cloudpickle
signature:
  inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]'
"""
GOOD, BAD = np.ones((3, 2)), -np.ones((1, 2))


class Picky:
    """Raises for a negative number."""

    def predict(self, rows: npt.NDArray[np.float64]) -> Any:
        if rows.min() < 0:
            raise ValueError("no negative numbers, please")
        return rows


@pytest.fixture(scope="module")
def picky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "picky"
    folder.mkdir()
    (folder / "MLmodel").write_text(MLMODEL)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    (folder / "model.pkl").write_bytes(cloudpickle.dumps(Picky()))
    return folder


@pytest.fixture(scope="module", params=["native", "grpcio"])
def logging(request: pytest.FixtureRequest, picky: Path, cache: Path) -> Iterator[Daemon]:
    """A daemon that logs requests."""
    running = Daemon(
        str(picky), "--transport", request.param, "--set", "server.request_log=true",
        cwd=picky, cache=cache,
    )  # fmt: skip
    running.wait("ready")
    yield running
    assert running.stop() == 0


def line_about(daemon: Daemon, event: str, key: str, value: str) -> dict[str, Any]:
    """The line of an event that holds the value; it may come a moment after the answer."""
    for seen in itertools.count(1):
        line = daemon.wait(event, count=seen)
        if line[key] == value:
            return line
    raise AssertionError("the count never ends")


def test_the_id_in_a_callers_error_is_in_the_log_beside_the_traceback(logging: Daemon) -> None:
    with Client(logging.address) as client, pytest.raises(Internal) as caught:
        client.predict("picky", BAD)

    told = re.search(r"error id (\w+)", str(caught.value))
    assert told
    line = line_about(logging, "model_raised", "error_id", told[1])
    assert line["exception"].startswith("Traceback")
    assert "no negative numbers, please" in line["exception"]
    assert {"timestamp", "level", "event", "model"} <= line.keys()
    assert "Traceback" not in str(caught.value)


def test_an_answered_request_is_one_line(logging: Daemon) -> None:
    with Client(logging.address) as client:
        client.predict("picky", GOOD, request_id="good-1")

    line = line_about(logging, "request", "request_id", "good-1")
    assert (line["model"], line["version"], line["rows"]) == ("picky", "1", 3)
    assert (line["status"], line["level"]) == ("OK", "info")
    assert line["ms"] > 0
    assert line["peer"].startswith("127.0.0.1:")
    assert [each["request_id"] for each in logging.events("request")].count("good-1") == 1


def test_a_request_that_failed_in_the_model_tells_its_status(logging: Daemon) -> None:
    with Client(logging.address) as client, pytest.raises(HeadraceClientError):
        client.predict("picky", BAD, request_id="bad-1")

    line = line_about(logging, "request", "request_id", "bad-1")
    assert (line["status"], line["rows"]) == ("INTERNAL", 1)
    assert "error id" in line["error"]


@pytest.mark.parametrize(
    ("request_id", "payload", "status", "model"),
    [
        ("r-1", ModelInferRequest(model_name="nope", id="r-1"), "NOT_FOUND", "nope"),
        ("r-2", ModelInferRequest(model_name="picky", id="r-2"), "INVALID_ARGUMENT", "picky"),
    ],
)
def test_a_request_that_never_reached_a_queue_is_a_line_too(
    logging: Daemon, request_id: str, payload: ModelInferRequest, status: str, model: str
) -> None:
    with grpc.insecure_channel(logging.address) as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(INFER)
        with pytest.raises(grpc.RpcError) as caught:
            ask(payload.SerializeToString(), timeout=30)

    assert caught.value.code().name == status
    line = line_about(logging, "request", "request_id", request_id)
    assert line["model"] == model
    assert line["status"] == status


def test_nothing_is_logged_of_requests_unless_asked_for(daemon: Daemon) -> None:
    with Client(daemon.address) as client, pytest.raises(HeadraceClientError):
        client.predict("nobody", GOOD)

    assert daemon.events("request") == []


def test_all_processes_write_text_where_text_is_asked_for(picky: Path, cache: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "headrace_server.cli", "serve", str(picky), "--port", "0",
         "--metrics-port", "0", "--set", "server.log_format=console",
         "--set", f"server.cache_dir={cache}"],
        cwd=picky, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        told = []
        for line in running.stderr:
            told.append(line)
            if " ready " in line:
                break
        address = re.search(r"address=(\S+)", "".join(told))
        assert address, told
        with Client(address[1]) as client, pytest.raises(Internal):
            client.predict("picky", BAD)
        running.terminate()
        told += running.stderr.readlines()

    text = "".join(told)
    assert "{" not in text
    assert re.search(r"^\S+Z \[error    \] model_raised  .*model=picky$", text, re.MULTILINE)
    assert "\nValueError: no negative numbers, please\n" in text
    assert running.returncode == 0

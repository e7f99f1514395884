"""Settings of a real daemon: file, environment, tag and flag each take effect."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from mlflow import MlflowClient

import models
from headrace.oip.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from serving import Daemon

pytestmark = pytest.mark.slow

INFER = "/inference.GRPCInferenceService/ModelInfer"
READY = "/inference.GRPCInferenceService/ServerReady"

FILE = """
[server]
models = ["models:/net/1"]
message_bytes_max = 100_000
device = "cpu"

[models.tagged]
uri = "models:/graph/1"
queue_rows_max = 40
slots = 1
"""
ENVIRONMENT = {
    "HEADRACE_SERVER__STRICT_READINESS": "true",
    "HEADRACE_MODELS__NET__QUEUE_ROWS_MAX": "7",
    "HEADRACE_MODELS__BROKEN__URI": "broken",
}
TAGS = {
    "headrace.queue_rows_max": "1",  # The file's word is stronger.
    "headrace.rows_max": "3",
    "headrace.method": "__reduce__",
    "headrace.device": "cuda",
    "owner": "someone",
}


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry, a settings file and a model that cannot be loaded."""
    directory = tmp_path_factory.mktemp("settings")
    models.log("onnx_unnamed", directory, "net")
    models.log("onnx_named", directory, "graph")
    client = MlflowClient(models.tracking_uri(directory))
    for key, value in TAGS.items():
        client.set_model_version_tag("graph", "1", key, value)
    (directory / "headrace.toml").write_text(FILE)
    broken = directory / "broken"
    broken.mkdir()
    mlmodel = models.model("iris_forest").path / "MLmodel"
    (broken / "MLmodel").write_text(mlmodel.read_text())
    return directory


@pytest.fixture(scope="module")
def configured(where: Path, cache: Path) -> Iterator[Daemon]:
    """A daemon that is told by all sources; mlflow.db is the registry of its working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for variable, value in ENVIRONMENT.items():
            patch.setenv(variable, value)
        running = Daemon("--set", "net.rows_max=5", cwd=where, cache=cache)
    running.wait("ready")
    yield running
    assert running.stop() == 0


def ask(daemon: Daemon, model: str, rows: int) -> str:
    """The status of a request of *rows*, and its message."""
    request = ModelInferRequest(model_name=model)
    name = "x" if model == "tagged" else "input-0"
    request.inputs.add(name=name, datatype="FP32", shape=[rows, 4])
    request.raw_input_contents.append(np.zeros((rows, 4), np.float32).tobytes())
    with grpc.insecure_channel(daemon.address) as channel:
        call = channel.unary_unary(
            INFER, ModelInferRequest.SerializeToString, ModelInferResponse.FromString
        )
        try:
            call(request, timeout=30)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return "OK"


def batches(daemon: Daemon, model: str) -> int:
    """How many batches *model* has run."""
    with urllib.request.urlopen(daemon.metrics) as response:  # noqa: S310 - our own daemon.
        text = response.read().decode()
    (count,) = re.findall(rf'headrace_batches_total{{model="{model}",version="1"}} (\S+)', text)
    return int(float(count))


def is_ready(daemon: Daemon) -> bool:
    """What it says of itself."""
    with grpc.insecure_channel(daemon.address) as channel:
        call = channel.unary_unary(
            READY, ServerReadyRequest.SerializeToString, ServerReadyResponse.FromString
        )
        return bool(call(ServerReadyRequest(), timeout=30).ready)


def config(where: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environ = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        [sys.executable, "-m", "headrace_server.cli", "config", *arguments],
        cwd=where, env={**environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def test_models_of_the_file_and_of_the_environment_are_served(configured: Daemon) -> None:
    assert configured.wait("listening")["models"] == ["net", "tagged", "broken"]


def test_a_setting_of_the_file_takes_effect_over_a_tag(configured: Daemon) -> None:
    assert ask(configured, "tagged", 40) == "OK"
    assert "queue_rows_max is 40" in ask(configured, "tagged", 41)


def test_a_tag_takes_effect(configured: Daemon) -> None:
    before = batches(configured, "tagged")

    assert ask(configured, "tagged", 10) == "OK"

    assert batches(configured, "tagged") == before + 4  # Of at most 3 rows.


def test_a_flag_takes_effect(configured: Daemon) -> None:
    before = batches(configured, "net")

    assert ask(configured, "net", 6) == "OK"

    assert batches(configured, "net") == before + 2  # Of at most 5 rows.


def test_a_variable_takes_effect(configured: Daemon) -> None:
    assert ask(configured, "net", 7) == "OK"
    assert "queue_rows_max is 7" in ask(configured, "net", 8)


def test_a_setting_of_the_server_takes_effect(configured: Daemon) -> None:
    assert ask(configured, "tagged", 10_000).startswith("RESOURCE_EXHAUSTED: ")


def test_tags_that_cannot_be_used_are_told_once(configured: Daemon) -> None:
    (told,) = configured.events("tags_ignored")

    assert told["model"] == "tagged"
    assert told["tags"] == {
        "headrace.device": "the operator alone may set it",
        "headrace.method": (
            "headrace.method=__reduce__: expected the name of a method, or nothing"
        ),
    }


def test_strict_readiness_waits_for_every_start_up_model(configured: Daemon) -> None:
    assert configured.wait("ready")["failed"] == ["broken"]

    assert not is_ready(configured)


def test_strict_readiness_is_met_when_every_start_up_model_is_ready(
    where: Path, cache: Path
) -> None:
    running = Daemon(
        "models:/net/1", "--config", os.devnull, "--set", "server.strict_readiness=true",
        "--tracking-uri", models.tracking_uri(where), cwd=where, cache=cache,
    )  # fmt: skip
    try:
        running.wait("ready")
        assert is_ready(running)
    finally:
        running.stop()


def test_config_shows_what_the_daemon_runs_with(where: Path) -> None:
    ran = config(where, "--set", "net.rows_max=5", "--registry", "--json")

    assert ran.returncode == 0, ran.stderr
    shown = json.loads(ran.stdout)
    assert shown["file"] == "headrace.toml"
    tagged, net = shown["models"]["tagged"], shown["models"]["net"]
    assert tagged["rows_max"] == {"value": 3, "from": "tag headrace.rows_max"}
    assert tagged["queue_rows_max"] == {"value": 40, "from": "headrace.toml:9"}
    assert tagged["method"] == {"value": "", "from": "default"}
    assert net["rows_max"] == {"value": 5, "from": "--set net.rows_max"}
    assert net["queue_rows_max"]["from"] == "HEADRACE_MODELS__NET__QUEUE_ROWS_MAX"
    assert set(shown["ignored_tags"]["tagged"]) == {"headrace.device", "headrace.method"}


def test_config_without_the_registry_says_that_tags_are_unknown(where: Path) -> None:
    ran = config(where, "--port", "9000")

    assert ran.returncode == 0, ran.stderr
    assert "--registry asks for them" in ran.stdout
    assert re.search(r"^port = 9000 +# --port$", ran.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config", "gone.toml"], "headrace: gone.toml: No such file or directory"),
        (["--port", "many"], "headrace: --port=many: expected a whole number from 0 to 65535"),
        (["--set", "server.drain=1"], "did you mean 'drain_s'?"),
        (["--registry", "--set", "nett.slots=1"], "did you mean 'net'?"),
        (["--registry", "models:/nobody/1"], "'nobody'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(
    where: Path, arguments: list[str], sentence: str
) -> None:
    ran = config(where, *arguments)

    assert ran.returncode == 2
    told = [line for line in ran.stderr.splitlines() if not line.startswith("{")]
    assert len(told) == 1
    assert told[0].startswith("headrace: ")
    assert sentence in told[0]

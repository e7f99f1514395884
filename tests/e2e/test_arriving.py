"""Arriving: daemons whose registry is slow, away or refuses them, with a real MLflow server."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import models
from headrace_client import Client, FailedPrecondition, ModelStatus, Unavailable
from serving import Daemon, untried
from tracking import Front, TrackingServer, fill, free_port, front, tracking_server

pytestmark = pytest.mark.slow

NAMES = [f"m{number}" for number in range(6)]
ROWS = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

Start = Callable[..., Daemon]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    directory = tmp_path_factory.mktemp("tracking")
    fill(directory, NAMES)
    with tracking_server(directory) as running:
        yield running


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start daemons that find nothing in their cache; all of them end with the test."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    started: list[Daemon] = []

    def start_one(uri: str, *arguments: str) -> Daemon:
        options = untried(*NAMES) if not arguments else ()
        daemon = Daemon(
            "--tracking-uri", uri, *options, *arguments, cwd=tmp_path, cache=tmp_path / "cache"
        )
        started.append(daemon)
        return daemon

    yield start_one
    for daemon in started:
        daemon.stop()


def health(daemon: Daemon) -> int:
    with grpc.insecure_channel(daemon.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status)


def headrace(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "headrace_server.cli", *arguments],
        capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def eventually(client: Client, condition: Callable[[dict[str, ModelStatus]], bool]) -> None:
    until = time.monotonic() + 90
    while True:
        found = {model.name: model for model in client.models()}
        if condition(found):
            return
        assert time.monotonic() < until, found


def assert_right(client: Client, name: str) -> None:
    expected = models.model("onnx_named").expected(ROWS)["y"]
    np.testing.assert_allclose(client.infer(name, ROWS).array, expected, rtol=1e-5)


def test_models_that_a_slow_registry_did_not_give_at_start_arrive_by_themselves(
    server: TrackingServer, start: Start
) -> None:
    """Files of all but one hang until the test says so, as on a server with too few workers."""
    with front(server.port, lambda path: "hang" if "model.onnx" in path and "m0" not in path
               else "pass") as before:  # fmt: skip
        daemon = start(before.uri)
        ready = daemon.wait("ready")
        assert (ready["models"], ready["failed"]) == (["m0"], NAMES[1:])
        assert daemon.events("model_failed")[0]["retry_s"] <= 1.0
        with Client(daemon.address, timeout_s=60) as client:
            said = re.compile(
                f"the registry at {before.uri} does not answer, or fails, when asked for the "
                r"content of mlflow-artifacts:/m\d: no answer in time; it is tried again in \d+ s, "
                r"at \d\d:\d\d:\d\d UTC"
            )
            eventually(client, lambda found: any(said.fullmatch(m.reason) for m in found.values()))
            for name in NAMES[1:]:
                with pytest.raises(Unavailable, match=name):
                    client.infer(name, ROWS)
            assert client.ready()
            assert_right(client, "m0")

            before.behave = lambda _: "pass"
            eventually(client, lambda found: all(m.state == "READY" for m in found.values()))
            assert {model.reason for model in client.models()} == {""}
            for name in NAMES:
                assert_right(client, name)


def test_a_registry_that_is_paused_while_models_are_fetched_delays_them(
    server: TrackingServer, start: Start
) -> None:
    paused: list[str] = []

    def behave(path: str) -> str:
        if "mlflow-artifacts" in path and not paused:
            paused.append(path)
            server.pause()
        return "pass"

    with front(server.port, behave) as before:
        daemon = start(before.uri)
        try:
            daemon.wait("not_ready")
            assert health(daemon) == NOT_SERVING
        finally:
            server.resume()
        with Client(daemon.address, timeout_s=60) as client:
            eventually(client, lambda found: all(m.state == "READY" for m in found.values()))
            assert client.ready()


def test_a_download_that_breaks_midway_is_made_again(server: TrackingServer, start: Start) -> None:
    broken: list[str] = []

    def behave(path: str) -> str:
        if "model.onnx" in path and len(broken) < 3:
            broken.append(path)
            return "break"
        return "pass"

    with front(server.port, behave) as before:
        daemon = start(before.uri, "models:/m0/1", *untried("m0"))
        assert "the connection broke" in daemon.wait("model_failed")["why"]
        daemon.wait("model_ready")
        with Client(daemon.address, timeout_s=60) as client:
            assert_right(client, "m0")
    assert len(daemon.events("model_failed")) == len(broken) == 3


@pytest.mark.parametrize("named", [[], ["models:/m0/1", "own=models:/m1/latest"]])
def test_a_registry_that_is_away_at_start_is_asked_again_until_it_is_there(
    server: TrackingServer, start: Start, named: list[str]
) -> None:
    port = free_port()
    names = ["m0", "own"] if named else NAMES
    uri = f"http://someone:secret@127.0.0.1:{port}"
    daemon = start(uri, *named, *untried(*names), "--set=server.strict_readiness=true")
    daemon.wait("registry_awaited")
    assert daemon.wait("listening")["models"] == []
    with Client(daemon.address, timeout_s=60) as client:
        assert not client.ready()
        assert health(daemon) == NOT_SERVING
        for ask in (client.models, lambda: client.infer("m0", ROWS), lambda: client.unload("m0")):
            with pytest.raises(Unavailable, match="not known yet what is to be served") as caught:
                ask()
            said = str(caught.value)
            assert f"the registry at http://***@127.0.0.1:{port} does not answer" in said
            assert "the connection was refused; it is asked again" in said
        # An operator may load what needs no registry, and that counts.
        client.load("m0" if named else "m5", str(models.model("onnx_unnamed").path))
        assert not client.ready()

        with front(server.port, port=port):
            daemon.wait("ready")
            assert client.ready()
            found = {model.name: model.state for model in client.models()}
            assert found == dict.fromkeys(names, "READY")
            assert_right(client, names[1])
            name = "m0" if named else "m5"
            assert client.metadata(name).inputs[0].name != "x"
    pauses = [line["retry_s"] for line in daemon.events("registry_awaited")]
    assert all(2.0 ** (at - 1) <= pause <= 2.0**at for at, pause in enumerate(pauses))
    assert "secret" not in "\n".join(daemon.lines)
    assert daemon.stop() == 0


def test_the_end_of_a_daemon_that_waits_for_its_registry_waits_for_nothing(start: Start) -> None:
    with front(0, lambda _: "503") as away:
        daemon = start(away.uri)
        daemon.wait("registry_awaited", count=2)
        began = time.monotonic()
        assert daemon.stop() == 0
    # A daemon ends within a second or two, by itself; pauses are longer by then, and tries too.
    assert time.monotonic() - began < 10
    assert daemon.events("draining")
    assert "Traceback" not in "\n".join(daemon.lines)


def test_what_the_registry_says_late_is_a_mistake_as_at_any_start(
    server: TrackingServer, start: Start
) -> None:
    with front(server.port, lambda _: "503") as before:
        daemon = start(before.uri, "models:/m0/9")
        daemon.wait("registry_awaited")
        before.behave = lambda _: "pass"
        assert daemon.wait_exit() == 2
    assert daemon.lines[-1] == "headrace: there is no version 9 of model 'm0'"


# A password that is wrong.


@pytest.fixture
def refusing() -> Iterator[Front]:
    """What asks everyone for another password, as MLflow's basic-auth app does."""
    with front(0, lambda _: "401") as server:
        yield server


SENTENCE = (
    "expected another user name and password, in the tracking URI or as MLFLOW_TRACKING_USERNAME "
    "and MLFLOW_TRACKING_PASSWORD, or a token as MLFLOW_TRACKING_TOKEN"
)


@pytest.mark.parametrize("named", [[], ["models:/m0/1"]])
def test_a_wrong_password_ends_serve_with_one_sentence(refusing: Front, named: list[str]) -> None:
    uri = refusing.uri.replace("//", "//someone:secret@")

    ran = headrace("serve", *named, "--tracking-uri", uri, "--port=0", "--metrics-port=0")

    assert ran.returncode == 2
    lines = [line for line in ran.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert lines[0].startswith(f"headrace: the registry at {refusing.uri.replace('//', '//***@')}")
    assert lines[0].endswith(SENTENCE)
    logged = [json.loads(line)["event"] for line in ran.stderr.splitlines() if line[0] == "{"]
    assert "librarian_failed" not in logged
    assert "Traceback" not in ran.stderr
    assert "secret" not in ran.stderr


def test_a_wrong_password_is_a_problem_to_the_doctor_and_to_config(
    refusing: Front, tmp_path: Path
) -> None:
    told = headrace(
        "doctor", "--json", "--tracking-uri", refusing.uri, "--port=0", "--metrics-port=0",
        XDG_CACHE_HOME=str(tmp_path),
    )  # fmt: skip
    config = headrace("config", "--registry", "--tracking-uri", refusing.uri)

    findings: list[dict[str, Any]] = json.loads(told.stdout)
    (found,) = (each for each in findings if each["name"] == "registry")
    assert (told.returncode, told.stderr, found["status"]) == (1, "", "problem")
    assert found["text"].count(refusing.uri) == 1
    assert found["text"].endswith(SENTENCE)
    assert "MLFLOW_TRACKING_USERNAME" in found["remedy"]
    assert config.returncode == 2
    (line,) = config.stderr.splitlines()
    assert line.endswith(SENTENCE)


def test_a_password_that_is_wrong_later_is_told_to_who_loads_and_nothing_is_tried_again(
    server: TrackingServer, start: Start
) -> None:
    with front(server.port) as before:
        daemon = start(before.uri, "models:/m0/1", *untried("m0"))
        daemon.wait("ready")
        before.behave = lambda path: "401" if "mlflow-artifacts" in path else "pass"
        with Client(daemon.address, timeout_s=60) as client:
            with pytest.raises(FailedPrecondition, match="expected another user name") as files:
                client.load("m1")
            before.behave = lambda _: "401"
            with pytest.raises(FailedPrecondition, match="expected another user name"):
                client.load("m2")
            told = headrace("load", "m2", "--server", daemon.address)
            status = {model.name: model for model in client.models()}
            assert_right(client, "m0")

    assert "(HTTP 401)" in str(files.value)
    assert status["m1"].reason.endswith(SENTENCE)
    assert told.returncode == 2
    (line,) = told.stderr.splitlines()
    assert line.endswith(SENTENCE)
    assert [line["why"].endswith(SENTENCE) for line in daemon.events("load_failed")] == [True] * 2
    assert not daemon.events("librarian_failed")
    assert "Traceback" not in "\n".join(daemon.lines)

"""Daemons that listen on a Unix socket, over both transports, and everything that asks them."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import models
from certificates import Authority
from headrace_client import AsyncClient, Client, Tls, Unauthenticated, Unavailable
from headrace_server.transport.tokens import Scope, append_entry, entry_of, make_token
from serving import READY_S_MAX, Daemon, untried

pytestmark = pytest.mark.slow

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
TRANSPORTS = ("native", "grpcio")


class Serving:
    """A daemon of one model on a Unix socket in *directory*."""

    def __init__(self, directory: Path, cache: Path, *arguments: str) -> None:
        self.path = directory / "headrace.sock"
        self.daemon = Daemon(
            f"graph={models.model('onnx_named').path}", *untried("graph"),
            "--host", "unix:headrace.sock", *arguments, cwd=directory, cache=cache,
        )  # fmt: skip

    @property
    def target(self) -> str:
        return f"unix:{self.path}"


def right() -> np.ndarray:
    return models.model("onnx_named").expected({"x": ROWS})["y"]


def headrace(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "headrace_server.cli", *arguments],
        capture_output=True, text=True, timeout=READY_S_MAX, check=False, cwd=cwd,
    )  # fmt: skip


@pytest.fixture(scope="module", params=TRANSPORTS)
def serving(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("socket")
    made = Serving(directory, cache, "--transport", request.param)
    made.daemon.wait("ready")
    assert made.daemon.wait("listening")["transport"] == request.param
    yield made
    assert made.daemon.stop() == 0
    assert not made.path.exists()


def test_both_clients_and_lists_of_sockets_are_served(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(serving.path.parent)

    async def ask(target: str) -> None:
        async with AsyncClient(target, timeout_s=20) as client:
            np.testing.assert_allclose(
                (await client.predict("graph", ROWS)).array, right(), rtol=1e-5
            )
            assert await client.ready()

    for target in (serving.target, f"unix://{serving.path}", "unix:headrace.sock"):
        with Client(target, timeout_s=20) as client:
            np.testing.assert_allclose(client.predict("graph", ROWS).array, right(), rtol=1e-5)
            answers = [client.submit("graph", ROWS) for _ in range(50)]
            assert all(np.allclose(one.result(20).array, right()) for one in answers)
        asyncio.run(ask(target))
    targets = [serving.target, f"unix:{serving.path.parent}/gone"]
    with Client(targets, timeout_s=20, wait_for_ready=True) as client:
        np.testing.assert_allclose(client.predict("graph", ROWS).array, right(), rtol=1e-5)


def test_every_command_that_asks_takes_a_socket(serving: Serving, tmp_path: Path) -> None:
    cwd = serving.path.parent
    rows = tmp_path / "rows.npy"
    np.save(rows, ROWS)
    at = ("--server", "unix:headrace.sock")

    health = headrace("health", "graph", *at, cwd=cwd)
    shown = headrace("models", "--json", *at, cwd=cwd)
    asked = headrace("predict", "graph", "--input", str(rows), "--output", "json", *at, cwd=cwd)
    loaded = headrace("load", "graph", *at, cwd=cwd)
    stub = headrace("stub", "graph", *at, "-o", str(tmp_path / "graph_client.py"), cwd=cwd)

    assert (health.returncode, health.stdout) == (0, "SERVING\n")
    assert json.loads(shown.stdout)[0]["state"] == "READY"
    assert len(json.loads(asked.stdout)) == len(ROWS)
    assert (loaded.returncode, stub.returncode) == (0, 0), loaded.stderr + stub.stderr
    written = dict[str, Any]()
    exec((tmp_path / "graph_client.py").read_text(), written)  # noqa: S102 - what we wrote.
    with written["GraphClient"](serving.target) as client:
        np.testing.assert_allclose(client.predict_batch(x=ROWS).y, right(), rtol=1e-5)


def test_other_clients_find_health_reflection_and_metrics(serving: Serving) -> None:
    with grpc.insecure_channel(serving.target) as channel:
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (listed,) = reflection.ServerReflectionInfo(iter([asked]), timeout=20)
    with urllib.request.urlopen(serving.daemon.metrics) as response:  # noqa: S310 - our own.
        text = response.read().decode()

    assert len(listed.list_services_response.service) >= 3
    assert "headrace_requests_total" in text


def test_the_file_is_the_owners_alone_and_the_log_says_where_it_is(serving: Serving) -> None:
    told = serving.daemon.wait("listening")

    assert stat.S_IMODE(serving.path.lstat().st_mode) == 0o600
    assert (told["address"], told["port"]) == (serving.target, 0)
    assert not serving.daemon.events("open_to_the_network")


def test_a_second_daemon_is_refused_and_the_first_goes_on(serving: Serving, cache: Path) -> None:
    second = Serving(serving.path.parent, cache)

    assert second.daemon.wait_exit() == 2
    assert second.daemon.lines[-1] == (
        f"headrace: cannot listen on {serving.target}: another server listens on it"
    )
    with Client(serving.target, timeout_s=20) as client:
        assert client.ready("graph")


def test_what_a_daemon_that_was_killed_left_is_replaced(tmp_path: Path, cache: Path) -> None:
    first = Serving(tmp_path, cache, "--transport", "native")
    first.daemon.wait("listening")
    first.daemon.process.send_signal(signal.SIGKILL)
    first.daemon.wait_exit()
    assert stat.S_ISSOCK(first.path.lstat().st_mode)
    with Client(first.target, timeout_s=20) as client, pytest.raises(Unavailable):
        client.models()

    second = Serving(tmp_path, cache, "--transport", "grpcio", "--set=server.socket_mode=0660")
    try:
        second.daemon.wait("ready")
        assert stat.S_IMODE(second.path.lstat().st_mode) == 0o660
        with Client(second.target, timeout_s=20) as client:
            assert client.ready("graph")
    finally:
        assert second.daemon.stop() == 0
    assert not second.path.exists()


def test_a_daemon_that_does_not_start_leaves_no_file(tmp_path: Path, cache: Path) -> None:
    # By name: MLflow may have set one for this process and those it starts.
    registry = ("--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db")
    daemon = Daemon(
        "models:/nobody/1", *registry, "--host", "unix:x.sock", cwd=tmp_path, cache=cache
    )

    assert daemon.wait_exit() == 2
    assert "mlflow.db cannot be opened" in daemon.lines[-1]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (f"unix:{'x' * 120}", "and that of a Unix socket 107 at most"),
        ("unix:file", "something else is there"),
    ],
)
def test_a_socket_that_cannot_be_is_one_sentence(tmp_path: Path, host: str, said: str) -> None:
    (tmp_path / "file").write_text("precious")
    ran = headrace("serve", "--host", host, "--metrics-port=0", "x=./y", cwd=tmp_path)

    assert ran.returncode == 2
    told = [line for line in ran.stderr.splitlines() if not line.startswith("{")]
    assert len(told) == 1
    assert said in told[0]
    assert (tmp_path / "file").read_text() == "precious"


def test_tokens_and_tls_work_over_a_socket(tmp_path: Path, cache: Path) -> None:
    authority, secret = Authority(), make_token()
    cert, key = authority.issue("localhost").write(tmp_path, "server")
    append_entry(str(tmp_path / "tokens.toml"), entry_of(secret, "me", [Scope.INFERENCE]))
    tokens = "--set=auth.tokens=tokens.toml"

    plain = Serving(tmp_path, cache, tokens)
    try:
        plain.daemon.wait("ready")
        assert plain.daemon.wait("listening")["transport"] == "native"
        # Nobody reads what passes a Unix socket.
        assert not plain.daemon.events("tokens_in_plain_text")
        with Client(plain.target, timeout_s=20, token=secret) as client:
            np.testing.assert_allclose(client.predict("graph", ROWS).array, right(), rtol=1e-5)
        with Client(plain.target, timeout_s=20) as client, pytest.raises(Unauthenticated):
            client.infer("graph", {"x": ROWS})
    finally:
        assert plain.daemon.stop() == 0
    encrypted = Serving(tmp_path, cache, tokens, f"--set=tls.cert={cert}", f"--set=tls.key={key}")
    try:
        encrypted.daemon.wait("ready")
        assert encrypted.daemon.wait("listening")["transport"] == "grpcio"
        tls = Tls(ca=authority.cert)
        with Client(encrypted.target, timeout_s=20, token=secret, tls=tls) as client:
            np.testing.assert_allclose(client.predict("graph", ROWS).array, right(), rtol=1e-5)
        with Client(encrypted.target, timeout_s=20, token=secret) as client:
            assert not client.ready()
    finally:
        assert encrypted.daemon.stop() == 0


def test_a_settings_file_names_a_socket_beside_it(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "headrace.toml").write_text(
        '[server]\nhost = "unix:headrace.sock"\nport = 9000\n'
    )
    daemon = Daemon(
        "--config", "etc/headrace.toml", f"graph={models.model('onnx_named').path}",
        *untried("graph"), cwd=tmp_path, cache=cache,
    )  # fmt: skip
    try:
        assert daemon.address == f"unix:{tmp_path}/etc/headrace.sock"
        with Client(daemon.address, timeout_s=20, wait_for_ready=True) as client:
            assert client.models()
    finally:
        assert daemon.stop() == 0

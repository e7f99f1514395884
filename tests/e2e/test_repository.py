"""Loading and unloading while the server runs: what is served goes on being served."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import numpy.typing as npt
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mlflow import MlflowClient

import models
from headrace.oip import open_inference_pb2 as oip
from headrace.oip.inference_service_pb2_grpc import GRPCInferenceServiceStub
from headrace_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    HeadraceClientError,
    InvalidArgument,
    ModelStatus,
    NotFound,
    Unavailable,
)
from serving import Daemon, untried

pytestmark = pytest.mark.slow

# One input of four numbers each; the answers have different shapes.
VERSIONS = {"1": "iris_forest", "2": "scaler"}
BROKEN = "3"
ROWS = {"input-0": np.array([[5.1, 3.5, 1.4, 0.2], [4.9, 3.6, 1.4, 0.1], [6.4, 2.9, 4.3, 1.3]])}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with versions of `flower`, the last of which cannot be loaded, and with `graph`."""
    directory = tmp_path_factory.mktemp("shelf")
    for version, name in VERSIONS.items():
        assert models.log(name, directory, "flower") == version
    before = set(directory.rglob("model.*"))
    assert models.log("string_labels", directory, "flower") == BROKEN
    (pickled,) = set(directory.rglob("model.*")) - before
    pickled.write_bytes(b"no model")
    models.log("onnx_named", directory, "graph")
    return directory


@pytest.fixture(scope="module")
def registry(shelf: Path) -> MlflowClient:
    return MlflowClient(models.tracking_uri(shelf))


@pytest.fixture(scope="module")
def running(shelf: Path, registry: MlflowClient, cache: Path) -> Iterator[Daemon]:
    """A daemon whose `flower` follows the alias `live`, beside `other`."""
    registry.set_registered_model_alias("flower", "live", "1")
    uri = models.tracking_uri(shelf)
    other = f"other={models.model('onnx_named').path}"
    daemon = Daemon(
        *("--tracking-uri", uri, "flower=models:/flower@live", other, *untried("flower")),
        cwd=shelf,
        cache=cache,
    )
    daemon.wait("ready")
    yield daemon
    assert daemon.stop() == 0


@pytest.fixture
def client(running: Daemon) -> Iterator[Client]:
    with Client(running.address, timeout_s=60) as client:
        yield client


@pytest.fixture
def flower(client: Client, registry: MlflowClient) -> Callable[[str], None]:
    """Moves the alias and has the daemon follow it."""

    def follow(version: str) -> None:
        registry.set_registered_model_alias("flower", "live", version)
        client.load("flower", "models:/flower@live")

    follow("1")
    return follow


def status(client: Client, name: str) -> ModelStatus:
    """The one version that is held of *name*."""
    (found,) = [model for model in client.models() if model.name == name]
    return found


def assert_right(answer: npt.NDArray[Any], version: str) -> None:
    expected = models.model(VERSIONS[version]).expected(ROWS)["output-0"]
    np.testing.assert_allclose(answer, expected, rtol=1e-6)


class Stream:
    """Requests to `flower` from several threads, one after another, until the block ends."""

    def __init__(self, address: str, threads: int = 4) -> None:
        self._address = address
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]
        self._is_over = threading.Event()
        self._changed = threading.Condition()
        self.versions: list[str] = []
        self.wrong: list[BaseException] = []

    def wait_for(self, count: int, version: str) -> None:
        """Wait until so many more answers of *version* are there."""
        with self._changed:
            wanted = self.versions.count(version) + count
            assert self._changed.wait_for(
                lambda: self.wrong or self.versions.count(version) >= wanted, 60
            )

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with Client(self._address, timeout_s=30) as client:
            while not self._is_over.is_set():
                try:
                    answer = client.infer("flower", ROWS)
                    assert_right(answer.array, answer.version)
                    # It is also never said to be away.
                    assert client.ready("flower")
                except (HeadraceClientError, AssertionError) as error:
                    self.wrong.append(error)
                with self._changed:
                    self.versions.append(answer.version)
                    self._changed.notify_all()


def test_a_version_is_swapped_under_load_and_every_request_is_answered(
    running: Daemon, client: Client, flower: Callable[[str], None]
) -> None:
    unloaded = len(running.events("model_unloaded"))

    with Stream(running.address) as stream:
        stream.wait_for(20, "1")
        flower("2")
        after = client.infer("flower", ROWS).version
        stream.wait_for(50, "2")
        flower("1")
        stream.wait_for(50, "1")
        running.wait("model_unloaded", count=unloaded + 2)
        stream.wait_for(20, "1")

    assert stream.wrong == []
    assert after == "2"
    assert all(line["all_answered"] for line in running.events("model_unloaded")[unloaded:])
    # The line is written a moment before the version leaves the index.
    until = time.monotonic() + 20
    while len([model for model in client.models() if model.name == "flower"]) > 1:
        assert time.monotonic() < until
    assert status(client, "flower").version == "1"


def test_what_is_served_already_is_not_loaded_again(
    running: Daemon, client: Client, flower: Callable[[str], None]
) -> None:
    loaded = len(running.events("model_ready"))

    flower("1")
    client.load("flower")
    client.load("flower", "models:/flower/1")

    assert len(running.events("model_ready")) == loaded
    # What it follows from now on is what was said last.
    with pytest.raises(NotFound, match="'@live'"):
        client.metadata("flower", "@live")


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving_and_says_why(
    client: Client, flower: Callable[[str], None]
) -> None:
    with pytest.raises(FailedPrecondition, match="version 3 failed to load"):
        flower(BROKEN)

    assert_right(client.infer("flower", ROWS).array, "1")
    old, failed = (model for model in client.models() if model.name == "flower")
    assert (old.version, old.state, old.reason) == ("1", "READY", "")
    assert (failed.version, failed.state) == (BROKEN, "UNAVAILABLE")
    assert failed.reason
    with pytest.raises(FailedPrecondition, match="failed to load"):
        client.infer("flower", ROWS, version=BROKEN)
    assert client.ready()

    flower("1")
    assert status(client, "flower").version == "1"


def test_an_unloaded_model_is_gone_until_it_is_loaded_again(
    running: Daemon, client: Client, flower: Callable[[str], None]
) -> None:
    client.infer("flower", ROWS)
    assert 'model="flower"' in metrics(running)

    client.unload("flower")

    gone = status(client, "flower")
    assert (gone.state, gone.reason, gone.workers) == ("UNAVAILABLE", "unloaded", ())
    with pytest.raises(FailedPrecondition, match="version 1 was unloaded"):
        client.infer("flower", ROWS)
    assert not client.ready("flower")
    assert client.ready(), "another model is served"
    assert health(running, "flower") == health_pb2.HealthCheckResponse.NOT_SERVING
    assert 'model="flower"' not in metrics(running)
    client.unload("flower")

    client.load("flower")

    assert_right(client.infer("flower", ROWS).array, "1")
    assert health(running, "flower") == health_pb2.HealthCheckResponse.SERVING


def test_requests_that_were_accepted_are_answered_before_a_model_goes(
    client: Client, flower: Callable[[str], None]
) -> None:
    futures = [client.submit("flower", ROWS) for _ in range(300)]
    futures[0].result()

    client.unload("flower")

    ends = [future.exception() for future in futures]
    answered = ends.count(None)
    assert answered > 0
    # Who came too late was told so, or that it is gone.
    assert all(isinstance(end, Unavailable | FailedPrecondition) for end in ends if end)
    client.load("flower")


def test_a_directory_is_loaded_by_its_path_and_again_when_its_files_have_changed(
    client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models.model("iris_forest").path, folder)
    client.load("folder", str(folder))
    assert_right(client.infer("folder", ROWS).array, "1")

    shutil.rmtree(folder)
    shutil.copytree(models.model("scaler").path, folder)
    client.load("folder")

    assert_right(client.infer("folder", ROWS).array, "2")
    assert client.infer("folder", ROWS, version="1").version == "1"


def test_a_name_that_is_not_held_is_looked_for_in_the_registry(client: Client) -> None:
    client.load("graph")

    found = status(client, "graph")
    assert (found.version, found.state, found.device) == ("1", "READY", "cpu")
    assert found.workers
    before = found.rows
    client.infer("graph", models.model("onnx_named").rows(5))
    assert before is not None
    assert status(client, "graph").rows == before + 5
    assert client.metadata("graph", "@latest").versions == ("1",)


@pytest.mark.parametrize(
    ("name", "uri", "error", "told"),
    [
        ("nobody", "", NotFound, "model 'nobody' is not served, and there is no registered model"),
        ("third", "models:/flower@nobody", NotFound, "no alias 'nobody'"),
        ("third", "models:/flower", InvalidArgument, "expected models:/NAME"),
        ("third", "/no/such/directory", NotFound, "there is no directory"),
        ("a/b", "", InvalidArgument, "expected 1 to 255 characters"),
        ("", "", InvalidArgument, "expected 1 to 255 characters"),
        ("x" * 10_000, "models:/flower/1", InvalidArgument, "expected 1 to 255 characters"),
        ("nul\0", "models:/flower/1", InvalidArgument, "expected 1 to 255 characters"),
    ],
)
def test_what_cannot_be_loaded_is_told_and_not_listed(
    client: Client, name: str, uri: str, error: type[HeadraceClientError], told: str
) -> None:
    with pytest.raises(error, match=told):
        client.load(name, uri)

    assert name not in {model.name for model in client.models()}


def test_a_model_that_is_not_held_cannot_be_unloaded(client: Client) -> None:
    with pytest.raises(NotFound, match="'nobody' is not served; served are: "):
        client.unload("nobody")


def _with_parameter(name: str, **value: Any) -> oip.RepositoryModelLoadRequest:
    request = oip.RepositoryModelLoadRequest(model_name="flower")
    request.parameters[name].MergeFrom(oip.ModelRepositoryParameter(**value))
    return request


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (
            _with_parameter("config", string_param="{}"),
            "unknown parameter 'config': known is 'uri'",
        ),
        (_with_parameter("uri", bool_param=True), "parameter 'uri': expected a model URI"),
        (_with_parameter("uri", string_param=""), "parameter 'uri': expected a model URI"),
        (oip.RepositoryModelLoadRequest(repository_name="r"), "repository_name 'r': expected none"),
        (oip.RepositoryIndexRequest(repository_name="r"), "repository_name 'r': expected none"),
        (oip.RepositoryModelUnloadRequest(repository_name="r"), "repository_name 'r': expected"),
        (
            oip.RepositoryModelUnloadRequest(
                model_name="flower", parameters={"force": oip.ModelRepositoryParameter()}
            ),
            "unknown parameter 'force': known is 'unload_dependents'",
        ),
    ],
)
def test_a_malformed_request_is_invalid(running: Daemon, request_: object, told: str) -> None:
    method = type(request_).__name__.removesuffix("Request")
    with grpc.insecure_channel(running.address) as channel:
        call = getattr(GRPCInferenceServiceStub(channel), method)
        with pytest.raises(grpc.RpcError) as caught:
            call(request_, timeout=20)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert told in (caught.value.details() or "")


def test_a_caller_that_no_longer_waits_does_not_call_a_load_off(
    running: Daemon, client: Client, flower: Callable[[str], None], registry: MlflowClient
) -> None:
    loaded = len(running.events("model_ready"))
    registry.set_registered_model_alias("flower", "live", "2")

    with pytest.raises(DeadlineExceeded):
        client.load("flower", timeout=0.001)

    # The next piece of work for the name waits for the first.
    client.load("flower")
    assert client.infer("flower", ROWS).version == "2"
    assert len(running.events("model_ready")) == loaded + 1


def test_loads_and_unloads_of_one_name_at_the_same_time_come_one_after_another(
    running: Daemon, client: Client, flower: Callable[[str], None]
) -> None:
    def change(index: int) -> None:
        if index % 2:
            client.unload("flower")
        else:
            client.load("flower")

    with ThreadPoolExecutor(8) as threads:
        for _ in threads.map(change, range(12)):
            pass
    client.load("flower")

    assert_right(client.infer("flower", ROWS).array, "1")
    assert status(client, "flower").state == "READY"


def test_while_the_registry_is_gone_what_is_served_goes_on(
    shelf: Path, cache: Path, tmp_path: Path, registry: MlflowClient
) -> None:
    database = tmp_path / "mlflow.db"
    shutil.copy(shelf / "mlflow.db", database)
    uri = models.tracking_uri(tmp_path)
    daemon = Daemon("--tracking-uri", uri, "models:/flower/1", cwd=tmp_path, cache=cache)
    daemon.wait("ready")
    # The librarian holds the file open; the next one will not find it.
    (librarian,) = (
        child
        for child in psutil.Process(daemon.process.pid).children()
        if "headrace_server.librarian" in child.cmdline()
    )
    database.rename(tmp_path / "away.db")
    librarian.send_signal(signal.SIGKILL)
    daemon.wait("librarian_ended")

    with Client(daemon.address, timeout_s=60) as client:
        for name in ("flower", "graph"):
            with pytest.raises(Unavailable, match=r"registry .* cannot be opened"):
                client.load(name)
        found = status(client, "flower")
        assert (found.version, found.state) == ("1", "READY")
        assert "the last load failed: the registry" in found.reason
        assert_right(client.infer("flower", ROWS).array, "1")
        assert client.ready()

        (tmp_path / "away.db").rename(database)
        client.load("flower")
        assert status(client, "flower").reason == ""
    assert daemon.stop() == 0


def test_tritonclient_lists_loads_and_unloads(running: Daemon, client: Client) -> None:
    import tritonclient.grpc as triton

    with triton.InferenceServerClient(running.address) as theirs:
        theirs.load_model("graph")
        index = theirs.get_model_repository_index()
        states = {model.name: model.state for model in index.models}
        assert states["graph"] == "READY"
        assert theirs.is_model_ready("graph")

        theirs.unload_model("graph", unload_dependents=True)

        assert not theirs.is_model_ready("graph")
        index = theirs.get_model_repository_index(as_json=True)
        assert {"name": "graph", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"} in (
            index["models"]
        )
        with pytest.raises(Exception, match="unknown parameter 'config'"):
            theirs.load_model("graph", config="{}")


def test_the_asyncio_clients_list_load_and_unload(running: Daemon) -> None:
    import tritonclient.grpc.aio as triton

    async def change() -> None:
        async with triton.InferenceServerClient(running.address) as theirs:
            await theirs.load_model("graph")
            assert await theirs.is_model_ready("graph")
            await theirs.unload_model("graph")
            index = await theirs.get_model_repository_index()
            assert ("graph", "UNAVAILABLE") in {(one.name, one.state) for one in index.models}
        async with AsyncClient(running.address) as ours:
            await ours.load("graph")
            assert await ours.ready("graph")
            await ours.unload("graph")
            assert ("graph", "unloaded") in {(one.name, one.reason) for one in await ours.models()}
            with pytest.raises(NotFound):
                await ours.load("nobody")

    asyncio.run(change())


def test_the_commands_show_load_and_unload(
    running: Daemon, client: Client, flower: Callable[[str], None], tmp_path: Path
) -> None:
    def headrace(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "headrace_server.cli", *arguments]
        return subprocess.run(
            [*command, "--server", running.address],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
        )

    shutil.copytree(models.model("onnx_named").path, tmp_path / "graph")
    assert headrace("load", "drawn", "--uri", "./graph").stdout == "drawn is ready: version 1\n"
    client.infer("drawn", models.model("onnx_named").rows(5))

    (found,) = (
        model
        for model in json.loads(headrace("models", "--json").stdout)
        if model["name"] == "drawn"
    )
    assert (found["state"], found["device"], found["rows"]) == ("READY", "cpu", 5)
    assert headrace("unload", "drawn").stdout == "drawn is unloaded\n"
    shown = headrace("models").stdout
    assert any(
        line.startswith("drawn") and line.rstrip().endswith("unloaded")
        for line in shown.splitlines()
    )
    refused = headrace("load", "nobody")
    assert refused.returncode != 0
    assert refused.stderr.startswith("headrace: model nobody at ")
    assert "NOT_FOUND" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def health(daemon: Daemon, service: str) -> int:
    with grpc.insecure_channel(daemon.address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        status: int = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status
    return status


def metrics(daemon: Daemon) -> str:
    with urllib.request.urlopen(daemon.metrics) as response:  # noqa: S310 - our own daemon.
        text: str = response.read().decode()
    return text

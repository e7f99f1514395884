"""What is served, by which name, and whether the answers are the model's own."""

import os
import re
import signal
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient

import models
from headrace_client import Client, Internal, NotFound
from serving import READY_S_MAX, REGISTERED, Daemon, untried

pytestmark = pytest.mark.slow

Serve = Callable[..., Daemon]


@pytest.mark.parametrize(("model", "served"), REGISTERED.items())
@pytest.mark.parametrize("rows", [1, 7, 200])
def test_a_served_model_answers_what_its_framework_answers(
    daemon: Daemon, model: str, served: str, rows: int
) -> None:
    original = models.model(model)
    tensors = original.rows(rows if original.is_batchable else 1)
    expected = original.expected(tensors)

    with Client(daemon.address) as client:
        answer = client.infer(served, tensors)

    assert list(answer) == list(expected)
    for name, wanted in expected.items():
        got = answer.strings(name) if answer[name].dtype == object else answer[name]
        assert got.shape == wanted.shape
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
        else:
            assert got.tolist() == wanted.tolist()


def test_without_uris_every_registered_model_is_served_by_champion_else_latest(
    daemon: Daemon, store: Path
) -> None:
    with Client(daemon.address) as client:
        served = {status.name: status for status in client.models()}
        version = client.metadata("iris").versions

    assert set(served) == set(REGISTERED.values())
    assert all(status.state == "READY" for status in served.values())
    assert version == ("3",)


def test_metadata_tells_names_datatypes_and_shapes(daemon: Daemon) -> None:
    with Client(daemon.address) as client:
        iris, net, unsigned = (client.metadata(name) for name in ("iris", "net", "unnamed"))

    assert iris.platform == "mlflow_sklearn"
    assert [(spec.datatype, spec.shape) for spec in iris.inputs] == [("FP64", (-1,))] * 4
    assert [spec.name for spec in iris.inputs] == list(models.IRIS_COLUMNS)
    assert [(spec.datatype, spec.shape) for spec in net.inputs] == [("FP32", (-1, 4))]
    assert [spec.name for spec in unsigned.inputs] == ["input-0"]
    assert [spec.name for spec in unsigned.outputs] == ["output-0"]


def test_a_column_is_taken_with_a_trailing_axis_of_one(daemon: Daemon) -> None:
    tensors = models.model("iris_pipeline").rows(3)

    with Client(daemon.address) as client:
        flat = client.infer("iris", tensors)
        tall = client.infer("iris", {name: x.reshape(-1, 1) for name, x in tensors.items()})

    assert flat.array.tolist() == tall.array.tolist()


def test_narrower_datatypes_are_widened(daemon: Daemon) -> None:
    tensors = {name: np.round(x) for name, x in models.model("iris_pipeline").rows(5).items()}

    with Client(daemon.address) as client:
        wide = client.infer("iris", tensors).array.tolist()
        for dtype in (np.float32, np.int32, np.int64, np.float16):
            narrow = {name: x.astype(dtype) for name, x in tensors.items()}
            assert client.infer("iris", narrow).array.tolist() == wide


def test_a_model_frozen_at_one_row_runs_one_request_at_a_time(daemon: Daemon) -> None:
    ready = {line["model"]: line for line in daemon.events("model_ready")}
    tensors = models.model("torch_pt2_frozen").rows(1)

    with Client(daemon.address) as client:
        futures = [client.submit("frozen", tensors) for _ in range(50)]
        answers = [future.result().array for future in futures]

    assert ready["frozen"]["batching"] == "whole"
    assert ready["net"]["batching"] == "batched"
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_several_rows_go_through_a_frozen_model_as_its_operator_says(
    daemon: Daemon, serve: Callable[..., Daemon]
) -> None:
    original = models.model("torch_pt2_frozen")
    one = original.rows(1)
    rows = {name: np.concatenate([x, 2 * x, 3 * x]) for name, x in one.items()}
    with Client(daemon.address) as client, pytest.raises(Internal, match="Guard failed"):
        client.infer("frozen", rows)

    told = serve("models:/frozen/1", *untried("frozen"), "--set", "frozen.batched=true")
    told.wait("ready")
    with Client(told.address) as client:
        together = client.infer("frozen", rows).array
        apart = [
            client.infer("frozen", {name: k * x for name, x in one.items()}).array
            for k in (1, 2, 3)
        ]

    np.testing.assert_allclose(together, np.concatenate(apart), rtol=1e-6)


def test_requests_in_flight_share_batches_and_are_counted(daemon: Daemon) -> None:
    tensors = models.model("torch_pt2").rows(1)
    before = _metrics(daemon, "net")

    with Client(daemon.address) as client:
        futures = [client.submit("net", tensors) for _ in range(500)]
        for future in futures:
            future.result()

    after = _metrics(daemon, "net")
    assert after["headrace_requests_total"] - before["headrace_requests_total"] == 500
    assert after["headrace_batches_total"] - before["headrace_batches_total"] < 500
    for name in ("request_seconds", "queue_seconds", "batch_seconds", "batch_rows"):
        assert after[f"headrace_{name}_count"] > before[f"headrace_{name}_count"]
    text = _scrape(daemon)
    assert 'headrace_request_seconds_bucket{le="5e-05",model="net"' in text


def test_every_form_of_uri_is_served(serve: Serve, store: Path) -> None:
    client = MlflowClient(models.tracking_uri(store))
    source = client.get_model_version("graph", "1").source
    logged = client.get_logged_model(source.rpartition("/")[2])
    directory = models.model("onnx_named").path

    running = serve(
        "champ=models:/iris@champion",
        "one=models:/iris/1",
        "newest=models:/iris/latest",
        f"logged={source}",
        f"run=runs:/{logged.source_run_id}/{logged.name}",
        f"folder={directory}",
        *untried("champ", "one", "newest", "logged", "run", "folder"),
    )
    running.wait("ready")

    with Client(running.address) as asked:
        versions = {status.name: status.version for status in asked.models()}
        by_alias = asked.metadata("champ", "@champion").versions
        by_number = asked.metadata("newest", "4").versions
        with pytest.raises(NotFound, match="served are: 4"):
            asked.metadata("newest", "2")
    assert versions == {
        "champ": "3",
        "one": "1",
        "newest": "4",
        "logged": "1",
        "run": "1",
        "folder": "1",
    }
    assert by_alias == ("3",)
    assert by_number == ("4",)


def test_a_killed_worker_is_replaced_and_nothing_is_lost(serve: Serve) -> None:
    running = serve("models:/graph/1")
    running.wait("ready")
    tensors = models.model("onnx_named").rows(1)
    expected = models.model("onnx_named").expected(tensors)

    with Client(running.address) as client:
        futures = [client.submit("graph", tensors, timeout=60) for _ in range(200)]
        os.kill(running.wait("worker_started")["pid"], signal.SIGKILL)
        futures += [client.submit("graph", tensors, timeout=60) for _ in range(200)]
        answers = [future.result().array for future in futures]

    assert running.wait("worker_started", count=2)["pid"] != running.wait("worker_started")["pid"]
    for answer in answers:
        np.testing.assert_allclose(answer, next(iter(expected.values())), rtol=1e-4, atol=1e-5)


def test_kill_9_of_the_daemon_leaves_no_process(serve: Serve) -> None:
    running = serve("models:/graph/1", "models:/unnamed/1")
    running.wait("ready")
    children = psutil.Process(running.process.pid).children(recursive=True)
    assert len(children) >= 2

    running.process.kill()
    running.wait_exit()

    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_sigterm_answers_what_was_accepted_and_exits_with_0(serve: Serve) -> None:
    running = serve("models:/graph/1")
    running.wait("ready")
    children = psutil.Process(running.process.pid).children(recursive=True)

    assert running.stop() == 0

    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_sigterm_while_models_load_ends_the_daemon(serve: Serve) -> None:
    running = serve()
    running.wait("worker_started")

    assert running.stop() == 0


def test_sigterm_while_the_registry_does_not_answer_ends_the_daemon(serve: Serve) -> None:
    """It listens, and takes what is asked, but says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        running = serve("--tracking-uri", f"http://127.0.0.1:{port}")
        silent.settimeout(READY_S_MAX)
        asked, _ = silent.accept()
        with asked:
            assert running.stop() == 0

    assert running.events("stopped")
    assert not running.events("draining")


def test_the_daemon_stays_small_and_is_ready_soon(serve: Serve) -> None:
    """A guard far from the measured figures (76 MB, about 4 s), which `make bench` prints."""
    running = serve("models:/iris@champion")
    running.wait("ready")

    assert psutil.Process(running.process.pid).memory_info().rss < 120e6


def test_a_setting_of_a_model_is_taken(serve: Serve) -> None:
    running = serve("models:/graph/1", "--set", "graph.rows_max=8")
    running.wait("ready")

    with Client(running.address) as client:
        client.infer("graph", models.model("onnx_named").rows(64))

    assert _metrics(running, "graph")["headrace_batches_total"] == 8


def _scrape(daemon: Daemon) -> str:
    with urllib.request.urlopen(daemon.metrics) as response:  # noqa: S310 - our own daemon.
        text: str = response.read().decode()
    return text


def _metrics(daemon: Daemon, model: str) -> dict[str, float]:
    found = re.findall(
        rf'^(\w+)\{{model="{model}",version="\d+"\}} (\S+)$', _scrape(daemon), re.MULTILINE
    )
    return {name: float(value) for name, value in found}

"""Run: the demo from an empty directory to a table of figures.

It starts the real daemon on free ports, sends every held-out row through the client with many
requests in flight, and compares what was served with the model called directly.
"""

import csv
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from headrace_client import Client

from ..errors import UsageError
from .train import (
    Store,
    TestSet,
    classes,
    digits_test_set,
    direct_accuracy,
    iris_test_set,
    train_all,
)

# Requests in flight, and rows asked for per model; the held-out rows are sent again until then.
IN_FLIGHT = 128
ROWS = 3000
_READY_S_MAX = 120.0
_MODELS = ("iris", "digits", "digits-onnx")


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table; times in milliseconds, seen by the client."""

    model: str
    version: str
    device: str
    rows: int
    accuracy_served: float
    accuracy_direct: float
    p50_ms: float
    p99_ms: float
    mean_batch_rows: float


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A daemon that is ready.

    Attributes:
        address: Where it listens.
        metrics_url: Its metrics.
        devices: Where each model computes.
    """

    address: str
    metrics_url: str
    devices: dict[str, str]

    def counters(self, model: str) -> dict[str, float]:
        """The counters of *model*."""
        with urllib.request.urlopen(self.metrics_url) as response:  # noqa: S310 - our own daemon.
            text = response.read().decode()
        return {
            line.partition("{")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if f'model="{model}"' in line and "_total{" in line
        }


def run_demo(directory: Path, report: Path) -> None:
    """Train what is missing below *directory*, serve, ask, and write the figures to *report*.

    Raises:
        UsageError: The daemon did not become ready, or served something else than the model says.
    """
    console = Console(highlight=False)
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    store = Store(directory)
    with _progress(console) as show:
        _quietly(lambda: train_all(store, lambda what, done: show(what, done * 0.4)), directory)
        show("calling the models directly", 0.4)
        tests = {name: iris_test_set() if name == "iris" else digits_test_set() for name in _MODELS}
        direct = {name: direct_accuracy(store, name, test) for name, test in tests.items()}
        show("starting the daemon", 0.5)
        with _daemon(store, directory) as daemon:
            results = []
            for index, (name, test) in enumerate(tests.items()):
                show(f"asking {name}", 0.6 + 0.4 * index / len(tests))
                results.append(_ask(daemon, name, test, direct[name]))
        show("done", 1.0)
    _write_rows(directory / "iris.csv", tests["iris"])
    report.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    console.print(_table(results))
    console.print(f"The same figures are in {report}. Try next:\n")
    for command in _next_commands(store):
        console.print(f"  {command}", soft_wrap=True)
    for result in results:
        if result.accuracy_served != result.accuracy_direct:
            raise UsageError(
                f"{result.model} answers differently when served: accuracy "
                f"{result.accuracy_served} against {result.accuracy_direct}"
            )


def _ask(daemon: RunningDaemon, name: str, test: TestSet, direct: float) -> Result:
    """Send rows one by one, with many in flight, and time each."""
    rows = len(test.labels)
    order = [row % rows for row in range(max(rows, ROWS))]
    latencies_ms: list[float] = []
    right: list[bool] = []
    waiting: deque[tuple[Any, float, int]] = deque()

    def take() -> None:
        future, began, row = waiting.popleft()
        answer = future.result()
        latencies_ms.append((finished.pop(id(future), time.perf_counter()) - began) * 1e3)
        if len(right) < rows:
            right.append(bool(classes(answer.array)[0] == test.labels[row]))

    # When a future was done, noted by the client's own thread rather than when it is looked at.
    finished: dict[int, float] = {}
    before = daemon.counters(name)
    with Client(daemon.address) as client:
        version = client.metadata(name).versions[0]
        for row in order:
            if len(waiting) >= IN_FLIGHT:
                take()
            began = time.perf_counter()
            inputs = {key: values[row : row + 1] for key, values in test.inputs.items()}
            future = client.submit(name, inputs)
            future.add_done_callback(
                lambda done: finished.__setitem__(id(done), time.perf_counter())
            )
            waiting.append((future, began, row))
        while waiting:
            take()
    after = daemon.counters(name)
    batches = after["headrace_batches_total"] - before["headrace_batches_total"]
    return Result(
        model=name,
        version=version,
        device=daemon.devices[name],
        rows=len(order),
        accuracy_served=float(np.mean(right)),
        accuracy_direct=direct,
        p50_ms=round(float(np.percentile(latencies_ms, 50)), 3),
        p99_ms=round(float(np.percentile(latencies_ms, 99)), 3),
        mean_batch_rows=round(
            (after["headrace_rows_total"] - before["headrace_rows_total"]) / batches, 2
        ),
    )


@contextmanager
def _daemon(store: Store, directory: Path) -> Iterator[RunningDaemon]:
    """The installed daemon on free ports, once it is ready."""
    command = [sys.executable, "-m", "headrace_server.cli", "serve"]
    command += ["--tracking-uri", store.tracking_uri, "--port", "0", "--metrics-port", "0"]
    # Its log is read below, whatever is set elsewhere.
    command += ["--set", "server.log_format=json", "--set", "server.log_level=info"]
    command += [f"models:/{name}@champion" for name in _MODELS]
    command += ["--config", os.devnull]
    # The demo is the same everywhere: settings that the environment may hold are for other daemons.
    environ = {key: text for key, text in os.environ.items() if not key.startswith("HEADRACE_")}
    log = directory / "daemon.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stderr=errors, cwd=directory, env=environ)
    try:
        lines = _wait_ready(process, log)
        listening = next(line for line in lines if line["event"] == "listening")
        yield RunningDaemon(
            address=listening["address"],
            metrics_url=f"http://127.0.0.1:{listening['metrics_port']}/metrics",
            devices={
                line["model"]: line["device"] for line in lines if line["event"] == "model_ready"
            },
        )
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> list[dict[str, Any]]:
    """The daemon's log lines, once it says that it is ready."""
    until = time.monotonic() + _READY_S_MAX
    while time.monotonic() < until and process.poll() is None:
        lines = list(_lines(log))
        ready = [line for line in lines if line["event"] in {"ready", "not_ready"}]
        if ready and not ready[0]["failed"]:
            return lines
        if ready:
            break
        time.sleep(0.05)
    raise UsageError(f"the daemon did not become ready; its log is {log}")


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _write_rows(path: Path, test: TestSet) -> None:
    """The rows as a CSV file, for `headrace predict`."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(test.inputs)
        writer.writerows(zip(*test.inputs.values(), strict=True))


@contextmanager
def _progress(console: Console) -> Iterator[Any]:
    bar = Progress(
        TextColumn("{task.description:<40}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, done: bar.update(task, description=what, completed=done)


def _quietly(work: Any, directory: Path) -> None:
    """Run *work* with the libraries' own chatter (standard error) in a file beside the models."""
    saved = os.dup(2)
    with (directory / "training.log").open("ab") as log:
        try:
            os.dup2(log.fileno(), 2)
            work()
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _table(results: list[Result]) -> Table:
    table = Table(
        title=f"Held-out rows, one a request, {IN_FLIGHT} in flight",
        caption="served, direct: accuracy through headrace, and of the model called in process",
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for column in ("model", "version", "device"):
        table.add_column(column, no_wrap=True)
    for column in ("rows", "served", "direct", "p50 ms", "p99 ms", "rows a batch"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            result.model,
            result.version,
            result.device,
            str(result.rows),
            f"{result.accuracy_served:.4f}",
            f"{result.accuracy_direct:.4f}",
            f"{result.p50_ms:.2f}",
            f"{result.p99_ms:.2f}",
            f"{result.mean_batch_rows:.1f}",
        )
    return table


def _next_commands(store: Store) -> tuple[str, str, str]:
    """What to type next, as it can be typed here."""
    command = os.path.relpath(sys.argv[0]) if os.path.exists(sys.argv[0]) else "headrace"
    directory = os.path.relpath(store.directory)
    return (
        f"{command} serve --tracking-uri sqlite:///{directory}/mlflow.db",
        f"{command} predict iris --input {directory}/iris.csv",
        "curl -s http://127.0.0.1:8002/metrics | grep headrace_batch_rows",
    )

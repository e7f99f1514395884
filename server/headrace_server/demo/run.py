"""Run: the demo from an empty directory to a table of figures.

It starts the real daemon on free ports, sends every held-out row through the client with many
requests in flight, and compares what was served with the model called directly.
"""

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
        with _daemon(store, directory) as (address, metrics):
            results = []
            for index, (name, test) in enumerate(tests.items()):
                show(f"asking {name}", 0.6 + 0.4 * index / len(tests))
                results.append(_ask(address, metrics, name, test, direct[name]))
        show("done", 1.0)
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


def _ask(address: str, metrics: str, name: str, test: TestSet, direct: float) -> Result:
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
    before = _scrape(metrics, name)
    with Client(address) as client:
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
    after = _scrape(metrics, name)
    batches = after["headrace_batches_total"] - before["headrace_batches_total"]
    return Result(
        model=name,
        version=version,
        device="cpu",
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
def _daemon(store: Store, directory: Path) -> Iterator[tuple[str, str]]:
    """The installed daemon on free ports: its address and that of its metrics."""
    command = [sys.executable, "-m", "headrace_server.cli", "serve"]
    command += ["--tracking-uri", store.tracking_uri, "--port", "0", "--metrics-port", "0"]
    command += [f"models:/{name}@champion" for name in _MODELS]
    log = directory / "daemon.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stderr=errors, cwd=directory)
    try:
        events = _wait_ready(process, log)
        yield (
            events["listening"]["address"],
            f"http://127.0.0.1:{events['listening']['metrics_port']}",
        )
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> dict[str, dict[str, Any]]:
    """The daemon's log lines by event, once it says that it is ready."""
    until = time.monotonic() + _READY_S_MAX
    while time.monotonic() < until and process.poll() is None:
        events = {line["event"]: line for line in _lines(log)}
        if "ready" in events and not events["ready"]["failed"]:
            return events
        if "ready" in events or "not_ready" in events:
            break
        time.sleep(0.05)
    raise UsageError(f"the daemon did not become ready; its log is {log}")


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _scrape(metrics: str, model: str) -> dict[str, float]:
    """The counters of *model*."""
    with urllib.request.urlopen(f"{metrics}/metrics") as response:  # noqa: S310 - our own daemon.
        text = response.read().decode()
    return {
        line.partition("{")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if f'model="{model}"' in line and "_total{" in line
    }


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
    """Run *work* with the libraries' own chatter in a file beside the models."""
    saved = os.dup(1), os.dup(2)
    with (directory / "training.log").open("ab") as log:
        console_fd = os.dup(1)
        try:
            os.dup2(log.fileno(), 2)
            work()
        finally:
            os.dup2(saved[1], 2)
            for fd in (*saved, console_fd):
                os.close(fd)


def _table(results: list[Result]) -> Table:
    table = Table(title=f"Held-out rows through headrace, {IN_FLIGHT} requests in flight")
    for column in ("model", "version", "device"):
        table.add_column(column)
    for column in ("rows", "accuracy served", "accuracy direct", "p50 ms", "p99 ms", "mean batch"):
        table.add_column(column, justify="right")
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
    command = Path(sys.argv[0]).name if "headrace" in sys.argv[0] else "headrace"
    return (
        f"{command} serve --tracking-uri {store.tracking_uri}",
        f"{command} predict iris --input {store.directory}/iris.csv",
        "curl -s http://127.0.0.1:8002/metrics | grep headrace_batch_rows",
    )

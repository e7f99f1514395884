"""Gpu: a network on a GPU, served at saturation beside a loop that calls it directly.

Rows/s against the loop's at the batch size that is best for the loop, with requests of one row and
of many; how much of the copies hides behind computing; how busy the GPU is, by NVML; p50 and p99,
also of a single caller. `make gpu-check` runs the tests of tests/gpu before it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

import h2load
import models
import report
import servers
from headrace_server.gpus.nvml import find_gpus
from headrace_server.logs import configure

SIZES = (1, 8, 32, 64, 128, 256, 512)
SIZES_ON_CPU = (1, 8, 32)
# Rows of a request.
REQUEST_ROWS = (1, 16)
BATCHES_IN_FLIGHT = 4
# The driver's own sample is 1/6 s to 1 s long.
LOOK_S = 0.2


@dataclass(frozen=True)
class Direct:
    """The loop at one size: rows/s, and what a batch takes by its parts, each by itself."""

    rows_per_s: float
    copy_in_ms: float
    compute_ms: float
    copy_out_ms: float


@dataclass(frozen=True)
class Served:
    """One turn of the server.

    Attributes:
        request_rows: Rows of each request.
        in_flight: Requests in flight.
        rows_per_s: What came back.
        ratio: The same beside the loop's.
        batch_rows: Mean rows of a batch.
        batch_ms: Time per batch, all of them one after another.
        hidden: Which part of the copies passed while a batch computed: 0 none, 1 all; None where
            nothing is copied, or batches were not nearly full.
        busy: Mean share of time in which a kernel ran; None where no driver tells.
        p50_ms: Half of the requests took at most this long.
        p99_ms: 99 of 100 did.
    """

    request_rows: int
    in_flight: int
    rows_per_s: float
    ratio: float
    batch_rows: float
    batch_ms: float
    hidden: float | None
    busy: float | None
    p50_ms: float
    p99_ms: float


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="cuda:N; cpu to try this out (cuda:0)")
    parser.add_argument("-s", "--seconds", type=float, default=8.0, help="length of a turn (8)")
    parser.add_argument(
        "-t", "--transport", choices=("native", "grpcio"), default="native", help="native"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SETTING=VALUE",
        help="a setting of the model, as in precision=bf16; may be given again",
    )
    arguments = parser.parse_args()
    h2load.require()
    configure("json", "error")
    direct, size, turns = _measure(arguments)
    _print(arguments.device, direct, size, turns)
    if arguments.device == "cpu":
        return  # What is stored is of a GPU.
    cores = len(os.sched_getaffinity(0))
    result = {
        **report.made_by("make gpu-check", f"{cores} cores, {_gpu_name(arguments.device)}"),
        "device": arguments.device,
        "settings": arguments.set,
        "seconds": arguments.seconds,
        "transport": arguments.transport,
        "direct": {rows: asdict(one) for rows, one in direct.items()},
        "rows_max": size,
        "served": [asdict(one) for one in turns],
    }
    report.say(f"written to {report.store(__file__, result)}")


def _measure(arguments: argparse.Namespace) -> tuple[dict[int, Direct], int, list[Served]]:
    """The loop at each size, the best of these, and turns of the server at it."""
    device, seconds = arguments.device, arguments.seconds
    uri = models.prepare().tracking_uri
    load_core = max(os.sched_getaffinity(0))
    with Progress(console=Console(stderr=True), auto_refresh=False) as progress:
        sizes = SIZES_ON_CPU if device == "cpu" else SIZES
        direct = {
            rows: _direct(uri, device, rows, min(seconds, 2.0))
            for rows in progress.track(sizes, description="batch sizes")
        }
        size = max(direct, key=lambda rows: direct[rows].rows_per_s)
        settings = [f"cnn.{item}" for item in (f"rows_max={size}", *arguments.set)]
        with servers.daemon(
            None,
            uri,
            ["models:/cnn@champion"],
            arguments.transport,
            [*settings, f"server.device={device}"],
        ) as server:
            wanted = [
                (rows, max(1, BATCHES_IN_FLIGHT * size // rows))
                for rows in REQUEST_ROWS
                if rows <= size
            ]
            turns = [
                _served(server, device, direct[size], size, rows, in_flight, load_core, seconds)
                for rows, in_flight in progress.track(
                    [*wanted, (1, 1)], description="turns of the server"
                )
            ]
    return direct, size, turns


def _direct(uri: str, device: str, rows: int, seconds: float) -> Direct:
    script = str(Path(__file__).with_name("gpu_direct.py"))
    command = [sys.executable, script, uri, device, str(rows), str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return Direct(**json.loads(done.stdout))


def _served(
    server: servers.Server,
    device: str,
    direct: Direct,
    size: int,
    rows: int,
    in_flight: int,
    core: int,
    seconds: float,
) -> Served:
    """Keep *in_flight* requests of *rows* at the server for about *seconds*."""
    payload = servers.body("cnn", models.cnn_rows(rows))
    answer_bytes = len(servers.ask(server, payload))

    def load(requests: int) -> h2load.Load:
        return h2load.run(
            server.port, payload, answer_bytes, in_flight=in_flight, requests=requests, core=core
        )

    # How fast it is, and warm; then as many as take the time that is wanted.
    first = load(max(20 * in_flight, 50))
    before = server.counts()
    with _looking(device) as seen:
        took = load(max(in_flight, round(first.requests_per_s * seconds)))
    after = server.counts()
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    batches = grown["headrace_batches_total"]
    rows_per_s = took.requests_per_s * rows
    batch_rows = grown["headrace_rows_total"] / batches
    batch_ms = batch_rows / rows_per_s * 1e3
    return Served(
        request_rows=rows,
        in_flight=in_flight,
        rows_per_s=rows_per_s,
        ratio=rows_per_s / direct.rows_per_s,
        batch_rows=batch_rows,
        batch_ms=batch_ms,
        hidden=_hidden(direct, batch_ms) if device != "cpu" and batch_rows > 0.9 * size else None,
        busy=statistics.mean(seen) if seen else None,
        p50_ms=took.p50_ms,
        p99_ms=took.p99_ms,
    )


def _hidden(direct: Direct, batch_ms: float) -> float:
    """Which part of the copies of a batch passed while another one computed."""
    copies_ms = direct.copy_in_ms + direct.copy_out_ms
    return min(1.0, max(0.0, (copies_ms + direct.compute_ms - batch_ms) / copies_ms))


@contextmanager
def _looking(device: str) -> Iterator[list[float]]:
    """A list that fills with how busy the GPU is, while the block runs."""
    seen: list[float] = []
    gpus, ends = find_gpus(), threading.Event()

    def look() -> None:
        while not ends.wait(LOOK_S):
            seen.extend(
                reading.busy
                for reading in gpus.read()
                if reading.gpu.device == device and reading.busy is not None
            )

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ends.set()
        thread.join()
        gpus.close()


def _gpu_name(device: str) -> str:
    gpus = find_gpus()
    gpus.close()
    return next((gpu.name for gpu in gpus.all if gpu.device == device), "a GPU without NVML")


def _print(device: str, direct: dict[int, Direct], size: int, turns: list[Served]) -> None:
    parts = {
        "rows": ("rows of a batch", ""),
        "rows_per_s": ("rows/s", ",.0f"),
        "copy_in_ms": ("copy in ms", ".3f"),
        "compute_ms": ("compute ms", ".3f"),
        "copy_out_ms": ("copy out ms", ".3f"),
    }
    report.print_figures(
        f"Called directly on {device}",
        {key: title for key, (title, _) in parts.items()},
        ({"rows": rows, **asdict(one)} for rows, one in direct.items()),
        cell=lambda key, value: format(value, parts[key][1]),
    )
    lines = {
        "rows_per_s": ("rows/s", ",.0f"),
        "ratio": ("  of direct calls", ".3f"),
        "batch_rows": ("rows of a batch, mean", ".1f"),
        "batch_ms": ("ms per batch", ".3f"),
        "hidden": ("copies hidden behind computing", ".2f"),
        "busy": ("GPU busy", ".2f"),
        "p50_ms": ("p50 ms", ".2f"),
        "p99_ms": ("p99 ms", ".2f"),
    }
    report.print_turns(
        f"Served with rows_max = {size}",
        lines,
        {f"{turn.in_flight} of {turn.request_rows} rows": asdict(turn) for turn in turns},
    )


if __name__ == "__main__":
    main()

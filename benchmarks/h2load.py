"""Load: h2load from nghttp2, run for one figure and read.

h2load counts a gRPC error as a success: so the bytes that came back are compared with those of an
answer that was checked.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from servers import INFER, framed

Times = npt.NDArray[np.int64]

# Streams on one connection, at most, and the connections that are made before a second stream is.
STREAMS_MAX = 8
CONNECTIONS_FIRST = 8
# Requests in flight of growth.py, as connections times streams on each.
GROWING = {4: (4, 1), 64: (8, 8), 1024: (32, 32), 8192: (64, 128)}


@dataclass(frozen=True)
class Load:
    """What one run showed."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float


def require() -> None:
    """End with a sentence where h2load is missing."""
    if shutil.which("h2load") is None:
        raise SystemExit("this benchmark needs h2load: apt-get install nghttp2-client")


def run(
    port: int,
    payload: bytes,
    answer_bytes: int,
    *,
    in_flight: int,
    requests: int,
    core: int,
    path: str = INFER,
) -> Load:
    """Send *requests* times *payload*, closed loop, and check that as many answers came back."""
    streams = min(STREAMS_MAX, max(1, in_flight // CONNECTIONS_FIRST))
    spread = in_flight // streams, streams
    with tempfile.TemporaryDirectory() as folder:
        process = _start(port, payload, spread, requests, core, Path(folder), path=path)
        text, _, latencies_us = _finish(process, answer_bytes, requests, Path(folder))
    return Load(
        requests,
        float(_find(r"finished in [^,]+, ([\d.]+) req/s", text)),
        float(np.percentile(latencies_us, 50)) / 1e3,
        float(np.percentile(latencies_us, 99)) / 1e3,
    )


def run_spread(
    port: int,
    payloads: Sequence[bytes],
    answer_bytes: int,
    *,
    in_flight: int,
    requests: int,
    core: int,
) -> Load:
    """Send each of *payloads* equally often from an h2load of its own, all at once.

    The rate is that of the time in which all of them were at it: neither their starts nor their
    last answers, which come at less than full load, count.

    Args:
        port: Of the server.
        payloads: Messages, one per model that is asked.
        answer_bytes: Length of each answer.
        in_flight: Requests in flight, of all together.
        requests: Requests, of all together.
        core: Where every h2load runs.
    """
    share = max(1, in_flight // len(payloads))
    streams = GROWING[in_flight] if len(payloads) == 1 else (1, share)
    each = max(requests // len(payloads), 2 * share)
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in payloads]
        # All wait for the end of this pipe, so that none is done before the last one begins.
        gate, opener = os.pipe()
        started = [
            _start(port, payload, streams, each, core, folder, gate)
            for payload, folder in zip(payloads, folders, strict=True)
        ]
        os.close(gate)
        os.close(opener)
        ended = [
            _finish(process, answer_bytes, each, folder)
            for process, folder in zip(started, folders, strict=True)
        ]
    answered_us = [np.sort(began + took) for _, began, took in ended]
    first, last = max(one[0] for one in answered_us), min(one[-1] for one in answered_us)
    if first >= last:
        raise SystemExit("the loads did not overlap: let each turn be longer (--seconds)")
    inside = sum(int(np.sum((first < one) & (one <= last))) for one in answered_us)
    latencies_us = np.concatenate([took for _, _, took in ended])
    return Load(
        each * len(payloads),
        inside / (last - first) * 1e6,
        float(np.percentile(latencies_us, 50)) / 1e3,
        float(np.percentile(latencies_us, 99)) / 1e3,
    )


def _start(
    port: int,
    payload: bytes,
    streams: tuple[int, int],
    requests: int,
    core: int,
    folder: Path,
    gate: int = subprocess.DEVNULL,
    *,
    path: str = INFER,
) -> "subprocess.Popen[str]":
    """An h2load with *streams*, connections and streams on each; its log goes to *folder*.

    It begins when the pipe *gate* ends.
    """
    body, log = folder / "body", folder / "log"
    body.write_bytes(framed(payload))
    command = ["taskset", "-c", str(core), "sh", "-c", 'read -r _; exec "$@"', "sh"]
    command += ["h2load", f"-n{requests}", f"-c{streams[0]}"]
    command += [f"-m{streams[1]}", "-H", "content-type: application/grpc", "-H", "te: trailers"]
    command += ["-d", str(body), f"--log-file={log}", f"http://127.0.0.1:{port}{path}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=gate, text=True
    )


def _finish(
    process: "subprocess.Popen[str]", answer_bytes: int, requests: int, folder: Path
) -> tuple[str, Times, Times]:
    """What an h2load printed, and when each request began and how long it took, in microseconds."""
    text, _ = process.communicate(timeout=120)
    if process.returncode:
        raise SystemExit(f"h2load ended with status {process.returncode}:\n{text}")
    times = np.loadtxt(folder / "log", dtype=np.int64, usecols=(0, 2), ndmin=2)
    received = int(_find(r"traffic:.*\((\d+)\) data", text))
    expected = requests * (answer_bytes + 5)
    if received != expected or len(times) != requests:
        raise SystemExit(f"expected {expected} bytes of answers, got {received}:\n{text}")
    return text, times[:, 0], times[:, 1]


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"h2load said something else than expected:\n{text}")
    return found.group(1)

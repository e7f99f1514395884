"""Load: h2load from nghttp2, run for one figure and read.

h2load counts a gRPC error as a success: so the bytes that came back are compared with those of an
answer that was checked.
"""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from servers import INFER, framed

# Streams on one connection, at most, and the connections that are made before a second stream is.
STREAMS_MAX = 8
CONNECTIONS_FIRST = 8


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
    port: int, payload: bytes, answer_bytes: int, *, in_flight: int, requests: int, core: int
) -> Load:
    """Send *requests* times *payload*, closed loop, and check that as many answers came back."""
    streams = min(STREAMS_MAX, max(1, in_flight // CONNECTIONS_FIRST))
    connections = in_flight // streams
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(framed(payload))
        command = ["taskset", "-c", str(core), "h2load", f"-n{requests}", f"-c{connections}"]
        command += [f"-m{streams}", "-H", "content-type: application/grpc", "-H", "te: trailers"]
        command += ["-d", str(body), f"--log-file={log}", f"http://127.0.0.1:{port}{INFER}"]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        latencies_us = np.loadtxt(log, dtype=np.int64, usecols=2)
    text = output.stdout
    received = int(_find(r"traffic:.*\((\d+)\) data", text))
    expected = requests * (answer_bytes + 5)
    if received != expected or len(latencies_us) != requests:
        raise SystemExit(f"expected {expected} bytes of answers, got {received}:\n{text}")
    return Load(
        requests,
        float(_find(r"finished in [^,]+, ([\d.]+) req/s", text)),
        float(np.percentile(latencies_us, 50)) / 1e3,
        float(np.percentile(latencies_us, 99)) / 1e3,
    )


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"h2load said something else than expected:\n{text}")
    return found.group(1)

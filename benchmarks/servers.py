"""Servers under measurement: started on one core, asked once, their CPU time and memory read."""

import functools
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from headrace.datatypes import datatype_of
from headrace.elements import encode_elements
from headrace.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse

INFER = "/inference.GRPCInferenceService/ModelInfer"
READY_S_MAX = 120.0
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        pid: Its first process.
        port: Where it listens.
        ready_s: From its start to its readiness; None where that is not measured.
        metrics_port: Where it tells its numbers; None for a control, which has none.
    """

    pid: int
    port: int
    ready_s: float | None = None
    metrics_port: int | None = None

    def cpu_s(self) -> float:
        """CPU time of all its processes so far (/proc/PID/task/TID/schedstat, in nanoseconds)."""
        total_ns = 0
        for process in self._processes():
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                total_ns += int((task / "schedstat").read_text().split()[0])
        return total_ns / 1e9

    def counts(self) -> dict[str, float]:
        """Its counters and sums now, by name and without labels: for a daemon of one model."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return {
            sample.name: sample.value
            for family in families
            for sample in family.samples
            if "model" in sample.labels and "le" not in sample.labels
        }

    def resident_bytes(self) -> int:
        """Resident memory of its first process."""
        resident: int = psutil.Process(self.pid).memory_info().rss
        return resident

    def worker_pids(self) -> list[int]:
        """Its processes that hold models."""
        return [
            process.pid
            for process in self._processes()
            if "headrace_server.worker" in process.cmdline()
        ]

    def metric(self, name: str) -> float:
        """The sum of one of its numbers over all models."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url) as response:
            text = response.read().decode()
        return sum(map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)))

    def run_so_far(self) -> tuple[float, float]:
        """Rows and batches that it has run; a bare transport runs none."""
        if self.metrics_port is None:
            return 0.0, 0.0
        return self.metric("headrace_rows_total"), self.metric("headrace_batches_total")

    def _processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]


@contextmanager
def control(core: int, transport: str, *arguments: str) -> Iterator[Server]:
    """The bare transport: "native" or "grpcio", or "holding", native which answers nothing.

    *arguments* are those of its script, after the port.
    """
    script = {
        "native": "control.py",
        "grpcio": "control_grpcio.py",
        "holding": "control_holding.py",
    }[transport]
    command = [*pin(core), sys.executable, str(HERE / script), "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(process.pid, int(process.stdout.readline()))
        finally:
            process.kill()


@contextmanager
def daemon(
    core: int | None,
    tracking_uri: str,
    uris: Sequence[str],
    transport: str,
    settings: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """The installed headrace, ready to serve *uris*.

    Args:
        core: Where all its processes run; None for wherever the kernel puts them.
        tracking_uri: Its registry.
        uris: What it serves.
        transport: "native" or "grpcio".
        settings: As `--set` takes them.
        environment: Variables beside those of this process.
    """
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        command = [*pin(core), sys.executable, "-m", "headrace_server.cli", "serve", *uris]
        command += ["--tracking-uri", tracking_uri, "--transport", transport]
        command += ["--port", "0", "--metrics-port", "0"]
        for setting in settings:
            command += ["--set", setting]
        began = time.monotonic()
        process = subprocess.Popen(command, stderr=log, env={**os.environ, **(environment or {})})
        try:
            port, metrics_port = _wait_ready(process, Path(log.name))
            yield Server(process.pid, port, time.monotonic() - began, metrics_port)
        finally:
            process.terminate()
            process.wait(30)


def pin(core: int | None) -> list[str]:
    """What a command begins with that has only *core*; nothing where it is None."""
    return [] if core is None else ["taskset", "-c", str(core)]


def _wait_ready(process: "subprocess.Popen[bytes]", log: Path) -> tuple[int, int]:
    """Its port and that of its metrics, once it is ready."""
    until = time.monotonic() + READY_S_MAX
    ports = (0, 0)
    while time.monotonic() < until and process.poll() is None:
        for line in log.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "listening":
                ports = (event["port"], event["metrics_port"])
            if event.get("event") == "ready" and not event["failed"]:
                return ports
        time.sleep(0.02)
    raise SystemExit(f"the daemon did not become ready:\n{log.read_text()}")


def body(model: str, inputs: dict[str, np.ndarray]) -> bytes:
    """A ModelInferRequest for *model*."""
    request = ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        datatype = datatype_of(array.dtype)
        request.inputs.add(name=name, datatype=datatype.name, shape=array.shape)
        is_text = datatype.wire is None
        raw = encode_elements(array.ravel().tolist()) if is_text else array.tobytes()
        request.raw_input_contents.append(bytes(raw))
    return request.SerializeToString()


def ask(server: Server, payload: bytes) -> bytes:
    """The server's answer to *payload*, checked to be one."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        raw: bytes = channel.unary_unary(INFER)(payload, timeout=30)
    response = ModelInferResponse.FromString(raw)
    assert len(response.outputs) == len(response.raw_output_contents) >= 1, response
    assert all(response.raw_output_contents), response
    return raw


def framed(payload: bytes) -> bytes:
    """A message as gRPC frames it: uncompressed, with its length."""
    return b"\0" + struct.pack(">I", len(payload)) + payload


@functools.cache
def cores() -> tuple[int, int]:
    """A core for the server and one for the load; to that one this process goes, too."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit("this benchmark needs two cores: one for the server, one for the load")
    os.sched_setaffinity(0, {usable[1]})
    return usable[0], usable[1]

"""Tracking: a real MLflow server of one worker, and a front before it that can be made to fail."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mlflow import MlflowClient

import models

# What is asked of a front, and what it does: "pass", a status, "hang" or "break".
Behave = Callable[[str], str]


def fill(directory: Path, served: Sequence[str], model: str = "onnx_named") -> None:
    """Make a store in *directory* with *model* under every name of *served*, one version each.

    Its files lie where only a server hands them out.
    """
    uri = models.tracking_uri(directory)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    for name in served:
        shutil.copytree(models.model(model).path, directory / "artifacts" / name)
        client.create_registered_model(name)
        client.create_model_version(name, source=f"mlflow-artifacts:/{name}")


class TrackingServer:
    """`mlflow server` over the store in a directory; it listens once it is made."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{directory}/mlflow.db"]
        command += ["--artifacts-destination", str(directory / "artifacts")]
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
        assert self._process.stdout is not None
        # In whatever order: one is said before it listens.
        awaited = {"Application startup complete", "Uvicorn running on"}
        for line in iter(self._process.stdout.readline, ""):
            awaited = {sentence for sentence in awaited if sentence not in line}
            if not awaited:
                break
        if awaited:
            self.close()
            raise AssertionError("the server did not start")
        # Nobody reads on: what it says must not fill the pipe.
        self._drain = threading.Thread(target=self._read_on, daemon=True)
        self._drain.start()

    def pause(self) -> None:
        """Have it take connections, and answer none."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on, with what was asked meanwhile."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, also where it is paused."""
        # Its worker is a child of its own, in the session that we gave it.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read_on(self) -> None:
        assert self._process.stdout is not None
        try:
            for _ in self._process.stdout:
                pass
        except ValueError:
            pass  # It was closed.


@contextmanager
def tracking_server(directory: Path) -> Iterator[TrackingServer]:
    """A server that ends with the block."""
    server = TrackingServer(directory)
    try:
        yield server
    finally:
        server.close()


def free_port() -> int:
    """A port that nobody has; whoever takes it late may find it taken."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Front(ThreadingHTTPServer):
    """An HTTP server before another one, or before none.

    Attributes:
        behave: What it does with a request for a path: "pass" hands it on; a number, as "503", is
            answered; "hang" answers nothing until the front ends; "break" hands it on and breaks
            the connection in the middle of the answer.
        behind: The port of the server that it hands requests on to.
        is_over: Set when it ends.
    """

    daemon_threads = True

    def __init__(self, behind: int = 0, behave: Behave = lambda _: "pass", port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.behave = behave
        self.behind = behind
        self.is_over = threading.Event()

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Whoever asks may leave."""


@contextmanager
def front(behind: int = 0, behave: Behave = lambda _: "pass", port: int = 0) -> Iterator[Front]:
    """A front that ends with the block."""
    server = Front(behind, behave, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match what := self.server.behave(self.path):
            case "hang":
                self.server.is_over.wait()
                self.close_connection = True
            case "pass" | "break":
                self._hand_on(body, is_whole=what == "pass")
            case _:
                self._say(int(what), b"no")

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - http.server's own names.

    def log_message(self, *_: object) -> None:
        """Nothing is told."""

    def _hand_on(self, body: bytes, *, is_whole: bool) -> None:
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        headers = {key: value for key, value in self.headers.items() if key != "Host"}
        behind.request(self.command, self.path, body, headers)
        answer = behind.getresponse()
        content = answer.read()
        behind.close()
        self._say(answer.status, content, answer.getheader("Content-Type", ""), is_whole=is_whole)

    def _say(self, status: int, content: bytes, kind: str = "", *, is_whole: bool = True) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        if status == 429:
            self.send_header("Retry-After", "3600")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if is_whole else content[: len(content) // 2])
        self.close_connection = self.close_connection or not is_whole

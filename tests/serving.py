"""Serving: the installed command as a user starts it, for the end-to-end tests."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

READY_S_MAX = 90

# Model of tests/models.py -> the name it is registered by.
REGISTERED = {
    "iris_pipeline": "iris",
    "mixed_columns": "mixed",
    "string_labels": "labels",
    "unsigned_iris": "unsigned",
    "torch_pt2": "net",
    "torch_pt2_frozen": "frozen",
    "two_towers": "towers",
    "onnx_named": "graph",
    "onnx_unnamed": "unnamed",
}


def untried(*names: str) -> list[str]:
    """Options by which models of these *names* are loaded without a trial, which takes seconds."""
    return [option for name in names for option in ("--set", f"{name}.trial=false")]


class Daemon:
    """A running `headrace serve`; its log is read line by line as it comes."""

    def __init__(self, *arguments: str, cwd: Path, cache: Path, port: int = 0) -> None:
        command = [sys.executable, "-m", "headrace_server.cli", "serve", *arguments]
        self.process = subprocess.Popen(
            [*command, "--port", str(port), "--metrics-port", "0"],
            cwd=cwd,
            stderr=subprocess.PIPE,
            text=True,
            # So that one that does not end shows where its threads stand.
            env={**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONFAULTHANDLER": "1"},
        )
        self.cache = cache
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def address(self) -> str:
        """Where it listens."""
        address: str = self.wait("listening")["address"]
        return address

    @property
    def metrics(self) -> str:
        """The metrics endpoint."""
        return f"http://127.0.0.1:{self.wait('listening')['metrics_port']}/metrics"

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of one event so far."""
        parsed = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [line for line in parsed if line.get("event") == name]

    def wait(self, event: str, *, count: int = 1) -> dict[str, Any]:
        """The *count*-th log line of an event, once it is there."""
        with self._changed:
            self._changed.wait_for(
                lambda: len(self.events(event)) >= count or self.process.poll() is not None,
                READY_S_MAX,
            )
        found = self.events(event)
        assert len(found) >= count, "\n".join(self.lines)
        return found[count - 1]

    def wait_line(self, event: str, **fields: object) -> dict[str, Any]:
        """A log line of an event with these fields, once there is one."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.events(event) if fields.items() <= line.items()]

        with self._changed:
            self._changed.wait_for(lambda: found() or self.process.poll() is not None, READY_S_MAX)
        assert found(), "\n".join(self.lines)
        return found()[0]

    def wait_ready(self) -> None:
        """Wait until it is ready, as long as its log has news: many models take a while."""
        seen = -1

        def has_news() -> bool:
            return len(self.lines) > seen

        while not self.events("ready"):
            seen = len(self.lines)
            with self._changed:
                self._changed.wait_for(
                    lambda: has_news() or self.process.poll() is not None, READY_S_MAX
                )
            assert self.process.poll() is None, "\n".join(self.lines)
            assert has_news(), "\n".join(self.lines)

    def wait_exit(self) -> int:
        """Its exit status, once it has ended."""
        try:
            code = self.process.wait(READY_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self._reader.join()
            raise AssertionError("it does not end:\n" + "\n".join(self.lines)) from None
        self._reader.join()
        if self.process.stderr is not None:
            self.process.stderr.close()
        return code

    def stop(self) -> int:
        """End it as an operator does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait_exit()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

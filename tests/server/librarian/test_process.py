"""The librarian as a process of its own, spoken to over its socket."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace_server.frames import FrameSocket, Kind

from .conftest import Store

pytestmark = pytest.mark.slow

# Bounds a wait for what happens at once or not at all.
ENDS_S_MAX = 30


class Librarian:
    """The process, and our end of its socket."""

    def __init__(self, tracking_uri: str, directory: Path, **environment: str) -> None:
        self.log = directory / "stderr"
        self.frames, theirs = FrameSocket.pair()
        self._next = 0
        with theirs, self.log.open("w") as log:
            self.process = subprocess.Popen(
                command(theirs.fileno(), os.getpid(), tracking_uri, directory),
                pass_fds=(theirs.fileno(),),
                cwd=_empty(directory / "cwd"),
                stderr=log,
                env={**os.environ, **environment},
            )
        hello = self.frames.recv()
        assert hello is not None
        assert hello.kind == Kind.HELLO
        self.hello = hello.json()

    def ask(self, op: str, **arguments: Any) -> int:
        self._next += 1
        self.frames.send_json(Kind.ASK, {"id": self._next, "op": op, **arguments})
        return self._next

    def answer(self, op: str, **arguments: Any) -> Any:
        """The one answer to a question, while no other is open."""
        number = self.ask(op, **arguments)
        *_, last = self.reports(number)
        return last

    def reports(self, number: int) -> Iterator[Any]:
        """All that is said to a question, its answer last."""
        while True:
            frame = self.frames.recv()
            assert frame is not None, "the librarian ended"
            report = frame.json()
            assert report.pop("id") == number
            yield report
            if frame.kind == Kind.ANSWER:
                return
            assert frame.kind == Kind.PROGRESS

    def close(self) -> int:
        """End it as the daemon does; its exit code."""
        self.frames.close()
        return self.process.wait(ENDS_S_MAX)


def command(fd: int, parent: int, tracking_uri: str, directory: Path) -> list[str]:
    arguments = [sys.executable, "-P", "-m", "headrace_server.librarian"]
    arguments += ["--fd", str(fd), "--parent", str(parent)]
    return [*arguments, "--tracking-uri", tracking_uri, "--cache-dir", str(directory / "cache")]


def _empty(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory


@contextmanager
def running(tracking_uri: str, directory: Path, **environment: str) -> Iterator[Librarian]:
    librarian = Librarian(tracking_uri, directory, **environment)
    try:
        yield librarian
    finally:
        librarian.frames.close()
        librarian.process.kill()
        librarian.process.wait()


@pytest.fixture
def librarian(store: Store, tmp_path: Path) -> Iterator[Librarian]:
    with running(store.uri, tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def asked(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Librarian]:
    """One for all tests that it outlives."""
    with running(store.uri, tmp_path_factory.mktemp("asked")) as started:
        yield started


def test_questions_are_answered_in_json(librarian: Librarian, store: Store, tmp_path: Path) -> None:
    assert librarian.hello == {"pid": librarian.process.pid}
    source = f"models:/{store.iris[0]}"
    assert librarian.answer("resolve", uri="models:/iris@champion") == {
        "ok": {
            "name": "iris",
            "version": "1",
            "source": source,
            "followed": "champion",
            "tags": {},
            "registered": "iris",
        }
    }
    assert librarian.answer("resolve", uri="models:/iris/1", name="rose")["ok"]["name"] == "rose"
    assert "models:/iris@champion" in librarian.answer("list")["ok"]["uris"]

    *reports, answer = librarian.reports(librarian.ask("fetch", source=source))
    assert [report["what"] for report in reports] == ["download"] * len(reports)
    assert reports[0]["done"] == 0
    assert reports[-1]["done"] == reports[-1]["total"]
    fetched = answer["ok"]
    assert set(fetched) == {
        "path",
        "digest",
        "flavor",
        "config",
        "pyfunc",
        "signature",
        "example",
        "has_code",
        "mlflow_version",
        "mismatches",
        "is_data",
    }
    assert Path(fetched["path"]).parent == tmp_path / "cache" / fetched["digest"]
    assert fetched["signature"]["inputs"][0] == {
        "name": "length",
        "datatype": "FP64",
        "shape": [-1],
        "kind": "double",
        "optional": False,
        "schema": "",
    }
    assert list(librarian.reports(librarian.ask("fetch", source=source))) == [answer]

    assert librarian.close() == 0
    assert librarian.log.read_text() == ""
    assert os.listdir(tmp_path / "cwd") == []


def test_errors_are_one_sentence_of_a_kind(asked: Librarian, tmp_path: Path) -> None:
    def error(op: str, **arguments: Any) -> Any:
        return asked.answer(op, **arguments)["error"]

    assert error("resolve", uri="models:/rose/1") == {
        "kind": "not_found",
        "message": "there is no registered model 'rose'",
    }
    assert error("resolve", uri="models:/iris")["kind"] == "invalid"
    assert error("resolve", uri="models:/" + "x" * 5000)["kind"] == "invalid"
    assert len(error("resolve", uri="models:/" + "x" * 5000)["message"]) == 1000
    assert error("forget")["message"] == "the librarian knows no operation 'forget'"
    assert error("fetch", source=str(tmp_path)) == {
        "kind": "failed",
        "message": f"{tmp_path} has no MLmodel file: it is no MLflow model",
    }


def test_our_own_faults_are_answered_and_logged(librarian: Librarian) -> None:
    answer = librarian.answer("resolve")
    assert answer["error"] == {
        "kind": "failed",
        "message": "the librarian failed: KeyError: 'uri'",
    }
    logged = json.loads(librarian.log.read_text())
    assert logged["op"] == "resolve"
    assert "Traceback" in logged["exception"]


def test_it_is_up_before_mlflow_is_imported(store: Store, tmp_path: Path) -> None:
    """Here the import never succeeds: the process says HELLO, and then what is wrong."""
    (tmp_path / "mlflow.py").write_text("raise ImportError('this mlflow is broken')\n")
    with running(store.uri, tmp_path, PYTHONPATH=str(tmp_path)) as librarian:
        assert librarian.answer("list")["error"] == {
            "kind": "failed",
            "message": "the librarian failed: ImportError: this mlflow is broken",
        }


def test_a_registry_that_is_down_is_unreachable(tmp_path: Path) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        with running(uri, tmp_path) as librarian:
            error = librarian.answer("list")["error"]
    assert error["kind"] == "unreachable"
    assert uri in error["message"]


def test_it_yields_to_those_that_serve_and_leaves_ctrl_c_to_the_daemon(asked: Librarian) -> None:
    pid = asked.process.pid
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(own + 10, 19)
    os.kill(pid, signal.SIGINT)
    assert "error" in asked.answer("resolve", uri="models:/rose/1")


def test_it_ends_with_its_socket_even_while_a_registry_hangs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        uri = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with running(uri, tmp_path, MLFLOW_HTTP_REQUEST_TIMEOUT="600") as librarian:
            librarian.ask("resolve", uri="models:/iris/1")
            waiting, _ = mute.accept()  # It has called, and gets no answer.
            with waiting:
                assert librarian.close() == 0


def test_a_question_that_hangs_does_not_hold_up_others(store: Store, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        uri = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with running(uri, tmp_path, MLFLOW_HTTP_REQUEST_TIMEOUT="600") as librarian:
            librarian.ask("resolve", uri="models:/iris/1")
            waiting, _ = mute.accept()
            with waiting:
                answer = librarian.answer("resolve", uri=str(store.saved))
                assert answer["ok"]["name"] == "saved-model"


def test_two_processes_fetch_into_one_cache_at_once(store: Store, tmp_path: Path) -> None:
    source = f"models:/{store.iris[0]}"
    with running(store.uri, tmp_path) as one, running(store.uri, tmp_path) as other:
        numbers = [librarian.ask("fetch", source=source) for librarian in (one, other)]
        answers = [
            list(librarian.reports(number))[-1]["ok"]
            for librarian, number in zip((one, other), numbers, strict=True)
        ]
    assert answers[0] == answers[1]
    assert sorted(os.listdir(tmp_path / "cache")) == sorted([answers[0]["digest"], "sources"])


INTERMEDIATE = """
import os, subprocess, sys
command = [str(os.getpid()) if word == "PARENT" else word for word in sys.argv[2:]]
subprocess.Popen(command, pass_fds=(int(sys.argv[1]),)).wait()
"""


def test_it_ends_when_its_parent_is_killed(store: Store, tmp_path: Path) -> None:
    """Our end of the socket stays open: it is not the socket's end that ends it."""
    frames, theirs = FrameSocket.pair()
    with theirs:
        librarian = command(theirs.fileno(), 0, store.uri, tmp_path)
        librarian[librarian.index("--parent") + 1] = "PARENT"
        parent = subprocess.Popen(
            [sys.executable, "-c", INTERMEDIATE, str(theirs.fileno()), *librarian],
            pass_fds=(theirs.fileno(),),
        )
    hello = frames.recv()
    assert hello is not None
    child = os.pidfd_open(hello.json()["pid"])
    try:
        parent.kill()
        parent.wait()
        ended, _, _ = select.select([child], [], [], ENDS_S_MAX)
        assert ended == [child]
        assert frames.recv() is None
    finally:
        os.close(child)
        frames.close()


def test_it_does_not_start_for_a_parent_that_is_gone(store: Store, tmp_path: Path) -> None:
    frames, theirs = FrameSocket.pair()
    with theirs:
        process = subprocess.Popen(
            command(theirs.fileno(), 2**22 + 1, store.uri, tmp_path),
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.DEVNULL,
        )
    assert process.wait(ENDS_S_MAX) == 1
    assert frames.recv() is None
    frames.close()

"""Environment: a virtual environment made from a model's own requirements.

One directory per set of requirements and Python, named by a digest over both, so that models that
need the same share it. It is complete once its marker is there; several processes may ask for the
same at once. uv makes it where it is installed, else venv and pip. No shell is involved.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..childlog import log
from ..errors import LoadFailed
from .requirements import Requirements

# What a worker needs beside the model's own requirements.
_OURS: Final = "numpy>=1.23"
# The oldest Python that workers run on.
_PYTHON_MIN: Final = (3, 10)
_MARKER: Final = "complete"
_TAIL_LINES = 40
_WHY_CHARS_MAX = 300
# What pip lists, as an error, before it says what is wrong.
_NO_ERROR: Final = "Ignored the following"
_TELL_PYTHON = "import sys; print('.'.join(map(str, sys.version_info[:3])))"

# Told in a few words what is being done.
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment that is there.

    Attributes:
        python: Its interpreter.
        digest: SHA-256 over what it was made from.
    """

    python: str
    digest: str


class Environments:
    """Those below one directory, which is made when the first one comes."""

    def __init__(self, directory: Path) -> None:
        self._root = directory.absolute()

    def of(self, model: Path, say: Say, *, installer: str, s_max: float) -> Environment:
        """The environment for the model in the directory *model*, made unless it is there.

        Args:
            model: Where its requirements lie.
            say: Told of the progress.
            installer: "uv", "pip", or "auto" for uv where there is one.
            s_max: How long making it may take (seconds).

        Raises:
            LoadFailed: Its Python is not installed, or its requirements cannot be.
        """
        requirements = Requirements.of(model)
        python, version = _interpreter(requirements.python)
        told = f"{version}\n{_OURS}\n".encode() + requirements.content
        digest = hashlib.sha256(told).hexdigest()
        place = self._root / digest
        found = Environment(str(place / "bin" / "python"), digest)
        if (place / _MARKER).exists():
            return found
        self._root.mkdir(parents=True, exist_ok=True)
        with _locked(self._root / f"{digest}.lock", say):
            if not (place / _MARKER).exists():
                # Of one that was not finished nothing can be trusted.
                shutil.rmtree(place, ignore_errors=True)
                try:
                    _make(place, python, requirements, _installer(installer), say, s_max)
                except BaseException:
                    shutil.rmtree(place, ignore_errors=True)
                    raise
                (place / _MARKER).touch()
        return found


def _make(
    place: Path, python: str, requirements: Requirements, uv: str, say: Say, s_max: float
) -> None:
    wanted = [_OURS]
    if requirements.file is not None:
        wanted += ["--requirement", str(requirements.file)]
    if uv:
        commands = [
            [uv, "venv", "--python", python, "--no-python-downloads", str(place)],
            # A confined worker writes no bytecode there, and would compile at each start.
            [
                *(uv, "pip", "install", "--compile-bytecode"),
                *("--python", str(place / "bin" / "python"), *wanted),
            ],
        ]
    else:
        pip = [str(place / "bin" / "python"), "-I", "-m", "pip"]
        options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        commands = [
            [python, "-I", "-m", "venv", str(place)],
            [*pip, "install", *options, *wanted],
        ]
    for command in commands:
        _run(command, say, s_max)


def _run(command: Sequence[str], say: Say, s_max: float) -> None:
    """Run *command*, telling each line that it prints.

    Raises:
        LoadFailed: It fails, or takes more than *s_max* seconds.
    """
    # It must not outlive this process; see `lifeline`.
    tied = [sys.executable, "-P", "-m", "headrace_server.lifeline", str(os.getpid()), *command]
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with subprocess.Popen(
        tied,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(s_max, stop)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdout is not None, "it was asked for"
            for line in process.stdout:
                tail.append(line.rstrip())
                say(line.strip())
        finally:
            timer.cancel()
    if is_late.is_set():
        raise LoadFailed(
            f"its environment was not made within environment_s_max = {s_max:g} seconds; the last "
            f"line was: {tail[-1] if tail else 'none'}"
        )
    if process.returncode != 0:
        log("error", "environment_failed", command=command, output="\n".join(tail))
        raise LoadFailed(f"its environment cannot be made from its requirements: {_why(tail)}")


def _why(lines: Sequence[str]) -> str:
    """The line that tells what is wrong: the first that pip calls an error, else the last."""
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    errors = [line for line in errors if not line.startswith(_NO_ERROR)]
    said = errors or [line.strip() for line in reversed(lines) if line.strip()]
    return said[0][:_WHY_CHARS_MAX] if said else "no reason was given"


def _installer(asked: str) -> str:
    """Where uv is; empty for pip.

    Raises:
        LoadFailed: uv was asked for, and is not here.
    """
    if asked == "pip":
        return ""
    found = shutil.which("uv")
    if found is None and asked == "uv":
        raise LoadFailed('environment_installer = "uv", but there is no uv on the path')
    return found or ""


def _interpreter(wanted: str) -> tuple[str, str]:
    """A Python of the minor version *wanted*, ours where none is named; path and whole version.

    Raises:
        LoadFailed: It is not installed, or too old for a worker.
    """
    here = ".".join(map(str, sys.version_info[:2]))
    if wanted in ("", here):
        return sys.executable, ".".join(map(str, sys.version_info[:3]))
    if tuple(map(int, wanted.split("."))) < _PYTHON_MIN:
        oldest = ".".join(map(str, _PYTHON_MIN))
        raise LoadFailed(
            f"it was logged with Python {wanted}, but workers need Python {oldest} or newer"
        )
    for path in _candidates(wanted):
        told = subprocess.run(
            [path, "-I", "-c", _TELL_PYTHON], capture_output=True, text=True, check=False
        )
        version = told.stdout.strip()
        if told.returncode == 0 and version.startswith(f"{wanted}."):
            return path, version
    raise LoadFailed(
        f"it was logged with Python {wanted}, which is not installed here: there is no "
        f"python{wanted} on the path; the daemon runs on {here}"
    )


def _candidates(wanted: str) -> Iterator[str]:
    if found := shutil.which(f"python{wanted}"):
        yield found
    if uv := shutil.which("uv"):
        told = subprocess.run(
            [uv, "python", "find", "--no-python-downloads", wanted],
            capture_output=True,
            text=True,
            check=False,
        )
        if told.returncode == 0:
            yield told.stdout.strip()


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another load makes it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

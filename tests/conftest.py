"""Fixtures of every test: nothing a test started may outlive it."""

import contextlib
import gc
import os
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

# Threads of headrace are daemons, so that an end of the process never waits for one; a test that
# leaves one behind has not closed its owner all the same.
OUR_THREADS = {
    *("completions", "control", "files", "gpus", "receiver", "spawner", "startup", "supervisor"),
    "trimmer",
}

# What decides how well headrace and other clients get on in one environment.
TOLD_VERSIONS = (
    "protobuf",
    "grpcio",
    "grpcio-health-checking",
    "grpcio-reflection",
    "tritonclient",
    "kserve",
    "numpy",
    "pandas",
)

settings.register_profile("dev", deadline=None, max_examples=40, stateful_step_count=30)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=100,
    stateful_step_count=40,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
# For a search by hand: pytest --hypothesis-profile deep
settings.register_profile("deep", deadline=None, max_examples=1000, stateful_step_count=50)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# Plain lines: what pytest shows of a failed test. The coloured form takes a second per traceback.
structlog.configure(
    processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()]
)


def pytest_report_header() -> str:
    """The versions a run was made with, at its start."""
    return "versions: " + ", ".join(f"{name} {_version(name)}" for name in TOLD_VERSIONS)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fail a test that leaves a child process, a thread or shared memory behind."""
    before = _held()
    yield
    leaked = _held() - before
    if leaked:
        # A mapping that only a cycle still holds is not lost, just not collected yet.
        gc.collect()
        leaked = _held() - before
    assert not leaked, f"the test leaks {', '.join(sorted(leaked))}"


def _held() -> set[str]:
    return {*_children(), *_threads(), *_memfds()}


def _children() -> Iterator[str]:
    for listing in Path("/proc/self/task").glob("*/children"):
        # A thread may end while its children are read.
        with contextlib.suppress(OSError):
            for pid in listing.read_text().split():
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                # joblib and torch start one of these on first use and keep it for good.
                if "resource_tracker" not in command:
                    yield f"process {pid} ({command.strip() or 'not reaped'})"


def _threads() -> Iterator[str]:
    for thread in threading.enumerate():
        if not thread.daemon or thread.name in OUR_THREADS:
            yield f"thread {thread.name!r} ({thread.ident})"


def _memfds() -> Iterator[str]:
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{entry}")
            if target.startswith("/memfd:headrace"):
                yield f"descriptor {entry} of {target}"

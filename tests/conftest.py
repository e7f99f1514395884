"""Fixtures of every test: nothing a test started may outlive it."""

import contextlib
import gc
import os
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

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


# Files whose tests share daemons or a store, which take long to make: one process runs them all.
SHARING = {
    "tests/conformance/": "tests/conformance",
    **dict.fromkeys(
        (
            f"tests/e2e/test_{name}.py"
            for name in (
                "clients",
                "commands",
                "fake",
                "guides",
                "kserve",
                "safety",
                "security",
                "serve",
            )
        ),
        "tests/e2e",
    ),
}


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """A file is run by one process, and so are those that share daemons."""

    def _split_scope(self, nodeid: str) -> str:
        shared = (scope for start, scope in SHARING.items() if nodeid.startswith(start))
        scope: str = next(shared, super()._split_scope(nodeid))
        return scope


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Files in the order in which they stand, not those of many tests first."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that no process is left alone with it at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not item.nodeid.startswith(tuple(SHARING)), item.path not in slow))


def pytest_collection_finish() -> None:
    """What is imported now stays: the collector need not walk it in every test."""
    gc.collect()
    gc.freeze()


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

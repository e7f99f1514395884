"""Memory: what is there against what arenas may take, and the limits on this process."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from ..arena import Arena
from ..granted import CGROUPS, memory_of_host, processors_granted
from .finding import Finding, Setup, ok, problem, warning

_GIB = 1 << 30
# Beside the arena: the interpreter, a framework, and its threads' stacks.
_WORKER_BYTES = 2 * _GIB
_FILES_MIN, _FILES_GOOD = 256, 1024


def check_memory(setup: Setup, cgroups: Path = CGROUPS) -> Iterator[Finding]:
    """Yield findings about RAM, the arena, processors and the limits of this process.

    *cgroups* is where control groups show themselves.
    """
    available, told = _available(cgroups)
    yield ok("memory", told)
    yield _arena(setup, available)
    yield _processors(cgroups)
    yield _address_space(setup)
    yield _files()


def _available(cgroups: Path) -> tuple[int, str]:
    """Bytes that may still be taken here, and the sentence about it."""
    memory = memory_of_host(cgroups)
    text = f"{_gib(memory.available)} of {_gib(memory.total)} are available"
    if memory.granted is not None:
        limit, left = memory.granted
        text += f"; the cgroup grants {_gib(limit)}, of which {_gib(left)} are left"
    return memory.left, text


def _arena(setup: Setup, available: int) -> Finding:
    """Arenas are memfds: pages are given when they are first written, and /dev/shm is not used."""
    each = setup.arena_bytes_max
    workers = len(os.sched_getaffinity(0))
    text = f"arena_bytes_max is {_gib(each)} per worker"
    smaller = max(64 << 20, available // (2 * workers) >> 20 << 20)
    remedy = f"--set server.arena_bytes_max={smaller}"
    try:
        Arena(each).close()
    except (OSError, OverflowError) as error:
        return problem("arena", f"{text}, which cannot be had: {error}", remedy)
    if each > available:
        return warning("arena", f"{text}, more than the memory that is available", remedy)
    if each * workers > available:
        return warning(
            "arena",
            f"{text}; up to {workers} workers may need {_gib(each * workers)}, if all fill theirs",
            remedy,
        )
    return ok("arena", f"{text}, taken from memory as it is used; /dev/shm is not")


def _processors(cgroups: Path) -> Finding:
    cores = len(os.sched_getaffinity(0))
    granted = processors_granted(cgroups)
    if granted is not None and granted < cores:
        return warning(
            "processors",
            f"{cores} can be used, but the cgroup grants the time of {granted:g}: frameworks start "
            "a thread for each and wait for their turn",
            f"OMP_NUM_THREADS={max(1, int(granted))}, or taskset -c 0-{max(0, int(granted) - 1)}",
        )
    return ok("processors", f"{cores} can be used")


def _address_space(setup: Setup) -> Finding:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return ok("address space", "not limited")
    needed = setup.arena_bytes_max + _WORKER_BYTES
    text = f"limited to {_gib(limit)}"
    if limit < needed:
        return problem(
            "address space",
            f"{text}, but a worker needs its arena and about {_gib(_WORKER_BYTES)} more",
            "ulimit -v unlimited; for a systemd service, LimitAS=infinity",
        )
    return ok("address space", text)


def _files() -> Finding:
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= _FILES_GOOD:
        return ok("open files", f"up to {limit}: one for each connection, and about 100 more")
    text = f"up to {limit}: one for each connection, and about 100 more"
    remedy = "for a systemd service, LimitNOFILE=65536"
    if most == resource.RLIM_INFINITY or most >= _FILES_GOOD:
        remedy = f"ulimit -n {_FILES_GOOD if most < 65_536 else 65_536}; {remedy}"
    if limit < _FILES_MIN:
        return problem("open files", text, remedy)
    return warning("open files", text, remedy)


def _gib(nbytes: int) -> str:
    return f"{nbytes / _GIB:.1f} GiB"

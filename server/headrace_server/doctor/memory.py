"""Memory: what is there against what arenas may take, and the limits on this process."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from ..arena import Arena
from .finding import Finding, Setup, ok, problem, warning

_GIB = 1 << 30
# Beside the arena: the interpreter, a framework, and its threads' stacks.
_WORKER_BYTES = 2 * _GIB
_FILES_MIN, _FILES_GOOD = 256, 1024
_CGROUPS = Path("/sys/fs/cgroup")


def check_memory(setup: Setup, cgroups: Path = _CGROUPS) -> Iterator[Finding]:
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
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (
        int(meminfo[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable")
    )
    text = f"{_gib(available)} of {_gib(total)} are available"
    group = _cgroup_memory(cgroups)
    if group is not None and group[0] < total:
        limit, used = group
        left = max(0, limit - used)
        text += f"; the cgroup grants {_gib(limit)}, of which {_gib(left)} are left"
        available = min(available, left)
    return available, text


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
    granted = _cgroup_processors(cgroups)
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


# What control groups grant; version 2, else version 1. None where they grant all there is.


def _cgroup_memory(cgroups: Path) -> tuple[int, int] | None:
    """Limit and use in bytes, of the group with the least left among ours and those above it."""
    found = []
    for folder in _folders("memory", cgroups):
        for limit_file, used_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _number(folder / limit_file), _number(folder / used_file)
            if limit is not None and used is not None:
                found.append((limit, used))
    return min(found, key=lambda each: each[0] - each[1], default=None)


def _cgroup_processors(cgroups: Path) -> float | None:
    """Processors' worth of time; the least of our group and those above it."""
    found = []
    for folder in _folders("cpu", cgroups):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            quota, period = (
                str(_number(folder / f"cpu.cfs_{name}_us") or "max") for name in ("quota", "period")
            )
        if quota.isdigit() and period.isdigit() and int(period):
            found.append(int(quota) / int(period))
    return min(found, default=None)


def _folders(controller: str, cgroups: Path) -> Iterator[Path]:
    """The folders of our control group and all above it; of its own view where it has one."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        here = root / path.lstrip("/")
        while True:
            if here.is_dir():
                yield here
            if here == root:
                break
            here = here.parent


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _gib(nbytes: int) -> str:
    return f"{nbytes / _GIB:.1f} GiB"

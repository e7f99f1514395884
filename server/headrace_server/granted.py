"""Granted: the memory and the processors that this host, and our control groups, let us have."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Where control groups show themselves; version 2, else version 1.
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in bytes.

    Attributes:
        total: What the host has.
        available: What of it may still be taken.
        granted: What our control group grants, and what of that is left; None where it grants all.
    """

    total: int
    available: int
    granted: tuple[int, int] | None

    @property
    def left(self) -> int:
        """What may still be taken by us."""
        return self.available if self.granted is None else min(self.available, self.granted[1])


def memory_of_host(cgroups: Path = CGROUPS) -> Memory:
    """The memory that there is, and what of it is left."""
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (
        int(meminfo[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable")
    )
    group = _cgroup_memory(cgroups)
    if group is None or group[0] >= total:
        return Memory(total, available, None)
    limit, used = group
    return Memory(total, available, (limit, max(0, limit - used)))


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


def processors_granted(cgroups: Path = CGROUPS) -> float | None:
    """Processors' worth of time: the least of our group and those above; None for all there is."""
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

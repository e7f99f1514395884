"""Watching: the memory of a daemon and of each of its processes, sampled over a long run."""

import contextlib
import re
import statistics
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from serving import Daemon

# What may be more in the last fifth of a run than in the second.
RISE_RATIO_MAX = 0.05
RISE_MB_MAX = 5.0
RISE_COUNT_MAX = 8


@dataclass(frozen=True)
class Growth:
    """One thing that is watched: its mean in the second and in the last fifth of the run.

    Attributes:
        name: What it is.
        early: The first of them.
        late: The other.
        late_max: What `late` may be.
    """

    name: str
    early: float
    late: float
    late_max: float

    @property
    def is_flat(self) -> bool:
        """Whether it has grown by no more than it may."""
        return self.late <= self.late_max


class Watch:
    """Samples of a daemon's processes.

    Memory is what a process has for itself: resident, without files and without the arena, which
    two processes share and the daemon counts. A worker that has just been started is left out until
    it is as old as *grown_s*.
    """

    def __init__(self, daemon: Daemon, *, grown_s: float) -> None:
        self._daemon = daemon
        self._grown_s = grown_s
        self._samples: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._began = time.monotonic()

    def sample(self) -> None:
        """Look at everything once."""
        now = time.monotonic() - self._began
        for name, value in self._look():
            self._samples[name].append((now, value))

    def growths(self) -> list[Growth]:
        """Everything that was there in both fifths."""
        over = time.monotonic() - self._began
        found = []
        for name, samples in self._samples.items():
            early = [value for at, value in samples if 0.2 * over <= at < 0.4 * over]
            late = [value for at, value in samples if at >= 0.8 * over]
            if early and late:
                mean = statistics.mean(early)
                more = mean * RISE_RATIO_MAX + RISE_MB_MAX
                late_max = mean + (more if name.endswith(" MB") else RISE_COUNT_MAX)
                found.append(Growth(name, mean, statistics.mean(late), late_max))
        return found

    def _look(self) -> Iterator[tuple[str, float]]:
        pid = self._daemon.process.pid
        daemon = psutil.Process(pid)
        workers = {one["pid"]: one["worker"] for one in self._daemon.events("worker_started")}
        yield "daemon MB", _own_mb(daemon)
        yield "daemon threads", daemon.num_threads()
        yield "daemon descriptors", daemon.num_fds()
        yield "arenas MB", self._arena_mb()
        for child in daemon.children(recursive=True):
            # It may end while it is looked at.
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if child.pid not in workers:
                    yield "librarian MB", _own_mb(child)
                elif time.time() - child.create_time() >= self._grown_s:
                    yield f"worker {workers[child.pid]} MB", _own_mb(child)

    def _arena_mb(self) -> float:
        with urllib.request.urlopen(self._daemon.metrics) as response:  # noqa: S310 - our own daemon.
            text = response.read().decode()
        taken = re.findall(r"^headrace_arena_bytes\{.*\} (\S+)$", text, re.MULTILINE)
        return sum(map(float, taken)) / 1e6


def _own_mb(process: psutil.Process) -> float:
    memory = process.memory_info()
    own: float = (memory.rss - memory.shared) / 1e6
    return own

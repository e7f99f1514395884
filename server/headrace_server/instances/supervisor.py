"""Supervisor: replaces workers that end, at once the first time, then after growing delays.

A worker that ends again and again is in a crash loop: its models tell so in readiness and in the
repository index until a process of it has lived for a while.
"""

import math
import queue
import threading
import time
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

import structlog

from .worker import Worker

# A process that has lived this long (seconds) has settled: what came before is forgotten.
SETTLED_S = 60.0
# The first replacement comes at once, the next after this delay, which doubles (seconds).
_DELAY_S_MIN = 0.5
_DELAY_S_MAX = 30.0
# As many processes in a row that did not settle make a crash loop.
_CRASH_LOOP_ENDS = 3

_log = structlog.get_logger("headrace")


@dataclass(slots=True)
class _History:
    """What became of a worker's processes.

    Attributes:
        started_at: When the latest one was started (seconds, monotonic clock).
        ends: How many in a row ended without having settled, or were the first to end.
        is_up: Whether one is thought to run.
    """

    started_at: float = -math.inf
    ends: int = 0
    is_up: bool = True


def delay_after(ends: int) -> float:
    """How long to wait with the next process after *ends* in a row have ended (seconds)."""
    if ends <= 1:
        return 0.0
    # A worker may end for days: the power must not leave the range of a float.
    return min(_DELAY_S_MIN * 2.0 ** min(ends - 2, 16), _DELAY_S_MAX)


class Supervisor:
    """The thread that starts worker processes again."""

    def __init__(self, *, settled_s: float = SETTLED_S) -> None:
        self._settled_s = settled_s
        self._ended: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        self._histories: dict[Worker, _History] = {}
        # What to look at when: a worker to start, or one that may have settled.
        self._due: list[tuple[float, int, Worker]] = []
        self._sequence = count()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def note_end(self, worker: Worker) -> None:
        """The process of *worker* ended. From any thread; never waits."""
        self._ended.put(worker)

    def close(self) -> None:
        """End the thread; nothing is started any more."""
        self._is_closing.set()
        self._ended.put(None)
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closing.is_set():
            ended = self._next_ended(self._due[0][0] if self._due else math.inf)
            if self._is_closing.is_set():
                return
            now = time.monotonic()
            if ended is not None:
                self._plan(ended, now)
            while self._due and self._due[0][0] <= now:
                worker = heappop(self._due)[2]
                history = self._histories.get(worker)
                if worker.is_closing or history is None:
                    self._histories.pop(worker, None)
                elif history.is_up:
                    self._settle(worker, history, now)
                else:
                    self._start(worker, history, now)

    def _plan(self, worker: Worker, now: float) -> None:
        """Decide when a worker whose process ended is started again."""
        code = worker.reap()
        history = self._histories.setdefault(worker, _History())
        if now - history.started_at >= self._settled_s:
            history.ends = 0
        history.ends += 1
        history.is_up = False
        delay_s = delay_after(history.ends)
        _log.error(
            "worker_ended",
            worker=worker.name,
            exit_code=code,
            ends=history.ends,
            delay_s=delay_s,
        )
        if history.ends >= _CRASH_LOOP_ENDS and not worker.is_closing:
            worker.set_crash_loop(
                f"crash_loop: the worker process ended {history.ends} times in a row, at last with "
                f"exit code {code}; it is started again after {delay_s:g} s"
            )
        self._look_at(worker, now + delay_s)

    def _start(self, worker: Worker, history: _History, now: float) -> None:
        history.started_at = now
        try:
            worker.start()
        except OSError as error:
            _log.error("worker_not_started", worker=worker.name, why=str(error))
            self._look_at(worker, now + _DELAY_S_MAX)
        else:
            history.is_up = True
            self._look_at(worker, now + self._settled_s)

    def _settle(self, worker: Worker, history: _History, now: float) -> None:
        """Forget the past of a worker whose process has lived long enough."""
        if now - history.started_at < self._settled_s:
            return  # It was replaced since; another look is planned.
        del self._histories[worker]
        if worker.crash_loop:
            _log.info("worker_settled", worker=worker.name)
            worker.set_crash_loop("")

    def _look_at(self, worker: Worker, at: float) -> None:
        heappush(self._due, (at, next(self._sequence), worker))

    def _next_ended(self, until: float) -> Worker | None:
        """The next worker that ended; None when *until* has come, or the supervisor closes."""
        try:
            if until == math.inf:
                return self._ended.get()
            return self._ended.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            return None

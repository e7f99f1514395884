"""Pool: which worker a model instance goes to, and the replacement of workers that end.

Workers are shared: one per accelerator, and on the CPU at most one per core, the emptiest first. A
model may ask for a worker of its own.
"""

import math
import os
import queue
import threading
import time
from collections import defaultdict
from heapq import heappop, heappush
from typing import Any

import structlog

from ..completions import Completions
from ..errors import LoadFailed
from .process import Spawner
from .worker import LoadedInstance, Worker

# A worker that ends again within this time is replaced after a growing delay.
_SETTLED_S = 60.0
_DELAY_S_MAX = 30.0

_log = structlog.get_logger("headrace")


class WorkerPool:
    """All workers of the daemon."""

    def __init__(
        self,
        spawner: Spawner,
        completions: Completions,
        *,
        arena_bytes_max: int,
        cpu_workers_max: int | None = None,
    ) -> None:
        self._spawner = spawner
        self._completions = completions
        self._arena_bytes_max = arena_bytes_max
        self._cores = len(os.sched_getaffinity(0))
        self._cpu_workers_max = cpu_workers_max or self._cores
        self._lock = threading.Lock()
        self._shared: defaultdict[str, list[Worker]] = defaultdict(list)
        self._own: list[Worker] = []
        self._started = 0
        self._ended: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        self._is_closing = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._supervisor.start()

    @property
    def workers(self) -> list[Worker]:
        """Every worker."""
        return [*(worker for group in self._shared.values() for worker in group), *self._own]

    @property
    def threads_per_call(self) -> int:
        """How many threads a framework may use for one call on the CPU, so that none contend."""
        return max(1, self._cores // max(1, self._cpu_workers_max))

    def start(
        self, spec: dict[str, Any], device: str, *, is_own: bool
    ) -> tuple[Worker, LoadedInstance]:
        """Assign an instance to a worker and have it loaded there; see `Worker.load`.

        Raises:
            LoadFailed: The pool is closed.
        """
        with self._lock:
            if self._is_closing.is_set():
                raise LoadFailed("the server is ending")
            worker = self._assign(device, is_own=is_own)
            return worker, worker.load(spec)

    def retire_own(self, worker: Worker) -> None:
        """End a worker of its own model, which could not be loaded; a shared one stays."""
        with self._lock:
            if worker not in self._own:
                return
            self._own.remove(worker)
        worker.close()

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            self._is_closing.set()
        self._ended.put(None)
        self._supervisor.join()
        for worker in self.workers:
            worker.hang_up()
        for worker in self.workers:
            worker.close()

    def _assign(self, device: str, *, is_own: bool) -> Worker:
        if is_own:
            worker = self._spawn(device)
            self._own.append(worker)
            return worker
        shared = self._shared[device]
        workers_max = self._cpu_workers_max if device == "cpu" else 1
        emptiest = min(shared, key=lambda worker: worker.instance_count, default=None)
        if emptiest is None or (emptiest.instance_count and len(shared) < workers_max):
            emptiest = self._spawn(device)
            shared.append(emptiest)
        return emptiest

    def _spawn(self, device: str) -> Worker:
        self._started += 1
        worker = Worker(
            f"{device}-{self._started}",
            self._spawner,
            self._completions,
            arena_bytes_max=self._arena_bytes_max,
            environment=_thread_limits(self.threads_per_call),
            on_end=self._ended.put,
        )
        worker.start()
        return worker

    def _supervise(self) -> None:
        """Replace workers that ended, each after a delay of its own."""
        delays_s: dict[Worker, float] = {}
        replaced_at: dict[Worker, float] = {}
        due: list[tuple[float, int, Worker]] = []
        while not self._is_closing.is_set():
            ended = self._next_ended(due[0][0] if due else math.inf)
            now = time.monotonic()
            if ended is not None:
                code = ended.reap()
                settled = now - replaced_at.get(ended, -_SETTLED_S) >= _SETTLED_S
                delay_s = 0.0 if settled else min(delays_s[ended] * 2 or 0.5, _DELAY_S_MAX)
                delays_s[ended] = delay_s
                _log.error("worker_ended", worker=ended.name, exit_code=code, delay_s=delay_s)
                heappush(due, (now + delay_s, id(ended), ended))
            while due and due[0][0] <= now and not self._is_closing.is_set():
                worker = heappop(due)[2]
                replaced_at[worker] = now
                try:
                    worker.start()
                except OSError as error:
                    _log.error("worker_not_started", worker=worker.name, why=str(error))
                    heappush(due, (now + _DELAY_S_MAX, id(worker), worker))

    def _next_ended(self, until: float) -> Worker | None:
        """The next worker that ended; None when *until* has come, or the pool closes."""
        try:
            if until == math.inf:
                return self._ended.get()
            return self._ended.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            return None


def _thread_limits(threads: int) -> dict[str, str]:
    """Environment that keeps a framework's own thread pools from oversubscribing the cores."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {name: os.environ.get(name, str(threads)) for name in names}

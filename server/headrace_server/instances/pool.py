"""Pool: which worker a model instance goes to.

Workers are shared: one per accelerator, and on the CPU at most one per core, the emptiest first. A
model may ask for a worker of its own, and one with an environment of its own gets it. What may harm
others is loaded in a fresh worker first, which stays where there is room for one.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import wait
from typing import Any

from ..completions import Completions
from ..errors import LoadFailed
from .confined import Confinement
from .loaded import LoadedInstance
from .process import Spawner
from .supervisor import SETTLED_S, Supervisor
from .worker import Worker

# Models that are tried at the same time, where there are as many cores.
_TRIALS_MAX = 4
# How long a worker may take to free a model that was tried (seconds).
_FREED_S_MAX = 10.0
# Has Hugging Face's libraries, and what is built on them, fetch nothing.
OFFLINE = dict.fromkeys(
    ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"), "1"
)
# Has libraries tell nobody what they are used for.
_SILENT = dict.fromkeys(("HF_HUB_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY"), "1")


class WorkerPool:
    """All workers of the daemon."""

    def __init__(
        self,
        spawner: Spawner,
        completions: Completions,
        *,
        arena_bytes_max: int,
        cpu_workers_max: int | None = None,
        threads: int = 0,
        settled_s: float = SETTLED_S,
        confinement: Confinement | None = None,
    ) -> None:
        """No worker runs yet.

        Args:
            spawner: Starts their processes.
            completions: Watches them.
            arena_bytes_max: Size of each one's arena.
            cpu_workers_max: How many share the CPU at most; None for one per core.
            threads: Threads of one call on the CPU; 0 for what leaves none without a core.
            settled_s: See `Supervisor`.
            confinement: Where their processes are confined; None for not at all.
        """
        self._confinement = confinement
        self._spawner = spawner
        self._completions = completions
        self._arena_bytes_max = arena_bytes_max
        self._cores = len(os.sched_getaffinity(0))
        self._cpu_workers_max = cpu_workers_max or self._cores
        self._threads = threads
        self._lock = threading.Lock()
        self._shared: defaultdict[str, list[Worker]] = defaultdict(list)
        self._own: list[Worker] = []
        # Models that are being tried or wait for it, and workers that wait for the next one.
        self._trials = 0
        self._trials_at_once = threading.BoundedSemaphore(max(2, min(self._cores, _TRIALS_MAX)))
        self._idle: list[tuple[str, Worker]] = []
        self._started = 0
        self._is_closing = False
        self._supervisor = Supervisor(settled_s=settled_s)

    @property
    def workers(self) -> list[Worker]:
        """Every worker."""
        return [*(worker for group in self._shared.values() for worker in group), *self._own]

    @property
    def threads_per_call(self) -> int:
        """How many threads a framework may use for one call on the CPU.

        As it was told; else so many that calls of all workers at once do not contend.
        """
        return self._threads or max(1, self._cores // max(1, self._cpu_workers_max))

    def start(
        self, spec: dict[str, Any], device: str, *, is_own: bool, command: Sequence[str] = ()
    ) -> tuple[Worker, LoadedInstance]:
        """Assign an instance to a worker of *device* and have it loaded there; see `Worker.load`.

        Args:
            spec: The LOAD frame.
            device: Where it computes.
            is_own: Whether it gets a worker of its own.
            command: What runs that one; empty for our own Python.

        Raises:
            LoadFailed: The pool is closed.
        """
        with self._lock:
            self._check_open()
            worker = self._assign(device, is_own=is_own, command=command)
            return worker, worker.load(
                {**spec, "device": device, "load_bytes_max": 0, "gpu_bytes_max": 0}
            )

    def try_out(
        self, spec: dict[str, Any], device: str, *, is_own: bool, command: Sequence[str] = ()
    ) -> tuple[Worker, LoadedInstance]:
        """As `start`, but loaded first in a worker where it can harm no other model; waits.

        That worker stays where one may be had, else the instance is loaded once more in a shared
        one, and the next model is tried in it: a framework takes longer to import than most models
        to load.

        Raises:
            LoadFailed: The model cannot be loaded, or harms its process.
        """
        with self._lock:
            self._trials += 1
        try:
            with self._trials_at_once:
                worker, loaded = self._tried(spec, device, is_own=is_own, command=command)
                if is_own or self._takes_in(worker, device):
                    worker.adopt()
                    return worker, loaded
                # What the next model takes is counted from where this one left off.
                wait([worker.unload(loaded)], _FREED_S_MAX)
                with self._lock:
                    self._idle.append((device, worker))
            return self.start({**spec, "is_told": True}, device, is_own=False)
        finally:
            self._end_trial()

    def retire_own(self, worker: Worker) -> None:
        """End a worker whose own model is gone, or could not be loaded; a shared one stays."""
        with self._lock:
            if self._is_closing or worker not in self._own:
                return
            self._own.remove(worker)
        self._close(worker)

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            self._is_closing = True
        self._supervisor.close()
        for worker in self.workers:
            worker.hang_up()
        for worker in self.workers:
            self._close(worker)

    def _tried(
        self, spec: dict[str, Any], device: str, *, is_own: bool, command: Sequence[str]
    ) -> tuple[Worker, LoadedInstance]:
        """An instance that was loaded in a worker which holds nothing else, and that worker."""
        with self._lock:
            self._check_open()
            idle = next((e for e in self._idle if e[0] == device and not e[1].has_ended), None)
            if idle is None or is_own:
                worker = self._spawn(device, command, is_trial=True)
                self._own.append(worker)
            else:
                self._idle.remove(idle)
                worker = idle[1]
            loaded = worker.load({**spec, "device": device})
        try:
            loaded.found.result()
        except BaseException:
            self.retire_own(worker)
            raise
        return worker, loaded

    def _end_trial(self) -> None:
        """Let those workers go in which models were tried, once no other one is to be."""
        with self._lock:
            self._trials -= 1
            if self._trials:
                return
            leaving, self._idle = self._idle, []
        for _, worker in leaving:
            self.retire_own(worker)

    def _check_open(self) -> None:
        if self._is_closing:
            raise LoadFailed("the server is ending")

    def _workers_max(self, device: str) -> int:
        return self._cpu_workers_max if device == "cpu" else 1

    def _assign(self, device: str, *, is_own: bool, command: Sequence[str]) -> Worker:
        if is_own:
            worker = self._spawn(device, command)
            self._own.append(worker)
            return worker
        shared = self._shared[device]
        emptiest = min(shared, key=lambda worker: worker.instance_count, default=None)
        if emptiest is None or (
            emptiest.instance_count and len(shared) < self._workers_max(device)
        ):
            emptiest = self._spawn(device)
            shared.append(emptiest)
        return emptiest

    def _takes_in(self, worker: Worker, device: str) -> bool:
        """Share *worker* from now on, if there may be one more; it takes an empty one's place."""
        with self._lock:
            self._check_open()
            shared = self._shared[device]
            empty = next((one for one in shared if not one.instance_count), None)
            if empty is None and len(shared) >= self._workers_max(device):
                return False
            self._own.remove(worker)
            shared.append(worker)
            if empty is not None:
                shared.remove(empty)
        if empty is not None:
            self._close(empty)
        return True

    def _spawn(self, device: str, command: Sequence[str] = (), *, is_trial: bool = False) -> Worker:
        self._started += 1
        worker = Worker(
            f"{device}-{self._started}",
            self._spawner,
            self._completions,
            arena_bytes_max=self._arena_bytes_max,
            environment={
                **_gpu_order(),
                **_thread_limits(self.threads_per_call),
                **_offline(is_confined=self._confinement is not None),
                **_SILENT,
            },
            on_end=self._supervisor.note_end,
            is_trial=is_trial,
            command=command,
            confinement=self._confinement,
        )
        self._completions.follow(worker)
        worker.start()
        return worker

    def _close(self, worker: Worker) -> None:
        self._completions.unfollow(worker)
        worker.close()


def _gpu_order() -> dict[str, str]:
    """Environment that has CUDA number GPUs as the driver and nvidia-smi do, unless told else."""
    return {"CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")}


def _offline(*, is_confined: bool) -> dict[str, str]:
    """Environment that has libraries fetch nothing from hubs of models, unless told else.

    The operator tells by HF_HUB_OFFLINE, which all but the oldest of them obey.
    """
    return {} if "HF_HUB_OFFLINE" in os.environ and not is_confined else dict(OFFLINE)


def _thread_limits(threads: int) -> dict[str, str]:
    """Environment that keeps a framework's own thread pools from oversubscribing the cores."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {name: os.environ.get(name, str(threads)) for name in names}

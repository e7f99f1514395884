"""Loading: from a fetched model to one that answers, and back to nothing.

Runs on the caller's thread, which may wait for minutes.
"""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from headrace.datatypes import BYTES, DATATYPES
from headrace.signature import Signature

from ..completions import Completions
from ..granted import memory_of_host
from ..instances.bookings import Booking, Bookings
from ..instances.group import Instance, InstanceGroup, Slot
from ..instances.loaded import LoadedInstance
from ..instances.pool import WorkerPool
from ..instances.worker import Worker
from ..instrument import Instrument
from ..ragged import with_mask_optional
from ..scheduler.batcher import Batcher, Level, Limits
from ..scheduler.policy import POLICIES, Aims, Policy
from ..scheduler.scheduler import Scheduler
from ..scheduler.servicetimes import ServiceTimes
from ..settings import ModelSettings
from ..types import Batching
from .librarian import Fetched
from .model import ModelVersion, State
from .tried import Tried, trial_key

# Room for the outputs of a model whose outputs are not known, and for one BYTES element.
_OUT_BYTES_UNKNOWN = 64 * 1024
_ELEMENT_BYTES = 64

# How long a worker may take to free a model before nobody waits for it any more (seconds).
_FREED_S_MAX = 10.0

# The entry of MLmodel that names the weights, of flavors that write them as they are in memory.
_WEIGHTS = {"onnx": "data", "pytorch": "model_data"}

# How a model computes, for its adapter.
_TUNING = {"precision", "compile", "channels_last", "cuda_graphs", "providers"}

_log = structlog.get_logger("headrace")


class Loader:
    """Gives models their instances and queues, and takes them away.

    Attributes:
        schedulers: The queues of all models that have one; replaced as a whole.
    """

    def __init__(
        self,
        pool: WorkerPool,
        completions: Completions,
        *,
        device: str,
        bookings: Bookings,
        tried: Tried,
        on_change: Callable[[], None],
        on_signed: Callable[[ModelVersion], None],
    ) -> None:
        """Load into the workers of *pool*.

        Args:
            pool: Where instances go.
            completions: Follows the queues.
            device: For models that name none.
            bookings: Whether there is room on GPUs.
            tried: Remembers which models have been loaded without harm.
            on_change: Told whenever a model's readiness may have changed, on any thread.
            on_signed: Told when a model's signature is known, before the model is ready.
        """
        self.schedulers: tuple[Scheduler[Slot], ...] = ()
        self._pool = pool
        self._completions = completions
        self._device = device
        self._bookings = bookings
        # What instances of files, by their digest, were seen to need on a GPU.
        self._needs: dict[str, int] = {}
        self._tried = tried
        self._on_change = on_change
        self._on_signed = on_signed
        self._lock = threading.Lock()

    def start(self, model: ModelVersion, fetched: Fetched, command: Sequence[str] = ()) -> None:
        """Load *fetched* in workers, probe it and warm it up; then *model* is ready.

        Args:
            model: What becomes ready.
            fetched: Its files.
            command: What runs its workers; empty for our own Python.

        Raises:
            LoadFailed: It cannot be loaded; nothing of it is left.
        """
        settings = model.settings
        spec = {
            "name": model.name,
            "is_told": False,
            "flavor": fetched.flavor,
            "path": fetched.path,
            "config": fetched.config,
            "pyfunc": fetched.pyfunc,
            "signature": None if fetched.signature is None else fetched.signature.to_json(),
            "example": fetched.example,
            "method": settings.method,
            "exec_ms_max": settings.exec_ms_max,
            "load_s_max": settings.load_s_max,
            "load_bytes_max": settings.load_bytes_max or memory_of_host().left // 2,
            "threads": self._pool.threads_per_call,
            "tuning": settings.model_dump(include=_TUNING, exclude_defaults=True),
            "sizes": settings.row_sizes,
            "buckets": settings.bucket_by.model_dump(include={"axis", "sizes", "inputs"}),
            "batched": None if settings.batched == "auto" else settings.batched,
            "is_deterministic": settings.deterministic,
            "known": None,
            "is_only": settings.instances == 1 and not settings.device.count(","),
            "outputs": None,
        }
        # Modules that a model ships collide with another model's of the same name.
        is_own = settings.worker == "own" or bool(fetched.pyfunc.get("code")) or bool(command)
        # torch has one switch for TF32 in a process.
        is_own |= settings.precision == "tf32"
        booking = self._bookings.book(
            settings.device or self._device,
            fetched.flavor,
            settings.instances,
            self._needs.get(fetched.digest) or _weights_bytes(fetched),
        )
        spec |= {"may_use_cpu": booking.is_choice, "gpu_bytes_max": booking.trial_bytes_max}
        started: list[tuple[Worker, LoadedInstance]] = []
        try:
            for device in booking.devices:
                key = trial_key(fetched.digest, spec, device, command)
                spec["known"] = self._tried.known(key)
                may_harm = settings.trial and not fetched.is_data
                is_trial = may_harm and not started and not self._tried.has(key)
                start = self._pool.try_out if is_trial else self._pool.start
                # One by one: of those that began before another could not, none may be forgotten.
                started.append(start(spec, device, is_own=is_own, command=command))
                if is_trial:
                    self._tried.note(key)
                if len(started) == 1 and (booking.is_on_gpus or len(booking.devices) > 1):
                    # What the first one answers all do: one proof may see more than another.
                    spec["outputs"] = started[0][1].found.result()["outputs"]
                    if booking.is_on_gpus:
                        # What it took tells whether the others fit.
                        self._bookings.measure(booking, 1)
            reports = [loaded.found.result() for _, loaded in started]
            found = reports[0]
            declared = found["signature"]
            signature = with_mask_optional(
                settings.bucket_by, None if declared is None else Signature.from_json(declared)
            )
        except BaseException:
            for worker, loaded in started:
                worker.unload(loaded)
                self._pool.retire_own(worker)
            self._bookings.release(booking)
            raise
        model.signature = signature
        model.batching = Batching(found["verdict"], found["why"])
        model.device = ", ".join(dict.fromkeys(report["device"] for report in reports))
        model.note = "; ".join(found["notes"])
        model.warm_s = found["warm_s"]
        model.memory_bytes = found["memory_bytes"]
        self._settle(model, fetched, booking)
        self._on_signed(model)
        self._attach(
            model, started, key, rows_max=found["rows_max"], rows_proven=found["rows_proven"]
        )

    def retire(self, model: ModelVersion, drain_s_max: float) -> bool:
        """Answer what *model* has accepted, then free all that it holds, if anything.

        What a model that hangs still holds is freed when it comes back.

        Returns:
            Whether all requests were answered within *drain_s_max*.
        """
        scheduler, group = model.queue, model.group
        if scheduler is None or group is None:
            return True
        is_clean = scheduler.close(drain_s_max)
        self._completions.unfollow(scheduler)
        with self._lock:
            self.schedulers = tuple(one for one in self.schedulers if one is not scheduler)
        leaving = []
        for instance in group.instances:
            # No cycle must keep it: what lived at start-up is never looked at by the collector.
            instance.loaded.on_change = instance.loaded.on_fail = instance.loaded.on_find = None
            leaving.append(instance.worker.unload(instance.loaded))
            scheduler.on_instances_change(partial(group.drop, instance))
        for worker in group.workers:
            self._pool.retire_own(worker)
        if model.booking is not None:
            self._bookings.release(model.booking)
        model.detach()
        if wait(leaving, _FREED_S_MAX).not_done:
            _log.warning("model_not_freed", model=model.name, version=model.version)
        return is_clean

    def _settle(self, model: ModelVersion, fetched: Fetched, booking: Booking) -> None:
        """Keep what *model*, which is loaded, needs on its GPUs."""
        if model.device == "cpu":
            self._bookings.release(booking)
            return
        self._bookings.settle(booking)
        self._needs[fetched.digest] = booking.each_bytes
        model.booking = booking

    def _attach(
        self,
        model: ModelVersion,
        started: Sequence[tuple[Worker, LoadedInstance]],
        key: str,
        *,
        rows_max: int,
        rows_proven: int,
    ) -> None:
        settings = model.settings
        rows_max = rows_max or settings.batch_rows_max
        out_bytes = _out_bytes(model.signature, rows_max)
        instances = [
            Instance(worker, loaded, settings.slots, out_bytes) for worker, loaded in started
        ]
        group = InstanceGroup((model.name, model.version), instances, settings.row_sizes)
        limits = Limits(
            rows_max,
            settings.queue_rows_max,
            settings.queue_bytes_max,
            is_whole=not model.is_batched,
            cut_rows_max=rows_proven,
            levels=_levels(settings),
            predicts=settings.admission == "deadline",
        )
        times = ServiceTimes()
        scheduler: Scheduler[Slot] = Scheduler(
            Batcher(limits, _policy(settings, times), times),
            group,
            Instrument(),
            is_deterministic=settings.deterministic,
            expect=self._completions.expect,
        )
        for instance in instances:
            self._follow(model, instance, group, scheduler)
            self._heed(model, instance.loaded, scheduler, key)
        # A worker may have gone before anyone listened.
        scheduler.on_instances_change(group.sync)
        model.attach(scheduler, group)
        with self._lock:
            self.schedulers = (*self.schedulers, scheduler)
        self._completions.follow(scheduler)

    def _follow(
        self,
        model: ModelVersion,
        instance: Instance,
        group: InstanceGroup,
        scheduler: Scheduler[Slot],
    ) -> None:
        """Have the scheduler know when the instance's worker goes and comes back, or does not."""

        def on_change(_loaded: LoadedInstance) -> None:
            scheduler.on_instances_change(lambda: group.mark(instance))
            self._on_change()

        def on_fail(why: str) -> None:
            scheduler.on_instances_change(lambda: group.drop(instance))
            if not group.instances:
                model.reason, model.state = why, State.FAILED
                self._completions.unfollow(scheduler)
                scheduler.close(0.0)
            self._on_change()

        instance.loaded.on_change = on_change
        instance.loaded.on_fail = on_fail

    def _heed(
        self, model: ModelVersion, loaded: LoadedInstance, scheduler: Scheduler[Slot], key: str
    ) -> None:
        """Batch *model*, or no longer, once its traffic has shown what it is."""

        def on_find(found: Batching, outputs: list[Any]) -> None:
            if not model.heed(found):
                return
            tell = _log.info if model.is_batched else _log.warning
            tell(
                "batching_found",
                model=model.name,
                version=model.version,
                verdict=found.verdict,
                why=found.why,
            )
            scheduler.run_whole(not model.is_batched)
            self._on_change()
            # Not on this thread, which all answers pass through.
            keep = partial(self._tried.keep, key, found, outputs)
            threading.Thread(target=keep, name="finding", daemon=True).start()

        loaded.on_find = on_find


def _weights_bytes(fetched: Fetched) -> int:
    """The size of the model's weights in its files; 0 where they hold other things too."""
    entry = _WEIGHTS.get(fetched.flavor)
    name = None if entry is None else fetched.config.get(entry)
    if not name:
        return 0
    data = Path(fetched.path) / name
    files = data.rglob("*") if data.is_dir() else (data,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _levels(settings: ModelSettings) -> tuple[Level, ...]:
    """The priorities, highest first; lists that say nothing are as long as there are levels."""
    count = settings.priority_levels
    return tuple(
        Level(rows, timeout_us / 1e6 if timeout_us else math.inf, action == "delay")
        for rows, timeout_us, action in zip(
            settings.priority_queue_rows_max or (0,) * count,
            settings.priority_timeout_us or (0,) * count,
            settings.priority_timeout_action or ("reject",) * count,
            strict=True,
        )
    )


def _policy(settings: ModelSettings, times: ServiceTimes) -> Policy:
    """The policy that *settings* name, or mean."""
    is_delaying = settings.queue_delay_us_max or settings.rows_preferred
    name = settings.policy or ("delay" if is_delaying else "greedy")
    aims = Aims(
        delay_s=settings.queue_delay_us_max / 1e6,
        rows_preferred=settings.rows_preferred,
        p99_s=settings.p99_ms_max / 1e3,
    )
    return POLICIES[name](aims, times)


def _out_bytes(signature: Signature | None, rows_max: int) -> int:
    """Room for the outputs of a full batch; what turns out larger grows once it was seen."""
    if signature is None or not signature.outputs:
        return _OUT_BYTES_UNKNOWN
    total = 0
    for spec in signature.outputs:
        datatype = DATATYPES[spec.datatype]
        elements = rows_max
        for size in spec.shape[1:]:
            elements *= max(size, 1)
        size_each = _ELEMENT_BYTES if datatype is BYTES else datatype.itemsize
        total += elements * max(size_each, 8) + 64
    return total

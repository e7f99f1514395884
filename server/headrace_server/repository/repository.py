"""Repository: the models this daemon holds, by name and version, and how they come and go.

Loading runs on the caller's thread and may take minutes; looking up is a dict access on any thread.
The tables are replaced as a whole, never changed in place, so that readers need no lock.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from headrace.datatypes import BYTES, DATATYPES
from headrace.signature import Signature

from ..completions import Completions
from ..errors import HeadraceError, InvalidRequest, LoadFailed, ModelNotFound
from ..instances.group import Instance, InstanceGroup, Slot
from ..instances.pool import WorkerPool
from ..instances.worker import LoadedInstance, Worker
from ..instrument import Instrument
from ..scheduler.batcher import Batcher, Limits
from ..scheduler.policy import DelayPolicy
from ..scheduler.scheduler import Scheduler
from ..settings import ModelSettings, split_model
from .librarian import Fetched, Librarian, Progress, Resolved
from .model import ModelVersion, State

# Room for the outputs of a model whose outputs are not known, and for one BYTES element.
_OUT_BYTES_UNKNOWN = 64 * 1024
_ELEMENT_BYTES = 64

_VERSION = re.compile(r"[0-9]{1,18}")
_ALIAS = re.compile(r"@[^@/\s]{1,255}")

_log = structlog.get_logger("headrace")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model to serve: what `[NAME=]URI` resolved to.

    Attributes:
        name: Served name.
        uri: As given.
        resolved: What it stands for.
    """

    name: str
    uri: str
    resolved: Resolved


class Repository:
    """Served models. Reading is safe from any thread, loading from all but the completions one."""

    def __init__(
        self,
        librarian: Librarian,
        pool: WorkerPool,
        completions: Completions,
        *,
        settings_of: Callable[[str, Mapping[str, str]], ModelSettings],
        device: str,
        is_strict: bool = False,
    ) -> None:
        """Hold nothing yet.

        Args:
            librarian: Who knows the registry.
            pool: The workers.
            completions: Who takes the workers' answers.
            settings_of: The settings of a served name whose version bears these tags.
            device: Where models compute that name no device.
            is_strict: Whether readiness demands every start-up model.
        """
        self.generation = 0
        self._librarian = librarian
        self._pool = pool
        self._completions = completions
        self._settings_of = settings_of
        self._device = device
        self._is_strict = is_strict
        self._demanded: frozenset[str] = frozenset()
        # Served name -> version -> model; the name's default version stands under "".
        self._models: dict[str, dict[str, ModelVersion]] = {}
        self._schedulers: tuple[Scheduler[Slot], ...] = ()
        self._lock = threading.Lock()
        self._ready_watchers: list[Callable[[], None]] = []

    @property
    def models(self) -> list[ModelVersion]:
        """Every version held, in order of name and version."""
        return [
            model
            for _, versions in sorted(self._models.items())
            for version, model in sorted(versions.items())
            if version
        ]

    @property
    def queued_bytes(self) -> int:
        """Bytes of tensors that wait in all queues."""
        return sum(scheduler.queued_bytes for scheduler in self._schedulers)

    @property
    def is_ready(self) -> bool:
        """Whether no model is loading, and one is ready; if strict, every start-up model."""
        if self._is_strict and not all(self._is_name_ready(name) for name in self._demanded):
            return False
        models = self.models
        return all(model.state is not State.LOADING for model in models) and any(
            model.is_ready for model in models
        )

    def demand(self, names: Iterable[str]) -> None:
        """Name the start-up models, which a strict readiness waits for."""
        self._demanded = frozenset(names)

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call *watcher* whenever readiness of a model may have changed, on any thread."""
        self._ready_watchers.append(watcher)

    def find(self, name: str, version: str = "") -> ModelVersion:
        """The version of *name* that *version* means: "" the default, "3" that one, "@x" an alias.

        Raises:
            ModelNotFound: Nothing of that name, number or alias is served.
            InvalidRequest: *version* has another form.
        """
        versions = self._models.get(name)
        if versions is None:
            served = ", ".join(sorted(self._models)) or "none"
            raise ModelNotFound(f"model {name[:128]!r} is not served; served are: {served}")
        found = versions.get(version)
        if found is not None:
            return found
        if _ALIAS.fullmatch(version):
            for model in versions.values():
                if model.followed == version[1:]:
                    return model
        elif not _VERSION.fullmatch(version):
            raise InvalidRequest(
                f"version {version[:128]!r} of model {name!r}: expected a number, @alias or nothing"
            )
        served = ", ".join(sorted(v for v in versions if v))
        raise ModelNotFound(
            f"version {version[:128]!r} of model {name!r} is not served; served are: {served}"
        )

    def resolve(self, models: Sequence[str]) -> list[Wanted]:
        """What to serve for `[NAME=]URI` arguments; for none, every registered model.

        Raises:
            HeadraceError: A URI stands for nothing, or two models claim one name.
        """
        wanted: dict[str, Wanted] = {}
        for item in models or self._librarian.list_models():
            given, uri = split_model(item)
            resolved = self._librarian.resolve(uri)
            name = given or resolved.name
            if name in wanted:
                raise InvalidRequest(
                    f"{wanted[name].uri} and {uri} would both be served as {name!r}: "
                    f"name one of them, as in other={uri}"
                )
            wanted[name] = Wanted(name, uri, resolved)
        return list(wanted.values())

    def announce(self, wanted: Wanted) -> ModelVersion:
        """Enter *wanted* into the tables as loading, before anything slow happens."""
        model = ModelVersion(
            wanted.name,
            wanted.resolved.version,
            wanted.uri,
            wanted.resolved.followed,
            self._settings_of(wanted.name, wanted.resolved.tags),
        )
        with self._lock:
            versions = {**self._models.get(model.name, {}), model.version: model, "": model}
            self._models = {**self._models, model.name: versions}
        self._changed()
        return model

    def load(self, model: ModelVersion, source: str, progress: Progress | None = None) -> None:
        """Fetch, start, probe and warm up *model*; then it is ready, or failed with a reason."""
        began = time.monotonic()
        try:
            fetched = self._librarian.fetch(source, progress)
            model.flavor = fetched.flavor
            self._start(model, fetched)
        except Exception as error:  # noqa: BLE001 - no descriptor or memory left: told like the rest.
            if not isinstance(error, HeadraceError):
                _log.exception("load_failed", model=model.name)
                error = LoadFailed(f"it could not be started: {type(error).__name__}: {error}")
            model.reason = error.message
            model.state = State.FAILED
            _log.error("model_failed", model=model.name, version=model.version, why=model.reason)
        else:
            _log.info(
                "model_ready",
                model=model.name,
                version=model.version,
                flavor=model.flavor,
                device=model.device,
                workers=model.worker_names,
                batched=model.is_batchable,
                note=model.note,
                seconds=round(time.monotonic() - began, 3),
            )
        self._changed()

    def close(self, drain_s_max: float) -> bool:
        """Drain every model; whether all requests were answered."""
        ready = [model for model in self.models if model.state is State.READY]
        until = time.monotonic() + drain_s_max
        is_clean = True
        for model in ready:
            scheduler = model.scheduler
            model.state = State.DRAINING
            is_clean &= scheduler.close(max(until - time.monotonic(), 0.0))
            self._completions.unfollow(scheduler)
        return is_clean

    def _is_name_ready(self, name: str) -> bool:
        model = self._models.get(name, {}).get("")
        return model is not None and model.is_ready

    def _start(self, model: ModelVersion, fetched: Fetched) -> None:
        settings = model.settings
        device = settings.device or self._device
        spec = {
            "name": model.name,
            "flavor": fetched.flavor,
            "path": fetched.path,
            "config": fetched.config,
            "pyfunc": fetched.pyfunc,
            "signature": None if fetched.signature is None else fetched.signature.to_json(),
            "example": fetched.example,
            "method": settings.method,
            "exec_ms_max": settings.exec_ms_max,
            "device": device,
            "threads": self._pool.threads_per_call,
        }
        # Modules that a model ships collide with another model's of the same name.
        is_own = settings.worker == "own" or bool(fetched.pyfunc.get("code"))
        started = [self._pool.start(spec, device, is_own=is_own) for _ in range(settings.instances)]
        try:
            reports = [loaded.found.result() for _, loaded in started]
        except HeadraceError:
            for worker, loaded in started:
                worker.unload(loaded)
                self._pool.retire_own(worker)
            raise
        found = reports[0]
        signature = found["signature"]
        model.signature = None if signature is None else Signature.from_json(signature)
        model.is_batchable = found["batchable"]
        model.device = found["device"]
        model.note = found["why"]
        self._attach(model, started, splits=found["splits"])

    def _attach(
        self,
        model: ModelVersion,
        started: Sequence[tuple[Worker, LoadedInstance]],
        *,
        splits: bool,
    ) -> None:
        settings = model.settings
        rows_max = settings.rows_max if model.is_batchable else 1
        out_bytes = _out_bytes(model.signature, rows_max)
        instances = [
            Instance(worker, loaded, settings.slots, out_bytes) for worker, loaded in started
        ]
        group = InstanceGroup((model.name, model.version), instances)
        limits = Limits(
            rows_max,
            settings.queue_rows_max,
            settings.queue_bytes_max,
            splits=splits,
        )
        scheduler: Scheduler[Slot] = Scheduler(
            Batcher(limits, DelayPolicy(settings.queue_delay_us_max / 1e6)),
            group,
            Instrument(),
            is_deterministic=settings.deterministic,
            expect=self._completions.expect,
        )
        for instance in instances:
            self._follow(model, instance, group, scheduler)
        # A worker may have gone before anyone listened.
        scheduler.on_instances_change(group.sync)
        model.attach(scheduler, group)
        with self._lock:
            self._schedulers = (*self._schedulers, scheduler)
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
            self._changed()

        def on_fail(why: str) -> None:
            group.drop(instance)
            if not group.instances:
                model.reason, model.state = why, State.FAILED
                self._completions.unfollow(scheduler)
                scheduler.close(0.0)
            self._changed()

        instance.loaded.on_change = on_change
        instance.loaded.on_fail = on_fail

    def _changed(self) -> None:
        with self._lock:
            self.generation += 1
        for watcher in self._ready_watchers:
            watcher()


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

"""Repository: the models this daemon holds, by name and version, and how they come and go.

Looking up is a dict access on any thread. What is slow takes its turn on a loader thread, one after
another for one name (turns.py): it may take minutes, and nobody else waits for it. The tables are
replaced as a whole, never changed in place, so that readers need no lock.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future

import structlog

from ..completions import Completions
from ..errors import (
    SERVER_ENDS,
    HeadraceError,
    InvalidRequest,
    LoadFailed,
    ModelLoading,
    ModelNotFound,
    RegistryUnavailable,
    without_paths,
)
from ..instances.bookings import Bookings
from ..instances.pool import WorkerPool
from ..settings import ModelSettings
from .librarian import Librarian, Progress
from .loading import Loader
from .model import ModelVersion, State
from .pauses import when
from .preparing import Preparing
from .retries import Retries
from .tried import Tried
from .turns import Turn, Turns
from .wanted import Wanted, WantedAtStart, wanted_as

# Models that are fetched and started at the same time.
_LOADS_AT_ONCE = 4
# Of these, what is tried again by itself: a load that is asked for must not wait for all that.
_RETRIES_AT_ONCE = 3
# A request may have been planned for a version just before its name moved on to the next: the old
# one takes requests for so long still (seconds). Between plan and queue lies no more than a burst.
_LATE_S = 1.0

_VERSION = re.compile(r"[0-9]{1,18}")
_ALIAS = re.compile(r"@[^@/\s]{1,255}")

_log = structlog.get_logger("headrace")


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
        tried: Tried,
        bookings: Bookings | None = None,
        drain_s: float = 30.0,
        is_strict: bool = False,
        writes_tags: bool = False,
    ) -> None:
        """Hold no models yet.

        Args:
            librarian: Tells what URIs stand for, and fetches it.
            pool: Where instances go.
            completions: Follows the queues.
            settings_of: The settings of a served name whose version bears these tags.
            device: For models that name none.
            tried: Remembers which models have been loaded without harm.
            bookings: Whether there is room on GPUs; None where none are known.
            drain_s: How long accepted requests of a version that goes may take (seconds).
            is_strict: Whether readiness demands every start-up model.
            writes_tags: Whether field numbers of typed services are kept in the registry.
        """
        self.generation = 0
        self._librarian = librarian
        self._settings_of = settings_of
        self._drain_s = drain_s
        self._is_strict = is_strict
        self._demanded: frozenset[str] = frozenset()
        self._preparing = Preparing(librarian, writes_tags=writes_tags)
        self._loader = Loader(
            pool,
            completions,
            device=device,
            tried=tried,
            bookings=bookings or Bookings(),
            on_change=self._changed,
            on_signed=self._preparing.number_fields,
        )
        self._turns = Turns(_LOADS_AT_ONCE)
        self._retries = Retries(
            completions,
            lambda model, source: self._turns.take(
                model.name, lambda _: self._try_again(model, source)
            ),
            at_once=_RETRIES_AT_ONCE,
        )
        # The versions of each name that was ever served; the first is what the name stands for.
        self._models: dict[str, tuple[ModelVersion, ...]] = {}
        # Start-up models that are neither ready nor failed.
        self._awaited: set[ModelVersion] = set()
        # Why the start-up models are not known yet, and when the registry is asked again (seconds,
        # monotonic clock).
        self._unknown: tuple[str, float] | None = None
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._ready_watchers: list[Callable[[], None]] = []

    @property
    def models(self) -> list[ModelVersion]:
        """Every version held, in order of name and version."""
        return [
            model
            for _, versions in sorted(self._models.items())
            for model in sorted(versions, key=lambda model: int(model.version))
        ]

    @property
    def served(self) -> list[ModelVersion]:
        """What each name stands for, in order of names."""
        return [versions[0] for _, versions in sorted(self._models.items())]

    @property
    def queued_bytes(self) -> int:
        """Bytes of tensors that wait in all queues."""
        return sum(scheduler.queued_bytes for scheduler in self._loader.schedulers)

    @property
    def is_ready(self) -> bool:
        """Whether a model is ready and no start-up model is on its way; if strict, all of these."""
        if self._awaited or self._unknown is not None:
            return False
        ready = {model.name for model in self.served if model.is_ready}
        return bool(ready) and not (self._is_strict and self._demanded - ready)

    def demand(self, names: Iterable[str]) -> None:
        """Name the start-up models, which a strict readiness waits for."""
        self._demanded = frozenset(names)
        self._unknown = None
        self._changed()

    def await_registry(self, why: str, next_try_at: float) -> None:
        """The start-up models are not known yet; callers are told so until they are demanded.

        Args:
            why: What keeps the registry from answering.
            next_try_at: When it is asked again (seconds, monotonic clock).
        """
        self._unknown = (without_paths(why), next_try_at)
        self._changed()

    def check_known(self) -> None:
        """Tell a caller where no more is known of what is to be served than that it is not known.

        Raises:
            ModelLoading: Neither the registry nor an operator has said yet what it is.
        """
        if self._unknown is not None and not self._models:
            raise self._not_known(*self._unknown)

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call *watcher* whenever readiness of a model may have changed, on any thread."""
        self._ready_watchers.append(watcher)

    def find(self, name: str, version: str = "") -> ModelVersion:
        """The version of *name* that *version* means: "" the default, "3" that one, "@x" an alias.

        Raises:
            ModelNotFound: Nothing of that name, number or alias is served.
            ModelLoading: It is not known yet what is.
            InvalidRequest: *version* has another form.
        """
        versions = self._models.get(name)
        if versions is None:
            raise self._not_served(name)
        if not version:
            return versions[0]
        if _ALIAS.fullmatch(version):
            found = [model for model in versions if model.followed == version[1:]]
        elif _VERSION.fullmatch(version):
            found = [model for model in versions if model.version == version]
        else:
            raise InvalidRequest(
                f"version {version[:128]!r} of model {name!r}: expected a number, @alias or nothing"
            )
        if not found:
            held = ", ".join(model.version for model in versions)
            raise ModelNotFound(
                f"version {version[:128]!r} of model {name!r} is not served; served are: {held}"
            )
        # The one that the name stands for goes before one that comes or goes.
        return found[0]

    def wanted(self, models: Sequence[str]) -> WantedAtStart:
        """What to serve for `[NAME=]URI` arguments; for none, every registered model."""
        return WantedAtStart(self._librarian, models)

    def announce(self, wanted: Wanted) -> ModelVersion | None:
        """Enter a start-up model as loading, before anything slow happens.

        None where its name was loaded already, as it can be once calls are taken: that counts.
        """
        model = self._new(wanted)
        with self._lock:
            if model.name in self._models:
                return None
            self._awaited.add(model)
            self._models = {**self._models, model.name: (model,)}
        self._changed()
        return model

    def load(self, model: ModelVersion, source: str, progress: Progress | None = None) -> None:
        """Fetch, start, probe and warm up *model*; then it is ready, or failed with a reason.

        Where its registry does not answer it waits, and is tried again.
        """
        if self._models[model.name][0] is model:
            self._bring_up(model, source, progress)
        else:  # What was asked for meanwhile counts.
            self._settle(model)

    def begin(self, model: ModelVersion, source: str) -> Future[None]:
        """Have *model*, which was announced, loaded; the future is done when that has ended."""
        return self._turns.take(model.name, lambda _: self.load(model, source))

    def begin_load(self, name: str, uri: str = "") -> Future[None]:
        """Have *name* serve what *uri* stands for now.

        Without *uri* that is the one it was loaded from; for a name that is not held, the
        registered model of that name, by the alias champion, else by its latest version. Where
        that is what it serves already, nothing happens. The future is done when the model is
        ready. Until then, and where it cannot be loaded, the name serves what it did.

        The future raises:
            InvalidRequest: *name* or *uri* can never be served.
            ModelNotFound: There is no such model.
            LoadFailed, RegistryDenied: It cannot be loaded.
            RegistryUnavailable: The registry does not answer. Where nothing is served by that name,
                but it is known what is to be, that is tried again.
            Draining: The server ends.
        """
        return self._turns.take(name, lambda turn: self._load_anew(name, uri, turn))

    def begin_unload(self, name: str) -> Future[None]:
        """Have *name* answer what it has accepted and free all it holds; then the future is done.

        The future raises:
            ModelNotFound: No model of that name is held.
            Draining: The server ends.
        """
        return self._turns.take(name, lambda _: self._unload(name))

    def close(self, drain_s_max: float) -> bool:
        """Drain every model; whether all requests were answered."""
        self._is_closing.set()
        self._retries.close()
        self._turns.close()
        until = time.monotonic() + drain_s_max
        is_clean = True
        for model in self.models:
            queue = model.queue
            if queue is not None and model.state in (State.READY, State.DRAINING):
                model.state = State.DRAINING
                left_s = max(until - time.monotonic(), 0.0)
                is_clean &= queue.close(left_s, refusal=SERVER_ENDS)
        return is_clean

    # In a name's turn.

    def _load_anew(self, name: str, uri: str, turn: Turn) -> None:
        held = self._models.get(name, ())
        current = held[0] if held else None
        serving = current if current is not None and current.state is State.READY else None
        try:
            wanted = wanted_as(self._librarian, name, uri or (current.uri if current else ""))
            if serving is not None and self._is_same(serving, wanted):
                serving.uri, serving.followed = wanted.uri, wanted.resolved.followed
                serving.reason = ""
                self._enter(serving)
                return
        except HeadraceError as error:
            if serving is not None:
                serving.reason = f"the last load failed: {without_paths(error.message)}"
            _log.error("load_failed", model=name, why=error.message)
            raise
        model = self._new(wanted)
        self._enter(*((model,) if serving is None else (serving, model)))
        if current is not None and serving is None:
            self._retries.forget(current)
            self._loader.retire(current, 0.0)
        failure = self._bring_up(model, wanted.resolved.source)
        if isinstance(failure, LoadFailed):
            raise LoadFailed(
                f"model {name!r} version {model.version} failed to load: {failure.message}"
            )
        if failure is not None:
            raise failure
        if serving is not None:
            self._enter(model, serving)
            turn.answer()
            self._retire(serving, late_s=_LATE_S)
            self._enter(model)

    def _is_same(self, serving: ModelVersion, wanted: Wanted) -> bool:
        """Whether *wanted* is what is served; a directory's files may have changed since."""
        if not serving.is_ready or serving.version != wanted.resolved.version:
            return False
        fetched = self._librarian.fetch(wanted.resolved.source)
        settings = self._settings_of(wanted.name, wanted.resolved.tags)
        return fetched.digest == serving.digest and settings == serving.settings

    def _try_again(self, model: ModelVersion, source: str) -> None:
        # What was asked for meanwhile counts.
        if self._models[model.name][0] is model and model.state is State.WAITING:
            model.state = State.LOADING
            self._changed()
            self._bring_up(model, source)

    def _bring_up(
        self, model: ModelVersion, source: str, progress: Progress | None = None
    ) -> HeadraceError | None:
        """Fetch and start *model*; why it failed, or None when it is ready."""
        began = time.monotonic()
        failure: HeadraceError | None = None
        try:
            fetched = self._librarian.fetch(source, progress)
            self._retries.note_fetched(model)
            model.flavor, model.digest = fetched.flavor, fetched.digest
            model.declared = fetched.signature
            model.reason = ""
            self._loader.start(model, fetched, self._preparing.command(model, fetched))
        except Exception as error:  # noqa: BLE001 - no descriptor or memory left: told like the rest.
            if not isinstance(error, HeadraceError):
                _log.exception("load_failed", model=model.name)
                error = LoadFailed(f"it could not be started: {type(error).__name__}: {error}")
            failure = error
            self._give_up(model, source, failure)
        else:
            self._retries.forget(model)
            _log.info(
                "model_ready",
                model=model.name,
                version=model.version,
                flavor=model.flavor,
                device=model.device,
                workers=model.worker_names,
                batching=model.batching.verdict,
                why=model.batching.why,
                note=model.note,
                warm_s=round(model.warm_s, 3),
                seconds=round(time.monotonic() - began, 3),
            )
        self._settle(model)
        return failure

    def _give_up(self, model: ModelVersion, source: str, failure: HeadraceError) -> None:
        """Have *model* be failed, or wait where the cause may pass and nothing else is served."""
        model.reason = without_paths(failure.message)
        told = {"model": model.name, "version": model.version, "why": failure.message}
        may_pass = isinstance(failure, RegistryUnavailable)
        if may_pass and self._models[model.name][0] is model:
            pause_s = self._retries.put_off(model, source)
            if pause_s is not None:
                model.state = State.WAITING
                _log.error("model_failed", **told, retry_s=round(pause_s, 3))
                return
        self._retries.forget(model)
        model.state = State.FAILED
        _log.error("model_failed", **told)

    def _settle(self, model: ModelVersion) -> None:
        """*model* keeps the server from being ready no longer."""
        with self._lock:
            self._awaited.discard(model)
        self._changed()

    def _unload(self, name: str) -> None:
        if name not in self._models:
            raise self._not_served(name)
        current = self._models[name][0]
        if current.state is State.UNLOADED:
            return
        self._retries.forget(current)
        self._enter(current)
        self._retire(current)
        current.reason = "unloaded"
        current.state = State.UNLOADED
        self._changed()

    def _retire(self, model: ModelVersion, *, late_s: float = 0.0) -> None:
        """Let *model* end: what it has accepted is answered, then all that it holds is freed.

        It goes on accepting what was planned for it before, for *late_s* seconds.
        """
        began = time.monotonic()
        if model.state is State.READY:
            model.state = State.DRAINING
            self._changed()
            self._is_closing.wait(late_s)
        is_clean = self._loader.retire(model, self._drain_s)
        _log.info(
            "model_unloaded",
            model=model.name,
            version=model.version,
            all_answered=is_clean,
            seconds=round(time.monotonic() - began, 3),
        )

    # The tables.

    def _new(self, wanted: Wanted) -> ModelVersion:
        return ModelVersion(
            wanted.name,
            wanted.resolved.version,
            wanted.uri,
            wanted.resolved.followed,
            self._settings_of(wanted.name, wanted.resolved.tags),
            registered=wanted.resolved.registered,
        )

    def _enter(self, *versions: ModelVersion) -> None:
        """These are the versions of their name from now on; the first is what it stands for."""
        with self._lock:
            self._models = {**self._models, versions[0].name: versions}
        self._changed()

    def _not_served(self, name: str) -> HeadraceError:
        if self._unknown is not None:
            return self._not_known(*self._unknown)
        served = ", ".join(sorted(self._models)) or "none"
        return ModelNotFound(f"model {name[:128]!r} is not served; served are: {served}")

    def _not_known(self, why: str, next_try_at: float) -> ModelLoading:
        return ModelLoading(
            f"it is not known yet what is to be served: {why}; it is asked again "
            f"{when(next_try_at)}"
        )

    def _changed(self) -> None:
        with self._lock:
            self.generation += 1
        for watcher in self._ready_watchers:
            watcher()

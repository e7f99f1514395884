"""Model: one loaded version of a served model, and the state it is in."""

import enum
import math
import threading
from dataclasses import dataclass, field

from headrace.signature import Signature
from headrace.typed import FieldNumbers

from ..errors import Draining, HeadraceError, ModelLoading, ModelUnavailable
from ..instances.bookings import Booking
from ..instances.group import InstanceGroup, Slot
from ..scheduler.scheduler import Scheduler
from ..settings import ModelSettings
from ..types import Batching, BatchKey, InputLayout
from .pauses import when

# Batch keys remembered per version; a caller that sends ever new shapes must not fill the memory.
_KEYS_MAX = 4096
# Bytes of parameters in them.
_KEYS_BYTES_MAX = 16 * 1024 * 1024


class State(enum.Enum):
    """Where a version is in its life; it waits while its registry does not answer."""

    LOADING = "loading"
    WAITING = "waiting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    UNLOADED = "unloaded"


# Before it is loaded: nobody can ask it.
_NOT_YET = Batching("unproven", "")

_SHOWN = {
    State.LOADING: "LOADING",
    State.WAITING: "UNAVAILABLE",
    State.READY: "READY",
    State.DRAINING: "UNLOADING",
    State.FAILED: "UNAVAILABLE",
    State.UNLOADED: "UNAVAILABLE",
}


@dataclass(slots=True, eq=False)
class ModelVersion:
    """One version of a served model. The repository alone changes its state.

    Attributes:
        name: Served name.
        version: Decimal number as text.
        uri: What was asked for.
        followed: The alias, or "latest", by which the version was chosen; else empty.
        settings: How it is served.
        state: Where it is in its life.
        reason: Why it failed or waits, or why the last load left it as it is.
        next_try_at: When it is fetched again while it waits (seconds, monotonic clock).
        digest: SHA-256 over its files; empty until they are there.
        flavor: MLflow's flavor key.
        device: Where it computes.
        signature: Effective inputs and outputs; None for a model that accepts what comes.
        declared: The signature that it was logged with, or None.
        registered: The registered model that it is a version of; empty for none.
        fields: The field numbers of its typed service, those of earlier versions among them.
        batching: Whether its requests share batches, and why.
        note: What of its settings does not apply.
        warm_s: How long running every allowed size took at load (seconds).
        memory_bytes: By how much the process of its first instance grew over the load.
        booking: What it was promised on GPUs; None before it was loaded and after it was unloaded.
    """

    name: str
    version: str
    uri: str
    followed: str
    settings: ModelSettings
    state: State = State.LOADING
    reason: str = ""
    next_try_at: float = math.inf
    digest: str = ""
    flavor: str = ""
    device: str = ""
    signature: Signature | None = None
    declared: Signature | None = None
    registered: str = ""
    fields: FieldNumbers = field(default_factory=FieldNumbers)
    batching: Batching = _NOT_YET
    note: str = ""
    warm_s: float = 0.0
    memory_bytes: int = 0
    booking: Booking | None = None
    group: InstanceGroup | None = None
    _scheduler: Scheduler[Slot] | None = None
    _keys: dict[object, BatchKey] = field(default_factory=dict)
    _keys_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_ready(self) -> bool:
        """Whether a request would be run now: loaded, with an instance that is up and stays so."""
        return self.state is State.READY and self.group is not None and self.group.is_ready

    @property
    def is_batched(self) -> bool:
        """Whether its requests share batches."""
        return self.batching.verdict == "batched"

    def heed(self, found: Batching) -> bool:
        """Take in what traffic has shown; whether it is news: a model that is whole stays so."""
        with self._lock:
            is_news = self.batching.verdict not in {"whole", found.verdict}
            if is_news:
                self.batching = found
            return is_news

    @property
    def shown_state(self) -> str:
        """Its state for the repository index: one that cannot run requests now is unavailable."""
        if self.state is State.READY and not self.is_ready:
            return _SHOWN[State.FAILED]
        return _SHOWN[self.state]

    @property
    def trouble(self) -> str:
        """Why it cannot run requests, or is not what was asked for last; else empty."""
        if self.state is State.READY and self.group is not None:
            return self.group.trouble or self.reason
        if self.state is State.WAITING:
            return f"{self.reason}; it is tried again {when(self.next_try_at)}"
        return self.reason

    @property
    def worker_names(self) -> list[str]:
        """The workers that hold its instances, each once."""
        instances = self.group.instances if self.group is not None else ()
        return list(dict.fromkeys(instance.worker.name for instance in instances))

    @property
    def queue(self) -> Scheduler[Slot] | None:
        """Its queue, in whatever state; None before it was ready and after it was unloaded."""
        return self._scheduler

    @property
    def scheduler(self) -> Scheduler[Slot]:
        """Its queue.

        Raises:
            ModelLoading, Draining: It is not ready yet, or about to be unloaded; retry.
            ModelUnavailable: It failed to load, or was unloaded.
        """
        if self._scheduler is not None and self.state is State.READY:
            return self._scheduler
        raise self._why_not()

    def attach(self, scheduler: Scheduler[Slot], group: InstanceGroup) -> None:
        """Give it its queue and instances, and make it ready."""
        self._scheduler = scheduler
        self.group = group
        self.state = State.READY

    def detach(self) -> None:
        """Take its queue and instances from it."""
        self._scheduler = None
        self.group = None
        self.booking = None

    def batch_key(
        self,
        inputs: tuple[InputLayout, ...],
        outputs: tuple[str, ...],
        *,
        is_whole: bool,
        parameters: bytes = b"",
    ) -> BatchKey:
        """The one key object for these values, so that keys compare by identity."""
        value = (inputs, outputs, is_whole, parameters)
        with self._lock:
            key = self._keys.get(value)
            if key is None:
                self._keys_bytes += len(parameters)
                if len(self._keys) >= _KEYS_MAX or self._keys_bytes > _KEYS_BYTES_MAX:
                    self._keys.clear()
                    self._keys_bytes = len(parameters)
                model = (self.name, self.version)
                key = BatchKey(inputs, outputs, is_whole, model, parameters)
                self._keys[value] = key
            return key

    def _why_not(self) -> HeadraceError:
        what = f"model {self.name!r} version {self.version}"
        match self.state:
            case State.LOADING:
                return ModelLoading(f"{what} is still loading: retry")
            case State.WAITING:
                return ModelLoading(f"{what} could not be fetched yet: {self.trouble}")
            case State.DRAINING:
                return Draining(f"{what} is being unloaded: retry")
            case State.UNLOADED:
                return ModelUnavailable(f"{what} was unloaded")
        why = f": {self.reason}" if self.reason else ""
        return ModelUnavailable(f"{what} failed to load{why}")

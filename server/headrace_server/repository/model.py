"""Model: one loaded version of a served model, and the state it is in."""

import enum
import threading
from dataclasses import dataclass, field

from headrace.signature import Signature

from ..errors import HeadraceError, ModelLoading, ModelUnavailable
from ..instances.group import InstanceGroup, Slot
from ..scheduler.scheduler import Scheduler
from ..settings import ModelSettings
from ..types import BatchKey, InputLayout

# Batch keys remembered per version; a caller that sends ever new shapes must not fill the memory.
_KEYS_MAX = 4096


class State(enum.Enum):
    """Where a version is in its life; the values are those of the repository index."""

    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "UNLOADING"
    FAILED = "UNAVAILABLE"


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
        reason: Why it failed.
        flavor: MLflow's flavor key.
        device: Where it computes.
        signature: Effective inputs and outputs; None for a model that accepts what comes.
        is_batchable: Whether its requests share batches.
        note: What the probe at load found worth telling.
    """

    name: str
    version: str
    uri: str
    followed: str
    settings: ModelSettings
    state: State = State.LOADING
    reason: str = ""
    flavor: str = ""
    device: str = ""
    signature: Signature | None = None
    is_batchable: bool = True
    note: str = ""
    group: InstanceGroup | None = None
    _scheduler: Scheduler[Slot] | None = None
    _keys: dict[object, BatchKey] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_ready(self) -> bool:
        """Whether a request would be run now: loaded, with an instance that is up and stays so."""
        return self.state is State.READY and self.group is not None and self.group.is_ready

    @property
    def shown_state(self) -> State:
        """Its state for the repository index: one that cannot run requests now is unavailable."""
        if self.state is State.READY and not self.is_ready:
            return State.FAILED
        return self.state

    @property
    def trouble(self) -> str:
        """Why it cannot run requests; empty while nothing is wrong."""
        if self.state is State.READY and self.group is not None:
            return self.group.trouble
        return self.reason

    @property
    def worker_names(self) -> list[str]:
        """The workers that hold its instances."""
        instances = self.group.instances if self.group is not None else ()
        return [instance.worker.name for instance in instances]

    @property
    def queue(self) -> Scheduler[Slot] | None:
        """Its queue, in whatever state it is; None before it was ready for the first time."""
        return self._scheduler

    @property
    def scheduler(self) -> Scheduler[Slot]:
        """Its queue.

        Raises:
            ModelLoading: It is not ready yet.
            ModelUnavailable: It failed to load, or was unloaded.
        """
        if self._scheduler is not None and self.state in (State.READY, State.DRAINING):
            return self._scheduler
        raise self._why_not()

    def attach(self, scheduler: Scheduler[Slot], group: InstanceGroup) -> None:
        """Give it its queue and instances, and make it ready."""
        self._scheduler = scheduler
        self.group = group
        self.state = State.READY

    def batch_key(
        self, inputs: tuple[InputLayout, ...], outputs: tuple[str, ...], *, is_scalar: bool
    ) -> BatchKey:
        """The one key object for these values, so that keys compare by identity."""
        value = (inputs, outputs, is_scalar)
        with self._lock:
            key = self._keys.get(value)
            if key is None:
                if len(self._keys) >= _KEYS_MAX:
                    self._keys.clear()
                model = (self.name, self.version)
                key = self._keys[value] = BatchKey(inputs, outputs, is_scalar, model)
            return key

    def _why_not(self) -> HeadraceError:
        if self.state is State.LOADING:
            return ModelLoading(
                f"model {self.name!r} version {self.version} is still loading: retry"
            )
        why = f": {self.reason}" if self.reason else ""
        state = "failed to load" if self.state is State.FAILED else "was unloaded"
        return ModelUnavailable(f"model {self.name!r} version {self.version} {state}{why}")

"""Doubles: stand-ins for time, for instances, for the repository, and for callers.

They do what the real thing does, when a test says so. `FakeInstances` and `FakeClock` pass the
same conformance suites as InstanceGroup and Completions.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Semaphore, current_thread
from typing import Any, cast

from headrace.datatypes import BYTES
from headrace.signature import Signature
from headrace_server.adapters import Adapter, Artifact
from headrace_server.adapters.base import NO_PARAMS, Params, Tensors
from headrace_server.completions import Timed
from headrace_server.devices import open_device
from headrace_server.errors import HeadraceError, InstanceLost, InvalidRequest, ModelNotFound
from headrace_server.instances.group import InstanceGroup
from headrace_server.instrument import Instrument
from headrace_server.repository.model import ModelVersion
from headrace_server.repository.repository import Repository
from headrace_server.scheduler.scheduler import Scheduler
from headrace_server.settings import ModelSettings
from headrace_server.types import (
    Batch,
    Batching,
    InputLayout,
    Instants,
    Outcome,
    Outputs,
    OutputTensor,
    Request,
    Trip,
)


class FakeClock:
    """Time that moves when told; on its way it tells its followers of their instants.

    Like Completions it only promises to be awake at instants that it was told to expect.

    Attributes:
        now: The time.
        asked_by: Released once for every time that a thread of that name asked for the time.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.asked_by: defaultdict[str, Semaphore] = defaultdict(lambda: Semaphore(0))
        self._followers: list[Timed] = []
        self._expected: set[float] = set()

    def __call__(self) -> float:
        self.asked_by[current_thread().name].release()
        return self.now

    def follow(self, timed: Timed) -> None:
        self._followers.append(timed)
        self.expect(timed, timed.wake_at)

    def expect(self, timed: Timed, at: float) -> None:
        self._expected.add(at)

    def advance(self, seconds: float) -> None:
        """Move on, stopping at every instant that is due on the way."""
        until = self.now + seconds
        while True:
            due = [timed for timed in self._followers if timed.wake_at <= until]
            if not due:
                break
            at = min(timed.wake_at for timed in due)
            assert at in self._expected, f"no one was told to expect {at}: nothing would happen"
            self.now = max(self.now, at)
            for timed in due:
                if timed.wake_at <= self.now:
                    timed.on_time(self.now)
                    assert timed.wake_at > self.now, "an instant that has passed is asked for again"
        self._expected = {at for at in self._expected if at > until}
        self.now = until


class RecordingReply:
    """A transport that remembers how each of its requests ended.

    Attributes:
        ends: Each request's ends, in their order: the raw bytes by output's name, or an error.
        broken: Requests whose connection raises when it is written to.
        unwritable: What answering these requests raises.
    """

    def __init__(self) -> None:
        self.ends: defaultdict[Request, list[dict[str, bytes] | HeadraceError]] = defaultdict(list)
        self.broken: set[Request] = set()
        self.unwritable: dict[Request, Exception] = {}
        self._ended = Condition()

    def answer(self, request: Request, outputs: Outputs, start: int, stop: int) -> None:
        if request in self.unwritable:
            raise self.unwritable[request]
        answer = {
            tensor.name: bytes(tensor.rows(start, stop, outputs.rows)) for tensor in outputs.tensors
        }
        self._end(request, answer)

    def fail(self, request: Request, error: HeadraceError) -> None:
        self._end(request, error)

    def wait_for(self, request: Request) -> dict[str, bytes] | HeadraceError:
        """Wait for the end of *request*, where other threads and processes answer it."""
        with self._ended:
            assert self._ended.wait_for(lambda: self.ends[request], timeout=60.0), "never ended"
        return self.end_of(request)

    def end_of(self, request: Request) -> dict[str, bytes] | HeadraceError:
        """How *request* ended; it must have ended once."""
        assert len(self.ends[request]) == 1, f"{request} ended {len(self.ends[request])} times"
        return self.ends[request][0]

    def error_of(self, request: Request) -> HeadraceError:
        """The error that *request* ended with."""
        end = self.end_of(request)
        assert isinstance(end, HeadraceError), f"{request} was answered"
        return end

    def _end(self, request: Request, end: dict[str, bytes] | HeadraceError) -> None:
        if request in self.broken:
            raise RuntimeError("the connection is broken")
        with self._ended:
            self.ends[request].append(end)
            self._ended.notify_all()


@dataclass(eq=False)
class FakeSlot:
    """Room for one batch.

    Attributes:
        number: Which it is.
        is_taken: Whether someone owns it.
        loads: How often the model had been loaded when it was taken.
    """

    number: int
    is_taken: bool = False
    loads: int = 0


@dataclass(eq=False)
class Run:
    """A batch in flight."""

    batch: Batch
    slot: FakeSlot
    on_outcome: Callable[[Batch, FakeSlot, Outcome], None]


class FakeInstances:
    """Instances whose batches end when, and how, a test says. They return their inputs.

    Attributes:
        are_apart: Whether each slot is an instance of its own; else one instance has them all.
        running: Batches in flight, oldest first.
        dispatched: Every batch that was ever started.
        refusals: What the next calls of `execute` raise.
    """

    def __init__(self, slots: int = 1, *, are_apart: bool = True) -> None:
        self.are_apart = are_apart
        self.slots = [FakeSlot(number) for number in range(slots)]
        self.free = list(self.slots)
        self.is_up = True
        self.loads = 1
        self.running: list[Run] = []
        self.dispatched: list[Batch] = []
        self.refusals: deque[Exception] = deque()

    @property
    def up_count(self) -> int:
        if not self.is_up:
            return 0
        return len(self.slots) if self.are_apart else 1

    def take_nowait(self, *, stages: bool = True) -> FakeSlot | None:
        is_busy = not self.are_apart and len(self.free) < len(self.slots)
        if not self.free or (is_busy and not stages):
            return None
        slot = self.free.pop()
        slot.is_taken, slot.loads = True, self.loads
        return slot

    def release(self, slot: FakeSlot) -> None:
        slot.is_taken = False
        if self.is_up and slot not in self.free:
            self.free.append(slot)

    def put_back(self, slot: FakeSlot) -> None:
        slot.is_taken = False
        if slot.loads != self.loads:
            self.release(slot)

    def mark_up(self) -> None:
        self.is_up = True
        self.loads += 1
        self.free = [slot for slot in self.slots if not slot.is_taken]

    def mark_down(self) -> None:
        self.is_up = False
        self.free = []

    def execute(
        self,
        batch: Batch,
        slot: FakeSlot,
        on_outcome: Callable[[Batch, FakeSlot, Outcome], None],
    ) -> None:
        assert slot in self.slots, "the slot belongs to other instances"
        assert slot not in self.free, "the slot was not taken"
        assert all(run.slot is not slot for run in self.running), "the slot holds another batch"
        if self.refusals:
            raise self.refusals.popleft()
        if not self.is_up or slot.loads != self.loads:
            raise InstanceLost("the worker is being replaced")
        self.dispatched.append(batch)
        self.running.append(Run(batch, slot, on_outcome))

    def land(
        self,
        index: int = 0,
        *,
        is_detached: bool = True,
        instants: Instants | None = None,
        refused: Mapping[int, str] | None = None,
    ) -> Batch:
        """The batch at *index* comes back with its own inputs, but for what of it is *refused*."""
        run = self.running.pop(index)
        outputs = echo(run.batch)
        outputs.refused = refused
        if instants is not None:
            closed_ns = round(run.batch.closed_at * 1e9)
            outputs.trip = Trip(run.batch.rows, closed_ns, closed_ns, instants, instants.finished)
        outcome = Outcome(outputs, is_detached=is_detached)
        run.on_outcome(run.batch, run.slot, outcome)
        return run.batch

    def crash(self, error: HeadraceError, index: int = 0) -> Batch:
        """The batch at *index* comes back without outputs."""
        run = self.running.pop(index)
        run.on_outcome(run.batch, run.slot, Outcome(error=error))
        return run.batch

    def lose(self, apply: Callable[[Callable[[], None]], None]) -> None:
        """The worker ends: the slots go, by way of *apply*, then what ran is told."""
        apply(self.mark_down)
        lost, self.running = self.running, []
        for run in lost:
            error = InstanceLost("the worker ended while it ran the batch")
            run.on_outcome(run.batch, run.slot, Outcome(error=error))


def echo(batch: Batch) -> Outputs:
    """What a model that returns its inputs would answer."""
    return Outputs(
        ("echo", "1"),
        tuple(_column(batch, index, layout) for index, layout in enumerate(batch.key.inputs)),
        batch.rows,
    )


def rows_of(request: Request, index: int, start: int, stop: int) -> list[bytes]:
    """The raw bytes of each of some rows of one tensor."""
    layout = request.key.inputs[index]
    data = bytes(request.tensors[index])
    if layout.datatype is not BYTES:
        size = layout.row_bytes
        return [data[row * size : (row + 1) * size] for row in range(start, stop)]
    elements = _elements(data)
    each = math.prod(layout.row_shape)
    return [b"".join(elements[row * each : (row + 1) * each]) for row in range(start, stop)]


def _column(batch: Batch, index: int, layout: InputLayout) -> OutputTensor:
    rows: list[bytes] = []
    for part in batch.parts:
        rows += rows_of(part.request, index, part.start, part.stop)
    starts: list[int] | None = None
    if layout.datatype is BYTES:
        starts = [0]
        for row in rows:
            starts.append(starts[-1] + len(row))
    shape = (batch.rows, *layout.row_shape)
    return OutputTensor(layout.name, layout.datatype, shape, b"".join(rows), starts)


def _elements(data: bytes) -> list[bytes]:
    """BYTES elements with their lengths, read a second way."""
    elements = []
    while data:
        end = 4 + int.from_bytes(data[:4], "little")
        elements.append(data[:end])
        data = data[end:]
    return elements


class RecordingTarget:
    """A queue that remembers what was handed to it."""

    def __init__(self) -> None:
        self.submitted: list[Request] = []
        self.cancelled: list[Request] = []
        self.instrument = Instrument()

    def submit(self, requests: Sequence[Request]) -> None:
        self.submitted += requests

    def cancel(self, request: Request) -> None:
        self.cancelled.append(request)


@dataclass
class FakeRepository:
    """Served models without workers behind them; requests go to *target*.

    Attributes:
        generation: Changes when a test says so.
        queued_bytes: What the queues hold.
        lookups: How often a model was looked for: once per plan that is made.
    """

    target: RecordingTarget = field(default_factory=RecordingTarget)
    generation: int = 0
    queued_bytes: int = 0
    lookups: int = 0
    models: dict[str, ModelVersion] = field(default_factory=dict)

    def serve(self, name: str, signature: Signature | None = None, **settings: Any) -> ModelVersion:
        how = ModelSettings(**settings)
        model = ModelVersion(name, "1", "", "", how, signature=signature)
        model.batching = Batching("batched", "")
        model.attach(
            cast("Scheduler[object]", self.target),  # type: ignore[arg-type]
            InstanceGroup((name, "1"), ()),
        )
        self.models[name] = model
        return model

    def find(self, name: str, version: str = "") -> ModelVersion:
        self.lookups += 1
        if name not in self.models:
            raise ModelNotFound(f"model {name!r} is not served")
        if version not in ("", "1"):
            raise InvalidRequest(f"version {version!r} is malformed")
        return self.models[name]

    @property
    def real(self) -> Repository:
        """This double, for those who ask for the real thing."""
        return cast("Repository", self)


class FunctionAdapter(Adapter):
    """A model that is a function; it keeps the rows of each call."""

    def __init__(self, function: Callable[[Tensors], Any], signature: Signature | None) -> None:
        super().__init__(Artifact(Path(), {}, {}, signature), open_device("cpu"))
        self.function = function
        self.calls: list[int] = []

    def launch(self, staged: Tensors, params: Params = NO_PARAMS) -> Any:
        self.calls.append(len(staged["x"]) if staged["x"].ndim else 1)
        return self.function(staged)

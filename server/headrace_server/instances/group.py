"""InstanceGroup: the instances of one model version, their slots, and a batch's way through one.

A slot is room for one batch in an instance's arena: an input side that the daemon writes and an
output side that the worker writes. `take`, `release`, `put_back`, `mark` and `drop` belong to the
scheduler and are called under its lock; `execute` runs outside it, on a slot that is taken.
"""

import mmap
import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.datatypes import BY_CODE, BYTES
from headrace.elements import element_offsets

from ..arena import Region, aligned
from ..batchframes import DoneFrame, RunFrame, TensorRef
from ..errors import HeadraceError, ResourceExhausted
from ..faults import fault
from ..frames import Frame
from ..sizes import padded_size
from ..types import Batch, Buffer, InputLayout, Outcome, Outputs, OutputTensor, Part, Trip
from .loaded import LoadedInstance
from .worker import Worker

# Up to this size a piece is cheaper to join with others than to copy through a view of its own.
_JOIN_BYTES_MAX = 4096
# Up to this size a region is taken twice as large as asked for.
_DOUBLED_BYTES_MAX = 1024 * 1024
# Up to this size outputs are copied out at once, which frees the slot before answers are encoded.
DETACH_BYTES_MAX = 256 * 1024


@dataclass(slots=True, eq=False)
class Slot:
    """Room for one batch. Whoever took it owns it until it is released.

    Attributes:
        instance: Whose slot it is.
        inputs: The input side; None before the first batch.
        outputs: The output side.
        outputs_bytes_wanted: How large the output side should be.
        is_taken: Whether someone owns it.
        loads: How often the instance had been loaded when it was taken.
    """

    instance: "Instance"
    inputs: Region | None = None
    outputs: Region | None = None
    outputs_bytes_wanted: int = 0
    is_taken: bool = False
    loads: int = 0


class Instance:
    """One instance in a worker, with its slots."""

    def __init__(self, worker: Worker, loaded: LoadedInstance, slots: int, out_bytes: int) -> None:
        self.worker = worker
        self.loaded = loaded
        self.slots = [Slot(self, outputs_bytes_wanted=out_bytes) for _ in range(slots)]
        self.free: list[Slot] = []
        # Whether it will not come back; its slots then lose their memory as they become free.
        self.is_dropped = False


@dataclass(slots=True, eq=False)
class _Flight:
    """A batch in flight: where its outcome goes."""

    group: "InstanceGroup"
    batch: Batch
    slot: Slot
    on_outcome: Callable[[Batch, Slot, Outcome], None]

    def land(self, done: DoneFrame, frame: Frame) -> None:
        """See `worker.Flight`."""
        landed_ns = time.monotonic_ns()
        self._trim()
        try:
            outcome = self.group.collect(self.batch, self.slot, done, frame, landed_ns)
        except Exception:  # noqa: BLE001 - such as no descriptor left: the batch must still end.
            outcome = Outcome(error=fault("collect_failed"))
        self.on_outcome(self.batch, self.slot, outcome)

    def crash(self, error: HeadraceError) -> None:
        """See `worker.Flight`."""
        self._trim()
        self.on_outcome(self.batch, self.slot, Outcome(error=error))

    def _trim(self) -> None:
        """Hand back an input side that is too large to be kept; the worker is done with it."""
        slot = self.slot
        worker = slot.instance.worker
        if slot.inputs is not None and slot.inputs.nbytes > _kept_bytes_max(worker):
            worker.give_region(slot.inputs)
            slot.inputs = None


class InstanceGroup:
    """The instances of one model version.

    Attributes:
        model: Served name and version.
        workers: The workers of all instances it began with.
    """

    def __init__(
        self, model: tuple[str, str], instances: Sequence[Instance], sizes: Sequence[int] = ()
    ) -> None:
        """Run the batches of *model* on *instances*.

        Args:
            model: Served name and version.
            instances: Its instances.
            sizes: The numbers of rows that a batch may run with, ascending; empty for any.
        """
        self.model = model
        self._sizes = sizes
        self.workers = tuple(dict.fromkeys(instance.worker for instance in instances))
        self._instances = list(instances)
        self.sync()

    @property
    def instances(self) -> Sequence[Instance]:
        """All instances, up or not."""
        return self._instances

    @property
    def up_count(self) -> int:
        """Instances that are up."""
        return sum(instance.loaded.is_up for instance in self._instances)

    @property
    def is_ready(self) -> bool:
        """Whether an instance is up whose worker does not end again and again."""
        return any(one.loaded.is_up and not one.worker.crash_loop for one in self._instances)

    @property
    def trouble(self) -> str:
        """Why it is not ready; empty while it is."""
        if self.is_ready:
            return ""
        loops = [one.worker.crash_loop for one in self._instances if one.worker.crash_loop]
        return loops[0] if loops else "its worker ended and is being replaced"

    def take_nowait(self, *, stages: bool = True) -> Slot | None:
        """A free slot, of the instance that has most of them; None when all are busy.

        Without *stages* an instance is busy as soon as one of its slots is taken.
        """
        instances = self._instances
        if not instances:
            return None
        best = instances[0] if len(instances) == 1 else max(instances, key=lambda i: len(i.free))
        if not best.free or (not stages and len(best.free) < len(best.slots)):
            return None
        slot = best.free.pop()
        slot.is_taken, slot.loads = True, best.loaded.loads
        return slot

    def release(self, slot: Slot) -> None:
        """Hand back a slot; one of an instance that is down comes back with `mark`."""
        slot.is_taken = False
        instance = slot.instance
        if instance.is_dropped:
            _give_all(slot)
        elif instance.loaded.is_up and slot not in instance.free:
            instance.free.append(slot)

    def put_back(self, slot: Slot) -> None:
        """Hand back a slot whose worker turned out to be gone: it comes back with `mark`.

        Free at once only where that has already passed.
        """
        if slot.instance.is_dropped or slot.loads != slot.instance.loaded.loads:
            self.release(slot)
        else:
            slot.is_taken = False

    def mark(self, instance: Instance) -> None:
        """Free the slots of an instance that its worker has loaded, and take those of another away.

        Slots that are still owned come back by themselves.
        """
        is_up = instance.loaded.is_up and not instance.is_dropped
        instance.free = [slot for slot in instance.slots if is_up and not slot.is_taken]

    def sync(self) -> None:
        """Mark every instance by what its worker says of it now."""
        for instance in self._instances:
            self.mark(instance)

    def drop(self, instance: Instance) -> None:
        """The instance will not come back. Slots that are still owned lose their memory later."""
        self._instances = [other for other in self._instances if other is not instance]
        instance.is_dropped = True
        instance.free = []
        for slot in instance.slots:
            if not slot.is_taken:
                _give_all(slot)

    def execute(
        self, batch: Batch, slot: Slot, on_outcome: Callable[[Batch, Slot, Outcome], None]
    ) -> None:
        """Gather the rows of *batch* into *slot* and send it; *on_outcome* hears of its end once.

        Raises:
            ResourceExhausted: The arena is full; *on_outcome* hears nothing.
            InstanceLost: The worker is gone; *on_outcome* hears nothing.
        """
        worker = slot.instance.worker
        inputs = self._gather(batch, slot)
        slot.outputs = self._fit_outputs(slot)
        batch.gathered_ns = time.monotonic_ns()
        run = RunFrame(
            worker.next_batch(),
            slot.instance.loaded.number,
            0 if batch.is_whole else batch.rows + batch.padding,
            inputs,
            batch.key.outputs,
            slot.outputs.offset,
            slot.outputs.nbytes,
            batch.key.parameters,
        )
        flight = _Flight(self, batch, slot, on_outcome)
        worker.run(run, slot.instance.loaded, slot.loads, flight)

    def collect(
        self, batch: Batch, slot: Slot, done: DoneFrame, frame: Frame, landed_ns: int
    ) -> Outcome:
        """The outputs of a batch that came back at *landed_ns*."""
        if frame.fds:
            memory = _map_all(frame.fds)
            total = memory.nbytes
            # What overflowed once will again: the slot's output side grows before its next batch.
            slot.outputs_bytes_wanted = max(slot.outputs_bytes_wanted, total)
        else:
            memory = slot.instance.worker.arena.memory
            total = sum(ref.nbytes for ref in done.outputs)
        is_detached = bool(frame.fds) or total <= DETACH_BYTES_MAX
        tensors = tuple(
            _output(ref, memory, is_copied=is_detached and not frame.fds) for ref in done.outputs
        )
        closed_ns = round(batch.closed_at * 1e9)
        trip = Trip(batch.rows, closed_ns, batch.gathered_ns, done.instants, landed_ns)
        return Outcome(
            Outputs(
                self.model, tensors, batch.rows + batch.padding, trip=trip, refused=done.refused
            ),
            is_detached=is_detached,
            overflowed=bool(frame.fds),
        )

    def _fit_outputs(self, slot: Slot) -> Region:
        """The output side, larger if wanted and possible: what does not fit travels in a memfd."""
        worker = slot.instance.worker
        wanted = min(slot.outputs_bytes_wanted, _kept_bytes_max(worker))
        try:
            return _fit(worker, slot.outputs, wanted)
        except ResourceExhausted:
            return slot.outputs or Region(0, 0)

    def _gather(self, batch: Batch, slot: Slot) -> tuple[TensorRef, ...]:
        """Write all rows into the slot's input side: the one copy of request data."""
        columns = [_pieces(batch, index, layout) for index, layout in enumerate(batch.key.inputs)]
        rows = batch.rows
        if self._sizes and not batch.is_whole:
            rows = padded_size(batch.rows, self._sizes)
            batch.padding = rows - batch.rows
            columns = [pieces + _padding(batch, index) for index, pieces in enumerate(columns)]
        sizes = [sum(map(len, pieces)) for pieces in columns]
        worker = slot.instance.worker
        slot.inputs = _fit(worker, slot.inputs, sum(map(aligned, sizes)))
        memory = worker.arena.memory
        at = slot.inputs.offset
        refs = []
        for layout, pieces, nbytes in zip(batch.key.inputs, columns, sizes, strict=True):
            _write(memory, at, pieces, nbytes)
            shape = (rows, *layout.row_shape) if layout.has_rows else layout.row_shape
            refs.append(TensorRef(layout.name, layout.datatype.code, shape, at, nbytes))
            at += aligned(nbytes)
        return tuple(refs)


def _pieces(batch: Batch, index: int, layout: InputLayout) -> list[Buffer]:
    """The bytes that each part of the batch adds to input *index*."""
    if not batch.is_split:
        return [part.request.tensors[index] for part in batch.parts]
    return [_rows(part, index, layout) for part in batch.parts]


def _padding(batch: Batch, index: int) -> list[Buffer]:
    """The last row's bytes of input *index*, once per row that is missing to an allowed size."""
    last = batch.parts[-1]
    row = _rows(Part(last.request, last.stop - 1, last.stop), index, batch.key.inputs[index])
    return [row] * batch.padding


def _rows(part: Part, index: int, layout: InputLayout) -> Buffer:
    request = part.request
    data = request.tensors[index]
    if part.start == 0 and part.stop == request.rows:
        return data
    # Rows of no elements have no bytes either.
    if layout.datatype is not BYTES or not data:
        return data[part.start * layout.row_bytes : part.stop * layout.row_bytes]
    if request.row_starts is None:
        request.row_starts = {}
    starts = request.row_starts.get(index)
    if starts is None:
        per_row = int(np.prod(layout.row_shape, dtype=np.int64))
        starts = element_offsets(data, request.rows * per_row)[::per_row]
        request.row_starts[index] = starts
    return data[starts[part.start] : starts[part.stop]]


def _write(memory: memoryview, at: int, pieces: Sequence[Buffer], nbytes: int) -> None:
    if nbytes <= _JOIN_BYTES_MAX * len(pieces):
        memory[at : at + nbytes] = b"".join(pieces)
        return
    for piece in pieces:
        end = at + len(piece)
        memory[at:end] = piece
        at = end


def _fit(worker: Worker, region: Region | None, nbytes: int) -> Region:
    """*region*, or a larger one in its place when it has less than *nbytes*."""
    if region is not None and region.nbytes >= nbytes:
        return region
    # Twice of a small size: batches grow under load. What is large is asked for as it is.
    try:
        larger = worker.take_region(2 * nbytes if nbytes <= _DOUBLED_BYTES_MAX else nbytes)
    except ResourceExhausted:
        larger = worker.take_region(nbytes)
    if region is not None and region.nbytes:
        worker.give_region(region)
    return larger


def _kept_bytes_max(worker: Worker) -> int:
    """The most that a slot keeps of each side between batches, so that one cannot starve others."""
    return worker.arena.nbytes // 16


def _give_all(slot: Slot) -> None:
    for region in (slot.inputs, slot.outputs):
        if region is not None and region.nbytes:
            slot.instance.worker.give_region(region)
    slot.inputs = slot.outputs = None


def _output(ref: TensorRef, memory: memoryview, *, is_copied: bool) -> OutputTensor:
    view: Buffer = memory[ref.offset : ref.offset + ref.nbytes]
    starts = None
    if ref.row_ends:
        rows = ref.shape[0] if ref.shape else 1
        starts = struct.unpack_from(f"<{rows + 1}Q", memory, ref.row_ends)
    data = bytes(view) if is_copied else view
    return OutputTensor(ref.name, BY_CODE[ref.code], ref.shape, data, starts)


def _map_all(fds: Sequence[int]) -> memoryview:
    """The memory behind the one descriptor that carries outputs."""
    try:
        return memoryview(mmap.mmap(fds[0], 0, prot=mmap.PROT_READ))
    finally:
        for fd in fds:
            os.close(fd)

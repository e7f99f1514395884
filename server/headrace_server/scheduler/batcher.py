"""Batcher: decides which requests run together, and when.

It knows no clock, no lock, no thread and no instance: it is told the time, and asked for the next
action only when an instance is free to run a batch (late binding). Requests of one batch key wait
in one line, first come first served; of the lines that are due, the one that is due longest goes
first: a full one since its oldest request came, an open one since the policy would close it. Sizes
count rows, never requests.

Submitting, cancelling and expiring cost O(log n) at most, in the number of waiting requests.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from ..errors import ResourceExhausted
from ..types import Batch, BatchKey, Part, Request
from .policy import Policy

# Entries of what is long gone are swept from a heap when they are most of it.
_SWEEP_MIN = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one model version's queue.

    Attributes:
        rows_max: Rows of a batch.
        queue_rows_max: Rows that may wait.
        queue_bytes_max: Bytes of tensors that may wait.
        splits: Whether a request above rows_max is cut over several batches; else it runs alone.
    """

    rows_max: int = 64
    queue_rows_max: int = 16_384
    queue_bytes_max: int = 1 << 30
    splits: bool = True


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run this batch now."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing is due before this instant; infinity when nothing waits."""

    at: float


class _Line:
    """The waiting requests of one batch key, oldest first."""

    __slots__ = ("is_full", "key", "requests", "rows", "rows_max", "stamp")

    def __init__(self, key: BatchKey, rows_max: int) -> None:
        self.key = key
        # Rows of a batch. Tensors without a row axis cannot be put behind one another.
        self.rows_max = 1 if key.is_scalar else rows_max
        # An ordered dict is a queue from which any request leaves in O(1).
        self.requests: OrderedDict[Request, None] = OrderedDict()
        self.rows = 0
        self.is_full = False
        # Changes whenever the line's due instant does, which outdates its older heap entries.
        self.stamp = 0


class Batcher:
    """The waiting requests of one model version. Owned by one scheduler and guarded by its lock."""

    def __init__(self, limits: Limits, policy: Policy) -> None:
        self.limits = limits
        self.policy = policy
        self.rows = 0
        self.nbytes = 0
        self._sequence = 0
        self._lines: dict[BatchKey, _Line] = {}
        self._due: list[tuple[float, int, int, _Line]] = []
        self._deadlines: list[tuple[float, int, Request]] = []
        self._timed_waiting = 0

    def __repr__(self) -> str:
        return f"<Batcher [{self.rows} rows waiting in {len(self._lines)} lines]>"

    def submit(self, request: Request) -> None:
        """Take *request* into its line.

        Raises:
            ResourceExhausted: It would exceed the bounds of the queue. Nothing changed.
        """
        limits = self.limits
        if self.rows + request.rows > limits.queue_rows_max:
            if request.rows > limits.queue_rows_max:
                raise ResourceExhausted(
                    f"the request has {request.rows} rows, queue_rows_max is "
                    f"{limits.queue_rows_max}"
                )
            raise ResourceExhausted(
                f"queue is full: {self.rows} rows wait, {request.rows} more would exceed "
                f"queue_rows_max = {limits.queue_rows_max}"
            )
        if self.nbytes + request.nbytes > limits.queue_bytes_max:
            raise ResourceExhausted(
                f"queue is full: {self.nbytes} bytes wait, {request.nbytes} more would exceed "
                f"queue_bytes_max = {limits.queue_bytes_max}"
            )
        self.rows += request.rows
        self.nbytes += request.nbytes
        line = self._lines.get(request.key)
        if line is None:
            line = self._lines[request.key] = _Line(request.key, limits.rows_max)
        line.requests[request] = None
        line.rows += request.rows
        if len(line.requests) == 1 or (not line.is_full and line.rows >= line.rows_max):
            self._schedule(line)
        if request.deadline_at != math.inf:
            self._sequence += 1
            self._timed_waiting += 1
            heappush(self._deadlines, (request.deadline_at, self._sequence, request))

    def cancel(self, request: Request) -> bool:
        """Take *request* out, with all rows that no batch has taken yet; tell whether it waited.

        Idempotent; a request that is not here is left alone.
        """
        line = self._lines.get(request.key)
        if line is None or request not in line.requests:
            return False
        is_head = next(iter(line.requests)) is request
        del line.requests[request]
        self._leave(line, request, request.rows - request.taken_rows)
        if not line.requests:
            del self._lines[line.key]
            line.stamp += 1
        elif is_head or (line.is_full and line.rows < line.rows_max):
            self._schedule(line)
        return True

    def expire(self, now: float) -> list[Request]:
        """Take out the requests whose deadline has passed, in order of their deadlines."""
        late = []
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            request = heappop(deadlines)[2]
            if self.cancel(request):
                late.append(request)
        return late

    def is_next_full(self) -> bool:
        """Whether the line that is due first fills a batch: none that comes could join it."""
        due = self._due
        while due and due[0][3].stamp != due[0][2]:
            heappop(due)
        return bool(due) and due[0][3].is_full

    def next_action(self, now: float) -> Dispatch | WaitUntil:
        """Close the batch that should run now, for a free instance, or say how long to wait.

        Late requests must have been expired for the same *now*: they are never dispatched.
        """
        due = self._due
        while due and due[0][3].stamp != due[0][2]:
            heappop(due)
        if not due:
            return WaitUntil(math.inf)
        if due[0][0] <= now:
            return Dispatch(self._close(due[0][3], now))
        urgent = self._most_urgent()
        if urgent is None:
            return WaitUntil(due[0][0])
        urgent_at = urgent.deadline_at - self.policy.service_s
        if urgent_at <= now:
            return Dispatch(self._close(self._lines[urgent.key], now))
        return WaitUntil(min(due[0][0], urgent_at))

    def next_deadline_at(self) -> float:
        """The earliest deadline of a waiting request; infinity when none has one."""
        urgent = self._most_urgent()
        return math.inf if urgent is None else urgent.deadline_at

    def drain(self) -> list[Request]:
        """Take everything out."""
        requests = [request for line in self._lines.values() for request in line.requests]
        for request in requests:
            self.cancel(request)
        return requests

    # The lines.

    def _schedule(self, line: _Line) -> None:
        """Note anew when *line* is due; outdates what was noted before."""
        oldest_at = next(iter(line.requests)).arrived_at
        line.is_full = line.rows >= line.rows_max
        line.stamp += 1
        # Lines come and go while no instance is free and none asks for the next action.
        if len(self._due) >= max(_SWEEP_MIN, 2 * len(self._lines)):
            self._due = [entry for entry in self._due if entry[2] == entry[3].stamp]
            heapify(self._due)
        self._sequence += 1
        # A full line is due at once; its place among others is still its oldest request's.
        due_at = oldest_at if line.is_full else self.policy.due_at(oldest_at)
        heappush(self._due, (due_at, self._sequence, line.stamp, line))

    def _close(self, line: _Line, now: float) -> Batch:
        """Take the oldest rows of *line*, as many as fit, as a batch."""
        requests = line.requests
        parts: list[Part] = []
        rows = 0
        is_split = False
        while requests:
            request = next(iter(requests))
            remaining = request.rows - request.taken_rows
            room = line.rows_max - rows
            if remaining > room:
                if parts:
                    break
                # Too large for any batch: cut where splitting is possible, else alone and whole.
                taken = room if self.limits.splits and not line.key.is_scalar else remaining
            else:
                taken = remaining
            start = request.taken_rows
            request.taken_rows += taken
            rows += taken
            is_split = is_split or taken != request.rows
            parts.append(Part(request, start, request.taken_rows))
            if taken == remaining:
                del requests[request]
            self._leave(line, request, taken)
        if requests:
            self._schedule(line)
        else:
            del self._lines[line.key]
            line.stamp += 1
        return Batch(line.key, parts, rows, now, is_split)

    def _leave(self, line: _Line, request: Request, rows: int) -> None:
        """Account for *rows* of *request* that wait no longer."""
        line.rows -= rows
        self.rows -= rows
        if request not in line.requests:
            self.nbytes -= request.nbytes
            if request.deadline_at != math.inf:
                self._timed_waiting -= 1
                self._sweep()

    # The deadlines.

    def _most_urgent(self) -> Request | None:
        """The waiting request with the earliest deadline."""
        deadlines = self._deadlines
        while deadlines:
            request = deadlines[0][2]
            line = self._lines.get(request.key)
            if line is not None and request in line.requests:
                return request
            heappop(deadlines)
        return None

    def _sweep(self) -> None:
        """Drop entries of requests that wait no longer, once they are most of the heap."""
        if len(self._deadlines) < max(_SWEEP_MIN, 2 * self._timed_waiting):
            return
        self._deadlines = [
            entry
            for entry in self._deadlines
            if (line := self._lines.get(entry[2].key)) is not None and entry[2] in line.requests
        ]
        heapify(self._deadlines)

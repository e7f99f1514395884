"""Batcher: decides which requests run together, and when.

It knows no clock, no lock, no thread and no instance: it is told the time, and asked for the next
action only when an instance is free to run a batch (late binding). Requests of one batch key wait
in one line; the lines that are due go in order of their first requests: by priority, then by
arrival. A line is due when it has the rows that the policy wants, or at the instant the policy
names. A batch takes the first rows of its line, also across priorities. Sizes count rows, never
requests.

Submitting, cancelling and expiring cost O(log n) at most, in the number of waiting requests.
"""

import math
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from ..errors import DeadlinePassed, HeadraceError, ResourceExhausted
from ..types import Batch, BatchKey, Part, Request
from .admission import check_feasible
from .expiries import Expiries
from .line import Line
from .policy import Policy
from .rowcaps import RowCaps
from .servicetimes import ServiceTimes

# Entries of what is long gone are swept from a heap when they are most of it.
_SWEEP_MIN = 64


@dataclass(frozen=True, slots=True)
class Level:
    """What holds for the requests of one priority.

    Attributes:
        queue_rows_max: Rows of them that may wait; 0 for no bound of their own.
        timeout_s: How long each may wait (seconds).
        is_delayed: Whether one that has waited so long goes behind all others; else it is refused.
    """

    queue_rows_max: int = 0
    timeout_s: float = math.inf
    is_delayed: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one model version's queue.

    Attributes:
        rows_max: Rows of a batch.
        queue_rows_max: Rows that may wait.
        queue_bytes_max: Bytes of tensors that may wait.
        splits: Whether a request above rows_max is cut over several batches; else it runs alone.
        levels: The priorities, highest first.
        predicts: Whether a request is refused whose deadline cannot be met.
        is_whole: Whether every batch is one whole request, whatever its rows.
        cut_rows_max: Rows of the largest request that is cut; a larger one runs alone.
    """

    rows_max: int = 128
    queue_rows_max: int = 16_384
    queue_bytes_max: int = 1 << 30
    splits: bool = True
    levels: tuple[Level, ...] = (Level(),)
    predicts: bool = False
    is_whole: bool = False
    cut_rows_max: int = 2**31 - 1


@dataclass(slots=True)
class Dispatch:
    """Run this batch now."""

    batch: Batch


@dataclass(slots=True)
class WaitUntil:
    """Nothing is due before this instant; infinity when nothing waits."""

    at: float


class Batcher:
    """The waiting requests of one model version. Owned by one scheduler and guarded by its lock.

    Attributes:
        limits: Its bounds.
        policy: How long batches wait and how large they are.
        times: What batches took; the scheduler tells.
        caps: How many rows fit the memory; the scheduler tells.
        rows: Rows that wait.
        nbytes: Bytes of tensors that wait.
        busy_s: What is left to do of the batches that run (seconds of one instance), and
        width: the instances that are up: for `Limits.predicts`, which the scheduler tells before it
            submits.
    """

    def __init__(self, limits: Limits, policy: Policy, times: ServiceTimes | None = None) -> None:
        self.limits = limits
        self.policy = policy
        self.times = times or ServiceTimes()
        self.caps = RowCaps()
        self.rows = 0
        self.nbytes = 0
        self.busy_s = 0.0
        self.width = 0
        self._lines: dict[BatchKey, Line] = {}
        # Requests that have waited as long as their level allows wait behind all others.
        self._has_levels = limits.levels != (Level(),)
        self._level_count = len(limits.levels) + any(one.is_delayed for one in limits.levels)
        self._level_rows = [0] * self._level_count
        # Lines that are due: level, arrival of the first request, sequence, stamp, line.
        self._due: list[tuple[int, float, int, int, Line]] = []
        # Lines that the policy lets wait: the instant, sequence, stamp, line.
        self._open: list[tuple[float, int, int, Line]] = []
        self._deadlines = Expiries()
        self._timeouts = Expiries()
        # Whether a request with a limit has ever come: many models never see one.
        self._has_expiries = False
        self._sequence = 0
        self._now = -math.inf

    def __repr__(self) -> str:
        return f"<Batcher [{self.rows} rows waiting in {len(self._lines)} lines]>"

    def submit(self, request: Request) -> None:
        """Take *request* into its line.

        Raises:
            ResourceExhausted: It would exceed the bounds of the queue. Nothing changed.
            DeadlineInfeasible: Its deadline cannot be met. Nothing changed.
        """
        rows, limits = request.rows, self.limits
        if (
            self.rows + rows > limits.queue_rows_max
            or self.nbytes + request.nbytes > limits.queue_bytes_max
        ):
            self._refuse(request)
        if self._has_levels:
            self._check_level(request)
        has_deadline = request.deadline_at != math.inf
        if has_deadline and limits.predicts:
            self._check_feasible(request)
        # Taken: from here on nothing is refused.
        level = request.priority - 1
        self._level_rows[level] += rows
        self.rows += rows
        self.nbytes += request.nbytes
        line = self._lines.get(request.key)
        if line is None:
            line = self._lines[request.key] = Line(request.key, self._level_count)
        line.levels[level][request] = None
        line.rows += rows
        if self.policy.follows_rows:
            self.policy.note_arrival(request.key, rows, request.arrived_at)
            self._place(line, request.arrived_at)
        elif level < line.level or (not line.is_due and line.rows >= line.rows_wanted):
            self._place(line, request.arrived_at)
        if has_deadline:
            self._has_expiries = True
            self._deadlines.add(request.deadline_at, request)
        if self._has_levels and (timeout_s := limits.levels[level].timeout_s) != math.inf:
            self._has_expiries = True
            self._timeouts.add(request.arrived_at + timeout_s, request)

    def cancel(self, request: Request) -> bool:
        """Take *request* out, with all rows that no batch has taken yet; tell whether it waited.

        Idempotent; a request that is not here is left alone.
        """
        line = self._lines.get(request.key)
        if line is None or request not in line:
            return False
        level = line.levels[request.priority - 1]
        is_head = next(iter(level)) is request
        del level[request]
        rows = request.rows - request.taken_rows
        line.rows -= rows
        self.rows -= rows
        self._level_rows[request.priority - 1] -= rows
        self._leave(request)
        if not line:
            self._drop(line)
        elif is_head or (line.is_due and line.rows < line.rows_wanted):
            self._place(line, self._now)
        return True

    def expire(self, now: float) -> list[tuple[Request, HeadraceError]]:
        """Take out the requests whose time is up, each with what it is told.

        First those that are past their deadlines, in order of these; then those that have waited
        as long as their priority allows.
        """
        self._now = now
        late: list[tuple[Request, HeadraceError]] = []
        if not self._has_expiries:
            return late
        while (request := self._deadlines.pop(now)) is not None:
            if self.cancel(request):
                late.append((request, _late()))
        while (request := self._timeouts.pop(now)) is not None:
            level = self.limits.levels[request.priority - 1]
            if level.is_delayed:
                self._delay(request)
            elif self.cancel(request):
                late.append((request, _waited_too_long(request, level)))
        return late

    def is_next_full(self, now: float) -> bool:
        """Whether the line that goes first fills a batch: none that comes could join it."""
        line = self._next_due(now)
        return line is not None and line.rows >= line.rows_max

    def next_action(self, now: float) -> Dispatch | WaitUntil:
        """Close the batch that should run now, for a free instance, or say how long to wait.

        Late requests must have been expired for the same *now*: they are never dispatched.
        """
        line = self._next_due(now)
        if line is not None:
            return Dispatch(self._close(line, now))
        wait_until = self._open[0][0] if self._open else math.inf
        urgent = self._deadlines.first() if self._has_expiries else None
        if urgent is None:
            return WaitUntil(wait_until)
        line = self._lines[urgent.key]
        run_s = self.times.allow(line.key, min(line.rows, line.rows_max))
        urgent_at = urgent.deadline_at - run_s
        if urgent_at <= now:
            return Dispatch(self._close(line, now))
        return WaitUntil(min(wait_until, urgent_at))

    def next_expiry_at(self) -> float:
        """When the next request's time is up; infinity when none has a limit."""
        if not self._has_expiries:
            return math.inf
        return min(self._deadlines.next_at(), self._timeouts.next_at())

    def drain(self) -> list[Request]:
        """Take everything out."""
        requests = [
            request for line in self._lines.values() for level in line.levels for request in level
        ]
        for request in requests:
            self.cancel(request)
        return requests

    def run_whole(self, is_whole: bool) -> None:
        """Make batches of one whole request each, or of several."""
        self.limits = replace(self.limits, is_whole=is_whole)
        for line in self._lines.values():
            self._place(line, self._now)

    def shrink(self, batch: Batch, now: float) -> None:
        """*batch* ran out of memory: smaller ones follow."""
        self.caps.shrink(batch.key, batch.rows + batch.padding, now)
        line = self._lines.get(batch.key)
        if line is not None:
            self._place(line, now)

    # Admission.

    def _refuse(self, request: Request) -> None:
        limits, rows = self.limits, request.rows
        if rows > limits.queue_rows_max:
            raise ResourceExhausted(
                f"the request has {rows} rows, queue_rows_max is {limits.queue_rows_max}"
            )
        if self.rows + rows > limits.queue_rows_max:
            raise ResourceExhausted(
                f"queue is full: {self.rows} rows wait, {rows} more would exceed "
                f"queue_rows_max = {limits.queue_rows_max}"
            )
        raise ResourceExhausted(
            f"queue is full: {self.nbytes} bytes wait, {request.nbytes} more would exceed "
            f"queue_bytes_max = {limits.queue_bytes_max}"
        )

    def _check_level(self, request: Request) -> None:
        """Hold *request* to what its priority level allows."""
        level = self.limits.levels[request.priority - 1]
        waiting = self._level_rows[request.priority - 1]
        if level.queue_rows_max and waiting + request.rows > level.queue_rows_max:
            raise ResourceExhausted(
                f"queue is full: {waiting} rows of priority {request.priority} wait, "
                f"{request.rows} more would exceed priority_queue_rows_max = "
                f"{level.queue_rows_max}"
            )

    def _check_feasible(self, request: Request) -> None:
        check_feasible(
            request,
            self.times,
            rows_ahead=sum(self._level_rows[: request.priority]),
            rows_max=self._rows_max(request.key, request.arrived_at),
            busy_s=self.busy_s,
            width=self.width,
            now=request.arrived_at,
        )

    # The lines.

    def _rows_max(self, key: BatchKey, now: float) -> int:
        """Rows of a batch of *key*, before the policy is asked."""
        if key.is_whole or self.limits.is_whole:
            return 1
        rows_max = self.limits.rows_max
        return self.caps.rows_max(key, rows_max, now) if self.caps else rows_max

    def _place(self, line: Line, now: float) -> None:
        """Put *line* in its place among the others; outdates the place that it had before."""
        first = line.first
        line.level = first.priority - 1
        line.rows_max = self._rows_max(line.key, now)
        line.rows_wanted = self.policy.rows_wanted(line.key, line.rows_max)
        line.is_due = line.rows >= line.rows_wanted
        line.stamp += 1
        due_at = now
        if not line.is_due:
            due_at = self.policy.due_at(line.key, line.rows, line.oldest_at, now)
        self._sequence += 1
        # Lines come and go while no instance is free and none asks for the next action.
        if due_at <= now:
            if len(self._due) >= max(_SWEEP_MIN, 2 * len(self._lines)):
                self._due = [entry for entry in self._due if entry[3] == entry[4].stamp]
                heapify(self._due)
            heappush(self._due, (line.level, first.arrived_at, self._sequence, line.stamp, line))
        else:
            if len(self._open) >= max(_SWEEP_MIN, 2 * len(self._lines)):
                self._open = [entry for entry in self._open if entry[2] == entry[3].stamp]
                heapify(self._open)
            heappush(self._open, (due_at, self._sequence, line.stamp, line))

    def _next_due(self, now: float) -> Line | None:
        """The line that goes first of those that are due."""
        self._now = now
        waiting, due = self._open, self._due
        while waiting and (waiting[0][0] <= now or waiting[0][2] != waiting[0][3].stamp):
            _, sequence, stamp, line = heappop(waiting)
            if stamp == line.stamp:
                heappush(due, (line.level, line.first.arrived_at, sequence, stamp, line))
        while due and due[0][3] != due[0][4].stamp:
            heappop(due)
        return due[0][4] if due else None

    def _close(self, line: Line, now: float) -> Batch:
        """Take the first rows of *line*, as many as fit, as a batch."""
        rows_max = line.rows_max
        if self.caps:
            rows_max = self._rows_max(line.key, now)
        if self.policy.follows_rows:
            rows_max = self.policy.rows_taken(line.key, rows_max, now - line.oldest_at)
        is_whole = line.key.is_whole or self.limits.is_whole
        cut_rows_max = self.limits.cut_rows_max if self.limits.splits and not is_whole else 0
        parts: list[Part] = []
        rows = 0
        is_split = False
        for level, requests in enumerate(line.levels):
            rows_before = rows
            while requests and rows < rows_max:
                request = next(iter(requests))
                start, stop = request.taken_rows, request.rows
                if stop - start > rows_max - rows:
                    if parts:
                        break
                    # Too large for any batch: cut where that is possible, else alone and whole.
                    if request.rows <= cut_rows_max:
                        stop = start + rows_max - rows
                request.taken_rows = stop
                rows += stop - start
                parts.append(Part(request, start, stop))
                if stop == request.rows:
                    del requests[request]
                    self._leave(request)
                if stop - start != request.rows:
                    is_split = True
            self._level_rows[level] -= rows - rows_before
            if requests:
                break
        line.rows -= rows
        self.rows -= rows
        if line:
            self._place(line, now)
        else:
            self._drop(line)
        self.caps.begin(line.key, rows, now)
        return Batch(line.key, parts, rows, now, is_split, is_whole)

    def _leave(self, request: Request) -> None:
        """No row of *request* waits any more."""
        self.nbytes -= request.nbytes
        if request.deadline_at != math.inf:
            self._deadlines.discard(request)
        if self._has_levels:
            self._timeouts.discard(request)

    def _drop(self, line: Line) -> None:
        """*line* is empty."""
        del self._lines[line.key]
        line.stamp += 1

    def _delay(self, request: Request) -> None:
        """Put *request* behind all others of whatever priority."""
        line = self._lines[request.key]
        rows = request.rows - request.taken_rows
        del line.levels[request.priority - 1][request]
        self._level_rows[request.priority - 1] -= rows
        request.priority = self._level_count
        line.levels[-1][request] = None
        self._level_rows[-1] += rows
        self._place(line, self._now)


def _late() -> DeadlinePassed:
    return DeadlinePassed("the deadline passed while the request waited")


def _waited_too_long(request: Request, level: Level) -> DeadlinePassed:
    return DeadlinePassed(
        f"the request waited for {level.timeout_s * 1e3:g} ms, as long as priority "
        f"{request.priority} may"
    )

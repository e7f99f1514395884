"""Scheduler: the clock, the lock and the free instances around one Batcher.

Requests enter by `submit` on a transport's thread; batches come back by `_on_outcome` on the
completions thread. Both decide under the lock which batches go to which free slots, and act on it
after the lock is released. Every request ends exactly once: while it waits the batcher owns it,
afterwards its batch does.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

import structlog

from ..errors import (
    Cancelled,
    DeadlinePassed,
    Draining,
    HeadraceError,
    InstanceLost,
)
from ..faults import fault, refused_answer
from ..instrument import Instrument
from ..types import Batch, Outcome, Outputs, Part, Request
from .batcher import Batcher, Dispatch
from .joining import join
from .reruns import Reruns, told

_log = structlog.get_logger("headrace")

# Room for one batch in an instance; what it is, only the instances know.
Slot = TypeVar("Slot")


_deadline = attrgetter("deadline_at")


class Instances(Protocol[Slot]):
    """What runs batches: see `instances.group.InstanceGroup`."""

    @property
    def up_count(self) -> int:
        """Instances that are up: so many batches are computed at once."""

    def take_nowait(self, *, stages: bool) -> Slot | None:
        """A free slot, or None; with *stages* also behind a batch that runs. Under the lock."""

    def release(self, slot: Slot) -> None:
        """Hand back a slot. Under the scheduler's lock."""

    def put_back(self, slot: Slot) -> None:
        """Hand back a slot whose worker turned out to be gone. Under the scheduler's lock."""

    def execute(
        self, batch: Batch, slot: Slot, on_outcome: Callable[[Batch, Slot, Outcome], None]
    ) -> None:
        """Run *batch*; raises where *on_outcome* will hear nothing."""


class Scheduler(Generic[Slot]):
    """The queue of one model version, from requests to answers."""

    def __init__(
        self,
        batcher: Batcher,
        instances: Instances[Slot],
        instrument: Instrument,
        *,
        is_deterministic: bool = True,
        expect: Callable[["Scheduler[Slot]", float], None] = lambda _scheduler, _at: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put a clock and a lock around *batcher*.

        Args:
            batcher: The waiting requests; owned by the scheduler from now on.
            instances: What runs batches.
            instrument: Where numbers are noted.
            is_deterministic: Whether a batch may run again, whole or in pieces, that has failed.
            expect: Told, with the scheduler, of every instant at which `on_time` must be called.
            clock: Seconds on a monotonic clock.
        """
        self.instrument = instrument
        self.wake_at = math.inf
        self._batcher = batcher
        self._instances = instances
        self._expect = expect
        self._clock = clock
        # Guards the batcher, the free slots and everything below. Never held over I/O.
        self._lock = threading.Lock()
        # Batches that lost their worker, and pieces of those that failed.
        self._reruns = Reruns(batcher, instrument, is_deterministic=is_deterministic)
        # Its own, at hand: every request looks.
        self._to_rerun, self._budget = self._reruns.waiting, self._reruns.budget
        self._in_flight: set[Batch] = set()
        # When the last batch ended, or the first began after a pause.
        self._busy_since = -math.inf
        self._is_closed = False
        # What requests are told once it is closed.
        self._refusal = ""
        self._idle = threading.Condition(self._lock)

    def __repr__(self) -> str:
        return f"<Scheduler {self._batcher!r}, {self.in_flight} batches in flight>"

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._batcher.rows

    @property
    def queued_bytes(self) -> int:
        """Bytes of tensors that wait."""
        return self._batcher.nbytes

    @property
    def rows_cap(self) -> int:
        """The fewest rows to which batches of a kind are held by memory; 0 where none are."""
        return self._batcher.caps.lowest

    @property
    def in_flight(self) -> int:
        """Batches that run."""
        return len(self._in_flight)

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue *requests* and start what can run. One call per burst.

        Each request is answered through its reply, also when it is refused.
        """
        refused: list[tuple[Request, HeadraceError]] = []
        with self._lock:
            if self._is_closed:
                error = Draining(self._refusal)
                refused = [(request, error) for request in requests]
                requests = ()
            # Those that came together are told apart by their deadlines.
            requests = sorted(requests, key=_deadline)
            if requests:
                self.instrument.decode_s.observe(self._clock() - requests[0].arrived_at)
            self._tell_load(requests)
            submit = self._batcher.submit
            for request in requests:
                # A caller may leave before the burst that brought its request is handed over.
                if request.is_cancelled:
                    continue
                try:
                    submit(request)
                except HeadraceError as error:
                    refused.append((request, error))
            late, ready = self._decide()
        self._run(ready)
        self._fail_all(late)
        self._fail_all(refused)

    def cancel(self, request: Request) -> None:
        """The caller of *request* left, or its deadline passed: whatever still waits of it leaves.

        Rows that already run are dropped when they come back. Told of a request that has not been
        handed over yet, it is not run; of one that has ended, it only counts.
        """
        with self._lock:
            is_open = self._end(request)
        if is_open:
            is_late = request.is_late(self._clock())
            reason = DeadlinePassed.reason if is_late else Cancelled.reason
            self.instrument.failed[reason] += 1

    def on_time(self, now: float) -> None:  # noqa: ARG002 - the clock is read under the lock.
        """An instant has come for which `expect` was told."""
        with self._lock:
            late, ready = self._decide()
        self._run(ready)
        self._fail_all(late)

    def on_instances_change(self, change: Callable[[], None]) -> None:
        """Apply *change* to the free slots under the lock, then start what can run."""
        with self._lock:
            change()
            late, ready = self._decide()
        self._run(ready)
        self._fail_all(late)

    def run_whole(self, is_whole: bool) -> None:
        """Run each request whole, by itself, from now on; or let requests share batches."""
        with self._lock:
            self._batcher.run_whole(is_whole)
            late, ready = self._decide()
        self._run(ready)
        self._fail_all(late)

    def close(
        self, drain_s_max: float, *, refusal: str = "the model is being unloaded: retry"
    ) -> bool:
        """Take no more requests, wait for those that are here; whether all were answered in time.

        Those that were not are refused; those that come meanwhile are told *refusal*.
        """
        until = self._clock() + drain_s_max
        with self._idle:
            self._is_closed, self._refusal = True, refusal
            while not self._is_idle():
                left_s = until - self._clock()
                if left_s <= 0:
                    break
                self._idle.wait(left_s)
            batches = [*self._in_flight, *self._to_rerun]
            self._to_rerun.clear()
            left = [part.request for batch in batches for part in batch.parts]
            left += self._batcher.drain()
            is_clean = all(request.is_cancelled for request in left)
        for request in left:
            self._fail(request, Draining("the model was unloaded before the request had run"))
        return is_clean

    # Deciding, under the lock.

    def _is_idle(self) -> bool:
        """Whether no caller waits and nothing runs."""
        return not (self._batcher.rows or self._in_flight or self._reruns.is_awaited)

    def _tell_load(self, requests: Sequence[Request]) -> None:
        """Tell the batcher what runs, where it wants to know whether deadlines can be met."""
        batcher = self._batcher
        if not batcher.limits.predicts or not requests or requests[0].deadline_at == math.inf:
            return
        batcher.width = self._instances.up_count
        work_s = sum(batcher.times.expect(batch.key, batch.rows) for batch in self._in_flight)
        done_s = (self._clock() - self._busy_since) * min(batcher.width, len(self._in_flight))
        batcher.busy_s = max(work_s - done_s, 0.0)

    def _decide(self) -> tuple[list[tuple[Request, HeadraceError]], list[tuple[Batch, Slot]]]:
        """What is too late, and which batches go to which slots now."""
        now = self._clock()
        late = self._batcher.expire(now)
        ready: list[tuple[Batch, Slot]] = []
        wake_at = math.inf
        if self._to_rerun:
            late += self._reruns.give_up(now)
        take, batcher, reruns = self._instances.take_nowait, self._batcher, self._to_rerun
        while batcher.rows or reruns:
            # Behind a batch that runs only what is full goes ahead: another one still grows, and
            # would wait there as well as here.
            slot = take(stages=bool(reruns) or batcher.is_next_full(now))
            if slot is None:
                break
            if reruns:
                batch = reruns.popleft()
            else:
                action = batcher.next_action(now)
                if not isinstance(action, Dispatch):
                    self._instances.release(slot)
                    wake_at = action.at
                    break
                batch = action.batch
            if not self._in_flight:
                self._busy_since = now
            self._in_flight.add(batch)
            ready.append((batch, slot))
        self._wake_by(min(wake_at, batcher.next_expiry_at()))
        if self._is_closed:
            self._idle.notify_all()
        return late, ready

    def _wake_by(self, at: float) -> None:
        if self._to_rerun:
            at = min(at, self._reruns.until())
        self.wake_at = at
        if at != math.inf:
            self._expect(self, at)

    # Acting, outside the lock.

    def _run(self, ready: list[tuple[Batch, Slot]]) -> None:
        """Send batches to their slots; what cannot be sent ends or waits for another instance."""
        while ready:
            batch, slot = ready.pop(0)
            try:
                self._instances.execute(batch, slot, self._on_outcome)
            except InstanceLost:
                ready += self._put_back(batch, slot)
            except HeadraceError as error:
                ready += self._settle(batch, slot, error)
            except Exception:  # noqa: BLE001 - our own bug must not take the transport's thread along.
                ready += self._settle(batch, slot, fault("dispatch_failed"))

    def _on_outcome(self, batch: Batch, slot: Slot, outcome: Outcome) -> None:
        if outcome.error is not None or outcome.outputs is None:
            self._run(self._settle(batch, slot, outcome.error or fault("no_outcome")))
            return
        if outcome.is_detached:
            # The next batch goes out before this one's answers are written.
            self._run(self._release(slot))
            self._answer(batch, outcome.outputs)
        else:
            self._answer(batch, outcome.outputs)
            self._run(self._release(slot))
        self._forget(batch, outcome)
        self._note(batch, outcome)

    def _release(self, slot: Slot) -> list[tuple[Batch, Slot]]:
        with self._lock:
            self._instances.release(slot)
            late, ready = self._decide()
        self._fail_all(late)
        return ready

    def _forget(self, batch: Batch, outcome: Outcome) -> None:
        """All requests of *batch* have their answers: only now is it no longer in flight."""
        with self._lock:
            self._end_run(batch)
            self._learn(batch, outcome)
            if self._is_closed:
                self._idle.notify_all()

    def _put_back(self, batch: Batch, slot: Slot) -> list[tuple[Batch, Slot]]:
        """A batch could not be sent: it has lost nothing, and waits for another worker.

        Its slot is not free at once: the next batch would take it and fare the same.
        """
        with self._lock:
            self._end_run(batch)
            self._instances.put_back(slot)
            self._reruns.put_back(batch, self._clock())
            late, ready = self._decide()
        self._fail_all(late)
        return ready

    def _settle(self, batch: Batch, slot: Slot, error: HeadraceError) -> list[tuple[Batch, Slot]]:
        """A batch has no outputs: it runs again, whole or in pieces, or its requests are told."""
        with self._lock:
            reruns = self._reruns.batches_of(batch, error, self._clock())
        again = {part.request for rerun in reruns for part in rerun.parts}
        error = error if again else told(batch, error)
        for part in batch.parts:
            if part.request not in again:
                self._fail(part.request, error)
        with self._lock:
            self._end_run(batch)
            self._to_rerun += reruns
            self._instances.release(slot)
            late, ready = self._decide()
        self._fail_all(late)
        return ready

    def _end_run(self, batch: Batch) -> None:
        """*batch* is no longer in flight. Under the lock."""
        now = self._clock()
        self._in_flight.remove(batch)
        self._busy_since = now
        self._budget.note_run(now)

    def _learn(self, batch: Batch, outcome: Outcome) -> None:
        """Learn from a batch that ran: what it took, and that it fitted. Under the lock."""
        now = self._clock()
        seconds = now - batch.closed_at
        if outcome.instants is not None:
            # Without the time that it waited in the worker, behind another batch.
            seconds -= (outcome.instants.staged - outcome.instants.received) / 1e9
        self._batcher.times.observe(batch.key, batch.rows, max(seconds, 0.0))
        if self._batcher.caps:
            rows = batch.rows + batch.padding
            self._batcher.caps.fit(batch.key, rows, self._batcher.limits.rows_max, now)

    def _answer(self, batch: Batch, outputs: Outputs) -> None:
        start = 0
        refused = outputs.refused
        for part in batch.parts:
            request = part.request
            stop = start + part.stop - part.start
            if refused and (why := _first(refused, start, stop)) and not request.is_cancelled:
                self._fail(request, refused_answer(batch.key.model[0], why))
            elif not request.is_cancelled:
                try:
                    if not batch.is_split or part.stop - part.start == request.rows:
                        request.reply.answer(request, outputs, start, stop)
                    else:
                        whole = join(part, outputs, start, stop)
                        if whole is not None:
                            request.reply.answer(request, whole, 0, request.rows)
                except HeadraceError as error:
                    self._fail(request, error)
                except Exception:  # noqa: BLE001 - one answer must not cost its batch mates theirs.
                    self._fail(request, fault("answer_failed"))
            start = stop

    def _fail_all(self, ended: Sequence[tuple[Request, HeadraceError]]) -> None:
        for request, error in ended:
            self._fail(request, error)

    def _fail(self, request: Request, error: HeadraceError) -> None:
        """End *request* with *error*, unless its caller left or another part already ended it."""
        with self._lock:
            is_open = self._end(request)
        if not is_open:
            return
        self.instrument.failed[error.reason] += 1
        try:
            request.reply.fail(request, error)
        except Exception:  # noqa: BLE001 - one broken connection must not cost others their end.
            _log.exception("reply_failed")

    def _end(self, request: Request) -> bool:
        """Take out what waits of *request*, under the lock; whether it was open until now."""
        if request.is_cancelled:
            return False
        request.is_cancelled = True
        self._batcher.cancel(request)
        if self._is_closed:
            self._idle.notify_all()
        return True

    def _note(self, batch: Batch, outcome: Outcome) -> None:
        now = self._clock()
        instrument = self.instrument
        instrument.batches += 1
        instrument.batch_rows.observe(batch.rows)
        instrument.batch_s.observe(now - batch.closed_at)
        trip = None if outcome.outputs is None else outcome.outputs.trip
        if trip is not None:
            instrument.note_trip(trip, now)
        instrument.overflows += outcome.overflowed
        arrived = [
            part.request.arrived_at
            for part in batch.parts
            if not part.request.is_cancelled and (not batch.is_split or _is_answered(part))
        ]
        instrument.answered += len(arrived)
        instrument.rows += batch.rows
        instrument.rows_padded += batch.padding
        instrument.request_s.observe_all([now - at for at in arrived])
        instrument.queue_s.observe_all([batch.closed_at - at for at in arrived])


def _first(refused: Mapping[int, str], start: int, stop: int) -> str:
    """Why the first of rows *start* to *stop* is refused that is; empty where none is."""
    return next((refused[row] for row in range(start, stop) if row in refused), "")


def _is_answered(part: Part) -> bool:
    """Whether the part that came back is all of its request, or the last that was missing."""
    request = part.request
    if part.stop - part.start == request.rows:
        return True
    return sum(answer.stop - answer.start for answer in request.answers or ()) == request.rows

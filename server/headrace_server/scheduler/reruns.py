"""Reruns: the batches of one queue that run once more, whole or in pieces.

A batch whose worker was lost waits for another one; a batch that failed is taken apart
(isolation.py), as long as the budget allows. Whoever waits too long, or past its deadline, is told.
Knows no lock and no clock: its scheduler guards it and tells the time.
"""

import math
from collections import deque
from dataclasses import replace

import structlog

from ..errors import (
    DeadlinePassed,
    HeadraceError,
    InstanceLost,
    ModelFailed,
    OutOfMemory,
    RequestEndsWorkers,
    RowsMixed,
)
from ..faults import new_error_id
from ..instrument import Instrument
from ..types import Batch, Request
from .batcher import Batcher
from .isolation import RetryBudget, pieces_for_workers, take_apart, whole_requests

# A batch whose worker died waits this long, at most, for an instance that is up (seconds).
RETRY_S_MAX = 10.0
# How many workers one batch may cost before it is taken apart or told, and how many may end for
# other reasons while they have it.
_LOSSES_MAX = 2
_MOVES_MAX = 5

_log = structlog.get_logger("headrace")


class Reruns:
    """Batches that wait to run again.

    Attributes:
        waiting: They, in the order in which they go; all before what the batcher has. Always the
            same deque.
        budget: Of extra runs; the scheduler tells it of every run.
    """

    def __init__(self, batcher: Batcher, instrument: Instrument, *, is_deterministic: bool) -> None:
        """Nothing waits.

        Args:
            batcher: The queue, which learns from batches that ran out of memory.
            instrument: Where numbers are noted.
            is_deterministic: Whether a batch may run again that has failed or may have run.
        """
        self.waiting: deque[Batch] = deque()
        self.budget = RetryBudget()
        self._batcher = batcher
        self._instrument = instrument
        self._is_deterministic = is_deterministic

    @property
    def is_awaited(self) -> bool:
        """Whether a caller still waits for one of them."""
        return any(not part.request.is_cancelled for batch in self.waiting for part in batch.parts)

    def until(self) -> float:
        """When someone who waits has waited long enough; infinity where nobody waits."""
        return min(
            (
                min(batch.retry_until, *(part.request.deadline_at for part in batch.parts))
                for batch in self.waiting
            ),
            default=math.inf,
        )

    def put_back(self, batch: Batch, now: float) -> None:
        """Take in *batch*, which could not be sent and has lost nothing."""
        # Put back twice in a row, it goes on waiting as long as it would have.
        batch.retry_until = min(batch.retry_until, now + RETRY_S_MAX)
        self.waiting.append(batch)

    def give_up(self, now: float) -> list[tuple[Request, HeadraceError]]:
        """Who has waited long enough; the batches keep the others' rows."""
        late: list[tuple[Request, HeadraceError]] = []
        kept: list[Batch] = []
        for batch in self.waiting:
            open_parts = []
            for part in batch.parts:
                if part.request.is_cancelled:
                    continue
                if part.request.deadline_at <= now:
                    error = DeadlinePassed("the deadline passed while the request waited")
                    late.append((part.request, error))
                elif batch.retry_until <= now:
                    why = "the worker was lost and no other was ready in time: retry"
                    late.append((part.request, InstanceLost(why, is_suspect=False)))
                else:
                    open_parts.append(part)
            if open_parts:
                rows = sum(part.stop - part.start for part in open_parts)
                kept.append(replace(batch, parts=open_parts, rows=rows))
        self.waiting.clear()
        self.waiting.extend(kept)
        return late

    def batches_of(self, batch: Batch, error: HeadraceError, now: float) -> list[Batch]:
        """What of a batch that failed with *error* runs again; not taken in yet."""
        is_out_of_memory = isinstance(error, OutOfMemory)
        if is_out_of_memory:
            self._batcher.shrink(batch, now)
        if isinstance(error, InstanceLost):
            batch.losses += error.is_suspect
            batch.moves += 1
        if not self._is_deterministic:
            return []
        if isinstance(error, InstanceLost):
            if batch.losses < _LOSSES_MAX:
                again = [batch] if batch.moves < _MOVES_MAX else []
                self._instrument.retried += len(again)
                return _for_so_long(again, now)
            # Each piece may cost one more worker.
            fresh = replace(batch, losses=_LOSSES_MAX - 1, moves=0)
            pieces = take_apart(fresh, pieces_for_workers(len(batch.parts)), now)
        elif isinstance(error, RowsMixed):
            # Each whole: what was cut is told, for other parts of it are on their way.
            return _for_so_long(whole_requests(batch, now), now)
        elif is_out_of_memory:
            limits = self._batcher.limits
            cuts = limits.splits and not batch.is_whole
            cuts &= all(part.request.rows <= limits.cut_rows_max for part in batch.parts)
            pieces = take_apart(batch, 2, now, cuts=cuts)
        elif isinstance(error, ModelFailed):
            pieces = take_apart(batch, 2, now)
        else:
            return []
        # Memory needs no budget: the batches that follow are smaller.
        if len(pieces) < 2 or not (is_out_of_memory or self.budget.take(len(pieces), now)):
            return []
        self._instrument.taken_apart += 1
        return _for_so_long(pieces, now)


def told(batch: Batch, error: HeadraceError) -> HeadraceError:
    """What the requests of *batch* are told, which failed with *error* and runs no more."""
    if len(batch.parts) > 1:
        # A model's text may quote the rows of one of them; none is known to be guilty.
        return error.without_text() if isinstance(error, ModelFailed) else error
    if not isinstance(error, InstanceLost) or batch.losses < _LOSSES_MAX:
        return error
    # Alone, it is the guilty one.
    error_id = new_error_id()
    _log.error("request_ends_workers", error_id=error_id, rows=batch.rows, why=str(error))
    return RequestEndsWorkers(
        f"the request was run {batch.losses} times, alone; each time {error} (error id {error_id})"
    )


def _for_so_long(batches: list[Batch], now: float) -> list[Batch]:
    for batch in batches:
        batch.retry_until = now + RETRY_S_MAX
    return batches

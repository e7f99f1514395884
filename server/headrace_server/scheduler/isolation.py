"""Isolation: batches taken apart until what makes them fail is alone.

A batch that fails in the model may hold one request that it fails on; a batch that costs workers,
one that ends them. Its parts are run again in smaller batches: the innocent get their answers, the
guilty is told once it is alone. A budget keeps a model that always fails from multiplying its work.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from ..types import Batch, Part

# Extra runs may be this share of the runs of the last seconds.
EXTRA_RUNS_SHARE = 0.25
EXTRA_RUNS_S = 10.0
# Up to so many requests are run one by one where each run may cost a worker.
_SINGLES_MAX = 8
# As many are allowed in any case: a guilty request in a batch of 64 takes 12 halves to find.
EXTRA_RUNS_MIN = 32


def take_apart(batch: Batch, pieces: int, now: float, *, cuts: bool = False) -> list[Batch]:
    """About *pieces* batches of about as many rows each, in order, with the parts of *batch*.

    Args:
        batch: What failed.
        pieces: How many are wanted; at least 2.
        now: When they are made (seconds).
        cuts: Whether a request may be cut; else a piece holds at least one part.

    Returns:
        The pieces; only one where it cannot be taken apart.
    """
    rows_each = math.ceil(batch.rows / pieces)
    made: list[Batch] = []
    parts: list[Part] = []
    room = rows_each
    waiting = deque(batch.parts)
    while waiting:
        part = waiting.popleft()
        rows = part.stop - part.start
        if cuts and rows > room:
            middle = part.start + room
            waiting.appendleft(Part(part.request, middle, part.stop))
            part, rows = Part(part.request, part.start, middle), room
        elif parts and rows > room:
            made.append(_piece(batch, parts, now))
            parts, room = [], rows_each
        parts.append(part)
        room -= rows
        if room <= 0:
            made.append(_piece(batch, parts, now))
            parts, room = [], rows_each
    if parts:
        made.append(_piece(batch, parts, now))
    return made


def whole_requests(batch: Batch, now: float) -> list[Batch]:
    """A batch for each request of *batch* that is whole in it, to run by itself."""
    if batch.is_whole:
        return []
    return [
        replace(_piece(batch, [part], now), is_whole=True)
        for part in batch.parts
        if part.stop - part.start == part.request.rows
    ]


def pieces_for_workers(parts: int) -> int:
    """Into how many pieces a batch is taken apart that costs workers.

    A worker is dear and a run is cheap: a few requests run one by one, many in as many pieces as
    each then has. So two more workers find one of 64, where halves would cost six.
    """
    return parts if parts <= _SINGLES_MAX else math.ceil(math.sqrt(parts))


class RetryBudget:
    """How many extra runs are left; runs are counted in slices of a second."""

    def __init__(self) -> None:
        # (second, runs, extra runs), oldest first.
        self._slices: deque[list[int]] = deque()

    def note_run(self, now: float) -> None:
        """A batch ran."""
        self._slice(now)[1] += 1

    def take(self, runs: int, now: float) -> bool:
        """Whether *runs* more may be made; then they count."""
        current = self._slice(now)
        made = sum(extra for _, _, extra in self._slices)
        if made + runs > max(
            EXTRA_RUNS_MIN, EXTRA_RUNS_SHARE * sum(ran for _, ran, _ in self._slices)
        ):
            return False
        current[2] += runs
        return True

    def _slice(self, now: float) -> list[int]:
        """The slice of this second, behind those that still count."""
        slices = self._slices
        second = int(now)
        if not slices or slices[-1][0] != second:
            slices.append([second, 0, 0])
            while slices[0][0] <= second - EXTRA_RUNS_S:
                slices.popleft()
        return slices[-1]


def _piece(batch: Batch, parts: Sequence[Part], now: float) -> Batch:
    return replace(
        batch,
        parts=list(parts),
        rows=sum(part.stop - part.start for part in parts),
        closed_at=now,
        padding=0,
        is_split=any(part.stop - part.start != part.request.rows for part in parts),
    )

"""Policy: how long an open batch may wait for more rows, and how many rows it may have.

A batch is only ever closed when an instance is free to run it, so batches grow by themselves under
load; a policy decides whether a free instance should wait for an open batch to grow further. A
policy is a class here and a line in POLICIES. It is pure and told the time.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol

from ..types import BatchKey
from .servicetimes import ServiceTimes

# Batch keys whose arrivals are kept, those that came last.
_KEYS_MAX = 256
# How much one more row changes the mean time between rows.
_GAP_GAIN = 1 / 32
# A longer pause counts as this long (seconds): the first requests after a night say nothing of it.
_GAP_S_MAX = 1.0
# The next row is waited for this many mean times between rows: of Poisson arrivals 6 in 7 come.
_GAPS_WAITED = 2.0


class Policy(Protocol):
    """Decides when a batch is due, and how large it may be.

    Attributes:
        follows_rows: Whether `due_at` changes with every row that comes, and `note_arrival` wants
            to be told of each.
    """

    follows_rows: ClassVar[bool]

    def rows_wanted(self, key: BatchKey, rows_max: int) -> int:
        """With as many rows a batch is due at once; at most *rows_max*."""

    def due_at(self, key: BatchKey, rows: int, oldest_at: float, now: float) -> float:
        """When a batch of *rows* is due that has fewer than it wants, if no more come (seconds).

        Args:
            key: Its batch key.
            rows: Rows that wait.
            oldest_at: When the oldest of them came.
            now: The time; not later than the answer unless the batch is due.
        """

    def rows_taken(self, key: BatchKey, rows_max: int, waited_s: float) -> int:
        """How many rows a batch may have whose oldest request has waited *waited_s*."""

    def note_arrival(self, key: BatchKey, rows: int, at: float) -> None:
        """Rows of *key* came at that instant."""


@dataclass(frozen=True, slots=True)
class Aims:
    """What the settings ask of a policy.

    Attributes:
        delay_s: How long a batch may wait for more rows (seconds).
        rows_preferred: As many rows make a batch that waits no longer; 0 for a full one.
        p99_s: What 99 of 100 requests should take at most, from arrival to answer (seconds).
    """

    delay_s: float = 0.0
    rows_preferred: int = 0
    p99_s: float = 0.0


class GreedyPolicy:
    """A free instance never waits: it takes what is there."""

    follows_rows: ClassVar[bool] = False

    def rows_wanted(self, key: BatchKey, rows_max: int) -> int:  # noqa: ARG002 - no key is special.
        """See `Policy.rows_wanted`."""
        return rows_max

    def due_at(self, key: BatchKey, rows: int, oldest_at: float, now: float) -> float:  # noqa: ARG002
        """See `Policy.due_at`."""
        return oldest_at

    def rows_taken(self, key: BatchKey, rows_max: int, waited_s: float) -> int:  # noqa: ARG002
        """See `Policy.rows_taken`."""
        return rows_max

    def note_arrival(self, key: BatchKey, rows: int, at: float) -> None:
        """See `Policy.note_arrival`."""


@dataclass(frozen=True, slots=True)
class DelayPolicy(GreedyPolicy):
    """Wait until there are *rows_preferred*, or the oldest request is *delay_s* old."""

    delay_s: float = 0.0
    rows_preferred: int = 0

    def rows_wanted(self, key: BatchKey, rows_max: int) -> int:  # noqa: ARG002 - no key is special.
        """See `Policy.rows_wanted`."""
        return min(self.rows_preferred or rows_max, rows_max)

    def due_at(self, key: BatchKey, rows: int, oldest_at: float, now: float) -> float:  # noqa: ARG002
        """See `Policy.due_at`."""
        return oldest_at + self.delay_s


@dataclass(slots=True)
class AdaptivePolicy:
    """Keep the time of 99 of 100 requests below *p99_s*, at the least mean time.

    How large: half of *p99_s* is for the batch that a request finds running, half for its own, so a
    batch has as many rows as run within one half. Where its oldest request would be late all the
    same, it is as large as possible: then only throughput helps those behind it.

    How long: with n rows waiting, seconds(n) to run them and one more row expected after g seconds,
    waiting for it makes n rows later by g + seconds(n + 1) - seconds(n), and the one that comes
    earlier by seconds(n) + seconds(1) - g - seconds(n + 1), since it needs no batch of its own
    behind this one. It is waited for where that gains more than it costs, never longer than the
    oldest row has time; where a batch costs the same per row, it never gains.
    """

    follows_rows: ClassVar[bool] = True

    p99_s: float
    times: ServiceTimes
    _arrivals: "OrderedDict[BatchKey, _Arrivals]" = field(default_factory=OrderedDict)

    def rows_wanted(self, key: BatchKey, rows_max: int) -> int:
        """See `Policy.rows_wanted`."""
        return self.times.rows_within(key, self.p99_s / 2, rows_max)

    def due_at(self, key: BatchKey, rows: int, oldest_at: float, now: float) -> float:
        """See `Policy.due_at`."""
        arrivals = self._arrivals.get(key)
        if arrivals is None or not arrivals.gap_s:
            return oldest_at
        expect = self.times.expect
        gap_s = arrivals.gap_s
        own_s = expect(key, rows)
        grown_s = expect(key, rows + 1)
        gained_s = own_s + expect(key, 1) - gap_s - grown_s
        lost_s = rows * (gap_s + grown_s - own_s)
        if gained_s <= lost_s:
            return oldest_at
        latest = oldest_at + self.p99_s - self.times.allow(key, rows + 1)
        return max(oldest_at, min(now + _GAPS_WAITED * gap_s, latest))

    def rows_taken(self, key: BatchKey, rows_max: int, waited_s: float) -> int:
        """See `Policy.rows_taken`."""
        rows = self.rows_wanted(key, rows_max)
        is_late = waited_s + self.times.allow(key, rows) > self.p99_s
        return rows_max if is_late else rows

    def note_arrival(self, key: BatchKey, rows: int, at: float) -> None:
        """See `Policy.note_arrival`."""
        arrivals = self._arrivals.get(key)
        if arrivals is None:
            if len(self._arrivals) >= _KEYS_MAX:
                self._arrivals.popitem(last=False)
            self._arrivals[key] = _Arrivals(at)
            return
        gap_s = min(max(at - arrivals.last_at, 0.0), _GAP_S_MAX) / rows
        arrivals.last_at = at
        arrivals.gap_s += (gap_s - arrivals.gap_s) * _GAP_GAIN if arrivals.gap_s else gap_s


@dataclass(slots=True)
class _Arrivals:
    """When rows of one key come.

    Attributes:
        last_at: When the last one came.
        gap_s: The mean time from one row to the next (seconds); 0 before there were two.
    """

    last_at: float
    gap_s: float = 0.0


POLICIES: Final[Mapping[str, Callable[[Aims, ServiceTimes], Policy]]] = {
    "greedy": lambda _aims, _times: GreedyPolicy(),
    "delay": lambda aims, _times: DelayPolicy(aims.delay_s, aims.rows_preferred),
    "adaptive": lambda aims, times: AdaptivePolicy(aims.p99_s, times),
}

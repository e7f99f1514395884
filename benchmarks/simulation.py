"""Simulation: what batching would do with given arrivals, computed without a clock.

One instance runs one batch at a time, each for the same time whatever its rows. Pure: arrivals in,
latencies out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What one policy does with the arrivals.

    Attributes:
        delay_s: How long a batch that is not full may wait for more rows; 0 is greedy.
        rows_mean: Mean rows of a batch.
        p50_s: Half of the requests take at most this long, from arrival to the end of their batch.
        p99_s: 99 of 100 do.
    """

    delay_s: float
    rows_mean: float
    p50_s: float
    p99_s: float


def simulate(
    arrivals_s: Seconds, *, service_s: float, rows_max: int, delay_s: float = 0.0
) -> Outcome:
    """Run one request of one row per arrival, in order, batches closed by late binding.

    A batch is closed once the instance is free, and either *rows_max* rows wait or the oldest has
    waited *delay_s*.

    Args:
        arrivals_s: Ascending instants, shape [requests], at least one.
        service_s: What a batch takes.
        rows_max: Rows of a batch.
        delay_s: See `Outcome`.
    """
    count = len(arrivals_s)
    done_s = np.empty(count)
    free_at = -np.inf
    first = batches = 0
    while first < count:
        due_at = arrivals_s[first] + delay_s
        full = first + rows_max
        if full <= count:
            due_at = min(due_at, arrivals_s[full - 1])
        closed_at = max(free_at, due_at)
        stop = min(full, int(np.searchsorted(arrivals_s, closed_at, side="right")))
        free_at = closed_at + service_s
        done_s[first:stop] = free_at
        first = stop
        batches += 1
    p50_s, p99_s = np.percentile(done_s - arrivals_s, (50, 99))
    return Outcome(delay_s, count / batches, float(p50_s), float(p99_s))


def best(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of the lowest p99, of several equal ones the first."""
    return min(outcomes, key=lambda outcome: outcome.p99_s)

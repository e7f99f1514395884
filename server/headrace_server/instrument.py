"""Instrument: what the core counts about one model version, without knowing who reads it.

Plain numbers, written by the scheduler's threads and read by the metrics endpoint. A value may be
read while it is written; every value is monotonic, so a scrape is at worst one request behind.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence

from .types import Trip

# From 50 us: a small model's answer takes less than most servers' first bucket.
DURATION_BUCKETS_S = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
    0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class Histogram:
    """Counts of values per bucket, with their sum. One thread writes."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_all(self, values: Iterable[float]) -> None:
        """Count several values."""
        bounds, counts = self.bounds, self.counts
        total = 0.0
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self.total += total

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self.counts)


class Instrument:
    """Numbers of one model version.

    Attributes:
        answered: Requests answered from batches.
        answered_empty: Requests of no rows, answered without one; written by the transport.
        failed: Requests that ended in an error, by reason.
        rows: Rows answered.
        rows_padded: Rows run beside them, to reach an allowed size.
        batches: Batches run, retries included.
        retried: Batches run again after a worker was lost.
        taken_apart: Batches run again in pieces, since they failed as a whole.
        overflows: Batches whose outputs did not fit their slot and travelled in a memfd.
        request_s: From arrival to answer.
        decode_s: From the arrival of a burst to the queue, per burst.
        queue_s: From arrival to the close of the batch.
        batch_s: From the close of a batch to its answer.
        gather_s: From the close of a batch until its rows lie in the arena.
        send_s: From there until the worker has it.
        stage_s: From there until its inputs are where the model computes.
        compute_s: The framework's own call.
        finish_s: From there until the outputs lie in the arena.
        return_s: From there until the daemon has them.
        answer_s: From there until all answers of the batch are sent.
        batch_rows: Rows per batch.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.answered_empty = 0
        self.failed: defaultdict[str, int] = defaultdict(int)
        self.rows = 0
        self.rows_padded = 0
        self.batches = 0
        self.retried = 0
        self.taken_apart = 0
        self.overflows = 0
        self.request_s = Histogram(DURATION_BUCKETS_S)
        self.decode_s = Histogram(DURATION_BUCKETS_S)
        self.queue_s = Histogram(DURATION_BUCKETS_S)
        self.batch_s = Histogram(DURATION_BUCKETS_S)
        self.gather_s = Histogram(DURATION_BUCKETS_S)
        self.send_s = Histogram(DURATION_BUCKETS_S)
        self.stage_s = Histogram(DURATION_BUCKETS_S)
        self.compute_s = Histogram(DURATION_BUCKETS_S)
        self.finish_s = Histogram(DURATION_BUCKETS_S)
        self.return_s = Histogram(DURATION_BUCKETS_S)
        self.answer_s = Histogram(DURATION_BUCKETS_S)
        self.batch_rows = Histogram(ROWS_BUCKETS)

    @property
    def requests(self) -> int:
        """Requests answered."""
        return self.answered + self.answered_empty

    def note_trip(self, trip: Trip, answered_at: float) -> None:
        """Count the steps of a batch whose answers were sent by *answered_at* (seconds)."""
        received, staged, computed, finished = trip.worker
        self.gather_s.observe((trip.gathered - trip.closed) / 1e9)
        self.send_s.observe((received - trip.gathered) / 1e9)
        self.stage_s.observe((staged - received) / 1e9)
        self.compute_s.observe((computed - staged) / 1e9)
        self.finish_s.observe((finished - computed) / 1e9)
        self.return_s.observe((trip.landed - finished) / 1e9)
        self.answer_s.observe(answered_at - trip.landed / 1e9)

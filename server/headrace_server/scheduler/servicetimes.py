"""Service times: how long batches take, learned from those that ran.

Pure, and guarded by its scheduler's lock. Per batch key there is one curve of seconds over rows,
with a point for every power of two: sizes between two points are interpolated, for models cost
about as much per row as their neighbours do.
"""

from bisect import bisect_right
from collections import OrderedDict
from itertools import pairwise

from ..types import BatchKey

# Batch keys whose times are kept, those that ran last.
_KEYS_MAX = 256
# How much one more batch changes a point's mean and mean deviation: RFC 6298, section 2.3, which
# learns round-trip times.
_MEAN_GAIN = 1 / 8
_DEVIATION_GAIN = 1 / 4
# As many mean deviations above the mean are allowed for: about 19 of 20 batches take less.
_ALLOWED_DEVIATIONS = 2.0


class ServiceTimes:
    """What batches of one model version took, from their close to their outputs (seconds)."""

    def __init__(self) -> None:
        # For keys that never ran: what batches of any key took.
        self._any = _Curve()
        self._curves: OrderedDict[BatchKey, _Curve] = OrderedDict()

    def observe(self, key: BatchKey, rows: int, seconds: float) -> None:
        """Learn that a batch of *rows* of *key* took *seconds*."""
        curve = self._curves.get(key)
        if curve is None:
            if len(self._curves) >= _KEYS_MAX:
                self._curves.popitem(last=False)
            curve = self._curves[key] = _Curve()
        else:
            self._curves.move_to_end(key)
        curve.observe(rows, seconds)
        self._any.observe(rows, seconds)

    def expect(self, key: BatchKey, rows: int) -> float:
        """The mean time of a batch of *rows* (seconds); 0 where nothing is known yet."""
        return self._curves.get(key, self._any).at(rows)[0]

    def allow(self, key: BatchKey, rows: int) -> float:
        """The time that a batch of *rows* seldom exceeds (seconds); 0 where nothing is known."""
        mean, deviation = self._curves.get(key, self._any).at(rows)
        return mean + _ALLOWED_DEVIATIONS * deviation

    def rows_within(self, key: BatchKey, seconds: float, rows_max: int) -> int:
        """The most rows, from 1 to *rows_max*, for which `allow` gives no more than *seconds*."""
        sizes = range(1, rows_max + 1)
        return max(1, bisect_right(sizes, seconds, key=lambda rows: self.allow(key, rows)))


class _Curve:
    """Seconds over rows, for one batch key."""

    __slots__ = ("_places", "_points")

    def __init__(self) -> None:
        # Mean rows, mean seconds, mean deviation of these, in order of the rows.
        self._points: list[tuple[float, float, float]] = []
        # Where the point of each power of two stands among them.
        self._places: dict[int, int] = {}

    def observe(self, rows: int, seconds: float) -> None:
        power = rows.bit_length()
        at = self._places.get(power)
        if at is None:
            self._places = {
                other: place for place, other in enumerate(sorted((*self._places, power)))
            }
            self._points.insert(self._places[power], (float(rows), seconds, 0.0))
            return
        size, mean, deviation = self._points[at]
        off = seconds - mean
        self._points[at] = (
            size + (rows - size) * _MEAN_GAIN,
            mean + off * _MEAN_GAIN,
            deviation + (abs(off) - deviation) * _DEVIATION_GAIN,
        )

    def at(self, rows: int) -> tuple[float, float]:
        """Mean and mean deviation for *rows*.

        Below the first point they are the first point's; above the last one they grow as between
        the last two, and in proportion to the rows where there is only one.
        """
        points = self._points
        if not points:
            return 0.0, 0.0
        if rows <= points[0][0]:
            return points[0][1:]
        for (size, *low), (next_size, *high) in pairwise(points):
            if rows <= next_size:
                share = (rows - size) / (next_size - size)
                return (
                    low[0] + (high[0] - low[0]) * share,
                    low[1] + (high[1] - low[1]) * share,
                )
        size, mean, deviation = points[-1]
        if len(points) == 1:
            return mean * rows / size, deviation * rows / size
        before, mean_before, _ = points[-2]
        slope = max(mean - mean_before, 0.0) / (size - before)
        return mean + slope * (rows - size), deviation

"""Row caps: how many rows of a batch key fit the memory, learned from batches that did not.

Pure, and guarded by its scheduler's lock. Where a batch ran out of memory, half of its rows become
the cap. Memory may be free again later, so after a while one batch is allowed twice the cap: if it
runs, what it had is the new cap; if not, the next try comes after twice the time.
"""

from dataclasses import dataclass

from ..types import BatchKey

# Seconds to the first try of a larger batch, and the most that they double to.
PROBE_S_MIN = 30.0
PROBE_S_MAX = 600.0
# Batch keys with a cap; beyond it all are forgotten and learned anew.
_KEYS_MAX = 1024


@dataclass(slots=True)
class _Cap:
    """What is known of one key.

    Attributes:
        rows: Rows that should fit.
        probe_at: When a larger batch is tried.
        interval_s: How long after the last try that is.
        is_probing: Whether one runs now.
    """

    rows: int
    probe_at: float
    interval_s: float = PROBE_S_MIN
    is_probing: bool = False


class RowCaps:
    """The caps of one model version."""

    def __init__(self) -> None:
        self._caps: dict[BatchKey, _Cap] = {}

    @property
    def lowest(self) -> int:
        """The lowest cap of all keys; 0 where there is none."""
        return min((cap.rows for cap in self._caps.values()), default=0)

    def __bool__(self) -> bool:
        return bool(self._caps)

    def rows_max(self, key: BatchKey, rows_max: int, now: float) -> int:
        """How many rows a batch may have, where it may have *rows_max* otherwise."""
        cap = self._caps.get(key)
        if cap is None:
            return rows_max
        return min(cap.rows if now < cap.probe_at else 2 * cap.rows, rows_max)

    def begin(self, key: BatchKey, rows: int, now: float) -> None:
        """A batch of *rows* is about to run: above the cap it is a try, the only one for now."""
        cap = self._caps.get(key)
        if cap is not None and rows > cap.rows and now >= cap.probe_at:
            cap.probe_at = now + cap.interval_s
            cap.is_probing = True

    def shrink(self, key: BatchKey, rows: int, now: float) -> None:
        """A batch of *rows* ran out of memory."""
        cap = self._caps.get(key)
        if cap is None:
            if len(self._caps) >= _KEYS_MAX:
                self._caps.clear()
            self._caps[key] = _Cap(max(rows // 2, 1), now + PROBE_S_MIN)
        elif rows <= cap.rows:
            cap.rows = max(rows // 2, 1)
            cap.probe_at = now + cap.interval_s
        elif cap.is_probing:
            cap.interval_s = min(2 * cap.interval_s, PROBE_S_MAX)
            cap.probe_at = now + cap.interval_s
            cap.is_probing = False

    def fit(self, key: BatchKey, rows: int, rows_max: int, now: float) -> None:
        """A batch of *rows* ran; *rows_max* is what it may have without a cap."""
        cap = self._caps.get(key)
        if cap is None or rows <= cap.rows:
            return
        if rows >= rows_max:
            del self._caps[key]
        else:
            self._caps[key] = _Cap(rows, now + PROBE_S_MIN)

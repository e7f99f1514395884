"""Pages: which of the arena's are locked, so that the device may copy from and to them itself.

The arena is sparse, and as large as its bound: to lock it whole would fill it. So pages are locked
when a slot that uses them is first seen, and stay so until the process ends; the daemon keeps them
in place (`Arena.keeps_pages`). Slots come and go, and a later one may lie across what was locked in
several calls. No copy may cross the seam between two of these, so `cuts` says where they are.
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable

# What is locked in one call, at least: slots are many and small, or few and large (bytes).
GRANULE = 1 << 20


class LockedPages:
    """The locked ranges of one arena, which never overlap. Any thread may ask."""

    def __init__(self, arena: range, lock: Callable[[int, int], object]) -> None:
        """Lock ranges of the addresses *arena* with *lock*, which takes address and bytes.

        Args:
            arena: Its addresses, from a page's begin to a page's end.
            lock: Asked once for each range.
        """
        self._arena = arena
        self._lock = lock
        self._guard = threading.Lock()
        # Ascending: the begin and end of each range.
        self._begins: list[int] = []
        self._ends: list[int] = []

    def cuts(self, address: int, nbytes: int) -> tuple[int, ...]:
        """Lock the pages of that memory where they are not; memory outside the arena never is.

        Returns:
            Where a copy of it must be cut, in bytes from *address*; mostly nowhere.
        """
        arena = self._arena
        if not nbytes or not arena.start <= address < arena.stop:
            return ()
        with self._guard:
            self._cover(
                max(address & -GRANULE, arena.start),
                min((address + nbytes + GRANULE - 1) & -GRANULE, arena.stop),
            )
            first = bisect_right(self._begins, address)
            last = bisect_left(self._begins, address + nbytes)
            return tuple(begin - address for begin in self._begins[first:last])

    def _cover(self, begin: int, end: int) -> None:
        while begin < end:
            index = bisect_right(self._begins, begin)
            if index and self._ends[index - 1] > begin:
                begin = self._ends[index - 1]
                continue
            stop = min(end, self._begins[index]) if index < len(self._begins) else end
            self._begins.insert(index, begin)
            self._ends.insert(index, stop)
            self._lock(begin, stop - begin)
            begin = stop

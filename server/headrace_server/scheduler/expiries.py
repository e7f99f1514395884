"""Expiries: until when requests may wait, in order of these instants."""

import math
from heapq import heapify, heappop, heappush

from ..types import Request

# Entries of requests that are long gone are swept from the heap when they are most of it.
_SWEEP_MIN = 64


class Expiries:
    """Requests with an instant each, at most one per request."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._waiting: set[Request] = set()
        self._sequence = 0

    def add(self, at: float, request: Request) -> None:
        """*request* may wait until *at* (seconds)."""
        self._sequence += 1
        self._waiting.add(request)
        heappush(self._heap, (at, self._sequence, request))

    def discard(self, request: Request) -> None:
        """*request* waits no longer; one that is not here is left alone."""
        waiting = self._waiting
        if request not in waiting:
            return
        waiting.remove(request)
        if len(self._heap) >= max(_SWEEP_MIN, 2 * len(waiting)):
            self._heap = [entry for entry in self._heap if entry[2] in waiting]
            heapify(self._heap)

    def first(self) -> Request | None:
        """The request whose instant comes first."""
        heap = self._heap
        while heap and heap[0][2] not in self._waiting:
            heappop(heap)
        return heap[0][2] if heap else None

    def next_at(self) -> float:
        """The first instant; infinity where there is none."""
        return math.inf if self.first() is None else self._heap[0][0]

    def pop(self, now: float) -> Request | None:
        """Take out the first request if its instant has come."""
        request = self.first()
        if request is None or self._heap[0][0] > now:
            return None
        heappop(self._heap)
        self._waiting.remove(request)
        return request

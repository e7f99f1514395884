"""Line: the waiting requests of one batch key, by priority, each level first come first served."""

from collections import OrderedDict

from ..types import BatchKey, Request


class Line:
    """What waits of one batch key. The batcher's own.

    Attributes:
        key: The batch key.
        levels: The requests of each priority level, highest first. An ordered dict is a queue from
            which any request leaves in O(1).
        rows: Rows that wait.
        rows_max: Rows of a batch; 1 where every batch is one whole request.
        rows_wanted: With as many rows it is due.
        level: The level of its first request, from 0, when it was last put in its place.
        is_due: Whether it had the rows it wants then.
        stamp: Changes whenever its place does, which outdates the older entries of a heap.
    """

    __slots__ = ("is_due", "key", "level", "levels", "rows", "rows_max", "rows_wanted", "stamp")

    def __init__(self, key: BatchKey, levels: int) -> None:
        self.key = key
        self.levels: list[OrderedDict[Request, None]] = [OrderedDict() for _ in range(levels)]
        self.rows = 0
        self.rows_max = 0
        self.rows_wanted = 0
        # No request is of this level: the first one puts the line in its place.
        self.level = levels
        self.is_due = False
        self.stamp = 0

    def __contains__(self, request: Request) -> bool:
        return request in self.levels[request.priority - 1]

    def __bool__(self) -> bool:
        return any(self.levels)

    @property
    def first(self) -> Request:
        """The request that goes first; the line must hold one."""
        for level in self.levels:
            if level:
                return next(iter(level))
        raise LookupError(f"{self.key} has no requests")

    @property
    def oldest_at(self) -> float:
        """When the request came that waits longest; the line must hold one."""
        return min(next(iter(level)).arrived_at for level in self.levels if level)

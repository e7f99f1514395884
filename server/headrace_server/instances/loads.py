"""Loads: which instance a worker process loads, and whether that takes too much time or memory.

Pure: told the time. A process loads its instances one after another, and says so when it begins.
"""

import math
from collections.abc import Callable
from typing import Generic, TypeVar

# How often memory is looked at (seconds): what a load takes in so short a time a host can bear.
LOOK_S = 0.05

Instance = TypeVar("Instance")


class Loads(Generic[Instance]):
    """What one worker process loads now.

    Attributes:
        current: The instance; None while it loads none.
        wake_at: When to ask `excess` (seconds, on the caller's clock); infinity for never.
    """

    def __init__(self) -> None:
        self.current: Instance | None = None
        self.wake_at = math.inf
        self._until = math.inf
        self._s_max = 0.0
        self._bytes_max = 0
        self._bytes_before = 0

    def begin(
        self, instance: Instance, now: float, *, s_max: float, bytes_max: int, bytes_now: int
    ) -> None:
        """The process begins to load *instance*.

        Args:
            instance: Which.
            now: The time.
            s_max: How long it may take (seconds).
            bytes_max: By how much the process may grow over it; 0 for any.
            bytes_now: What the process has.
        """
        self.current = instance
        self._until = now + s_max
        self._s_max = s_max
        self._bytes_max = bytes_max
        self._bytes_before = bytes_now
        self.wake_at = min(self._until, now + LOOK_S if bytes_max else math.inf)

    def end(self, instance: Instance) -> None:
        """It has loaded *instance*, or cannot."""
        if self.current is instance:
            self.clear()

    def clear(self) -> None:
        """It loads nothing any more."""
        self.current = None
        self.wake_at = math.inf

    def excess(self, now: float, bytes_now: Callable[[], int]) -> str:
        """What the current load takes too much of, in one sentence; empty where it does not.

        Args:
            now: The time.
            bytes_now: Tells what the process has.
        """
        if self.current is None or now < self.wake_at:
            return ""
        if now >= self._until:
            self.wake_at = math.inf
            return f"the model did not load within load_s_max = {self._s_max:g} seconds"
        grown = bytes_now() - self._bytes_before
        if grown > self._bytes_max:
            self.wake_at = math.inf
            return (
                f"the model took more memory to load than load_bytes_max allows: {grown} bytes, "
                f"expected at most {self._bytes_max}"
            )
        self.wake_at = min(self._until, now + LOOK_S)
        return ""

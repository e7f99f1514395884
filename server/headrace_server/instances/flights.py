"""Flights: which batches a worker has, and whether it has been at work on one for too long.

Pure: told the time, guarded by its worker's lock. An instance works on its batches one after
another, in the order in which they were sent; those behind the oldest only wait.
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

# What is told how a batch ended.
Flight = TypeVar("Flight")
Instance = TypeVar("Instance", bound=Hashable)


@dataclass(slots=True)
class _Work:
    """What one instance has.

    Attributes:
        batches: How many.
        since: When it began with the oldest of them (seconds).
    """

    batches: int
    since: float


class Flights(Generic[Instance, Flight]):
    """The batches that one worker process has.

    Attributes:
        wake_at: When to ask `overdue` (seconds); never later than a batch is overdue.
    """

    def __init__(self, exec_s_max: Callable[[Instance], float]) -> None:
        """Nothing yet; *exec_s_max* tells how long an instance may work on one batch (seconds)."""
        self.wake_at = math.inf
        self._exec_s_max = exec_s_max
        # In the order in which they were sent.
        self._flights: dict[int, tuple[Instance, Flight]] = {}
        self._work: dict[Instance, _Work] = {}

    def add(self, batch: int, instance: Instance, flight: Flight, now: float) -> bool:
        """*batch* is about to be sent to *instance*; whether `wake_at` is earlier for it."""
        self._flights[batch] = (instance, flight)
        work = self._work.get(instance)
        if work is not None:
            work.batches += 1
            return False
        self._work[instance] = _Work(1, now)
        # Usually the instant of some earlier batch is still to come, and nothing changes.
        at = now + self._exec_s_max(instance)
        if at >= self.wake_at:
            return False
        self.wake_at = at
        return True

    def take(self, batch: int, at: float) -> Flight | None:
        """*batch* ended at that instant; None where it is not known."""
        entry = self._flights.pop(batch, None)
        if entry is None:
            return None
        instance, flight = entry
        work = self._work[instance]
        work.batches -= 1
        work.since = at
        if work.batches:
            # Where an instance was found overdue and came back all the same.
            self.wake_at = min(self.wake_at, at + self._exec_s_max(instance))
        else:
            del self._work[instance]
        return flight

    def overdue(self, now: float) -> Instance | None:
        """The instance that has worked on one batch for too long; None where there is none."""
        ends = {one: work.since + self._exec_s_max(one) for one, work in self._work.items()}
        self.wake_at = min((at for at in ends.values() if at > now), default=math.inf)
        return next((one for one, at in ends.items() if at <= now), None)

    def clear(self, hung: Instance | None) -> list[tuple[Flight, bool]]:
        """The process ended: all flights, each with whether its batch may be why.

        Where an instance *hung*, it is the batch which that was at work on; else it may be what any
        instance was at work on.
        """
        suspects = set(self._work) if hung is None else {hung}
        flights = []
        for instance, flight in self._flights.values():
            flights.append((flight, instance in suspects))
            suspects.discard(instance)
        self._flights.clear()
        self._work.clear()
        self.wake_at = math.inf
        return flights

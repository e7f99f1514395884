"""Policy: how long an open batch may wait for more rows.

A batch is only ever closed when an instance is free to run it, so batches grow by themselves under
load; a policy decides whether a free instance should wait for an open batch to grow further.
"""

from dataclasses import dataclass
from typing import Protocol


class Policy(Protocol):
    """Decides when an open batch that is not full is due."""

    def due_at(self, oldest_at: float) -> float:
        """When a batch whose oldest request arrived at *oldest_at* should be closed (seconds)."""

    def observe(self, rows: int, seconds: float) -> None:
        """Learn that a batch of *rows* took *seconds* from dispatch to answer."""

    @property
    def service_s(self) -> float:
        """How long a batch is expected to take, in seconds."""


@dataclass(slots=True)
class DelayPolicy:
    """Wait until the oldest request is *delay_s* old. With no delay, a free instance never waits.

    The expected service time is an exponentially weighted mean over about the last eight batches;
    it only serves to close a batch early enough for its most urgent deadline.
    """

    delay_s: float = 0.0
    service_s: float = 0.0

    def due_at(self, oldest_at: float) -> float:
        """See `Policy.due_at`."""
        return oldest_at + self.delay_s

    def observe(self, rows: int, seconds: float) -> None:  # noqa: ARG002 - other policies need rows.
        """See `Policy.observe`."""
        self.service_s += (seconds - self.service_s) / 8 if self.service_s else seconds

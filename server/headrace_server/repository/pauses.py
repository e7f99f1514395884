"""Pauses: how long to wait before what failed for a cause that may pass is tried again."""

import secrets
import time
from datetime import UTC, datetime

# The first pause is at most so long, and each further one twice that, up to the longest (seconds).
_PAUSE_S_MIN = 1.0
_PAUSE_S_MAX = 600.0

_random = secrets.SystemRandom()


def pause_after(tries: int) -> float:
    """How long to wait once so many tries in a row have failed, at least one (seconds).

    Half of it is left to chance, so that all who wait for one registry do not come back together.
    """
    longest = min(_PAUSE_S_MIN * 2.0 ** min(tries - 1, 16), _PAUSE_S_MAX)
    return longest * _random.uniform(0.5, 1.0)


def when(at: float) -> str:
    """The instant *at* (seconds, monotonic clock) for a person, as seen from now."""
    left_s = at - time.monotonic()
    if left_s <= 0:
        return "now"
    clock = datetime.fromtimestamp(time.time() + left_s, UTC)
    return f"in {left_s:.0f} s, at {clock:%H:%M:%S} UTC"

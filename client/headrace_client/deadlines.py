"""Deadlines: every call has one, so that none waits for ever and a server may drop what is late."""

import time
from typing import Any, Final

import numpy as np

# A year. Above three gRPC sends three; of 300 it makes an instant that has passed.
TIMEOUT_S_MAX: Final = 365 * 24 * 3600

_NUMBERS: Final = (int, float, np.integer, np.floating)


def check_seconds(name: str, given: Any) -> float:
    """*given* as seconds that gRPC can wait.

    Args:
        name: What the caller knows the argument by.
        given: Any number above 0, numpy's too.

    Raises:
        ValueError: It is none, or above a year.
    """
    # True and False are numbers to Python, NaN is greater than nothing.
    is_number = isinstance(given, _NUMBERS) and not isinstance(given, bool)
    if is_number and 0 < given <= TIMEOUT_S_MAX:
        return float(given)
    raise ValueError(f"{name}: expected a number of seconds above 0, at most a year, got {given!r}")


def deadline_at(timeout: float | None, timeout_s: float) -> float:
    """The instant (seconds, monotonic clock) at which a call that begins now has to end.

    Args:
        timeout: What the caller gave; None for the client's.
        timeout_s: The client's, which was checked when it was made.

    Raises:
        ValueError: *timeout* is no number of seconds.
    """
    if timeout is None:
        return time.monotonic() + timeout_s
    return time.monotonic() + check_seconds("timeout", timeout)


def left_s(deadline: float) -> float:
    """Seconds until *deadline*; what gRPC takes as a timeout."""
    return deadline - time.monotonic()

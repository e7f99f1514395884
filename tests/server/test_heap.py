"""Heap: what was freed goes back to the system, while nothing waits."""

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from headrace_server.heap import Trimmer, own_bytes

GROWN_BYTES = 16 << 20
WAIT_S_MAX = 10.0

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

pytestmark = pytest.mark.skipif(not hasattr(libc, "malloc_trim"), reason="not glibc")


@pytest.fixture(autouse=True)
def nothing_freed_is_left() -> None:
    """Else a test may take what earlier ones have freed, and the process would not grow."""
    libc.malloc_trim(0)


@contextmanager
def pinned_heap() -> Iterator[int]:
    """Memory that was freed below a piece that lives; how much the process has then (bytes)."""
    pieces = [libc.malloc(16 << 10) for _ in range(4000)]
    for piece in pieces:
        ctypes.memset(piece, 1, 16 << 10)
    last = libc.malloc(64)
    for piece in pieces:
        libc.free(piece)
    yield own_bytes()
    libc.free(last)


def test_what_a_flood_leaves_is_given_back() -> None:
    waiting = [1]
    trimmer = Trimmer(lambda: waiting[0], look_s=0.001, grown_bytes=GROWN_BYTES)
    try:
        with pinned_heap() as before:
            waiting[0] = 0
            until = time.monotonic() + WAIT_S_MAX
            while own_bytes() > before - GROWN_BYTES and time.monotonic() < until:
                pass
            assert own_bytes() <= before - GROWN_BYTES
    finally:
        trimmer.close()


def test_nothing_is_given_back_while_requests_wait() -> None:
    looks = []

    def waiting() -> int:
        looks.append(own_bytes())
        return 1

    trimmer = Trimmer(waiting, look_s=0.001, grown_bytes=GROWN_BYTES)
    try:
        with pinned_heap() as before:
            until = time.monotonic() + WAIT_S_MAX
            while len(looks) < 20 and time.monotonic() < until:
                pass
            assert len(looks) >= 20
            assert looks[-1] > before - GROWN_BYTES
    finally:
        trimmer.close()

"""Heap: memory that was freed is used again, and goes back to the system when nothing waits.

glibc by itself does neither. A message of half a megabyte is given back as soon as it is freed, and
the next one faults every page in again, which costs several times what copying it does. What is
freed below anything that lives is kept for ever, and so is most of what a flood of requests took.
"""

import ctypes
import os
import threading
from collections.abc import Callable

# How often to look, and by how much the process must have grown since the last time (bytes).
LOOK_S = 10.0
GROWN_BYTES = 64 << 20

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


# mallopt(3): from this size on memory is mapped and unmapped for each piece, the most that glibc
# takes; and so much of what is free at the end of a heap is kept.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAPPED_BYTES_MIN = 32 << 20
_KEPT_BYTES_MAX = 256 << 20


def keep_freed() -> None:
    """Have the process keep freed memory for what comes next; a Trimmer gives it back."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES_MIN)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES_MAX)


class Trimmer:
    """The thread that gives memory back."""

    def __init__(
        self, waiting: Callable[[], int], *, look_s: float = LOOK_S, grown_bytes: int = GROWN_BYTES
    ) -> None:
        """Look every *look_s* seconds from now on.

        Args:
            waiting: Bytes that wait in queues; memory is given back only while none do.
            look_s: Seconds between two looks.
            grown_bytes: By how much the process must have grown since memory was last given back.
        """
        self._waiting = waiting
        self._look_s = look_s
        self._grown_bytes = grown_bytes
        # The least that the process had since memory was last given back.
        self._least = own_bytes()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimmer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._is_closing.set()
        self._thread.join()

    def _run(self) -> None:
        # A libc other than glibc keeps no such memory, or gives it back by itself.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is None:
            return
        while not self._is_closing.wait(self._look_s):
            now = own_bytes()
            self._least = min(self._least, now)
            if now - self._least >= self._grown_bytes and not self._waiting():
                trim(0)
                # What is still there is in use: only more than that is looked at again.
                self._least = own_bytes()


def own_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process without files and without shared memory.

    Raises:
        OSError: There is no such process.
    """
    with open(f"/proc/{pid}/statm") as numbers:
        _, resident, shared, *_ = map(int, numbers.read().split())
    return (resident - shared) * _PAGE_BYTES

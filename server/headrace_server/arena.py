"""Arena: shared memory through which rows travel between the daemon and one worker.

One memfd per worker, mapped whole and once on both sides. It is as large as its bound from the
start, which costs nothing: the kernel gives pages when they are first written. The daemon alone
decides which region is whose; a region that is handed back returns its pages. The memfd has no name
anywhere and is gone with its last holder.
"""

import contextlib
import mmap
import os
from bisect import bisect_left, insort
from typing import NamedTuple

from .errors import ResourceExhausted

# A cache line, and the alignment that vectorised loads and onnxruntime ask for.
ALIGNMENT = 64
PAGE = mmap.PAGESIZE


class Region(NamedTuple):
    """Bytes *offset* to *offset* + *nbytes* of an arena."""

    offset: int
    nbytes: int


def aligned(nbytes: int, to: int = ALIGNMENT) -> int:
    """The next multiple of *to*, a power of two."""
    return (nbytes + to - 1) & -to


class FreeList:
    """Which parts of an address range are free: first fit, neighbours joined. Pure."""

    def __init__(self, nbytes: int) -> None:
        self._free: list[tuple[int, int]] = [(0, nbytes)] if nbytes else []

    @property
    def free_bytes(self) -> int:
        """The sum of what is free."""
        return sum(size for _, size in self._free)

    def take(self, nbytes: int) -> int | None:
        """The offset of *nbytes* bytes, now taken; None when no free part is large enough."""
        for index, (offset, size) in enumerate(self._free):
            if size >= nbytes:
                if size == nbytes:
                    del self._free[index]
                else:
                    self._free[index] = (offset + nbytes, size - nbytes)
                return offset
        return None

    def give(self, offset: int, nbytes: int) -> None:
        """Give back what `take` gave."""
        free = self._free
        index = bisect_left(free, (offset, nbytes))
        if index < len(free) and offset + nbytes == free[index][0]:
            nbytes += free.pop(index)[1]
        if index and sum(free[index - 1]) == offset:
            offset, size = free.pop(index - 1)
            nbytes += size
        insort(free, (offset, nbytes))


class Arena:
    """The daemon's side: the memory and who has which part of it. Guarded by its worker's lock.

    Attributes:
        keeps_pages: Whether the pages of a region stay when it is handed back. A device that they
            are locked for would go on with them when the kernel gives others in their place.
    """

    def __init__(self, nbytes: int) -> None:
        self.keeps_pages = False
        self.nbytes = aligned(nbytes, PAGE)
        self.fd = os.memfd_create("headrace-arena", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, self.nbytes)
            self._map = mmap.mmap(self.fd, self.nbytes)
        except (OSError, OverflowError):
            os.close(self.fd)
            raise
        self.memory = memoryview(self._map)
        self._free = FreeList(self.nbytes)

    @property
    def used_bytes(self) -> int:
        """Bytes in regions."""
        return self.nbytes - self._free.free_bytes

    def take(self, nbytes: int) -> Region:
        """A region of at least *nbytes*, page-aligned.

        Raises:
            ResourceExhausted: The arena has no room for it.
        """
        size = aligned(max(nbytes, 1), PAGE)
        offset = self._free.take(size)
        if offset is None:
            raise ResourceExhausted(
                f"arena is full: {size} bytes asked for, {self._free.free_bytes} of "
                f"arena_bytes_max = {self.nbytes} are free"
            )
        return Region(offset, size)

    def give(self, region: Region) -> None:
        """Hand *region* back; its pages return to the system, unless the arena keeps them."""
        if not self.keeps_pages:
            self._map.madvise(mmap.MADV_REMOVE, region.offset, region.nbytes)
        self._free.give(region.offset, region.nbytes)

    def close(self) -> None:
        """Unmap. Views that are still held keep the memory alive until they go."""
        self.memory.release()
        # An answer being encoded may still look at it; then the mapping goes with that view.
        with contextlib.suppress(BufferError):
            self._map.close()
        os.close(self.fd)


class ArenaView:
    """The worker's side: the same memory, mapped from the inherited descriptor."""

    def __init__(self, fd: int, nbytes: int) -> None:
        self._map = mmap.mmap(fd, nbytes)
        os.close(fd)
        self.memory = memoryview(self._map)

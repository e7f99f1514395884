"""Arena: which bytes are whose, and pages that come and go."""

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace_server.arena import ALIGNMENT, PAGE, Arena, ArenaView, FreeList, Region, aligned
from headrace_server.errors import ResourceExhausted


@given(st.integers(0, 1 << 40), st.integers(0, 16).map(lambda n: 1 << n))
def test_aligned_is_the_next_multiple(nbytes: int, to: int) -> None:
    assert aligned(nbytes, to) == -(-nbytes // to) * to


def test_the_default_alignment_is_a_cache_line() -> None:
    assert [aligned(n) for n in (0, 1, 63, 64, 65)] == [0, 64, 64, 64, 128]
    assert PAGE % ALIGNMENT == 0


class FreeListMachine(RuleBasedStateMachine):
    """A FreeList beside a map of every single byte."""

    SIZE = 64

    def __init__(self) -> None:
        super().__init__()
        self.free = FreeList(self.SIZE)
        self.taken: dict[int, int] = {}

    @rule(nbytes=st.integers(1, 20))
    def take(self, nbytes: int) -> None:
        gaps = self.gaps()
        offset = self.free.take(nbytes)
        first = next((start for start, size in gaps if size >= nbytes), None)
        assert offset == first, "not the first that fits"
        if offset is not None:
            self.taken[offset] = nbytes

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.taken)))
        self.free.give(offset, self.taken.pop(offset))

    @invariant()
    def regions_do_not_overlap(self) -> None:
        owners = [0] * self.SIZE
        for offset, size in self.taken.items():
            for byte in range(offset, offset + size):
                owners[byte] += 1
        assert max(owners) <= 1

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.free.free_bytes == self.SIZE - sum(self.taken.values())

    def teardown(self) -> None:
        for offset, size in self.taken.items():
            self.free.give(offset, size)
        assert self.free.take(self.SIZE) == 0, "neighbours were not joined"

    def gaps(self) -> list[tuple[int, int]]:
        gaps, at = [], 0
        for offset, size in sorted(self.taken.items()):
            if offset > at:
                gaps.append((at, offset - at))
            at = offset + size
        if at < self.SIZE:
            gaps.append((at, self.SIZE - at))
        return gaps


TestFreeList = FreeListMachine.TestCase


def test_nothing_can_be_taken_from_nothing() -> None:
    assert FreeList(0).take(1) is None


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena(16 * PAGE)
    yield made
    made.close()


def resident_bytes(arena: Arena) -> int:
    """What the kernel has given the memfd."""
    return os.fstat(arena.fd).st_blocks * 512


def test_an_arena_is_whole_pages() -> None:
    arena = Arena(PAGE + 1)

    assert arena.nbytes == 2 * PAGE
    assert len(arena.memory) == 2 * PAGE
    arena.close()


def test_regions_are_whole_pages_of_their_own(arena: Arena) -> None:
    regions = [arena.take(nbytes) for nbytes in (1, PAGE, PAGE + 1, 0)]

    assert regions == [
        Region(0, PAGE),
        Region(PAGE, PAGE),
        Region(2 * PAGE, 2 * PAGE),
        Region(4 * PAGE, PAGE),
    ]
    assert arena.used_bytes == 5 * PAGE


def test_a_full_arena_says_what_was_asked_for_and_what_is_left(arena: Arena) -> None:
    arena.take(10 * PAGE)

    with pytest.raises(ResourceExhausted) as caught:
        arena.take(7 * PAGE)

    assert str(caught.value) == (
        f"arena is full: {7 * PAGE} bytes asked for, {6 * PAGE} of "
        f"arena_bytes_max = {16 * PAGE} are free"
    )
    assert arena.take(6 * PAGE) == Region(10 * PAGE, 6 * PAGE)


def test_an_arena_costs_nothing_until_it_is_written(arena: Arena) -> None:
    arena.take(8 * PAGE)

    assert resident_bytes(arena) == 0


def test_a_region_that_is_handed_back_returns_its_pages(arena: Arena) -> None:
    kept, region = arena.take(2 * PAGE), arena.take(4 * PAGE)
    for one in (kept, region):
        arena.memory[one.offset : one.offset + one.nbytes] = b"x" * one.nbytes
    assert resident_bytes(arena) == 6 * PAGE

    arena.give(region)

    assert resident_bytes(arena) == 2 * PAGE
    assert arena.used_bytes == 2 * PAGE
    assert bytes(arena.memory[:1]) == b"x"
    # Whoever gets them next must not read what was there.
    assert bytes(arena.memory[region.offset : region.offset + region.nbytes]) == bytes(4 * PAGE)


def test_an_arena_whose_pages_are_locked_keeps_them_in_their_place(arena: Arena) -> None:
    """Memory that a device looks at directly must be what daemon and worker look at."""
    arena.keeps_pages = True
    region = arena.take(2 * PAGE)
    arena.memory[region.offset : region.offset + 3] = b"abc"

    arena.give(region)

    assert resident_bytes(arena) == PAGE
    assert bytes(arena.memory[region.offset : region.offset + 3]) == b"abc"
    assert arena.take(2 * PAGE) == region


def test_the_workers_side_is_the_same_memory(arena: Arena) -> None:
    view = ArenaView(os.dup(arena.fd), arena.nbytes)

    arena.memory[PAGE : PAGE + 3] = b"abc"
    view.memory[:3] = b"xyz"

    assert bytes(view.memory[PAGE : PAGE + 3]) == b"abc"
    assert bytes(arena.memory[:3]) == b"xyz"


def test_the_workers_side_closes_the_descriptor_it_was_given(arena: Arena) -> None:
    fd = os.dup(arena.fd)

    ArenaView(fd, arena.nbytes)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("how", [lambda m: m[8:12], lambda m: np.frombuffer(m, np.uint8, 4, 8)])
def test_what_still_looks_at_a_closed_arena_keeps_its_memory(
    how: Callable[[memoryview], Any],
) -> None:
    """An answer that is being encoded while its model goes must not read foreign memory."""
    arena = Arena(PAGE)
    arena.memory[8:12] = b"abcd"
    view = how(arena.memory)

    arena.close()

    assert bytes(view) == b"abcd"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(arena.fd)
    del view, arena
    gc.collect()

"""Which pages of an arena are locked, and where copies are cut."""

import random
from itertools import pairwise

import pytest

from headrace_server.devices.pages import GRANULE, LockedPages

BEGIN, SIZE = 7 * GRANULE + 4096, 64 * GRANULE
ARENA = range(BEGIN, BEGIN + SIZE)


class Locks:
    """What was locked; nothing may be locked twice, or outside the arena."""

    def __init__(self) -> None:
        self.ranges: list[range] = []

    def __call__(self, address: int, nbytes: int) -> None:
        new = range(address, address + nbytes)
        assert ARENA.start <= new.start < new.stop <= ARENA.stop
        assert new.start % 4096 == new.stop % 4096 == 0
        for old in self.ranges:
            assert new.stop <= old.start or old.stop <= new.start
        self.ranges.append(new)


@pytest.fixture
def locks() -> Locks:
    return Locks()


def test_what_lies_in_one_granule_is_locked_once(locks: Locks) -> None:
    pages = LockedPages(ARENA, locks)
    begin = 10 * GRANULE

    assert pages.cuts(begin, 100) == pages.cuts(begin + 5000, 8000) == ()
    assert locks.ranges == [range(begin, begin + GRANULE)]


def test_a_large_slot_is_locked_in_one_piece(locks: Locks) -> None:
    pages = LockedPages(ARENA, locks)

    assert pages.cuts(BEGIN, SIZE) == ()
    assert locks.ranges == [ARENA]


def test_a_copy_over_a_seam_is_cut_there(locks: Locks) -> None:
    pages = LockedPages(ARENA, locks)
    seam = 10 * GRANULE
    pages.cuts(seam, 8)

    assert pages.cuts(seam - 64, 128) == (64,)
    assert pages.cuts(seam - 64, 64) == ()
    assert pages.cuts(seam, 64) == ()


def test_memory_elsewhere_is_never_locked(locks: Locks) -> None:
    pages = LockedPages(ARENA, locks)

    assert pages.cuts(4096, 4096) == pages.cuts(ARENA.stop, 1) == pages.cuts(BEGIN, 0) == ()
    assert locks.ranges == []


@pytest.mark.parametrize("seed", range(20))
def test_each_piece_lies_in_one_locked_range_whatever_came_before(seed: int) -> None:
    numbers, locks = random.Random(seed), Locks()
    pages = LockedPages(ARENA, locks)
    for _ in range(60):
        offset = numbers.randrange(SIZE)
        nbytes = numbers.randint(1, min(SIZE - offset, numbers.choice((100, 5 * GRANULE, SIZE))))
        address = BEGIN + offset
        cuts = (0, *pages.cuts(address, nbytes), nbytes)
        for begin, end in pairwise(cuts):
            assert begin < end
            piece = range(address + begin, address + end)
            assert sum(r.start <= piece[0] and piece[-1] < r.stop for r in locks.ranges) == 1

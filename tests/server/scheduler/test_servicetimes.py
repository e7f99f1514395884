"""Service times: learned per key and rows, guessed in between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.datatypes import DATATYPES
from headrace_server.scheduler.servicetimes import ServiceTimes
from headrace_server.types import BatchKey, InputLayout


def key() -> BatchKey:
    return BatchKey((InputLayout("x", DATATYPES["FP32"], (), 4),))


K = key()


def learned(took: dict[int, float]) -> ServiceTimes:
    times = ServiceTimes()
    for rows, seconds in took.items():
        times.observe(K, rows, seconds)
    return times


def test_before_anything_ran_nothing_is_expected() -> None:
    assert ServiceTimes().expect(K, 7) == 0.0
    assert ServiceTimes().allow(K, 7) == 0.0
    assert ServiceTimes().rows_within(K, 0.001, 64) == 64


def test_sizes_between_two_that_ran_are_interpolated() -> None:
    times = learned({4: 1.0, 8: 2.0})

    assert [times.expect(K, rows) for rows in (4, 5, 6, 8)] == [1.0, 1.25, 1.5, 2.0]


def test_smaller_sizes_cost_as_much_as_the_smallest_and_larger_ones_grow_on() -> None:
    times = learned({4: 1.0, 8: 2.0})

    assert times.expect(K, 1) == 1.0
    assert times.expect(K, 16) == 4.0
    assert learned({4: 1.0}).expect(K, 8) == 2.0
    # A larger batch that was faster by chance does not make one larger still take no time.
    assert learned({4: 2.0, 8: 1.0}).expect(K, 64) == 1.0


def test_a_key_that_never_ran_is_taken_to_be_like_the_others() -> None:
    times = learned({4: 1.0})
    assert times.expect(key(), 4) == 1.0

    other = key()
    times.observe(other, 4, 3.0)

    assert (times.expect(other, 4), times.expect(K, 4)) == (3.0, 1.0)


def test_what_varies_is_allowed_more_time() -> None:
    times = ServiceTimes()
    for index in range(400):
        times.observe(K, 4, 1.0 + 0.5 * (-1) ** index)

    assert times.expect(K, 4) == pytest.approx(1.0, abs=0.1)
    assert times.allow(K, 4) == pytest.approx(2.0, abs=0.2)


def test_a_change_is_learned_within_some_twenty_batches() -> None:
    times = learned({4: 1.0})
    for _ in range(20):
        times.observe(K, 4, 3.0)

    assert times.expect(K, 4) == pytest.approx(3.0, abs=0.2)


def test_only_so_many_keys_are_kept() -> None:
    times = ServiceTimes()
    for _ in range(1000):
        times.observe(key(), 1, 1.0)

    assert len(times._curves) == 256


@given(
    took=st.lists(st.tuples(st.integers(1, 64), st.floats(0.0, 10.0)), max_size=30),
    seconds=st.floats(0.0, 20.0),
    rows_max=st.integers(1, 100),
)
def test_what_is_told_is_within_what_was_seen(
    took: list[tuple[int, float]], seconds: float, rows_max: int
) -> None:
    times = ServiceTimes()
    for rows, one in took:
        times.observe(K, rows, one)
    low = min((one for _, one in took), default=0.0)

    if len({rows.bit_length() for rows, _ in took}) > 1:
        assert all(times.expect(K, rows) >= low - 1e-9 for rows in range(1, 100))
    assert all(times.allow(K, rows) >= times.expect(K, rows) >= 0.0 for rows in range(1, 100))
    assert 1 <= times.rows_within(K, seconds, rows_max) <= rows_max

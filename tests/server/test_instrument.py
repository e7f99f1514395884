"""Instrument: the numbers of one model version."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.instrument import DURATION_BUCKETS_S, ROWS_BUCKETS, Histogram, Instrument
from headrace_server.types import Instants, Trip

values = st.lists(st.sampled_from([*ROWS_BUCKETS, 0, 3, 100, 5000]) | st.integers(0, 9999))


@given(values)
def test_each_value_is_counted_under_the_first_bound_that_is_not_below_it(seen: list[int]) -> None:
    histogram = Histogram(ROWS_BUCKETS)

    for value in seen:
        histogram.observe(value)

    below = [sum(value <= bound for value in seen) for bound in (*ROWS_BUCKETS, math.inf)]
    cumulated = [sum(histogram.counts[: i + 1]) for i in range(len(histogram.counts))]
    assert cumulated == below
    assert (histogram.count, histogram.total) == (len(seen), sum(seen))


@given(values, values)
def test_many_at_once_are_the_same_as_one_by_one(first: list[int], more: list[int]) -> None:
    one_by_one, at_once = Histogram(ROWS_BUCKETS), Histogram(ROWS_BUCKETS)
    for value in first + more:
        one_by_one.observe(value)

    at_once.observe_all(first)
    at_once.observe_all(iter(more))

    assert (at_once.counts, at_once.total) == (one_by_one.counts, one_by_one.total)


@pytest.mark.parametrize("bounds", [DURATION_BUCKETS_S, ROWS_BUCKETS])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


def test_everything_begins_at_zero() -> None:
    numbers = Instrument()

    assert numbers.answered == numbers.rows == numbers.batches == 0
    assert numbers.retried == numbers.overflows == 0
    assert numbers.failed == {}
    for histogram in (numbers.request_s, numbers.queue_s, numbers.batch_s, numbers.compute_s):
        assert (histogram.count, histogram.total) == (0, 0.0)


def test_each_step_of_a_trip_is_counted_in_seconds() -> None:
    numbers = Instrument()
    second = 10**9

    numbers.note_trip(
        Trip(
            rows=4,
            closed=0,
            gathered=second,
            worker=Instants(3 * second, 6 * second, 10 * second, 15 * second),
            landed=21 * second,
        ),
        28.0,
    )

    steps = (
        numbers.gather_s,
        numbers.send_s,
        numbers.stage_s,
        numbers.compute_s,
        numbers.finish_s,
        numbers.return_s,
        numbers.answer_s,
    )
    assert [(step.count, step.total) for step in steps] == [(1, n) for n in range(1, 8)]


def test_a_reason_is_counted_from_its_first_failure_on() -> None:
    numbers = Instrument()

    numbers.failed["deadline"] += 1

    assert dict(numbers.failed) == {"deadline": 1}

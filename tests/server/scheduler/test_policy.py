"""Policy: how long an open batch waits, and how large it gets."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.datatypes import DATATYPES
from headrace_server.scheduler.policy import POLICIES, AdaptivePolicy, Aims, DelayPolicy, Policy
from headrace_server.scheduler.servicetimes import ServiceTimes
from headrace_server.settings.tables import ModelSettings
from headrace_server.types import BatchKey, InputLayout

K = BatchKey((InputLayout("x", DATATYPES["FP32"], (), 4),))
OTHER = BatchKey((InputLayout("y", DATATYPES["FP32"], (), 4),))


def adaptive(
    *, p99_s: float = 1.0, took: dict[int, float] | None = None, every_s: float = 0.0
) -> AdaptivePolicy:
    """A policy that has seen batches, and rows until the instant 0."""
    times = ServiceTimes()
    policy = AdaptivePolicy(p99_s, times)
    for rows, seconds in (took or {}).items():
        times.observe(K, rows, seconds)
    if every_s:
        for before in range(200, -1, -1):
            policy.note_arrival(K, 1, -before * every_s)
    return policy


def test_every_policy_that_settings_can_name_is_there() -> None:
    named = ModelSettings.model_fields["policy"].annotation.__args__  # type: ignore[union-attr]

    assert set(named) - {""} == set(POLICIES)


def test_greedy_never_waits() -> None:
    policy = POLICIES["greedy"](Aims(delay_s=9.0), ServiceTimes())

    assert policy.due_at(K, 1, 5.0, 6.0) <= 6.0
    assert policy.rows_taken(K, 8, 0.0) == 8


def test_delay_waits_for_the_preferred_rows_and_takes_more_where_there_are_more() -> None:
    policy = POLICIES["delay"](Aims(delay_s=2.0, rows_preferred=4), ServiceTimes())

    assert policy.due_at(K, 1, 5.0, 6.0) == 7.0
    assert policy.rows_wanted(K, 8) == 4
    assert policy.rows_wanted(K, 3) == 3
    assert policy.rows_taken(K, 8, 0.0) == 8
    assert DelayPolicy(1.0).rows_wanted(K, 8) == 8


def test_adaptive_does_not_wait_before_it_knows_anything() -> None:
    for policy in (adaptive(), adaptive(took={1: 0.1}), adaptive(every_s=0.01)):
        assert policy.due_at(K, 1, 0.0, 0.0) == 0.0
        assert policy.rows_taken(K, 64, 0.0) >= 1


def test_adaptive_does_not_wait_where_every_row_costs_the_same() -> None:
    policy = adaptive(took={1: 0.1, 2: 0.2, 4: 0.4, 8: 0.8}, every_s=0.001)

    assert all(policy.due_at(K, rows, 0.0, 0.0) == 0.0 for rows in range(1, 8))


def test_adaptive_does_not_wait_for_rows_that_come_too_seldom() -> None:
    policy = adaptive(took={1: 0.1, 8: 0.1}, every_s=0.2)

    assert policy.due_at(K, 1, 0.0, 0.0) == 0.0


def test_adaptive_waits_while_one_more_row_gains_more_than_it_costs() -> None:
    """A batch of any size takes 0.1 s: n rows wait for the next while (n + 1) gaps are shorter."""
    policy = adaptive(took={1: 0.1, 8: 0.1}, every_s=0.0199)

    waits = [policy.due_at(K, rows, 0.0, 0.0) > 0.0 for rows in range(1, 8)]

    assert waits == [True, True, True, True, False, False, False]
    assert policy.due_at(OTHER, 1, 0.0, 0.0) == 0.0


def test_adaptive_never_waits_so_long_that_the_oldest_would_be_late() -> None:
    policy = adaptive(p99_s=0.15, took={1: 0.1, 8: 0.1}, every_s=0.01)

    assert policy.due_at(K, 1, 0.0, 0.0) == pytest.approx(0.02)
    assert policy.due_at(K, 1, -0.04, 0.0) == pytest.approx(0.01)
    assert policy.due_at(K, 1, -0.2, 0.0) <= 0.0


def test_adaptive_batches_are_as_large_as_half_the_objective_allows() -> None:
    took = {1: 0.01, 2: 0.02, 4: 0.04, 8: 0.08, 16: 0.16, 32: 0.32}

    assert adaptive(p99_s=0.2, took=took).rows_wanted(K, 64) == 10
    assert adaptive(p99_s=0.2, took=took).rows_wanted(K, 8) == 8
    assert adaptive(p99_s=0.001, took=took).rows_wanted(K, 64) == 1
    assert adaptive(p99_s=10.0, took=took).rows_wanted(K, 64) == 64


def test_adaptive_goes_all_out_for_those_that_are_late_anyway() -> None:
    policy = adaptive(p99_s=0.2, took={1: 0.01, 2: 0.02, 4: 0.04, 8: 0.08, 16: 0.16})

    assert policy.rows_taken(K, 64, 0.05) == 10
    assert policy.rows_taken(K, 64, 0.15) == 64


@pytest.mark.parametrize("name", POLICIES)
@given(data=st.data())
def test_no_policy_names_nonsense(name: str, data: st.DataObject) -> None:
    seconds = st.floats(0.0, 10.0)
    times = ServiceTimes()
    aims = Aims(data.draw(seconds), data.draw(st.integers(0, 99)), data.draw(st.floats(1e-4, 10)))
    policy: Policy = POLICIES[name](aims, times)
    now = 0.0
    for _ in range(data.draw(st.integers(0, 20))):
        now += data.draw(seconds)
        policy.note_arrival(K, data.draw(st.integers(1, 100)), now)
        times.observe(K, data.draw(st.integers(1, 64)), data.draw(seconds))
    rows_max = data.draw(st.integers(1, 64))
    oldest_at = now - data.draw(seconds)

    due_at = policy.due_at(K, data.draw(st.integers(1, 64)), oldest_at, now)

    assert oldest_at <= due_at < math.inf
    assert 1 <= policy.rows_wanted(K, rows_max) <= rows_max
    assert 1 <= policy.rows_taken(K, rows_max, now - oldest_at) <= rows_max

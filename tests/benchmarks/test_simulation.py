"""Simulation: small arrivals whose batches can be worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulation import Outcome, best, simulate

SERVICE_S = 5.0


def run(*arrivals_s: float, rows_max: int = 8, delay_s: float = 0.0) -> Outcome:
    return simulate(np.array(arrivals_s), service_s=SERVICE_S, rows_max=rows_max, delay_s=delay_s)


def test_an_idle_instance_takes_one_row_at_once() -> None:
    assert run(1.0) == Outcome(0.0, rows_mean=1.0, p50_s=5.0, p99_s=5.0)


def test_what_comes_while_a_batch_runs_shares_the_next() -> None:
    # Two batches: the first row, done at 5, and the others, done at 10.
    outcome = run(0.0, 1.0, 2.0)
    assert outcome.rows_mean == 1.5
    assert outcome.p50_s == 8.0


def test_a_batch_has_at_most_rows_max() -> None:
    # Batches of 1, 2 and 1 rows.
    assert run(0.0, 1.0, 1.0, 1.0, rows_max=2).rows_mean == pytest.approx(4 / 3)


def test_a_delay_joins_what_comes_within_it() -> None:
    # Closed at 2 with both rows, done at 7.
    outcome = run(0.0, 1.5, delay_s=2.0)
    assert outcome.rows_mean == 2.0
    assert outcome.p50_s == pytest.approx((7.0 + 5.5) / 2)


def test_a_full_batch_waits_for_no_delay() -> None:
    # Closed at 1, done at 6.
    outcome = run(0.0, 1.0, rows_max=2, delay_s=4.0)
    assert outcome.rows_mean == 2.0
    assert outcome.p50_s == pytest.approx((6.0 + 5.0) / 2)


def test_the_best_has_the_lowest_p99() -> None:
    outcomes = [Outcome(0.0, 5.0, 1.0, 12.0), Outcome(1.0, 6.0, 2.0, 11.0)]
    assert best(outcomes) is outcomes[1]


@given(
    gaps_s=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=50),
    rows_max=st.integers(1, 8),
    delay_s=st.floats(0.0, 10.0),
)
def test_every_request_takes_at_least_the_service_time(
    gaps_s: list[float], rows_max: int, delay_s: float
) -> None:
    outcome = run(*np.cumsum(gaps_s).tolist(), rows_max=rows_max, delay_s=delay_s)
    assert 1.0 <= outcome.rows_mean <= rows_max
    assert SERVICE_S * 0.999 <= outcome.p50_s <= outcome.p99_s

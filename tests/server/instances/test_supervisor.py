"""Supervisor: how long a worker that ends again and again is let be."""

from itertools import pairwise

from headrace_server.instances.supervisor import delay_after


def test_the_first_replacement_comes_at_once_and_the_next_after_growing_delays() -> None:
    delays_s = [delay_after(ends) for ends in range(1, 10)]

    assert delays_s[:4] == [0.0, 0.5, 1.0, 2.0]
    assert all(one <= other for one, other in pairwise(delays_s))


def test_a_worker_that_has_ended_for_days_is_still_replaced() -> None:
    assert delay_after(9) == delay_after(100_000) == 30.0

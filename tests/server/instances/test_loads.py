"""Loads: what a process loads, and when that is too much."""

import math

import pytest

from headrace_server.instances.loads import LOOK_S, Loads


def begun(*, s_max: float = 10.0, bytes_max: int = 1000, bytes_now: int = 500) -> Loads[str]:
    loads: Loads[str] = Loads()
    loads.begin("iris", 100.0, s_max=s_max, bytes_max=bytes_max, bytes_now=bytes_now)
    return loads


def never() -> int:
    raise AssertionError("the memory was looked at")


def test_nothing_is_looked_at_while_nothing_loads() -> None:
    loads: Loads[str] = Loads()

    assert loads.wake_at == math.inf
    assert loads.excess(1e9, never) == ""


def test_a_load_within_its_bounds_is_looked_at_again_and_again() -> None:
    loads = begun()

    for turn in range(1, 5):
        assert loads.wake_at == pytest.approx(100.0 + turn * LOOK_S)
        assert loads.excess(loads.wake_at, lambda: 1500) == ""


def test_growth_is_counted_from_where_the_process_stood() -> None:
    loads = begun(bytes_max=1000, bytes_now=500)

    assert loads.excess(loads.wake_at, lambda: 1501) == (
        "the model took more memory to load than load_bytes_max allows: 1001 bytes, "
        "expected at most 1000"
    )
    assert loads.wake_at == math.inf


def test_a_load_that_takes_too_long_is_told_once() -> None:
    loads = begun(s_max=2.5, bytes_max=0)

    assert loads.wake_at == 102.5
    assert loads.excess(102.4, never) == ""
    assert loads.excess(102.5, never) == ("the model did not load within load_s_max = 2.5 seconds")
    assert loads.wake_at == math.inf


def test_memory_without_a_bound_is_not_looked_at() -> None:
    loads = begun(bytes_max=0)

    assert loads.wake_at == 110.0
    assert loads.excess(105.0, never) == ""


def test_the_end_of_a_load_is_the_end_of_looking_at_it() -> None:
    loads = begun()

    loads.end("other")
    assert loads.wake_at < math.inf
    loads.end("iris")

    assert loads.wake_at == math.inf
    assert loads.excess(1e9, never) == ""

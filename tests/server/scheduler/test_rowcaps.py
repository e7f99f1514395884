"""Row caps: how many rows fit the memory."""

from headrace.datatypes import DATATYPES
from headrace_server.scheduler.rowcaps import PROBE_S_MAX, PROBE_S_MIN, RowCaps
from headrace_server.types import BatchKey, InputLayout


def key() -> BatchKey:
    return BatchKey((InputLayout("x", DATATYPES["FP32"], (), 4),))


K = key()


def test_without_trouble_there_is_no_cap() -> None:
    caps = RowCaps()

    assert caps.rows_max(K, 64, 0.0) == 64
    assert (bool(caps), caps.lowest) == (False, 0)


def test_half_of_what_did_not_fit_is_the_cap_of_that_key_alone() -> None:
    caps = RowCaps()
    caps.shrink(K, 33, 0.0)

    assert (caps.rows_max(K, 64, 1.0), caps.rows_max(key(), 64, 1.0)) == (16, 64)
    caps.shrink(K, 16, 1.0)
    assert caps.rows_max(K, 64, 2.0) == 8
    assert caps.lowest == 8


def test_batches_from_before_the_cap_do_not_lower_it_further() -> None:
    caps = RowCaps()
    caps.shrink(K, 32, 0.0)
    caps.shrink(K, 32, 0.0)

    assert caps.rows_max(K, 64, 1.0) == 16
    assert caps.rows_max(K, 64, PROBE_S_MIN) == 32


def test_a_cap_is_at_least_one_row() -> None:
    caps = RowCaps()
    caps.shrink(K, 1, 0.0)
    caps.shrink(K, 1, 0.0)

    assert caps.rows_max(K, 64, 1.0) == 1


def test_one_batch_of_twice_the_rows_is_tried_after_a_while() -> None:
    caps = RowCaps()
    caps.shrink(K, 32, 0.0)

    assert caps.rows_max(K, 64, PROBE_S_MIN) == 32
    caps.begin(K, 32, PROBE_S_MIN)
    assert caps.rows_max(K, 64, PROBE_S_MIN) == 16


def test_a_try_that_fits_becomes_the_cap_and_a_full_batch_ends_it() -> None:
    caps = RowCaps()
    caps.shrink(K, 32, 0.0)
    caps.begin(K, 30, PROBE_S_MIN)
    caps.fit(K, 30, 64, 31.0)
    assert caps.rows_max(K, 64, 31.0) == 30

    caps.begin(K, 60, 31.0 + PROBE_S_MIN)
    caps.fit(K, 64, 64, 62.0)
    assert not caps


def test_tries_that_fail_come_more_and_more_seldom() -> None:
    caps = RowCaps()
    caps.shrink(K, 32, 0.0)
    now, pauses = 0.0, []
    for _ in range(8):
        began = now
        while caps.rows_max(K, 64, now) == 16:
            now += 1.0
        pauses.append(now - began)
        caps.begin(K, 32, now)
        caps.shrink(K, 32, now)
        assert caps.rows_max(K, 64, now) == 16

    assert pauses[:4] == [PROBE_S_MIN, 60.0, 120.0, 240.0]
    assert max(pauses) == PROBE_S_MAX

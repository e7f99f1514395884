"""Isolation: batches taken apart, and how often that may be done."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles import RecordingReply
from headrace.datatypes import DATATYPES
from headrace_server.scheduler.isolation import (
    EXTRA_RUNS_MIN,
    RetryBudget,
    pieces_for_workers,
    take_apart,
)
from headrace_server.types import Batch, BatchKey, InputLayout, Part, Request

K = BatchKey((InputLayout("x", DATATYPES["FP32"], (), 4),))


def batch(*rows: int) -> Batch:
    requests = [Request(K, count, [b""], RecordingReply(), None) for count in rows]
    parts = [Part(one, 0, one.rows) for one in requests]
    return Batch(K, parts, sum(rows), 1.0, losses=1)


def shape(pieces: list[Batch]) -> list[list[tuple[int, int]]]:
    return [[(part.start, part.stop) for part in piece.parts] for piece in pieces]


def test_halves_have_about_as_many_rows_and_whole_requests() -> None:
    pieces = take_apart(batch(1, 1, 1, 3), 2, 5.0)

    assert [piece.rows for piece in pieces] == [3, 3]
    assert [(piece.closed_at, piece.losses, piece.is_split) for piece in pieces] == [
        (5.0, 1, False)
    ] * 2


def test_a_request_alone_is_not_taken_apart_unless_it_may_be_cut() -> None:
    assert shape(take_apart(batch(8), 2, 5.0)) == [[(0, 8)]]

    pieces = take_apart(batch(8), 2, 5.0, cuts=True)

    assert shape(pieces) == [[(0, 4)], [(4, 8)]]
    assert all(piece.is_split for piece in pieces)


@given(
    rows=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    pieces=st.integers(2, 9),
    cuts=st.booleans(),
)
def test_pieces_hold_every_row_once_in_order(rows: list[int], pieces: int, cuts: bool) -> None:
    whole = batch(*rows)

    made = take_apart(whole, pieces, 5.0, cuts=cuts)

    def all_rows(batches: list[Batch]) -> list[tuple[int, int]]:
        return [
            (id(part.request), row)
            for one in batches
            for part in one.parts
            for row in range(part.start, part.stop)
        ]

    assert all_rows(made) == all_rows([whole])
    assert all(piece.rows == len(all_rows([piece])) > 0 for piece in made)
    for piece in made:
        partial = any(part.stop - part.start != part.request.rows for part in piece.parts)
        assert piece.is_split == partial
    if len(rows) > 1 or (cuts and rows[0] > 1):
        assert len(made) > 1, "nothing would ever be found"
    if cuts:
        assert len(made) <= pieces


@pytest.mark.parametrize(("parts", "pieces"), [(2, 2), (8, 8), (9, 3), (64, 8), (1024, 32)])
def test_few_requests_that_may_end_workers_run_one_by_one(parts: int, pieces: int) -> None:
    assert pieces_for_workers(parts) == pieces


def test_the_budget_grows_with_what_runs_and_comes_back_after_ten_seconds() -> None:
    budget = RetryBudget()
    assert budget.take(EXTRA_RUNS_MIN, 0.0)
    assert not budget.take(1, 9.9)
    assert budget.take(EXTRA_RUNS_MIN, 10.0)

    for _ in range(400):
        budget.note_run(20.5)
    assert budget.take(100, 20.5)
    assert not budget.take(1, 20.5)
    assert not budget.take(EXTRA_RUNS_MIN, 29.9)
    assert budget.take(EXTRA_RUNS_MIN, 31.0)

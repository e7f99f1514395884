"""What a server tells of where the time went."""

import pytest

from headrace_client import InvalidResponse, Timings
from headrace_client.timings import timings_in

TOLD = '{"queue_ns": 7, "later_ns": 1, "total_ns": 8, "batch_rows": 4}'


def test_steps_keep_their_order_and_unknown_ones_are_kept() -> None:
    timings = timings_in([("x", "y"), ("headrace-timings", TOLD)])

    assert timings == Timings({"queue": 7, "later": 1}, 8, 4)
    assert list(timings.steps_ns) == ["queue", "later"]


@pytest.mark.parametrize("trailing", [None, (), [("x", "y"), ("x-bin", b"\xff")]])
def test_without_the_key_there_are_none(trailing: list[tuple[str, str | bytes]] | None) -> None:
    assert timings_in(trailing) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        '{"total_ns": 8}',
        '{"total_ns": "x", "batch_rows": 4}',
        '{"total_ns": 8, "batch_rows": 4, "queue_ns": null}',
        b"\xff",
    ],
)
def test_what_is_no_timings_is_no_answer(text: str | bytes) -> None:
    with pytest.raises(InvalidResponse, match="headrace-timings: expected JSON"):
        timings_in([("headrace-timings", text)])

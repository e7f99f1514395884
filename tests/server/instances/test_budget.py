"""Budget: what fits a device's memory, and the sentence where it does not."""

import pytest

from headrace_server.instances.budget import Budget

GIB = 1 << 30


def budget(used: int, promised: int = 0, *, fraction: float = 0.9) -> Budget:
    return Budget("cuda:1", 10 * GIB, fraction, used * GIB, promised * GIB)


@pytest.mark.parametrize(
    ("used", "promised", "left"),
    [(0, 0, 9), (4, 0, 5), (4, 6, 3), (6, 4, 3), (9, 0, 0), (10, 0, 0)],
)
def test_what_is_left_is_the_fraction_without_what_is_used_or_promised(
    used: int, promised: int, left: int
) -> None:
    assert budget(used, promised).left_bytes == left * GIB


def test_what_fits_is_not_refused() -> None:
    assert budget(4).refusal(5 * GIB) == ""
    assert budget(4).refusal(5 * GIB // 2, 2) == ""
    assert budget(10).refusal(0) == ""


def test_a_refusal_says_what_is_needed_free_and_granted() -> None:
    assert budget(4).refusal(6 * GIB) == (
        "cuda:1 has too little memory: it needs 6.00 GiB, and 5.00 GiB are free of the 9.00 GiB "
        "that memory_fraction = 0.9 grants of its 10.00 GiB"
    )
    assert "2 instances need 6.00 GiB, and 5.00 GiB are free" in budget(4).refusal(3 * GIB, 2)

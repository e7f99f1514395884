"""Which GPUs CUDA shows: its rules for CUDA_VISIBLE_DEVICES."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.gpus.visible import Card, visible

A, B, C = "GPU-5f3a-aa", "GPU-5f3b-bb", "GPU-77cc-cc"
WHOLE = (Card(A), Card(B), Card(C))
# The second card is cut into slices, the third is to be cut and is not yet.
SLICED = (Card(A), Card(B, True, ("MIG-1a-x", "MIG-1b-y")), Card(C, True))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, (A, B, C)),
        ("", ()),
        ("-1", ()),
        ("0", (A,)),
        ("2,0", (C, A)),
        (" 1 , 2", (B, C)),
        ("1,-1,2", (B,)),
        ("0,3,1", (A,)),
        ("0,nonsense,1", (A,)),
        ("0,", (A,)),
        ("1gpu2,2", (B, C)),
        ("1,1", ()),
        ("0,3,0", ()),
        (A, (A,)),
        (f"{C},{A}", (C, A)),
        ("GPU-7", (C,)),
        ("GPU-5f3b,GPU-77", (B, C)),
        ("GPU-5f3", ()),
        ("GPU-77,GPU-5f3,GPU-5f3a", (C,)),
        ("GPU-77,1", (C,)),
        ("1,GPU-77", (B,)),
        (f"{A},{A}", ()),
        (f"{A},GPU-9,GPU-9", ()),
        ("GPU-9", ()),
        ("all", ()),
    ],
)
def test_cards_are_chosen_as_cuda_does(said: str | None, expected: tuple[str, ...]) -> None:
    assert visible(said, WHOLE) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("MIG-1b-y", ("MIG-1b-y",)),
        ("MIG-1a", ("MIG-1a-x",)),
        ("MIG-1", ()),
        ("MIG-1b-y,MIG-1a-x", ("MIG-1b-y",)),
        ("0", (A,)),
        ("1", ("MIG-1a-x",)),
        ("0,1", ("MIG-1a-x",)),
        (B, ("MIG-1a-x",)),
        ("2", ()),
        (None, ("MIG-1a-x",)),
    ],
)
def test_a_slice_is_shown_alone(said: str | None, expected: tuple[str, ...]) -> None:
    assert visible(said, SLICED) == expected


PIECES = st.sampled_from(
    ["0", "1", "2", "3", "-1", " 1", "2x", "", "x", "+0", "GPU-5", "GPU-5f3a", "GPU-77", "GPU-", A]
)


@given(st.lists(PIECES, min_size=1, max_size=4).map(",".join))
def test_whole_cards_are_those_that_torch_expects_of_cuda(said: str) -> None:
    """torch reads the variable itself, to count GPUs without waking them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", said)
        parsed: list[Any] = list(torch.cuda._parse_visible_devices())
    uuids = [A, B, C]
    if parsed and isinstance(parsed[0], str):
        numbers = torch.cuda._transform_uuid_to_ordinals(parsed, uuids)
    else:
        beyond = next((at for at, number in enumerate(parsed) if number >= 3), len(parsed))
        numbers = parsed[:beyond]

    assert visible(said, WHOLE) == tuple(uuids[number] for number in numbers)

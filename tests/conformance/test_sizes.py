"""Allowed sizes and ragged inputs, over both transports: what is padded never reaches a caller."""

import grpc
import numpy as np
import pytest

from calling import TIMEOUT_S, Caller, answers, ending, message

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("rows", "ran_with"), [(1, [4]), (4, [4] * 4), (5, [8] * 5), (19, [8] * 16 + [4] * 3)]
)
def test_rows_are_padded_to_an_allowed_size_and_come_back_alone(
    caller: Caller, rows: int, ran_with: list[int]
) -> None:
    numbers = np.arange(rows, dtype=np.float64)
    x = np.column_stack([numbers, np.zeros(rows)])

    (answer,) = answers(caller.ask(message("sized", {"input-0": x})).response).values()

    assert answer[:, 0].tolist() == numbers.tolist()
    assert answer[:, 1].tolist() == ran_with * (rows if len(ran_with) == 1 else 1)


def test_padding_rows_are_counted(caller: Caller) -> None:
    before = caller.metric("headrace_rows_padded_total", "sized")

    answers(caller.ask(message("sized", {"input-0": np.ones((5, 2))})).response)

    assert caller.metric("headrace_rows_padded_total", "sized") == before + 3


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 8])
def test_ragged_inputs_are_padded_and_their_answers_cut(caller: Caller, length: int) -> None:
    x = np.arange(2 * length, dtype=np.float32).reshape(2, length)

    answer = answers(caller.ask(message("masked", {"x": x})).response)

    assert answer["y"].tolist() == (x + 1).tolist()
    assert answer["length"].tolist() == [[length]] * 2
    size = 4 if length <= 4 else 8
    assert answer["length_times_ran"].tolist() == [[length * size]] * 2


def test_a_mask_that_the_caller_gives_is_padded_with_nothing_real(caller: Caller) -> None:
    x, real = np.ones((1, 3), np.float32), np.array([[1, 0, 1]])

    answer = answers(caller.ask(message("masked", {"x": x, "real": real})).response)

    assert answer["y"].tolist() == [[2.0, 1.0, 2.0]]
    assert answer["length"].tolist() == [[2]]


def test_ragged_requests_share_batches(caller: Caller) -> None:
    """Many at once, each with its own answer, in fewer batches than requests."""
    before = caller.metric("headrace_batches_total", "masked")
    sent = [np.full((1, 1 + n % 8), float(n), np.float32) for n in range(200)]

    calls = [caller.submit(message("masked", {"x": x}), timeout=TIMEOUT_S) for x in sent]
    got = [answers(ending(call).response)["y"] for call in calls]

    assert [y.tolist() for y in got] == [(x + 1).tolist() for x in sent]
    assert caller.metric("headrace_batches_total", "masked") - before < len(sent)


def test_what_exceeds_every_bucket_is_told_so(caller: Caller) -> None:
    told = caller.ask(message("masked", {"x": np.zeros((1, 9), np.float32)}))

    assert told.code == grpc.StatusCode.INVALID_ARGUMENT.name
    assert told.details == (
        "input 'x': expected at most 8 along axis 1, the largest size of bucket_by, got 9"
    )


def test_ragged_inputs_of_one_request_have_one_length(caller: Caller) -> None:
    x, real = np.zeros((1, 3), np.float32), np.ones((1, 2), np.int64)

    told = caller.ask(message("masked", {"x": x, "real": real}))

    assert told.code == grpc.StatusCode.INVALID_ARGUMENT.name
    assert told.details == ("input 'real': expected 3 along axis 1, as input 'x' has, got 2")

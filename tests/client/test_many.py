"""Streams of predictions over one connection, against a double of the server."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator

import grpc
import numpy as np
import pytest

import oip_double
from headrace_client import (
    AsyncClient,
    Client,
    HeadraceClientError,
    InputMismatch,
    InvalidArgument,
    NotFound,
    Prediction,
    Unavailable,
)
from headrace_client.many import in_order
from oip_double import Double

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "draining")


@pytest.fixture
def double() -> Iterator[Double]:
    with oip_double.serving({"doubler": oip_double.doubler()}) as double:
        yield double


@pytest.fixture
def client(double: Double) -> Iterator[Client]:
    with Client(double.target, timeout_s=20) as client:
        yield client


def row(number: float) -> np.ndarray:
    return np.full((1, 3), number, np.float32)


def first(outcome: Prediction | HeadraceClientError) -> float:
    assert isinstance(outcome, Prediction)
    return float(outcome.array[0, 0])


def test_predictions_come_in_the_order_of_their_inputs(client: Client) -> None:
    answers = client.predict_many("doubler", map(row, range(200)), in_flight_max=16)

    assert list(map(first, answers)) == [2.0 * number for number in range(200)]


def test_no_more_are_taken_and_sent_than_may_be_in_flight(double: Double, client: Client) -> None:
    client.metadata("doubler")
    double.is_holding = True
    taken = []

    def source() -> Iterator[np.ndarray]:
        for number in itertools.count():
            taken.append(number)
            if len(taken) == 5:
                # As many as may fly are taken; the next waits for an answer.
                double.release.set()
            yield row(number)

    answers = client.predict_many("doubler", source(), in_flight_max=5)
    assert first(next(answers)) == 0.0
    assert len(taken) == 5


def test_what_is_answered_does_not_wait_for_a_slow_source(double: Double, client: Client) -> None:
    def source() -> Iterator[np.ndarray]:
        yield row(1)
        # The source has more as long as nothing was handed out.
        until = time.monotonic() + 20
        while not seen and time.monotonic() < until:
            yield row(2)

    seen: list[float] = []
    for answer in client.predict_many("doubler", source(), in_flight_max=10_000):
        seen.append(first(answer))  # noqa: PERF401 - the source looks at it.

    assert seen[0] == 2.0
    assert len(double.infer_requests) < 10_000


def test_leaving_early_cancels_what_is_in_flight(double: Double, client: Client) -> None:
    cancelled = []

    class Future:
        def __init__(self, number: int) -> None:
            self.number = number

        def result(self) -> Prediction:
            return Prediction("m", "1", "", {})

        def done(self) -> bool:
            return False

        def cancel(self) -> bool:
            cancelled.append(self.number)
            return True

    answers = in_order(Future, itertools.count(), 4)  # type: ignore[arg-type]
    next(answers)
    next(answers)
    answers.close()

    # The one that was handed out last had its answer already.
    assert cancelled[-3:] == [2, 3, 4]


def test_the_first_error_ends_the_loop_at_its_turn(double: Double, client: Client) -> None:
    items = [row(1), np.ones((1, 4), np.float32), row(3)]
    answers = client.predict_many("doubler", items)

    assert first(next(answers)) == 2.0
    with pytest.raises(InputMismatch, match="shape"):
        next(answers)


def test_errors_stand_in_for_their_items_where_asked(double: Double, client: Client) -> None:
    client.metadata("doubler")
    double.failures = [UNAVAILABLE]
    items = [row(1), np.ones((1, 4), np.float32), row(3)]

    failed, mismatch, answer = client.predict_many(
        "doubler", items, errors="yield", in_flight_max=1
    )

    assert isinstance(failed, Unavailable)
    assert isinstance(mismatch, InputMismatch)
    assert first(answer) == 6.0


def test_a_model_that_is_not_served_is_an_error_of_each_item(client: Client) -> None:
    failed = list(client.predict_many("nobody", [row(1), row(2)], errors="yield"))

    assert [type(error) for error in failed] == [NotFound, NotFound]


def test_as_completed_tells_whose_answer_it_is(double: Double, client: Client) -> None:
    items = [row(1), np.ones((1, 4), np.float32), row(3)]

    ended = dict(client.predict_as_completed("doubler", items, in_flight_max=2))

    assert sorted(ended) == [0, 1, 2]
    assert (first(ended[0]), first(ended[2])) == (2.0, 6.0)
    assert isinstance(ended[1], InvalidArgument)


def test_what_is_no_bound_or_no_choice_is_refused_at_once(client: Client) -> None:
    with pytest.raises(ValueError, match="in_flight_max: expected at least 1, got 0"):
        client.predict_many("doubler", [], in_flight_max=0)
    with pytest.raises(ValueError, match="in_flight_max"):
        client.predict_as_completed("doubler", [], in_flight_max=0)
    with pytest.raises(ValueError, match="expected 'raise' or 'yield', got 'skip'"):
        client.predict_many("doubler", [], errors="skip")  # type: ignore[call-overload]


def test_the_asyncio_twin_does_the_same(double: Double) -> None:
    async def numbers() -> AsyncIterator[np.ndarray]:
        for number in range(50):
            yield row(number)

    async def main() -> None:
        async with AsyncClient(double.target, timeout_s=20) as client:
            answers = client.predict_many("doubler", numbers(), in_flight_max=8)
            assert [first(answer) async for answer in answers] == [2.0 * n for n in range(50)]

            bad = [row(1), np.ones((1, 4), np.float32), row(3)]
            ended = {at: one async for at, one in client.predict_as_completed("doubler", bad)}
            assert (first(ended[0]), first(ended[2])) == (2.0, 6.0)
            assert isinstance(ended[1], InputMismatch)

            with pytest.raises(InputMismatch):
                async for answer in client.predict_many("doubler", bad):
                    assert first(answer) == 2.0

            asked = [one async for one in client.predict_many("doubler", bad, errors="yield")]
            assert isinstance(asked[1], InputMismatch)
            async for answer in client.predict_many("doubler", numbers(), in_flight_max=4):
                assert first(answer) == 0.0
                break
            with pytest.raises(ValueError, match="in_flight_max"):
                client.predict_many("doubler", bad, in_flight_max=0)

    asyncio.run(main())

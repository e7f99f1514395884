"""Everything at once under a stream of requests: each ends once and as it must."""

import os
import random
import signal
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import faulty
from headrace_client import Client, PredictionFuture
from serving import Daemon

pytestmark = [pytest.mark.slow, pytest.mark.long]

IN_FLIGHT = 64
REQUESTS = 4000
# Of so many requests one has the model raise, answer a row less, or take its time; one is
# cancelled; one has a deadline that may be too short.
RAISE_IN, SHRINK_IN, SLOW_IN, CANCEL_IN, DEADLINE_IN = 50, 200, 50, 12, 12


@dataclass
class Sent:
    """A request on its way.

    Attributes:
        what: What its first row asks the model to do.
        inputs: Its rows, numbered.
        has_deadline: Whether it may be told DEADLINE_EXCEEDED.
        is_cancelled: Whether it may be told CANCELLED.
        future: Its answer.
    """

    what: float
    inputs: np.ndarray
    has_deadline: bool
    is_cancelled: bool
    future: PredictionFuture

    @property
    def codes(self) -> set[str]:
        """How it may end besides OK."""
        codes = {"INTERNAL", "UNAVAILABLE"}
        return (
            codes
            | ({"DEADLINE_EXCEEDED"} if self.has_deadline else set())
            | ({"CANCELLED"} if self.is_cancelled else set())
        )


@pytest.fixture(params=["native", "grpcio"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path, cache: Path) -> Iterator[Daemon]:
    """The faulty model, whose batches are small enough for the guilty to be found in time."""
    folder = faulty.save(tmp_path / "odd")
    running = Daemon(
        *(f"odd={folder}", "--transport", request.param),
        *("--set", "odd.rows_max=16", "--set", "odd.exec_ms_max=1000"),
        cwd=tmp_path,
        cache=cache,
    )
    running.wait("ready")
    yield running
    running.stop()


def send(client: Client, chance: random.Random, number: int) -> Sent:
    """The request of that number."""
    what = 0.0
    for kind, one_in in {
        faulty.RAISE: RAISE_IN,
        faulty.SHRINK: SHRINK_IN,
        faulty.TAKE_TIME: SLOW_IN,
    }.items():
        if chance.randrange(one_in) == 0:
            what = kind
    rows = chance.choice([1, 1, 1, 2, 5, 40])
    inputs = np.column_stack([np.zeros(rows), np.arange(rows) + number * 1000.0])
    inputs[0, 0] = what
    timeout = chance.uniform(0.001, 0.1) if chance.randrange(DEADLINE_IN) == 0 else None
    is_cancelled = chance.randrange(CANCEL_IN) == 0
    future = client.submit("odd", inputs, timeout=timeout)
    if is_cancelled and chance.random() < 0.5:
        future.cancel()
    return Sent(what, inputs, timeout is not None, is_cancelled, future)


def end(sent: Sent) -> str:
    """How it ended, which must be a way in which it may."""
    if sent.is_cancelled:
        sent.future.cancel()
    error = sent.future.exception(60)
    if error is not None:
        assert error.code in sent.codes, (sent, error)
        return error.code
    assert sent.what != faulty.RAISE, sent
    # Whole, it answers a row less; its neighbours have all of theirs.
    right = sent.inputs[1:] if sent.what == faulty.SHRINK else sent.inputs
    np.testing.assert_array_equal(sent.future.result().array, right)
    return "OK"


def test_each_request_ends_once_and_as_it_must(daemon: Daemon) -> None:
    """A worker is killed and another stopped on the way."""
    chance = random.Random(7)
    flying: deque[Sent] = deque()
    ended: Counter[str] = Counter()
    with Client(daemon.address, timeout_s=60) as client:
        for number in range(REQUESTS):
            if number == REQUESTS // 4:
                os.kill(daemon.wait("worker_started")["pid"], signal.SIGKILL)
            if number == REQUESTS // 2:
                os.kill(daemon.wait("worker_started", count=2)["pid"], signal.SIGSTOP)
            flying.append(send(client, chance, number))
            if len(flying) >= IN_FLIGHT:
                ended[end(flying.popleft())] += 1
        while flying:
            ended[end(flying.popleft())] += 1

        assert ended.total() == REQUESTS
        # Most are innocent, and most of these are answered.
        assert ended["OK"] > 0.8 * REQUESTS, ended
        assert client.predict("odd", np.array([[0.0, 1.0]])).array.tolist() == [[0.0, 1.0]]

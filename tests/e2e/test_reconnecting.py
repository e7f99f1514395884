"""One client while daemons are killed and started again."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from alike import KINDS
from headrace_client import Prediction, Unavailable
from serving import Daemon

pytestmark = [pytest.mark.slow, pytest.mark.long]

IRIS = "iris=models:/iris/1"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def row_of(client: Any) -> dict[str, np.ndarray]:
    return {spec.name: np.ones(1) for spec in client.metadata("iris").inputs}


def test_calls_go_on_when_a_daemon_that_was_killed_is_back_on_its_port(
    serve: Callable[..., Daemon], kind: Any
) -> None:
    first = serve(IRIS)
    first.wait("ready")
    port = int(first.address.rpartition(":")[2])
    with kind(first.address, timeout_s=90, wait_for_ready=True) as client:
        row = row_of(client)
        expected = client.predict("iris", row).array.tolist()
        first.process.kill()
        first.wait_exit()
        answers: list[Prediction | Unavailable] = []
        asking = threading.Thread(target=lambda: answers.append(_until_served(client, row)))
        asking.start()
        second = serve(IRIS, port=port)
        second.wait("ready")
        asking.join(60)

    assert [answer.array.tolist() for answer in answers if isinstance(answer, Prediction)] == [
        expected
    ]


def test_calls_go_around_the_killed_one_of_two_daemons(
    serve: Callable[..., Daemon], kind: Any
) -> None:
    daemons = [serve(IRIS), serve(IRIS)]
    for daemon in daemons:
        daemon.wait("ready")
    with kind([one.address for one in daemons], timeout_s=60, attempts_max=3) as client:
        row = row_of(client)
        client.predict("iris", row)
        daemons[0].process.kill()
        daemons[0].wait_exit()
        answered = [client.predict("iris", row).array.tolist() for _ in range(50)]

    assert answered == [answered[0]] * 50


def _until_served(client: Any, row: dict[str, np.ndarray]) -> Any:
    """What comes of a call that is made again while the model is loading, as errors.md advises."""
    until = time.monotonic() + 60
    while True:
        try:
            return client.predict("iris", row)
        except Unavailable as error:
            if time.monotonic() > until:
                return error

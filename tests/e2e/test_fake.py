"""The fake of `headrace_client.testing` beside a daemon: what one refuses, the other does too."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from headrace_client import Client, HeadraceClientError
from headrace_client.testing import FakeServer
from serving import Daemon

pytestmark = pytest.mark.slow


@pytest.fixture
def clients(daemon: Daemon) -> Iterator[tuple[Client, Client, FakeServer]]:
    with FakeServer() as fake, Client(daemon.address) as real, Client(fake.target) as faked:
        yield real, faked, fake


@pytest.mark.parametrize(
    "change",
    [
        {"of": "nothing"},
        {"drop": 0},
        {"set": {"odd": np.ones(2)}},
        {"replace": np.array(["a", "b"], object)},
        {"replace": np.ones((2, 2))},
        {"replace": np.ones(3)},
        {"replace": np.array([True, False])},
        {"options": {"parameters": {"heat": 1.0}}},
        {"options": {"outputs": ["nothing"]}},
    ],
    ids=lambda change: str(next(iter(change.items())))[:40],
)
def test_both_say_the_same_of_a_request(
    clients: tuple[Client, Client, FakeServer], change: dict[str, Any]
) -> None:
    real, faked, fake = clients
    metadata = real.metadata("iris")
    names = [spec.name for spec in metadata.inputs]
    outputs = {spec.name: spec for spec in metadata.outputs}
    fake.serve(
        "iris",
        metadata,
        lambda _: {name: np.zeros(2, np.int64) for name in outputs},
        version=metadata.versions[0],
    )
    tensors: dict[str, Any] = {name: np.ones(2) for name in names}
    if "drop" in change:
        del tensors[names[change["drop"]]]
    tensors.update(change.get("set", {}))
    if "replace" in change:
        tensors[names[1]] = change["replace"]
    options = change.get("options", {})

    said = [_ending(client, tensors, options) for client in (real, faked)]

    assert said[0] == said[1]


def _ending(client: Client, tensors: dict[str, Any], options: dict[str, Any]) -> str:
    try:
        prediction = client.infer("iris", tensors, **options)
    except HeadraceClientError as error:
        return str(error)
    return str({name: (array.dtype, array.shape) for name, array in prediction.items()})

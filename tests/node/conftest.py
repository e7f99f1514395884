"""A daemon of each transport, and a model that came to both while they ran."""

from collections.abc import Iterator

import pytest

import foreign
import models
from headrace_client import Client
from serving import Daemon

# Model of tests/models.py -> the name it is served by.
SERVED = {
    "iris_pipeline": "iris",
    "mixed_columns": "mixed",
    "torch_pt2": "net",
    "two_towers": "towers",
    "py_weigher": "weigher",
    "py_notes": "notes",
    "py_kinds": "kinds",
    "py_planes": "planes",
}
LATE = "onnx_columns"


@pytest.fixture(scope="session", name="daemons")
def _daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Daemon]]:
    with foreign.daemons(tmp_path_factory.mktemp("node"), SERVED) as running:
        for daemon in running.values():
            with Client(daemon.address) as client:
                client.load("late", f"file://{models.model(LATE).path}")
        yield running


@pytest.fixture(params=foreign.TRANSPORTS)
def daemon(request: pytest.FixtureRequest, daemons: dict[str, Daemon]) -> Daemon:
    """A daemon, once of each transport."""
    return daemons[request.param]

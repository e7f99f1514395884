"""What the guides show, run as it stands against a daemon and against the fake."""

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_client.testing import FakeServer
from serving import Daemon

pytestmark = pytest.mark.slow

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
SERVICE = Path(__file__).with_name("fastapi_service.py")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, daemon: Daemon) -> Any:
    pytest.importorskip("fastapi")
    monkeypatch.setenv("HEADRACE_TARGET", daemon.address)
    return runpy.run_path(str(SERVICE))["app"]


def test_the_guide_shows_the_service_that_is_tested() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", (GUIDES / "fastapi.md").read_text(), re.DOTALL)

    assert shown == SERVICE.read_text()


def test_a_fastapi_service_answers_what_the_model_does(service: Any, daemon: Daemon) -> None:
    from fastapi.testclient import TestClient

    from headrace_client import Client

    with Client(daemon.address) as direct:
        names = [spec.name for spec in direct.metadata("iris").inputs]
        rows = [dict(zip(names, values, strict=True)) for values in ([5.1, 3.5, 1.4, 0.2],)]
        expected = direct.predict("iris", rows).as_dict()
    with TestClient(service) as web:
        answered = web.post("/predict/iris", json=rows)
        assert (answered.status_code, answered.json()) == (200, expected)
        assert web.get("/ready").json() == {"ready": True}
        assert web.post("/predict/nobody", json=rows).status_code == 404
        refused = web.post("/predict/iris", json=[{"colour": 1}])
        assert refused.status_code == 422
        assert refused.json()["code"] == "INVALID_ARGUMENT"


def test_the_guide_to_tests_without_a_server_runs() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", (GUIDES / "testing.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(shown, names)  # noqa: S102 - our own page.

    with FakeServer() as server:
        names["test_a_flower_is_named"](names["serve_iris"](server))
        names["test_a_full_queue_is_told"](server)
    assert np.array_equal(server.asked[0].inputs["sepal_length"], [5.1])

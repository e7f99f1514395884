"""The public types, as a caller's type checker sees them."""

import subprocess
import sys
from pathlib import Path

import pytest

import headrace_client

USE = """
from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import numpy as np

from headrace_client import (
    AsyncClient,
    Client,
    HeadraceClientError,
    ModelStatus,
    Prediction,
    PredictionFuture,
    Tls,
)
from headrace_client.testing import FakeServer


def ask(client: Client) -> None:
    rows = [{"a": 1.0}, {"a": 2.0}]
    assert_type(client.predict("m", np.ones((1, 4))), Prediction)
    assert_type(client.predict("m", rows, timeout=1, timings=True), Prediction)
    assert_type(client.submit("m", {"a": [1.0]}), PredictionFuture)
    assert_type(client.submit("m", rows).result(), Prediction)
    assert_type(client.predict_many("m", [rows, rows]), Iterator[Prediction])
    assert_type(
        client.predict_many("m", iter([rows]), errors="yield"),
        Iterator[Prediction | HeadraceClientError],
    )
    for place, outcome in client.predict_as_completed("m", [rows]):
        assert_type(place, int)
        assert_type(outcome, Prediction | HeadraceClientError)
    assert_type(client.models(), tuple[ModelStatus, ...])
    assert_type(client.ready("m"), bool)


async def ask_async(client: AsyncClient) -> None:
    assert_type(await client.predict("m", np.ones(3)), Prediction)
    assert_type(client.predict_many("m", [np.ones(3)]), AsyncIterator[Prediction])
    async for place, _ in client.predict_as_completed("m", [np.ones(3)], in_flight_max=2):
        assert_type(place, int)


def read(prediction: Prediction) -> None:
    assert_type(prediction.version, str)
    assert_type(list(prediction), list[str])
    print(prediction["y"].dtype, prediction.array.shape, prediction.as_dict()["y"])


with Client(["a:8001", "b:8001"], attempts_max=3, hedge_after_s=0.1, tls=Tls(ca="ca.pem")) as one:
    ask(one)
with FakeServer() as server:
    assert_type(server.target, str)
"""
WRONG = """
from headrace_client import Client

client = Client(8001)
client.predict("m")
client.predict_many("m", [[1.0]], errors="skip")
client.predict("m", [[1.0]]).arrays
"""
CHECKERS = {
    "mypy": ["--strict", "--no-incremental", "."],
    "pyright": ["--pythonpath", sys.executable],
}


def check(checker: str, directory: Path, **texts: str) -> str:
    for name, text in texts.items():
        (directory / f"{name}.py").write_text(text)
    sources = [Path(path).parent for path in headrace_client.__path__]
    roots = [str(source) for source in sources] + [str(sources[0].parent / "protos")]
    extra = ", ".join(f'"{root}"' for root in roots)
    (directory / "pyrightconfig.json").write_text(
        f'{{"typeCheckingMode": "strict", "extraPaths": [{extra}]}}'
    )
    ran = subprocess.run(
        [sys.executable, "-m", checker, *CHECKERS[checker]],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        cwd=directory,
    )
    return ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_strict_type_checkers_know_what_each_call_gives_and_find_a_callers_mistakes(
    checker: str, tmp_path: Path
) -> None:
    pytest.importorskip(checker)

    said = check(checker, tmp_path, use=USE, wrong=WRONG)

    assert "use.py:" not in said, said
    for line in (4, 5, 6, 7):
        assert f"wrong.py:{line}:" in said, said

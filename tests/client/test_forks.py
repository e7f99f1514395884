"""What a forked child is told of what its parent had, and what it can make itself."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import forking
import oip_double
from oip_double import Double

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "server" / "stubs" / "iris_client.txt"
A_CLIENT = "RuntimeError: this client was made before the process forked"
A_PREDICTION = "RuntimeError: this prediction was asked for before the process forked"


@pytest.fixture
def double() -> Iterator[Double]:
    with oip_double.serving({"iris": oip_double.iris()}) as double:
        yield double


@contextmanager
def told(what: str, double: Double, *arguments: str) -> Iterator[Iterator[Any]]:
    """What the forking process says, line by line."""
    command = [sys.executable, forking.__file__, what, double.target, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        try:
            yield map(json.loads, process.stdout)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0


def test_a_child_is_told_that_a_client_is_its_parents_and_can_make_its_own(double: Double) -> None:
    with told("client", double) as said:
        errors = next(said)
        assert len(errors) == 5
        assert all(error.startswith(A_CLIENT) for error in errors), errors
        assert next(said) == "None", "closing it does nothing"
        assert next(said) == ["1"] * 10
        assert next(said) == "1"
        assert next(said) == "1", "the parent's works on"


def test_a_child_is_told_that_an_answer_comes_to_its_parent(double: Double) -> None:
    double.is_holding = True
    with told("future", double) as said:
        errors = next(said)
        assert len(errors) == 7
        assert all(error.startswith(A_PREDICTION) for error in errors), errors
        assert next(said) == "<PredictionFuture of the parent process>"
        double.release.set()
        assert next(said) == "1"
        assert next(said) == "1", "the answer is the parent's"


def test_a_child_is_told_that_an_asyncio_client_is_its_parents(double: Double) -> None:
    with told("aio", double) as said:
        errors = next(said)
        assert len(errors) == 3
        assert all(error.startswith(A_CLIENT) for error in errors), errors
        assert next(said) == "None"
        # It would wait for ever.
        assert next(said).startswith("RuntimeError: an AsyncClient was there when this process")
        assert next(said) == "1"
        assert next(said) == "1"


def test_a_child_makes_an_asyncio_client_where_its_parent_has_none_left(double: Double) -> None:
    with told("forgotten_aio", double) as said:
        assert [next(said), next(said)] == ["1", "1"]


def test_a_child_is_told_that_a_written_client_is_its_parents(
    double: Double, tmp_path: Path
) -> None:
    (tmp_path / "iris_client.py").write_text(GOLDEN.read_text())
    with told("stub", double, str(tmp_path)) as said:
        assert next(said).startswith(A_CLIENT)
        assert next(said).startswith(A_CLIENT)

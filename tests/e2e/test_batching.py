"""Models that do not work row by row, beside noisy neighbours: each answer is that of MLflow."""

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

from headrace_client import Client, HeadraceClientError
from serving import Daemon, untried

pytestmark = pytest.mark.slow

NEIGHBOURS = 6
ASKED = 60


class Column(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model of one column, by a function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return self.function(model_input["x"])


def _thirds(x: Any) -> list[float]:
    return [float(value) / 3 for value in x]


# Each with a request and with what its neighbours ask.
COLUMNS: dict[str, tuple[Callable[[Any], Any], list[float], list[float]]] = {
    "less_mean": (lambda x: (x - x.mean()).to_numpy(), [1.0, 3.0], [1000.0]),
    "running": (lambda x: x.cumsum().to_numpy(), [1.0, 3.0], [1000.0, 7.0]),
    "ranked": (lambda x: x.rank().to_numpy(), [1.0, 3.0], [2.0]),
    "counting": (lambda x: (x + len(x)).to_numpy(), [1.0, 3.0], [2.0]),
    "filtering": (lambda x: x[x >= 0].to_numpy(), [1.0, 2.0], [-1.5]),
    "filtering_more": (lambda x: x[x > 0].to_numpy(), [1.0, -2.0], [-1.5, 4.0]),
    "dropping": (lambda x: x.dropna().to_numpy(), [1.0, 2.0], [float("nan")]),
    "filling": (
        lambda x: x.fillna(x.mean()).to_numpy(),
        [1.0, float("nan"), 3.0],
        [1000.0, 5.0],
    ),
    # The proof at load sees nothing of this one: it is found where it happens.
    "rarely": (lambda x: x[x != 7.5].to_numpy(), [1.0, 2.0], [7.5]),
    "coded": (
        lambda x: x.map({7e8: 1.0, 1.7e9: 2.0, 2.7e9: 3.0}).fillna(0.0).to_numpy(),
        [7e8, 1.0],
        [2.7e9],
    ),
    "doubling": (lambda x: (2 * x).to_numpy(), [1.0, 3.0], [1000.0]),
}
# Of one example row, where the proof has least to go by.
WITH_EXAMPLE = ("less_mean", "filling")


class Recurrent(torch.nn.Module):
    """torch's own layout: time, sequences, features."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.lstm(x)[0]
        return answer


def save(folder: Path) -> dict[str, Path]:
    """Every model, in a folder of its name."""
    signature = ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("double", "y")]))
    for name, (function, _, _) in COLUMNS.items():
        example = pd.DataFrame({"x": [1.0]}) if name in WITH_EXAMPLE else None
        mlflow.pyfunc.save_model(
            folder / name,
            python_model=Column(function),
            signature=signature,
            input_example=example,
            pip_requirements=["numpy"],
        )
    mlflow.pyfunc.save_model(
        folder / "unsigned",
        python_model=Column(_thirds),
        pip_requirements=["numpy"],
    )
    torch.manual_seed(0)
    steps = Schema([TensorSpec(np.dtype(np.float32), (-1, -1, 3))])
    mlflow.pytorch.save_model(
        Recurrent().eval(),
        folder / "recurrent",
        signature=ModelSignature(steps),
        input_example=np.ones((5, 1, 3), np.float32),
        serialization_format="pickle",
        pip_requirements=["torch"],
    )
    return {name: folder / name for name in (*COLUMNS, "recurrent", "unsigned")}


@pytest.fixture(scope="module", name="saved")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return save(tmp_path_factory.mktemp("mixing"))


@pytest.fixture(scope="module", name="daemon")
def _daemon(
    saved: dict[str, Path], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    served = [f"{name}={path}" for name, path in saved.items()]
    store = tmp_path_factory.mktemp("empty")
    running = Daemon(*served, *untried(*saved), cwd=store, cache=cache)
    running.wait("ready")
    yield running
    assert running.stop() == 0


@pytest.fixture(name="client")
def _client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.address) as client:
        yield client


@contextmanager
def neighbours(client: Client, name: str, rows: Any) -> Iterator[None]:
    """Others who ask *name* with their *rows* all the while."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                client.infer(name, rows) if name == "unsigned" else client.predict(name, rows)
            except HeadraceClientError as error:
                trouble.append(error)

    trouble: list[HeadraceClientError] = []
    threads = [threading.Thread(target=ask) for _ in range(NEIGHBOURS)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()
    assert trouble == []


@pytest.mark.parametrize("name", COLUMNS)
def test_an_answer_is_the_models_own_whatever_its_neighbours_ask(
    client: Client, saved: dict[str, Path], name: str
) -> None:
    _, mine, others = COLUMNS[name]
    right = mlflow.pyfunc.load_model(str(saved[name])).predict(pd.DataFrame({"x": mine}))

    with neighbours(client, name, {"x": others}):
        answers = [client.predict(name, {"x": mine}).array.tolist() for _ in range(ASKED)]

    assert answers == [np.asarray(right).tolist()] * ASKED


def test_real_requests_prove_what_made_up_rows_could_not(
    daemon: Daemon, client: Client, saved: dict[str, Path]
) -> None:
    """`coded` knows a few numbers alone: the rows that are tried at load have one answer."""
    (before,) = [one.batching for one in client.models() if one.name == "coded"]
    right = mlflow.pyfunc.load_model(str(saved["coded"])).predict

    for number in range(12):
        rows = [float(number % 5) * 1e9 + 7e8, float(number)]
        answer = client.predict("coded", {"x": rows}).array
        assert answer.tolist() == right(pd.DataFrame({"x": rows})).tolist()

    line = daemon.wait_line("batching_found", model="coded")
    assert (before, line["verdict"]) == ("unproven", "batched")
    with neighbours(client, "coded", {"x": [7e8, 1.0]}):
        answers = [client.predict("coded", {"x": [1.7e9]}).array.tolist() for _ in range(ASKED)]
    assert answers == [[2.0]] * ASKED


def test_a_model_of_which_nothing_is_known_is_proven_by_its_requests(
    daemon: Daemon, client: Client, saved: dict[str, Path]
) -> None:
    """It has neither a signature nor an example; its outputs are settled with it."""
    right = mlflow.pyfunc.load_model(str(saved["unsigned"])).predict
    for number in range(12):
        rows = {"x": np.array([number * 1.5, float(number)])}
        client.infer("unsigned", rows)
    assert daemon.wait_line("batching_found", model="unsigned")["verdict"] == "batched"

    with neighbours(client, "unsigned", {"x": np.array([0.5])}):
        answers = [client.infer("unsigned", {"x": np.array([2.0])}).array for _ in range(ASKED)]

    assert {answer.dtype.name for answer in answers} == {"float64"}
    assert [answer.tolist() for answer in answers] == [right(pd.DataFrame({"x": [2.0]}))] * ASKED


@pytest.mark.parametrize("steps", [1, 10, 200])
def test_a_sequence_whose_first_axis_is_time_is_neither_cut_nor_joined(
    client: Client, saved: dict[str, Path], steps: int
) -> None:
    x = np.random.default_rng(0).random((steps, 1, 3)).astype(np.float32)
    right = mlflow.pyfunc.load_model(str(saved["recurrent"])).predict(x)

    with neighbours(client, "recurrent", x[:10] + 1):
        answers = [client.predict("recurrent", x).array for _ in range(ASKED // 3)]

    for answer in answers:
        np.testing.assert_allclose(answer, right, rtol=1e-4, atol=1e-5)


def test_whether_a_model_batches_is_told_with_the_reason(client: Client) -> None:
    told = {one.name: (one.batching, one.batching_reason) for one in client.models()}

    assert told["doubling"][0] == "batched"
    assert told["less_mean"][0] == "whole"
    assert told["less_mean"][1].startswith("rows differ with their neighbours: ")
    metadata = client.metadata("less_mean")
    assert (metadata.batching, metadata.batching_reason) == told["less_mean"]


def test_a_contradiction_that_was_seen_later_is_told_and_kept(
    daemon: Daemon, client: Client, saved: dict[str, Path], tmp_path: Path
) -> None:
    """`rarely` batches until a row has gone missing, then never again."""
    with neighbours(client, "rarely", {"x": [7.5]}):
        for _ in range(ASKED):
            assert client.predict("rarely", {"x": [1.0]}).array.tolist() == [1.0]
    line = daemon.wait_line("batching_found", model="rarely", verdict="whole")
    assert line["why"].startswith("output 'y' has shape [")

    again = Daemon(
        f"rarely={saved['rarely']}", *untried("rarely"), cwd=tmp_path, cache=daemon.cache
    )
    again.wait("ready")
    with Client(again.address) as other:
        (model,) = other.models()
    assert again.stop() == 0
    assert (model.batching, model.batching_reason) == ("whole", line["why"])

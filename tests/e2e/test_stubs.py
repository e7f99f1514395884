"""Stubs of models of every kind: written by the command, imported, and asked of a real daemon."""

import asyncio
import dataclasses
import datetime as dt
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

import models
from headrace_client import Client, FailedPrecondition, InvalidArgument, Prediction
from headrace_server import exits
from headrace_server.cli import app
from serving import Daemon
from stub_calls import arguments, client_class, imported, written

pytestmark = pytest.mark.long

cloudpickle.register_pickle_by_value(sys.modules[__name__])

# Model of tests/models.py -> the name it is served by. Every kind of signature is among them.
SERVED = {
    "iris_pipeline": "iris",
    "iris_forest": "forest",
    "mixed_columns": "mixed",
    "string_labels": "labels",
    "torch_pt2": "net",
    "two_towers": "towers",
    "onnx_named": "graph",
    "onnx_unnamed": "unnamed",
    "py_weigher": "weigher",
    "py_hinted": "upper",
    "py_orders": "orders",
    "py_notes": "notes",
    "py_kinds": "kinds",
    "py_planes": "planes",
    "sk_params": "line",
}
# Those whose direct call is the framework's.
NATIVE = {"torch_pt2", "two_towers", "onnx_named", "onnx_unnamed", "iris_forest", "string_labels"}


class Echo(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Answers with the sum of its columns, whatever they are called."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return model_input.sum(axis=1).to_numpy()


AWKWARD = ["class", "self", "timeout", "Größe (cm)", "a b", "a-b", "a_b", "1st", "np", "🙂"]


def save_columns(path: Path, names: list[str], optional: Sequence[str] = ()) -> str:
    """A model with a double column of each of *names* and of *optional*; its path."""
    schema = Schema(
        [
            *(ColSpec(DataType.double, name) for name in names),
            *(ColSpec(DataType.double, name, required=False) for name in optional),
        ]
    )
    outputs = Schema([ColSpec(DataType.double, "float")])
    with warnings.catch_warnings():
        # MLflow has much to say to people who save models.
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=Echo(),
            signature=ModelSignature(schema, outputs),
            pip_requirements=["numpy"],
        )
    return str(path)


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stubs")


@pytest.fixture(scope="module", name="daemon")
def _daemon(folder: Path, cache: Path) -> Iterator[Daemon]:
    served = [f"{name}={models.model(model).path}" for model, name in SERVED.items()]
    served.append(f"awkward={save_columns(folder / 'awkward', AWKWARD)}")
    wide = [f"column {number}" for number in range(300)]
    served.append(f"wide={save_columns(folder / 'wide', wide)}")
    running = Daemon(*served, cwd=folder, cache=cache)
    running.wait("ready")
    yield running
    assert running.stop() == 0


def given_columns(contract: Any, rows: Mapping[str, Any]) -> list[Any]:
    """*rows* as people would write them, in the contract's order."""

    def given(spec: Any) -> Any:
        values = rows[spec.name]
        if spec.kind == "json" and all(text[:1] in "[{" for text in values):
            return [json.loads(text, object_hook=_with_instants) for text in values]
        return values.view("datetime64[ns]") if spec.kind == "datetime" else values

    return [given(spec) for spec in contract.inputs]


def _with_instants(found: dict[str, Any]) -> dict[str, Any]:
    """An object of JSON with instants where the models above want them."""
    return {
        key: dt.datetime.fromisoformat(value) if key == "seen" else value
        for key, value in found.items()
    }


def plain(value: Any) -> Any:
    """Values of an answer without the types around them; JSON as what it says."""
    if isinstance(value, Prediction):
        return [plain(array) for array in value.values()]
    if dataclasses.is_dataclass(value):
        return [plain(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str) and value[:1] in ("{", "["):
        return json.loads(value)
    return value


def direct(name: str, contract: Any, rows: Mapping[str, Any], given: list[Any]) -> Any:
    """What the model answers when it is called in this process."""
    if name in NATIVE:
        return [plain(array) for array in models.model(name).expected(dict(rows)).values()]
    loaded = mlflow.pyfunc.load_model(str(models.model(name).path))
    named = dict(zip((spec.name for spec in contract.inputs), given, strict=True))
    if "owner" in named:
        # MLflow wants numpy's instants within objects.
        named["owner"] = [
            {**owner, "seen": np.datetime64(owner["seen"])} for owner in named["owner"]
        ]
    is_table = all(spec.is_column for spec in contract.inputs)
    if name in {"py_hinted", "py_orders"}:
        answer = loaded.predict(list(given[0]))
    elif is_table:
        answer = loaded.predict(pd.DataFrame({key: list(value) for key, value in named.items()}))
    else:
        answer = loaded.predict(named)
    if isinstance(answer, pd.DataFrame):
        return [answer[name].tolist() for name in answer]
    if isinstance(answer, Mapping):
        return [plain(value) for value in answer.values()]
    return [plain(np.asarray(answer)) if isinstance(answer, np.ndarray) else list(answer)]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "served"), SERVED.items())
def test_a_stub_answers_as_the_model_does_when_called_directly(
    daemon: Daemon, model: str, served: str
) -> None:
    module = imported(written(served, "--server", daemon.address))
    rows = models.model(model).rows(5)
    given = given_columns(module.CONTRACT, rows)
    expected = direct(model, module.CONTRACT, rows, given)

    with client_class(module, "Stub")(daemon.address) as client:
        batch = client.predict_batch(**arguments(client.predict_batch, given))
        single = [
            client.predict(**arguments(client.predict, [values[row] for values in given]))
            for row in range(5)
        ]

    assert nearly(plain(batch), expected)
    by_row = [[values[row] for values in expected] for row in range(5)]
    found = [
        [one[0] if isinstance(answer, Prediction) else one for one in plain(answer)]
        for answer in single
    ]
    assert nearly(found, by_row)


def nearly(found: Any, expected: Any) -> bool:
    """Whether nested values are the same, numbers up to the last digits of float32."""
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(nearly, found, expected))
    if isinstance(expected, dict):
        return bool(found.keys() == expected.keys()) and all(
            nearly(found[key], expected[key]) for key in expected
        )
    if isinstance(expected, float):
        return bool(found == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True))
    return bool(found == expected)


@pytest.mark.slow
def test_the_asyncio_twin_answers_the_same(daemon: Daemon) -> None:
    module = imported(written("iris", "--server", daemon.address))
    row = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}

    async def ask() -> list[Any]:
        async with module.AsyncIrisClient(daemon.address) as client:
            one = await client.predict(**row)
            several = await client.predict_batch(**{name: [value] for name, value in row.items()})
            return [one.output_0, several.output_0.tolist()]

    with module.IrisClient(daemon.address) as client:
        assert client.predict(**row) == module.IrisPrediction(output_0=0)
    assert asyncio.run(ask()) == [0, [0]]


@pytest.mark.slow
def test_parameters_are_keywords_with_the_models_defaults(daemon: Daemon) -> None:
    module = imported(written("weigher", "--server", daemon.address))

    with module.WeigherClient(daemon.address) as client:
        plain_answer = client.predict(length=1.0, count=3)
        given = client.predict(
            length=1.0,
            count=3,
            scale=10,
            tags=["x", "y"],
            since=np.datetime64("2020-02-03T04:05:06"),
        )

    assert (plain_answer.total, plain_answer.label) == (5.25, "pa/b2024-01-02")
    assert (given.total, given.label) == (13.25, "px/y2020-02-03T04:05:06")


@pytest.mark.slow
def test_optional_columns_may_be_left_out(daemon: Daemon) -> None:
    module = imported(written("notes", "--server", daemon.address))

    with module.NotesClient(daemon.address) as client:
        one = client.predict(size=1.5)
        several = client.predict_batch(size=[0.5, 1.5], note=["a", "b"])

    assert plain(one) == ["size=1.5"]
    assert plain(several) == [["size=0.5,note=a", "size=1.5,note=b"]]


@pytest.mark.slow
@pytest.mark.parametrize(("served", "count"), [("awkward", len(AWKWARD)), ("wide", 300)])
def test_columns_of_any_name_and_number_can_be_asked(
    daemon: Daemon, served: str, count: int
) -> None:
    module = imported(written(served, "--server", daemon.address))

    with client_class(module, "Stub")(daemon.address) as client:
        answer = client.predict(**arguments(client.predict, [float(n) for n in range(count)]))

    assert answer.float_ == sum(range(count))


@pytest.mark.slow
def test_a_stub_outlives_compatible_changes_of_its_model_and_is_refused_after_others(
    daemon: Daemon, folder: Path
) -> None:
    with Client(daemon.address) as client:

        def load(version: str, names: list[str], optional: Sequence[str] = ()) -> None:
            client.load("drifting", save_columns(folder / version, names, optional))

        load("first", ["a", "b"])
        module = imported(written("drifting", "--server", daemon.address))
        stub = module.DriftingClient(client)
        assert stub.predict(a=1.0, b=2.0).float_ == 3.0

        load("reordered", ["b", "a"], optional=["c"])
        assert stub.predict(a=1.0, b=2.0).float_ == 3.0

        load("renamed", ["a", "sepal"])
        for ask in (stub.predict, stub.predict_batch):
            with pytest.raises(FailedPrecondition, match="'sepal' is new") as caught:
                ask(a=1.0, b=2.0)
            assert "input 'b' is gone" in str(caught.value)
        client.unload("drifting")


@pytest.mark.slow
def test_a_client_that_was_given_is_shared_and_stays_open(daemon: Daemon) -> None:
    module = imported(written("graph", "--server", daemon.address))
    row = np.ones(4, np.float32)

    with Client(daemon.address) as client:
        with module.GraphClient(client) as graph:
            first = graph.predict(x=row)
        again = module.GraphClient(client, model="graph", version="1").predict(x=row)

    assert first.y.tolist() == again.y.tolist()
    assert first.y.dtype == np.float32


@pytest.mark.slow
def test_the_registry_gives_the_same_stub_as_the_daemon(
    store: Path, daemon: Daemon, tmp_path: Path
) -> None:
    uri = models.tracking_uri(store)
    file = tmp_path / "made" / "labels_client.py"

    from_registry = written("labels", "--tracking-uri", uri, "-o", str(file)) or file.read_text()

    assert from_registry == written("labels", "--server", daemon.address)
    champion = written("iris", "--tracking-uri", uri)
    assert champion == written("iris", "--tracking-uri", uri, "--version", "@champion")
    assert champion != written("iris", "--tracking-uri", uri, "--version", "1")


@pytest.mark.slow
def test_a_directory_gives_a_stub_without_any_registry() -> None:
    text = written(f"net={models.model('torch_pt2').path}")

    assert "class NetClient(Stub):" in text


@pytest.mark.slow
def test_a_stub_cannot_be_written_of_what_has_no_signature(
    daemon: Daemon, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> str:
        command = ["stub", *arguments]
        assert exits.run(lambda: app(command, prog_name="headrace", standalone_mode=False)) == 2
        return capsys.readouterr().err

    uri = models.tracking_uri(store)
    assert "no signature that names its inputs" in told("unsigned", "--tracking-uri", uri)
    assert "NOT_FOUND" in told("nothing", "--server", daemon.address)
    assert "UNAVAILABLE" in told("iris", "--server", "127.0.0.1:1")
    assert "there is no registered model 'nothing'" in told("nothing", "--tracking-uri", uri)


@pytest.mark.slow
def test_a_value_of_the_wrong_type_is_named(daemon: Daemon) -> None:
    module = imported(written("iris", "--server", daemon.address))

    with (
        module.IrisClient(daemon.address) as client,
        pytest.raises(InvalidArgument, match="petal_width"),
    ):
        client.predict(sepal_length=1, sepal_width=2, petal_length=3, petal_width="a")

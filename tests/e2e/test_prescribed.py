"""What a signature prescribes is served as MLflow, or the framework's own call, answers it.

Time series, pandas' categories, bytes within arrays, named tensors as one dict, and inputs whose
first axis does not count rows; each beside neighbours that ask otherwise.
"""

import io
import json
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow
import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.types.schema import Array, DataType
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from headrace_client import Client, HeadraceClientError, Internal, InvalidArgument
from headrace_server.asking.connecting import Connection
from headrace_server.asking.predict import predict
from serving import Daemon, untried

pytestmark = pytest.mark.slow

NEIGHBOURS = 4
ASKED = 25
DAYS = pd.date_range("2024-01-01", periods=40, freq="D")
VALUES = np.arange(40) % 7 + np.random.default_rng(0).normal(size=40)

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """One model, and what is asked of it.

    Attributes:
        save: Saves it at a path.
        mine: A request.
        others: What its neighbours ask.
        right: The answer to *mine*, from the path where it was saved; MLflow's unless it has none.
    """

    save: Callable[[Path], Any]
    mine: Inputs
    others: Inputs
    right: Callable[[Path, Inputs], Any]


def by_mlflow(path: Path, inputs: Inputs) -> Any:
    return mlflow.pyfunc.load_model(str(path)).predict(dict(inputs))


def by_frame(path: Path, inputs: Inputs) -> Any:
    return mlflow.pyfunc.load_model(str(path)).predict(pd.DataFrame(dict(inputs)))


# Time series --------------------------------------------------------------------------------------


def series(kind: str | None, *, is_dated: bool = True) -> Callable[[Path], Any]:
    from statsmodels.tsa.arima.model import ARIMA

    def save(path: Path) -> None:
        fitted = ARIMA(pd.Series(VALUES, DAYS) if is_dated else VALUES, order=(1, 0, 0)).fit()
        signature = None
        if kind is not None:
            columns = [ColSpec(kind, name) for name in ("start", "end")]
            signature = ModelSignature(Schema(columns), Schema([ColSpec("double")]))
        mlflow.statsmodels.save_model(fitted, path, signature=signature, pip_requirements=["numpy"])

    return save


def span(start: Any, end: Any) -> dict[str, Any]:
    return {"start": [start], "end": [end]}


SERIES: dict[str, Asked] = {
    "places": Asked(series("long"), span(38, 43), span(2, 30), by_frame),
    "places_undated": Asked(series("long", is_dated=False), span(38, 43), span(0, 0), by_frame),
    "days": Asked(
        series("string"),
        span("2024-02-08", "2024-02-13"),
        span("2024-01-02", "2024-01-30"),
        by_frame,
    ),
    "moments": Asked(
        series("datetime"),
        span(pd.Timestamp("2024-02-08"), pd.Timestamp("2024-02-13")),
        span(pd.Timestamp("2024-01-02"), pd.Timestamp("2024-01-30")),
        by_frame,
    ),
    "unsigned_places": Asked(series(None), span(38, 43), span(2, 30), by_frame),
    "unsigned_days": Asked(
        series(None), span("2024-02-08", "2024-02-13"), span("2024-01-02", "2024-01-30"), by_frame
    ),
}


# Tables -------------------------------------------------------------------------------------------


def ids(path: Path) -> None:
    """An encoder of ids that FP64 does not hold, beside a float."""
    known = 2**53 + np.arange(4)
    frame = pd.DataFrame({"id": np.tile(known, 10), "x": np.zeros(40)})
    encoder = OneHotEncoder(handle_unknown="ignore")
    model = make_pipeline(encoder, LogisticRegression(C=100)).fit(frame, frame["id"] % 2)
    mlflow.sklearn.save_model(
        model,
        path,
        signature=infer_signature(frame, frame["id"] % 2),
        input_example=frame[:4].assign(id=[1, 2, 3, 4]),
        serialization_format="cloudpickle",
        pip_requirements=["numpy"],
    )


def paints(flavor: str, categories: list[Any]) -> Callable[[Path], Any]:
    """A model of pandas' categories, whose signature has the column's own values."""

    def save(path: Path) -> None:
        plain = painted(categories)
        model = painter(flavor, plain, categories)
        argument = {"xgboost": "xgb_model", "lightgbm": "lgb_model"}[flavor]
        options = {"serialization_format": "cloudpickle"} if flavor == "lightgbm" else {}
        getattr(mlflow, flavor).save_model(
            path=str(path),
            # XGBoost answers FP32.
            signature=infer_signature(plain, model.predict(as_categories(plain, categories))),
            pip_requirements=["numpy"],
            **{argument: model},
            **options,
        )

    return save


def painted(categories: list[Any]) -> pd.DataFrame:
    chance = np.random.default_rng(1)
    drawn = [categories[at] for at in chance.integers(0, len(categories), 200)]
    return pd.DataFrame({"paint": drawn, "size": chance.normal(size=200)})


def painter(flavor: str, plain: pd.DataFrame, categories: list[Any]) -> Any:
    frame = as_categories(plain, categories)
    labels = frame["paint"].cat.codes * 3 % 5 + frame["size"]
    if flavor == "xgboost":
        import xgboost

        return xgboost.XGBRegressor(n_estimators=5, enable_categorical=True).fit(frame, labels)
    import lightgbm

    return lightgbm.LGBMRegressor(n_estimators=5, verbose=-1).fit(frame, labels)


def as_categories(plain: pd.DataFrame, categories: list[Any]) -> pd.DataFrame:
    return plain.assign(paint=plain["paint"].astype(pd.CategoricalDtype(categories[::-1])))


def painting(flavor: str, categories: list[Any]) -> Asked:
    rows = painted(categories)[:5]

    def right(path: Path, inputs: Inputs) -> Any:
        with pytest.raises(Exception, match=r"category|categorical"):
            by_frame(path, inputs)
        model = getattr(mlflow, flavor).load_model(str(path))
        return model.predict(as_categories(pd.DataFrame(dict(inputs)), categories))

    mine: Inputs = {name: rows[name].tolist() for name in rows}
    others: Inputs = {"paint": categories[:1], "size": [100.0]}
    return Asked(paints(flavor, categories), mine, others, right)


class Blobs(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Arrays of bytes in, and the same in another order out."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        assert {type(blob) for row in model_input["x"] for blob in row} <= {bytes}
        return pd.DataFrame({"y": [list(row)[::-1] for row in model_input["x"]]})


def blobs(path: Path) -> None:
    arrays = [ColSpec(Array(DataType.binary), name) for name in "xy"]
    mlflow.pyfunc.save_model(
        path,
        python_model=Blobs(),
        signature=ModelSignature(Schema(arrays[:1]), Schema(arrays[1:])),
        pip_requirements=["numpy"],
    )


TABLES: dict[str, Asked] = {
    "ids": Asked(
        ids,
        {"id": [2**53, 2**53 + 1, 2**53 + 2, 2**53 + 3], "x": [0.0] * 4},
        {"id": [2**53 + 2], "x": [0.5]},
        by_frame,
    ),
    "xgb_text": painting("xgboost", ["red", "blue", "green"]),
    "xgb_integers": painting("xgboost", [10, 20, 30]),
    "lgb_text": painting("lightgbm", ["red", "blue", "green"]),
    "lgb_integers": painting("lightgbm", [10, 20, 30]),
    "lgb_flags": painting("lightgbm", [False, True]),
}


# Tensors ------------------------------------------------------------------------------------------


def tensors(**shapes: tuple[int, ...]) -> Schema:
    return Schema([TensorSpec(np.dtype(np.float32), shape, name) for name, shape in shapes.items()])


def graph(operator: str, shapes: dict[str, list[Any]], answer: list[Any]) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, answer)]
    node = helper.make_node(operator, list(shapes), ["y"])
    made = helper.make_graph([node], "g", inputs, outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def matmul(path: Path) -> None:
    model = graph("MatMul", {"a": ["n", 2], "b": [2, "m"]}, ["n", "m"])
    signature = ModelSignature(tensors(a=(-1, 2), b=(2, -1)))
    mlflow.onnx.save_model(model, path, signature=signature, pip_requirements=["numpy"])


def scale(path: Path) -> None:
    model = graph("Mul", {"x": ["n", 2], "k": []}, ["n", 2])
    signature = ModelSignature(tensors(x=(-1, 2), k=()))
    mlflow.onnx.save_model(model, path, signature=signature, pip_requirements=["numpy"])


class Messages(torch.nn.Module):
    """A graph network: what the sources of its edges send is added up at their targets."""

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges.long().unbind(1)
        return nodes.index_add(0, target, nodes[source])


class Bags(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag = torch.nn.EmbeddingBag(11, 3)

    def forward(self, words: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.bag(words.long(), offsets.long())
        return answer


class Named(torch.nn.Module):
    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return 2 * x["a"] + x["b"]


def module(made: torch.nn.Module, schema: Schema) -> Callable[[Path], Any]:
    def save(path: Path) -> None:
        mlflow.pytorch.save_model(
            made.eval(),
            path,
            signature=ModelSignature(schema),
            serialization_format="pickle",
            pip_requirements=["torch"],
        )

    return save


def by_torch(path: Path, inputs: Inputs) -> Any:
    """The module's own call: MLflow's pyfunc takes no dict."""
    model = mlflow.pytorch.load_model(str(path))
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.no_grad():
        answer = model(given) if isinstance(model, Named) else model(**given)
    return answer.numpy()


def ones(*shape: int, times: float = 1.0) -> Any:
    return np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape) * np.float32(times)


def f32(*values: Any) -> Any:
    return np.array(values, np.float32)


TENSORS: dict[str, Asked] = {
    "matmul": Asked(
        matmul,
        {"a": ones(3, 2), "b": ones(2, 4)},
        {"a": ones(2, 2, times=9), "b": ones(2, 2)},
        lambda path, inputs: by_mlflow(path, inputs)["y"],
    ),
    "scale": Asked(
        scale,
        {"x": ones(3, 2), "k": np.array(2, np.float32)},
        {"x": ones(3, 2), "k": np.array(-7, np.float32)},
        lambda path, inputs: by_mlflow(path, inputs)["y"],
    ),
    "messages": Asked(
        module(Messages(), tensors(nodes=(-1, 2), edges=(-1, 2))),
        {"nodes": ones(4, 2), "edges": f32([0, 1], [1, 2], [3, 0], [2, 2], [0, 3])},
        {"nodes": ones(2, 2, times=5), "edges": f32([0, 1])},
        by_torch,
    ),
    "messages_of_as_many_edges": Asked(
        module(Messages(), tensors(nodes=(-1, 2), edges=(-1, 2))),
        {"nodes": ones(3, 2), "edges": f32([0, 1], [1, 2], [2, 0])},
        {"nodes": ones(2, 2, times=5), "edges": f32([0, 1], [1, 0])},
        by_torch,
    ),
    "bags": Asked(
        module(Bags(), tensors(words=(-1,), offsets=(-1,))),
        {"words": f32(1, 2, 3, 4, 5), "offsets": f32(0, 2)},
        {"words": f32(9, 9), "offsets": f32(0)},
        by_torch,
    ),
    "named": Asked(
        module(Named(), tensors(a=(-1, 2), b=(-1, 2))),
        {"b": ones(3, 2), "a": ones(3, 2, times=10)},
        {"b": ones(1, 2, times=-1), "a": ones(1, 2)},
        by_torch,
    ),
}

MODELS = {**SERIES, **TABLES, **TENSORS}


@pytest.fixture(scope="module", name="saved")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    folder = tmp_path_factory.mktemp("prescribed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, asked in MODELS.items():
            asked.save(folder / name)
        blobs(folder / "blobs")
    return {name: folder / name for name in (*MODELS, "blobs")}


@pytest.fixture(scope="module", name="daemon")
def _daemon(
    saved: dict[str, Path], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    served = [f"{name}={path}" for name, path in saved.items()]
    running = Daemon(*served, *untried(*saved), cwd=tmp_path_factory.mktemp("empty"), cache=cache)
    for count in range(len(saved)):
        running.wait("model_ready", count=count + 1)
    running.wait("ready")
    yield running
    assert running.stop() == 0


@pytest.fixture(name="client")
def _client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.address) as client:
        yield client


@contextmanager
def neighbours(client: Client, name: str, inputs: Any) -> Iterator[None]:
    """Others who ask *name* with their *inputs* all the while."""
    over = threading.Event()
    trouble: list[HeadraceClientError] = []

    def ask() -> None:
        while not over.is_set():
            try:
                client.predict(name, inputs)
            except HeadraceClientError as error:
                trouble.append(error)

    threads = [threading.Thread(target=ask) for _ in range(NEIGHBOURS)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()
    assert trouble == []


@pytest.mark.parametrize("name", MODELS)
def test_what_the_signature_prescribes_has_its_right_answer_beside_neighbours(
    client: Client, saved: dict[str, Path], name: str
) -> None:
    asked = MODELS[name]
    right = np.asarray(asked.right(saved[name], asked.mine))

    with neighbours(client, name, asked.others):
        answers = [next(iter(client.predict(name, asked.mine).values())) for _ in range(ASKED)]

    for answer in answers:
        assert (answer.dtype, answer.shape) == (right.dtype, right.shape)
        np.testing.assert_allclose(answer, right, rtol=1e-6)


@pytest.mark.parametrize("name", SERIES)
def test_a_time_series_takes_one_row_as_with_mlflow(
    client: Client, saved: dict[str, Path], name: str
) -> None:
    rows = {key: values * 2 for key, values in MODELS[name].mine.items()}
    said = "prediction dataframes for a TimeSeriesModel must have exactly one row"

    with pytest.raises(mlflow.MlflowException, match=said):
        by_frame(saved[name], rows)
    with pytest.raises(Internal, match=said):
        client.predict(name, rows)


def test_arrays_of_bytes_go_in_and_come_out_in_base64(
    client: Client, saved: dict[str, Path]
) -> None:
    mine = [[b"\0\xff", b"a"], [], [b"", b"\xfe"]]
    right = by_frame(saved["blobs"], {"x": mine})["y"].tolist()

    with neighbours(client, "blobs", {"x": [[b"other"] * 3]}):
        answers = [client.predict("blobs", {"x": mine}).json("y") for _ in range(ASKED)]

    assert right == [row[::-1] for row in mine]
    assert answers == [[["YQ==", "AP8="], [], ["/g==", ""]]] * ASKED


def test_text_that_is_no_base64_is_refused_by_row_and_place(client: Client) -> None:
    with pytest.raises(InvalidArgument, match=r"input 'x': row 1: expected binary at '\[0\]' in"):
        client.predict("blobs", {"x": [["YQ=="], ["no base64"]]})


def test_the_command_prints_a_time_series(
    daemon: Daemon, saved: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("start,end\n38,43\n")
    out = io.StringIO()
    there = Connection(server=daemon.address)

    predict("places", str(tmp_path / "rows.csv"), connection=there, output="json", out=out)

    answer = [next(iter(row.values())) for row in json.loads(out.getvalue())]
    assert answer == pytest.approx(by_frame(saved["places"], span(38, 43)).tolist())

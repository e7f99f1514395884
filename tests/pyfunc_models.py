"""Models that only MLflow's python_function can load, as recipes of models.py."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
import pydantic
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types import TensorSpec as MlflowTensorSpec
from mlflow.types.schema import Array, Map, Object, Property
from sklearn.linear_model import LinearRegression

from models import Recipe, Tensors, scratch

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Weigher(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Reads an artifact, takes parameters, returns a DataFrame."""

    def load_context(self, context: Any) -> None:
        self.offset = json.loads(Path(context.artifacts["offset"]).read_text())

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        assert os.path.exists(context.artifacts["offset"])
        total = model_input["length"] * params["scale"] + model_input["count"] + self.offset
        label = params["prefix"] + "/".join(params["tags"]) + params["since"].isoformat()
        return pd.DataFrame({"total": total, "label": [label] * len(model_input)})


def _weigher() -> Recipe:
    file = scratch() / "offset.json"
    file.write_text("0.25")
    inputs = Schema([ColSpec(DataType.double, "length"), ColSpec(DataType.long, "count")])
    outputs = Schema([ColSpec(DataType.double, "total"), ColSpec(DataType.string, "label")])
    params = ParamSchema(
        [
            ParamSpec("scale", "double", 2.0),
            ParamSpec("prefix", "string", "p"),
            ParamSpec("tags", "string", ["a", "b"], (-1,)),
            ParamSpec("since", "datetime", np.datetime64("2024-01-02")),
        ]
    )
    return Recipe(
        "pyfunc",
        {
            "python_model": Weigher(),
            "artifacts": {"offset": str(file)},
            "signature": ModelSignature(inputs, outputs, params),
        },
        lambda rows: {"length": np.arange(rows) / 4, "count": np.arange(rows)},
    )


_CODE = """
import mlflow


class Doubler(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def predict(self, model_input):
        return model_input.to_numpy() * 2


mlflow.models.set_model(Doubler())
"""


def _from_code() -> Recipe:
    """A file of code; its predict takes neither a context nor parameters."""
    file = scratch() / "doubler.py"
    file.write_text(_CODE)
    return Recipe(
        "pyfunc",
        {
            "python_model": str(file),
            "signature": infer_signature(pd.DataFrame({"x": [1.0], "y": [2.0]})),
        },
        lambda rows: {"x": np.arange(rows) / 2, "y": np.arange(rows) * 1.5},
    )


def _upper(model_input: list[str]) -> list[str]:
    return [text.upper() for text in model_input]


def _hinted() -> Recipe:
    """A function whose type hint is its signature."""
    words = np.array(["oslo", "Łódź", ""], object)
    return Recipe(
        "pyfunc",
        {"python_model": _upper, "input_example": ["oslo", "lima"]},
        lambda rows: {"input-0": words[np.arange(rows) % 3]},
    )


class Order(pydantic.BaseModel):
    item: str
    count: int = 1


class Orders(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Takes pydantic models, returns dicts."""

    def predict(self, model_input: list[Order], params: Any = None) -> Any:
        return [{"line": f"{order.count} {order.item}", "n": order.count} for order in model_input]


def _orders() -> Recipe:
    return Recipe(
        "pyfunc",
        {"python_model": Orders(), "input_example": [{"item": "nut", "count": 2}]},
        lambda rows: {
            "input-0": np.array(
                [json.dumps({"item": "nut", "count": row}) for row in range(rows)], object
            )
        },
    )


class Notes(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Tells which columns it got."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        rows = model_input.to_dict(orient="records")
        return [",".join(f"{name}={value}" for name, value in row.items()) for row in rows]


def _notes() -> Recipe:
    inputs = Schema(
        [
            ColSpec(DataType.double, "size"),
            ColSpec(DataType.string, "note", required=False),
            ColSpec(DataType.long, "rank", required=False),
            ColSpec(Array(DataType.double), "path", required=False),
        ]
    )
    signature = ModelSignature(inputs, Schema([ColSpec(DataType.string)]))
    return Recipe(
        "pyfunc",
        {"python_model": Notes(), "signature": signature},
        lambda rows: {
            "size": np.arange(rows) / 2,
            "note": np.array([f"n{row}" for row in range(rows)], object),
            "rank": np.arange(rows),
            "path": np.array([json.dumps([row / 2]) for row in range(rows)], object),
        },
    )


class Kinds(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Tells what its cells are."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        told = []
        for row in model_input.to_dict(orient="records"):
            kinds = {name: type(value).__name__ for name, value in row.items()}
            owner = {**row["owner"], "seen": row["owner"]["seen"].isoformat()}
            told.append(
                {
                    "kinds": kinds,
                    "at": row["at"].isoformat(),
                    "raw": row["raw"].hex(),
                    "small": float(row["small"]),
                    "path": row["path"],
                    "owner": {**owner, "id": int(owner["id"])},
                    "flags": {key: bool(flag) for key, flag in row["flags"].items()},
                }
            )
        return told


KINDS = Schema(
    [
        ColSpec(DataType.datetime, "at"),
        ColSpec(DataType.binary, "raw"),
        ColSpec(DataType.float, "small"),
        ColSpec(Array(DataType.double), "path"),
        ColSpec(
            Object(
                [
                    Property("id", DataType.long),
                    Property("seen", DataType.datetime),
                    Property("tags", Array(DataType.string), required=False),
                ]
            ),
            "owner",
        ),
        ColSpec(Map(DataType.boolean), "flags"),
    ]
)


def _kinds() -> Recipe:
    def rows(count: int) -> Tensors:
        return {
            "at": 1_700_000_000_123_456_789 + np.arange(count, dtype=np.int64),
            "raw": np.array([b"\x00\xff" + bytes([row]) for row in range(count)], object),
            "small": np.arange(count, dtype=np.float32) / 3,
            "path": np.array([json.dumps([row / 4, 1.5]) for row in range(count)], object),
            "owner": np.array(
                [
                    json.dumps({"id": row, "seen": "2024-05-06T07:08:09", "tags": ["x"]})
                    for row in range(count)
                ],
                object,
            ),
            "flags": np.array([json.dumps({"a": row > 1}) for row in range(count)], object),
        }

    return Recipe("pyfunc", {"python_model": Kinds(), "signature": ModelSignature(KINDS)}, rows)


class Planes(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Named tensors in, named tensors out."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        left, right = model_input["left"], model_input["right"]
        return {"sum": left.sum(1) + right, "left": left}


def _planes() -> Recipe:
    inputs = Schema(
        [
            MlflowTensorSpec(np.dtype("float32"), (-1, 3), "left"),
            MlflowTensorSpec(np.dtype("float32"), (-1,), "right"),
        ]
    )
    return Recipe(
        "pyfunc",
        {"python_model": Planes(), "signature": ModelSignature(inputs)},
        lambda rows: {
            "left": np.arange(rows * 3, dtype=np.float32).reshape(rows, 3),
            "right": np.arange(rows, dtype=np.float32),
        },
    )


class Leaning(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """What it says of a row depends on the others."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return (model_input["x"] - model_input["x"].mean()).to_numpy()


def _leaning() -> Recipe:
    frame = pd.DataFrame({"x": [1.0, 2.0, 4.0]})
    return Recipe(
        "pyfunc",
        {
            "python_model": Leaning(),
            "signature": infer_signature(frame),
            "input_example": frame,
        },
        lambda rows: {"x": np.arange(rows) / 2},
        is_batchable=False,
    )


class Unsigned(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Takes what comes, and tells of it."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return f"{type(model_input).__name__} {params}"


def _unsigned() -> Recipe:
    return Recipe(
        "pyfunc",
        {"python_model": Unsigned()},
        lambda rows: {"x": np.zeros((rows, 2))},
        is_batchable=False,
    )


class Streaming(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Answers by a stream alone."""

    def predict_stream(self, context: Any, model_input: Any, params: Any = None) -> Any:
        yield from model_input


def _streaming() -> Recipe:
    frame = pd.DataFrame({"x": [1.0]})
    arguments = {"python_model": Streaming(), "signature": infer_signature(frame)}
    return Recipe("pyfunc", arguments, lambda rows: {"x": np.zeros(rows)})


_LOADER = """
import pathlib

import shipped_rate


class Scaled:
    def __init__(self, path):
        self.factor = float(pathlib.Path(path).read_text()) * shipped_rate.RATE

    def predict(self, model_input):
        return model_input["x"] * self.factor


def _load_pyfunc(data_path):
    return Scaled(data_path)
"""


def _loader(name: str, rate: float) -> Recipe:
    """No Python model at all: a module that loads one, with another module beside it."""
    folder = scratch() / name
    folder.mkdir()
    (folder / "shipped_loader.py").write_text(_LOADER)
    (folder / "shipped_rate.py").write_text(f"RATE = {rate}\n")
    (folder / "factor.txt").write_text("3.0")
    return Recipe(
        "pyfunc",
        {
            "loader_module": "shipped_loader",
            "data_path": str(folder / "factor.txt"),
            "code_paths": [str(folder / "shipped_loader.py"), str(folder / "shipped_rate.py")],
            "signature": infer_signature(pd.DataFrame({"x": [1.0]})),
        },
        lambda rows: {"x": np.arange(rows) / 2},
    )


def _native_with_params() -> Recipe:
    """A flavor with an adapter of its own, whose models take no parameters."""
    fitted = LinearRegression().fit(pd.DataFrame({"x": [0.0, 1.0]}), [0.0, 2.0])
    frame = pd.DataFrame({"x": [1.0]})
    signature = infer_signature(frame, fitted.predict(frame), params={"scale": 1.0})
    return Recipe(
        "sklearn",
        {"sk_model": fitted, "signature": signature, "serialization_format": "cloudpickle"},
        lambda rows: {"x": np.arange(rows) / 2},
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "py_weigher": _weigher,
    "py_from_code": _from_code,
    "py_hinted": _hinted,
    "py_orders": _orders,
    "py_notes": _notes,
    "py_kinds": _kinds,
    "py_planes": _planes,
    "py_leaning": _leaning,
    "py_unsigned": _unsigned,
    "py_streaming": _streaming,
    "py_loader": lambda: _loader("loader", 2.0),
    "sk_params": _native_with_params,
    "py_loader_too": lambda: _loader("loader-too", 5.0),
}

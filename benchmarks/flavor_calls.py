"""Flavor calls: one row through a model's own call, its adapter and pyfunc, in this process.

`python flavor_calls.py --list` prints JSON of the recipe that stands for each flavor of which a
model can be made here. `python flavor_calls.py RECIPE FOLDER` saves that model as FOLDER/model and
a request of one row as FOLDER/request, and prints JSON of the CPU microseconds of each call.

The models are those of the tests (tests/models.py, tests/deep_models.py).
"""

import contextlib
import json
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
# Before this folder, which has a models.py too.
sys.path.insert(0, str(HERE.parent / "tests"))

TURNS = 7
TURN_S = 0.15

# What stands for these flavors, each with a signature of columns. Of any other the first recipe
# does.
CHOSEN = {
    "sklearn": "iris_logistic",
    "sklearn-pipeline": "iris_pipeline",
    "pytorch": "torch_columns",
    "onnx": "onnx_columns",
    "xgboost": "xgb_classifier",
    "lightgbm": "lgb_classifier",
    "catboost": "cat_species",
    "statsmodels": "ols_columns",
    "pyfunc": "py_weigher",
}

Tensors = dict[str, np.ndarray]
Call = Callable[[], Any]


def main() -> None:
    """List, or measure one."""
    warnings.simplefilter("ignore")
    if sys.argv[1:] == ["--list"]:
        print(json.dumps(recipes()))
    else:
        name, folder = sys.argv[1:]
        print(json.dumps(measured(name, Path(folder))))


def recipes() -> dict[str, str]:
    """The recipe of each line of the table, by what the line is called."""
    models, deep_models = import_module("models"), import_module("deep_models")
    flavors: dict[str, str] = {}
    found: dict[str, str] = {}
    for name in (*CHOSEN.values(), *deep_models.NAMES):
        # A framework that is not installed, or tells so by an error of its own.
        with contextlib.suppress(Exception):
            flavors[name] = models.recipe_of(name).flavor
    known = {flavors[name] for name in CHOSEN.values() if name in flavors}
    for name, flavor in flavors.items():
        if flavor not in known:
            found.setdefault(flavor, name)
    return {label: name for label, name in CHOSEN.items() if name in flavors} | found


def measured(name: str, folder: Path) -> dict[str, float]:
    """What each call took: medians, and the median of each turn's ratio of pyfunc to adapter."""
    import servers
    from headrace_server.adapters import adapter_of
    from headrace_server.adapters.base import default_params
    from headrace_server.devices import open_device

    models = import_module("models")
    model = models.model(name)
    row = model.rows(1)
    shutil.copytree(model.path, folder / "model")
    (folder / "request").write_bytes(servers.body("model", row))
    adapter = adapter_of(model.flavor)(model.artifact, open_device("cpu"))
    params = default_params(adapter.signature)
    calls: dict[str, Call] = {
        "native": native(model, row) or _launch(adapter, row, params),
        "adapter": lambda: adapter.finish(adapter.launch(adapter.stage(row), params)),
    }
    if model.artifact.pyfunc:
        import mlflow.pyfunc

        wrapped = mlflow.pyfunc.load_model(str(model.path), suppress_warnings=True)
        given = models._pyfunc_input(row, model.artifact.signature)  # noqa: SLF001 - of the tests.
        calls["pyfunc"] = lambda: wrapped.predict(given)
    for call in calls.values():
        _cpu_us(call)
    turns = [{key: _cpu_us(call) for key, call in calls.items()} for _ in range(TURNS)]
    figures = {f"{key}_us": statistics.median(turn[key] for turn in turns) for key in calls}
    if "pyfunc" in calls:
        figures["ratio"] = statistics.median(turn["pyfunc"] / turn["adapter"] for turn in turns)
    return figures


def _launch(adapter: Any, row: Tensors, params: Mapping[str, Any]) -> Call:
    """The framework's call as the adapter makes it, where none stands below."""
    staged = adapter.stage(row)
    return lambda: adapter.launch(staged, params)


def _cpu_us(call: Call) -> float:
    """CPU time of one call, by as many as fill a turn."""
    calls, until = 0, time.perf_counter() + TURN_S
    began = time.process_time()
    while time.perf_counter() < until:
        call()
        calls += 1
    return (time.process_time() - began) / calls * 1e6


# What `mlflow.FLAVOR.load_model` returns, called with an array that it takes.


def native(model: Any, row: Tensors) -> Call | None:
    """The framework's own call on one row; None where none is written down here."""
    matrix = np.stack(list(row.values()), axis=1) if len(row) > 1 else next(iter(row.values()))
    make = _NATIVE.get(model.flavor)
    return None if make is None else make(str(model.path), matrix)


def _predict(flavor: str) -> Callable[[str, np.ndarray], Call]:
    def make(path: str, matrix: np.ndarray) -> Call:
        loaded = import_module(f"mlflow.{flavor}").load_model(path)
        return lambda: loaded.predict(matrix)

    return make


def _torch(path: str, matrix: np.ndarray) -> Call:
    import mlflow.pytorch
    import torch

    module, given = mlflow.pytorch.load_model(path), torch.from_numpy(matrix.astype(np.float32))

    def call() -> Any:
        with torch.inference_mode():
            return module(given).numpy()

    return call


def _onnx(path: str, matrix: np.ndarray) -> Call:
    import mlflow.onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(
        mlflow.onnx.load_model(path).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    given = {session.get_inputs()[0].name: matrix.astype(np.float32)}
    return lambda: session.run(None, given)


_NATIVE: dict[str, Callable[[str, np.ndarray], Call]] = {
    "pytorch": _torch,
    "onnx": _onnx,
    **{
        name: _predict(name)
        for name in ("sklearn", "xgboost", "lightgbm", "catboost", "statsmodels")
    },
}


if __name__ == "__main__":
    main()

"""Own call: what a benchmark's model takes by itself, in this process, called by its framework.

`python own_call.py TRACKING_URI MODEL ROWS`: prints JSON of the median milliseconds of one row, and
the CPU microseconds per row of a batch of ROWS.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt

import models

SECONDS = 1.0

Array = npt.NDArray[Any]
Model = Callable[[Array], Any]


def main() -> None:
    """Load, call, print."""
    uri, name, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
    mlflow.set_tracking_uri(uri)
    model, row = LOADERS[name](f"models:/{name}@champion")
    batch = np.repeat(row, rows, 0)
    _timed(model, row)
    _timed(model, batch)
    one_row_s = statistics.median(_timed(model, row))
    began = time.process_time()
    calls = len(_timed(model, batch))
    cpu_s = time.process_time() - began
    print(json.dumps({"one_row_ms": one_row_s * 1e3, "row_cpu_us": cpu_s / calls / rows * 1e6}))


def _timed(model: Model, matrix: Array) -> list[float]:
    """How long each call took, again and again for a while (seconds)."""
    taken = []
    until = time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < until:
        model(matrix)
        taken.append(time.perf_counter() - began)
    return taken


def _iris(uri: str) -> tuple[Model, Array]:
    """The pipeline, and the matrix that headrace hands to it."""
    import warnings

    import mlflow.sklearn

    # The columns' names are the signature's, not the matrix' own.
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    pipeline = mlflow.sklearn.load_model(uri)
    return pipeline.predict, np.stack(list(models.iris_row().values()), axis=1)


def _mlp(uri: str) -> tuple[Model, Array]:
    import mlflow.pytorch
    import torch

    torch.set_num_threads(1)
    network = mlflow.pytorch.load_model(uri)

    def predict(matrix: Array) -> Array:
        with torch.inference_mode():
            answer: Array = network(torch.from_numpy(matrix)).numpy()
            return answer

    return predict, models.mlp_row()["x"]


LOADERS: dict[str, Callable[[str], tuple[Model, Array]]] = {"iris": _iris, "mlp": _mlp}


if __name__ == "__main__":
    main()

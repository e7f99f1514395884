"""Models of the benchmarks, registered in a store of their own that later runs reuse."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from headrace_server.demo.train import Store, iris_test_set, train_iris

FOLDER = Path(__file__).parent / "models"
MLP_WIDTHS = (256, 512, 512, 10)


def prepare() -> Store:
    """The store, with `iris` and `mlp` registered."""
    FOLDER.mkdir(exist_ok=True)
    store = Store(FOLDER.absolute())
    client = store.open()
    if not store.has(client, "iris"):
        train_iris(client)
    if not store.has(client, "mlp"):
        _register_mlp(client)
    return store


def iris_row() -> dict[str, np.ndarray]:
    """One flower: four named columns."""
    return {name: column[:1] for name, column in iris_test_set().inputs.items()}


def mlp_row() -> dict[str, np.ndarray]:
    """One row of 256 float32."""
    return {"x": np.random.default_rng(0).normal(size=(1, MLP_WIDTHS[0])).astype(np.float32)}


def _register_mlp(client: object) -> None:
    import mlflow.pytorch
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from headrace_server.demo.train import register

    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for width, following in pairwise(MLP_WIDTHS):
        layers += [torch.nn.Linear(width, following), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1]).eval()
    info = mlflow.pytorch.log_model(
        network,
        name="mlp",
        serialization_format="pickle",
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("float32"), (-1, MLP_WIDTHS[0]), "x")]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, MLP_WIDTHS[-1]), "y")]),
        ),
        pip_requirements=["torch"],
    )
    register(client, info, "mlp")

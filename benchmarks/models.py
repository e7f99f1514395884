"""Models of the benchmarks, registered in a store of their own that later runs reuse."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from headrace_server.demo.train import Store, iris_test_set, train_iris

FOLDER = Path(__file__).parent / "models"
MLP_WIDTHS = (256, 512, 512, 10)


def prepare() -> Store:
    """The store, with `iris`, `mlp` and `identity` registered."""
    FOLDER.mkdir(exist_ok=True)
    store = Store(FOLDER.absolute())
    client = store.open()
    if not store.has(client, "iris"):
        train_iris(client)
    if not store.has(client, "mlp"):
        _register_mlp(client)
    if not store.has(client, "identity"):
        _register_identity(client)
    return store


def iris_row() -> dict[str, np.ndarray]:
    """One flower: four named columns."""
    return {name: column[:1] for name, column in iris_test_set().inputs.items()}


def mlp_row() -> dict[str, np.ndarray]:
    """One row of 256 float32."""
    return {"x": np.random.default_rng(0).normal(size=(1, MLP_WIDTHS[0])).astype(np.float32)}


def identity_row() -> dict[str, np.ndarray]:
    """One row of four float32."""
    return {"x": np.arange(4, dtype=np.float32).reshape(1, 4)}


def _register_identity(client: object) -> None:
    """ONNX's own Identity: the cheapest call that a real framework makes."""
    import mlflow.onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec
    from onnx import TensorProto, helper

    from headrace_server.demo.train import register

    shape = ["rows", 4]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    info = mlflow.onnx.log_model(
        model,
        name="identity",
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 4), "x")]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 4), "y")]),
        ),
        pip_requirements=["onnxruntime-gpu"],
    )
    register(client, info, "identity")


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

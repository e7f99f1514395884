"""Models of the benchmarks, registered in a store of their own that later runs reuse."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from headrace_server.demo.train import Store, iris_test_set, train_iris

FOLDER = Path(__file__).parent / "models"
MLP_WIDTHS = (256, 512, 512, 10)
CNN_IMAGE = (3, 32, 32)
# Channels and stride of each convolution.
CNN_LAYERS = ((64, 2), (128, 2), (256, 2), (256, 1))
CNN_HIDDEN = 1024
CNN_CLASSES = 10
# A row as the models of large images take it: channels, height, width.
IMAGE = (3, 224, 224)
# ONNX models: the shape of a row of their input, and of their output.
GRAPHS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "identity": ((4,), (4,)),
    "image-identity": (IMAGE, IMAGE),
    "image-mean": (IMAGE, ()),
}


def prepare() -> Store:
    """The store, with `iris`, `mlp`, `cnn` and the GRAPHS registered."""
    FOLDER.mkdir(exist_ok=True)
    store = Store(FOLDER.absolute())
    client = store.open()
    if not store.has(client, "iris"):
        train_iris(client)
    if not store.has(client, "mlp"):
        _register_mlp(client)
    if not store.has(client, "cnn"):
        _register_cnn(client)
    for name in GRAPHS:
        if not store.has(client, name):
            _register_graph(client, name)
    return store


def iris_row() -> dict[str, np.ndarray]:
    """One flower: four named columns."""
    return {name: column[:1] for name, column in iris_test_set().inputs.items()}


def mlp_row() -> dict[str, np.ndarray]:
    """One row of 256 float32."""
    return {"x": np.random.default_rng(0).normal(size=(1, MLP_WIDTHS[0])).astype(np.float32)}


def cnn_rows(count: int) -> dict[str, np.ndarray]:
    """*count* images of three colours, 32x32 float32."""
    images = np.random.default_rng(0).normal(size=(count, *CNN_IMAGE))
    return {"image": images.astype(np.float32)}


def identity_row() -> dict[str, np.ndarray]:
    """One row of four float32."""
    return {"x": np.arange(4, dtype=np.float32).reshape(1, 4)}


def image() -> dict[str, np.ndarray]:
    """One row of IMAGE float32, 602 kB."""
    return {"x": np.random.default_rng(0).normal(size=(1, *IMAGE)).astype(np.float32)}


def graph(name: str) -> Any:
    """The ONNX model *name*, of one operator from x to y; both have any number of rows.

    `identity` takes four float32 a row, `image-identity` and `image-mean` an IMAGE; the mean is one
    float32 a row.
    """
    from onnx import TensorProto, helper

    row, answer = GRAPHS[name]
    if row == answer:
        # The cheapest call that a real framework makes.
        node = helper.make_node("Identity", ["x"], ["y"])
    else:
        node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2, 3], keepdims=0)
    made = helper.make_graph(
        [node],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", *row])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", *answer])],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _register_graph(client: object, name: str) -> None:
    import mlflow.onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from headrace_server.demo.train import register

    row, answer = GRAPHS[name]
    info = mlflow.onnx.log_model(
        graph(name),
        name=name,
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("float32"), (-1, *row), "x")]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, *answer), "y")]),
        ),
        pip_requirements=["onnxruntime-gpu"],
    )
    register(client, info, name)


def _register_mlp(client: object) -> None:
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for width, following in pairwise(MLP_WIDTHS):
        layers += [torch.nn.Linear(width, following), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1]).eval()
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, MLP_WIDTHS[0]), "x")]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, MLP_WIDTHS[-1]), "y")]),
    )
    _register_network(client, network, signature, "mlp")


def _register_cnn(client: object) -> None:
    """Four convolutions, then a layer of 16 MB of weights.

    Reading weights is what the rows of a batch share.
    """
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    channels = CNN_IMAGE[0]
    for following, stride in CNN_LAYERS:
        layers += [torch.nn.Conv2d(channels, following, 3, stride, padding=1), torch.nn.ReLU()]
        channels = following
    network = torch.nn.Sequential(
        *layers,
        torch.nn.Flatten(),
        torch.nn.LazyLinear(CNN_HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(CNN_HIDDEN, CNN_CLASSES),
    )
    network(torch.from_numpy(cnn_rows(1)["image"]))
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, *CNN_IMAGE), "image")]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, CNN_CLASSES), "logits")]),
    )
    _register_network(client, network.eval(), signature, "cnn")


def _register_network(client: object, network: object, signature: object, name: str) -> None:
    import mlflow.pytorch

    from headrace_server.demo.train import register

    info = mlflow.pytorch.log_model(
        network,
        name=name,
        serialization_format="pickle",
        signature=signature,
        pip_requirements=["torch"],
    )
    register(client, info, name)

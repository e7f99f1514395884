"""Train: the demo's models, on data sets that scikit-learn ships.

`iris` is a pipeline with named columns, `digits` a torch CNN on the 8x8 images, `digits-onnx` the
same network exported to ONNX. Each is logged with its signature and an input example, registered,
and carries the alias `champion`.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ALIAS = "champion"
SEED = 7
EPOCHS = 25

# Before mlflow is imported: nothing of a demo leaves the machine.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

Array = npt.NDArray[np.generic]
# Told of every step: what is being done, and how far along it is (0 to 1).
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class TestSet:
    """Rows that no model has seen, with their labels.

    Attributes:
        inputs: What is sent, by input name; the first axis counts rows.
        labels: The right class per row.
    """

    inputs: dict[str, Array]
    labels: Array


class Store:
    """The embedded MLflow store of the demo: a sqlite file and a directory of artifacts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tracking_uri = f"sqlite:///{directory / 'mlflow.db'}"

    def open(self) -> Any:
        """An MLflow client on the store, with mlflow's own defaults pointed at it."""
        import mlflow

        mlflow.set_tracking_uri(self.tracking_uri)
        if mlflow.get_experiment_by_name("demo") is None:
            mlflow.create_experiment("demo", (self.directory / "artifacts").as_uri())
        mlflow.set_experiment("demo")
        return mlflow.MlflowClient()

    def has(self, client: Any, name: str) -> bool:
        """Whether *name* is registered with its alias."""
        found = client.search_registered_models(f"name = '{name}'")
        return any(ALIAS in model.aliases for model in found)


def iris_test_set() -> TestSet:
    """A quarter of the iris flowers."""
    _, frame, _, labels = _split_iris()
    return TestSet({name: frame[name].to_numpy() for name in frame.columns}, labels.to_numpy())


def digits_test_set() -> TestSet:
    """A quarter of the 8x8 digits, as float32 images of shape [rows, 1, 8, 8]."""
    _, images, _, labels = _split_digits()
    return TestSet({"image": images}, labels)


def train_all(store: Store, progress: Progress) -> None:
    """Train and register what the store does not hold yet."""
    client = store.open()
    if not store.has(client, "iris"):
        progress("training iris", 0.0)
        train_iris(client)
    progress("iris is registered", 0.2)
    if not (store.has(client, "digits") and store.has(client, "digits-onnx")):
        network = _train_digits(lambda done: progress("training digits", 0.2 + 0.5 * done))
        progress("registering digits", 0.7)
        _register_digits(client, network)
        progress("exporting digits to ONNX", 0.8)
        _register_onnx(client, network)
    progress("digits and digits-onnx are registered", 1.0)


def direct_accuracy(store: Store, name: str, test: TestSet) -> float:
    """The accuracy of the registered model, called by its framework in this process."""
    store.open()
    return float(np.mean(_direct_classes(f"models:/{name}@{ALIAS}", name, test) == test.labels))


def classes(outputs: Array) -> Array:
    """The class per row: the output itself, or the place of the largest logit."""
    return outputs.argmax(axis=1) if outputs.ndim == 2 else outputs


def _direct_classes(uri: str, name: str, test: TestSet) -> Array:
    if name == "iris":
        import mlflow.sklearn
        import pandas as pd

        return classes(mlflow.sklearn.load_model(uri).predict(pd.DataFrame(test.inputs)))
    if name == "digits":
        import mlflow.pytorch
        import torch

        with torch.inference_mode():
            return classes(
                mlflow.pytorch.load_model(uri)(torch.tensor(test.inputs["image"])).numpy()
            )
    import mlflow.onnx
    import onnxruntime

    model = mlflow.onnx.load_model(uri)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return classes(session.run(None, dict(test.inputs))[0])


def _split_iris() -> tuple[Any, Any, Any, Any]:
    from sklearn.datasets import load_iris
    from sklearn.model_selection import train_test_split

    frame, labels = load_iris(return_X_y=True, as_frame=True)
    # "sepal length (cm)" and so on: as identifiers they are the fields of requests as they stand.
    frame.columns = [name.removesuffix(" (cm)").replace(" ", "_") for name in frame.columns]
    split: tuple[Any, Any, Any, Any] = tuple(
        train_test_split(frame, labels, test_size=0.25, random_state=SEED, stratify=labels)
    )
    return split


def _split_digits() -> tuple[Any, Any, Any, Any]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    scaled = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    split: tuple[Any, Any, Any, Any] = tuple(
        train_test_split(scaled, labels, test_size=0.25, random_state=SEED, stratify=labels)
    )
    return split


def train_iris(client: Any) -> None:
    """Train and register `iris`."""
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, _, labels, _ = _split_iris()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(train, labels)
    info = mlflow.sklearn.log_model(
        model,
        name="iris",
        signature=mlflow.models.infer_signature(train, model.predict(train)),
        input_example=train[:2],
        pip_requirements=["scikit-learn"],
    )
    register(client, info, "iris")


def _train_digits(progress: Callable[[float], None]) -> Any:
    import torch
    from torch import nn

    torch.manual_seed(SEED)
    images, _, labels, _ = _split_digits()
    data, wanted = torch.from_numpy(images), torch.from_numpy(labels)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for epoch in range(EPOCHS):
        progress(epoch / EPOCHS)
        for rows in torch.randperm(len(data)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(data[rows]), wanted[rows]).backward()
            optimizer.step()
    return network.eval()


def _digits_signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 1, 8, 8), "image")]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 10), "logits")]),
    )


def _register_digits(client: Any, network: Any) -> None:
    import mlflow.pytorch

    images, _, _, _ = _split_digits()
    info = mlflow.pytorch.log_model(
        network,
        name="digits",
        signature=_digits_signature(),
        # Two rows: a network exported with one is frozen at one.
        input_example=images[:2],
        pip_requirements=["torch"],
    )
    register(client, info, "digits")


def _register_onnx(client: Any, network: Any) -> None:
    import mlflow.onnx
    import onnx
    import torch

    images, _, _, _ = _split_digits()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "digits.onnx")
        torch.onnx.export(
            network,
            (torch.from_numpy(images[:2]),),
            path,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        info = mlflow.onnx.log_model(
            onnx.load(path),
            name="digits-onnx",
            signature=_digits_signature(),
            input_example={"image": images[:2]},
            pip_requirements=["onnxruntime"],
        )
    register(client, info, "digits-onnx")


def register(client: Any, info: Any, name: str) -> None:
    """Make a logged model a version of *name*, and that version its champion."""
    import mlflow

    version = mlflow.register_model(info.model_uri, name).version
    client.set_registered_model_alias(name, ALIAS, str(version))

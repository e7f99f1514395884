"""A real registry in a sqlite file, filled once with tiny models of every kind the tests need."""

import gc
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import headrace_server.librarian  # noqa: F401 - makes mlflow quiet before it is imported.

# isort: split
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.linear_model import LinearRegression, LogisticRegression

TABLE = pd.DataFrame({"length": [1.0, 2.0, 3.0, 4.0], "width": [0.5, 0.25, 2.0, 1.0]})
MATRIX = TABLE.to_numpy(np.float32)
LABELS = [0, 1, 0, 1]
# Given, MLflow need not work them out by loading the model in a process of its own.
REQUIREMENTS = ["scikit-learn"]
POOL_ENDS_S_MAX = 10


@dataclass(frozen=True, slots=True)
class Store:
    """What was put into the registry.

    Attributes:
        uri: Its tracking URI.
        artifacts: The directory below which its models lie.
        run: The run that logged the model "in-run" and the directory "old/model".
        iris: The ids of the logged models behind versions 1 and 2 of "iris".
        in_run: The id of the logged model "in-run".
        saved: A model saved to a directory, in no registry.
    """

    uri: str
    artifacts: Path
    run: str
    iris: tuple[str, str]
    in_run: str
    saved: Path


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Read-only for tests: they share it."""
    base = tmp_path_factory.mktemp("registry")
    before = mlflow.get_tracking_uri()
    uri = f"sqlite:///{base}/registry.db"
    mlflow.set_tracking_uri(uri)
    try:
        yield _filled(base, uri)
    finally:
        mlflow.set_tracking_uri(before)


def log_classifier(name: str, registered: str | None = None) -> Any:
    """Log a classifier of two named columns, with an example."""
    return mlflow.sklearn.log_model(
        LogisticRegression().fit(TABLE, LABELS),
        name=name,
        registered_model_name=registered,
        input_example=TABLE[:2],
        pip_requirements=REQUIREMENTS,
    )


def _filled(base: Path, uri: str) -> Store:
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("tests", artifact_location=f"file://{base}/artifacts")
    mlflow.set_experiment(experiment_id=experiment)

    first = log_classifier("iris", "iris")
    second = log_classifier("iris", "iris")
    client.set_registered_model_alias("iris", "champion", "1")
    client.set_registered_model_alias("iris", "canary", "2")
    client.create_registered_model("empty")
    mlflow.genai.register_prompt(name="greeting", template="Hello {{name}}")

    saved = base / "saved model"
    regression = LinearRegression().fit(MATRIX, LABELS)
    mlflow.sklearn.save_model(
        regression, str(saved), input_example=MATRIX[:2], pip_requirements=REQUIREMENTS
    )
    with mlflow.start_run(experiment_id=experiment) as run:
        in_run = log_classifier("in-run")
        mlflow.log_artifacts(str(saved), "old/model")
    client.create_registered_model("by-path")
    tags = {f"headrace.{number:03}{'x' * 200}": "y" * 4000 for number in range(100)}
    client.create_model_version("by-path", source=f"{run.info.artifact_uri}/old/model", tags=tags)
    client.copy_model_version("models:/iris/2", "copied")
    client.set_registered_model_alias("copied", "twin", "1")
    for key, value in {"headrace.rows_max": "8", "headrace.x": "", "owner": "me"}.items():
        client.set_model_version_tag("copied", "1", key, value)
    return Store(
        uri=uri,
        artifacts=base / "artifacts",
        run=run.info.run_id,
        iris=(first.model_id, second.model_id),
        in_run=in_run.model_id,
        saved=saved,
    )


@pytest.fixture(autouse=True)
def pools_end() -> Iterator[None]:
    """MLflow leaves its thread pools to the collector, and their threads end a moment later."""
    yield
    # But for those of traces, which are the whole process's.
    pools = [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("Mlflow") and "Trace" not in thread.name
    ]
    if pools:
        gc.collect()
    for thread in pools:
        thread.join(POOL_ENDS_S_MAX)


@pytest.fixture
def model_copy(store: Store, tmp_path: Path) -> Path:
    """A saved model that a test may change."""
    copy = tmp_path / "model"
    shutil.copytree(store.saved, copy)
    return copy


def files_below(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file below *directory* with its size and time of change."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            status = os.stat(os.path.join(folder, name))
            found[os.path.relpath(os.path.join(folder, name), directory)] = (
                status.st_size,
                status.st_mtime_ns,
            )
    return found

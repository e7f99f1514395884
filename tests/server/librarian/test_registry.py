"""Registry: all questions, also of a tracking server that is not here."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from headrace_server.errors import (
    LoadFailed,
    ModelNotFound,
)
from headrace_server.librarian.registry import Registry
from headrace_server.librarian.resolving import Resolved
from headrace_server.librarian.safety import Rules
from tracking import tracking_server

from .conftest import Store, log_classifier


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def server(store: Store, tmp_path: Path) -> Iterator[str]:
    """An MLflow server on a copy of the store, which hands out artifacts itself."""
    (tmp_path / "mlflow.db").write_bytes(Path(store.uri.removeprefix("sqlite:///")).read_bytes())
    with tracking_server(tmp_path) as running:
        yield running.uri


@pytest.mark.slow
def test_a_server_answers_as_a_database_does(server: str, store: Store, cache: Path) -> None:
    before = mlflow.get_tracking_uri()
    client = MlflowClient(tracking_uri=server, registry_uri=server)
    mlflow.set_tracking_uri(server)
    try:
        client.create_experiment("served", artifact_location="mlflow-artifacts:/served")
        mlflow.set_experiment("served")
        with mlflow.start_run() as run:
            logged = log_classifier("remote", "remote")
    finally:
        mlflow.set_tracking_uri(before)
    client.set_registered_model_alias("remote", "champion", "1")
    registry = Registry(server, str(cache))
    source = f"models:/{logged.model_id}"

    assert registry.resolve("models:/remote@champion") == Resolved(
        "remote", "1", source, "champion", registered="remote"
    )
    assert registry.resolve("models:/iris/latest").version == "2"
    for uri in ("models:/copied/1", "models:/copied@twin", "models:/copied/latest"):
        assert registry.resolve(uri).tags == {"headrace.rows_max": "8", "headrace.x": ""}
    assert registry.resolve(f"runs:/{run.info.run_id}/remote").source == source
    assert registry.resolve(f"runs:/{store.run}/old/model").name == "model"
    assert "models:/remote@champion" in registry.list_models()
    for uri, said in {
        "models:/iris/9": "there is no version 9 of model 'iris'",
        "models:/iris@best": "it has canary, champion",
        "models:/rose/latest": "there is no registered model 'rose'",
        "runs:/0123/iris": "there is no run '0123'",
        "mlflow-artifacts:/nowhere": "there is no MLmodel file",
    }.items():
        with pytest.raises(ModelNotFound, match=said):
            registry.resolve(uri)

    reports: list[tuple[int, int | None]] = []
    fetched = registry.fetch(source, lambda done, total: reports.append((done, total)))
    assert fetched.flavor == "sklearn"
    assert fetched.example is not None
    assert reports[0][0] == 0
    assert reports[-1][0] == reports[-1][1]
    location = client.get_logged_model(logged.model_id).artifact_location
    assert location.startswith("mlflow-artifacts:/")
    by_path = registry.resolve(location)
    assert (by_path.name, by_path.source) == ("artifacts", location)
    assert registry.fetch(location).digest == fetched.digest


def test_no_environment_is_made_where_no_code_may_run(tmp_path: Path) -> None:
    registry = Registry("", str(tmp_path / "cache"), Rules(pickle=False))

    with pytest.raises(LoadFailed, match="installing the packages that a model names can execute"):
        registry.environment(tmp_path, print, installer="pip", s_max=1.0)

    assert list(tmp_path.iterdir()) == []

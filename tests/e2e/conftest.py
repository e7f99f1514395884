"""A real embedded store, and daemons that serve it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

import models
from serving import REGISTERED, Daemon, untried


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every model of REGISTERED, and a second version of iris that is its champion."""
    directory = tmp_path_factory.mktemp("store")
    for name, registered in REGISTERED.items():
        models.log(name, directory, registered)
    models.log("iris_forest", directory, "iris")
    champion = models.log("iris_pipeline", directory, "iris")
    client = MlflowClient(models.tracking_uri(directory))
    client.set_registered_model_alias("iris", "champion", champion)
    models.log("iris_forest", directory, "iris")
    return directory


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache directory of all daemons of the run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def serve(store: Path, cache: Path) -> Iterator[Callable[..., Daemon]]:
    """Start daemons on the store; all of them end with the test."""
    started: list[Daemon] = []

    def start(*arguments: str, port: int = 0) -> Daemon:
        uri = models.tracking_uri(store)
        daemon = Daemon("--tracking-uri", uri, *arguments, cwd=store, cache=cache, port=port)
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        daemon.stop()


@pytest.fixture(scope="session")
def daemon(store: Path, cache: Path) -> Iterator[Daemon]:
    """One daemon with every model of the store, ready, for all tests that only ask."""
    uri = models.tracking_uri(store)
    at_once = untried(*REGISTERED.values())
    running = Daemon("--tracking-uri", uri, *at_once, cwd=store, cache=cache)
    running.wait("ready")
    yield running
    assert running.stop() == 0

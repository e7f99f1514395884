"""Trouble: what MLflow raises, told apart by whether it may pass."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

import headrace_server.librarian  # noqa: F401 - sets how long MLflow waits.
from headrace_server.errors import (
    HeadraceError,
    LoadFailed,
    RegistryAbsent,
    RegistryDenied,
    RegistryUnavailable,
)
from headrace_server.librarian.registry import Registry
from headrace_server.librarian.trouble import Kind, trouble_of
from tracking import Front, TrackingServer, fill, front, tracking_server


@pytest.fixture(scope="module")
def failing() -> Iterator[Front]:
    with front() as server:
        yield server


@pytest.mark.parametrize(
    ("status", "error", "why"),
    [
        ("401", RegistryDenied, "does not let us have the version 1 of model 'iris' (HTTP 401)"),
        ("403", RegistryDenied, "(HTTP 403): expected another user name and password"),
        ("408", RegistryUnavailable, "does not answer, or fails, when asked for the version 1"),
        ("429", RegistryUnavailable, "HTTP 429"),
        ("500", RegistryUnavailable, "HTTP 500"),
        ("502", RegistryUnavailable, "HTTP 502"),
        ("503", RegistryUnavailable, "HTTP 503"),
        ("504", RegistryUnavailable, "HTTP 504"),
        ("501", LoadFailed, "501"),
        ("404", LoadFailed, "404"),
        ("200", RegistryAbsent, "does not answer as an MLflow server does"),
    ],
)
def test_what_may_pass_is_told_from_what_never_will(
    failing: Front, tmp_path: Path, status: str, error: type[HeadraceError], why: str
) -> None:
    """429 comes with a Retry-After of an hour, which nobody waits for."""
    failing.behave = lambda _: status
    uri = failing.uri.replace("//", "//someone:secret@")

    with pytest.raises(HeadraceError) as caught:
        Registry(uri, str(tmp_path)).resolve("models:/iris/1")

    assert type(caught.value) is error
    assert why in caught.value.message
    assert "secret" not in caught.value.message


def test_a_password_that_is_wrong_for_files_alone_is_told_the_same(
    failing: Front, tmp_path: Path
) -> None:
    failing.behave = lambda _: "401"

    with pytest.raises(RegistryDenied, match="expected another user name and password"):
        Registry(failing.uri, str(tmp_path)).fetch("mlflow-artifacts:/graph")


def test_a_server_that_says_nothing_gave_no_answer_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        registry = Registry(f"http://127.0.0.1:{mute.getsockname()[1]}", str(tmp_path))
        with pytest.raises(RegistryUnavailable, match="'iris': no answer in time"):
            registry.resolve("models:/iris/1")


def test_a_server_that_is_away_refused_the_connection(tmp_path: Path) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        registry = Registry(f"http://127.0.0.1:{unheard.getsockname()[1]}", str(tmp_path))
        with pytest.raises(RegistryUnavailable, match="'iris': the connection was refused"):
            registry.resolve("models:/iris/1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    directory = tmp_path_factory.mktemp("server")
    fill(directory, ["graph"])
    with tracking_server(directory) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "error", "why"),
    [
        ("break", RegistryUnavailable, "the connection broke"),
        ("503", RegistryUnavailable, "HTTP 503"),
        ("404", LoadFailed, "404"),
        ("401", RegistryDenied, "HTTP 401"),
    ],
)
def test_a_download_that_fails_midway_is_told_by_its_cause_and_leaves_nothing(
    server: TrackingServer, tmp_path: Path, how: str, error: type[HeadraceError], why: str
) -> None:
    with front(server.port, lambda path: how if path.endswith("/model.onnx") else "pass") as before:
        registry = Registry(before.uri, str(tmp_path / "cache"))
        source = registry.resolve("models:/graph/1").source
        with pytest.raises(HeadraceError) as caught:
            registry.fetch(source)
        left = list((tmp_path / "cache").iterdir())
        before.behave = lambda _: "pass"
        fetched = registry.fetch(source)

    assert type(caught.value) is error
    assert why in caught.value.message
    assert left == []
    assert fetched.flavor == "onnx"


def wrapped(*errors: str) -> MlflowException:
    """As MLflow tells of files that could not be downloaded."""
    files = "\n".join(f"##### File model.onnx #####\n{error}" for error in errors)
    return MlflowException(
        f"The following failures occurred while downloading one or more artifacts from x:\n{files}"
    )


@pytest.mark.parametrize(
    ("said", "kind", "why"),
    [
        ("[Errno 28] No space left on device: '/c'", Kind.OTHER, "[Errno 28] No space left on"),
        ("[Errno 104] Connection reset by peer", Kind.PASSING, "the connection broke"),
        ("HTTPConnectionPool(host='h', port=1): Read timed out.", Kind.PASSING, "no answer in"),
        ("404 Client Error: NOT FOUND for url: http://h/x", Kind.OTHER, "404 Client Error"),
    ],
)
def test_a_failed_file_is_told_by_its_text(said: str, kind: Kind, why: str) -> None:
    for is_server in (True, False):
        trouble = trouble_of(wrapped(said), is_server=is_server, is_store=not is_server)

        assert trouble.kind is kind
        assert why in trouble.why


@pytest.mark.parametrize(
    ("said", "may_pass"),
    [
        ("An error occurred (503) when calling the HeadObject operation: SlowDown", True),
        ("An error occurred (SlowDown) when calling the GetObject operation: slow", True),
        ('Could not connect to the endpoint URL: "https://s3/b"', True),
        ("An error occurred (404) when calling the HeadObject operation: Not Found", False),
        ("An error occurred (403) when calling the HeadObject operation: Forbidden", False),
        ("An error occurred (NoSuchKey) when calling the GetObject operation: x", False),
        ("Unable to locate credentials", False),
    ],
)
def test_a_store_of_files_may_pass_only_where_it_says_so(said: str, may_pass: bool) -> None:
    for error in (wrapped(said), RuntimeError(said)):
        kind = trouble_of(error, is_server=False, is_store=True).kind
        assert (kind is Kind.PASSING) == may_pass


def test_what_a_database_or_a_directory_lacks_never_passes() -> None:
    for said in ("[Errno 2] No such file or directory: '/models/timeout/x'", "No such artifact"):
        trouble = trouble_of(wrapped(said), is_server=False, is_store=False)
        assert trouble.kind is Kind.OTHER

"""URIs and paths: made absolute, and shown without credentials."""

from pathlib import Path

import pytest

from headrace_server.settings.uris import (
    absolute_tracking_uri,
    anchored,
    default_cache_dir,
    shown_uri,
    socket_path,
    split_model,
)


def test_a_relative_registry_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Child processes may run elsewhere."""
    monkeypatch.chdir(tmp_path)

    assert absolute_tracking_uri("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    assert absolute_tracking_uri("./mlruns") == f"{tmp_path}/mlruns"
    assert absolute_tracking_uri("sqlite:///b.db", "/etc") == "sqlite:////etc/b.db"


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////var/mlflow.db",
        "http://localhost:5000",
        "https://mlflow.example",
        "databricks",
        "databricks://profile",
        "file:///var/mlruns",
        "postgresql://user@host/db",
        "/var/mlruns",
    ],
)
def test_any_other_registry_is_left_as_it_was_given(uri: str) -> None:
    assert absolute_tracking_uri(uri) == uri


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:secret@mlflow.example:5000/a", "https://***@mlflow.example:5000/a"),
        ("https://secret@mlflow.example", "https://***@mlflow.example"),
        ("postgresql://me:sec/ret@host/db?password=secret", "postgresql://***@host/db?***"),
        ("postgresql://host/db?user=me&password=sec@ret", "postgresql://***@ret"),
        ("https://me:secret@[broken", "https://***@[broken"),
        ("sqlite:////home/me@work/mlflow.db?key=secret", "sqlite:////home/me@work/mlflow.db?***"),
        ("sqlite:////var/mlflow.db", "sqlite:////var/mlflow.db"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("models:/iris@champion", "models:/iris@champion"),
        ("/var/mlruns", "/var/mlruns"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_credentials_are_not_shown(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown


@pytest.mark.parametrize(
    ("item", "parts"),
    [
        ("models:/iris/3", ("", "models:/iris/3")),
        ("flowers=models:/iris/3", ("flowers", "models:/iris/3")),
        ("./a=b", ("", "./a=b")),
        ("a=./b=c", ("a", "./b=c")),
        ("=x", ("", "=x")),
    ],
)
def test_a_name_is_told_from_a_uri(item: str, parts: tuple[str, str]) -> None:
    assert split_model(item) == parts


def test_models_are_kept_where_the_desktop_standard_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert default_cache_dir({"XDG_CACHE_HOME": "/c"}) == "/c/headrace"
    assert default_cache_dir({}) == str(tmp_path / ".cache" / "headrace")


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ("unix:/run/headrace.sock", "/run/headrace.sock"),
        ("unix:///run/headrace.sock", "/run/headrace.sock"),
        ("unix:headrace.sock", "/srv/headrace.sock"),
        ("unix:~/headrace.sock", f"{Path.home()}/headrace.sock"),
    ],
)
def test_the_path_of_a_unix_socket_is_made_absolute(said: str, path: str) -> None:
    host = anchored("server", "host", said, "/srv")

    assert host == f"unix:{path}"
    assert socket_path(host) == path


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "unix"])
def test_any_other_host_is_left_as_it_was_given(host: str) -> None:
    assert anchored("server", "host", host, "/srv") == host
    assert socket_path(host) == ""

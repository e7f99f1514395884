"""Resolving: URIs to sources that no longer move."""

import socket
from pathlib import Path

import pytest

from headrace_server.errors import (
    InvalidRequest,
    ModelNotFound,
    RegistryUnavailable,
)
from headrace_server.librarian.registry import Registry
from headrace_server.librarian.resolving import Resolved

from .conftest import Store


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def registry(store: Store, cache: Path) -> Registry:
    return Registry(store.uri, str(cache))


# What a URI stands for.


def test_a_version_is_pinned_to_its_logged_model(registry: Registry, store: Store) -> None:
    found = registry.resolve("models:/iris/2")
    assert found == Resolved("iris", "2", f"models:/{store.iris[1]}", "", registered="iris")


def test_an_alias_is_followed_by_its_name(registry: Registry, store: Store) -> None:
    found = registry.resolve("models:/iris@champion")
    assert found == Resolved("iris", "1", f"models:/{store.iris[0]}", "champion", registered="iris")


@pytest.mark.parametrize(
    "uri", ["models:/iris/latest", "models:/iris/Latest", "models:/iris@latest"]
)
def test_latest_is_the_highest_number(registry: Registry, store: Store, uri: str) -> None:
    assert registry.resolve(uri) == Resolved(
        "iris", "2", f"models:/{store.iris[1]}", "latest", registered="iris"
    )


def test_a_logged_model_goes_by_its_own_name(registry: Registry, store: Store) -> None:
    source = f"models:/{store.in_run}"
    assert registry.resolve(source) == Resolved("in-run", "1", source, "")


def test_a_runs_model_is_pinned_to_its_logged_model(registry: Registry, store: Store) -> None:
    found = registry.resolve(f"runs:/{store.run}/in-run")
    assert found == Resolved("in-run", "1", f"models:/{store.in_run}", "")


def test_a_model_among_a_runs_artifacts_is_found_by_its_path(
    registry: Registry, store: Store
) -> None:
    found = registry.resolve(f"runs:/{store.run}/old/model")
    assert (found.name, found.version, found.followed) == ("model", "1", "")
    assert registry.fetch(found.source).flavor == "sklearn"


def test_a_version_that_was_registered_by_path_is_pinned_to_the_path(
    registry: Registry, store: Store
) -> None:
    found = registry.resolve("models:/by-path/1")
    assert (found.name, found.version) == ("by-path", "1")
    assert found.source.endswith(f"{store.run}/artifacts/old/model")
    assert registry.fetch(found.source).flavor == "sklearn"


def test_a_copied_version_holds_the_files_of_the_original(registry: Registry) -> None:
    copy = registry.resolve("models:/copied/1")
    original = registry.resolve("models:/iris/2")
    assert copy.name == "copied"
    assert registry.fetch(copy.source).digest == registry.fetch(original.source).digest


@pytest.mark.parametrize(
    "uri", ["models:/copied/1", "models:/copied@twin", "models:/copied/latest"]
)
def test_a_versions_tags_that_speak_to_us_come_with_it(registry: Registry, uri: str) -> None:
    assert registry.resolve(uri).tags == {"headrace.rows_max": "8", "headrace.x": ""}


def test_tags_are_bounded_in_number_and_length(registry: Registry) -> None:
    """Whoever may write to the registry must not be able to fill our memory or log."""
    tags = registry.resolve("models:/by-path/1").tags

    assert len(tags) == 64
    assert max(map(len, (*tags, *tags.values()))) == 256


@pytest.mark.parametrize("form", ["{0}", "{0}/", "file://{1}", "file:{1}", "file://localhost{1}"])
def test_a_directory_goes_by_its_last_segment_made_legal(
    registry: Registry, store: Store, form: str
) -> None:
    quoted = str(store.saved).replace(" ", "%20")
    found = registry.resolve(form.format(store.saved, quoted))
    assert found == Resolved("saved-model", "1", str(store.saved), "")


def test_a_relative_directory_is_made_absolute(
    registry: Registry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.saved)
    assert registry.resolve(".").source == str(store.saved)


def test_a_given_name_stands_above_the_models_own(registry: Registry) -> None:
    assert registry.resolve("models:/iris/1", name="flowers").name == "flowers"


def test_a_directory_needs_no_registry(store: Store, cache: Path) -> None:
    offline = Registry("http://127.0.0.1:1", str(cache))
    assert offline.fetch(offline.resolve(str(store.saved)).source).flavor == "sklearn"


# What cannot be resolved, and why.


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("models:/iris/9", "there is no version 9 of model 'iris'"),
        ("models:/rose/1", "there is no registered model 'rose'"),
        ("models:/rose@champion", "there is no registered model 'rose'"),
        ("models:/rose/latest", "there is no registered model 'rose'"),
        ("models:/iris@best", "has no alias 'best'; it has canary, champion"),
        ("models:/iris@b!", "has no alias 'b!'; it has canary, champion"),
        ("models:/empty@best", "has no alias 'best'; it has none"),
        ("models:/empty/latest", "'empty' has no version yet"),
        ("models:/greeting/1", "there is no registered model 'greeting'"),
        ("models:/m-0123", "there is no logged model 'm-0123'"),
        ("runs:/0123/iris", "there is no run '0123'"),
        ("runs:/{run}/rose", "has no model 'rose'; it has in-run"),
        ("/nowhere/at/all", "there is no directory /nowhere/at/all: expected models:/NAME"),
        ("iris", "there is no directory"),
    ],
)
def test_what_is_not_there_is_named(registry: Registry, store: Store, uri: str, said: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        registry.resolve(uri.format(run=store.run))
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("models:/iris", "does not say which version: expected models:/NAME/VERSION"),
        ("models:/iris/", "is no model URI: expected"),
        ("models:/", "is no model URI: expected"),
        ("models:iris/1", "is no model URI: expected"),
        ("models://iris/1", "is no model URI: expected"),
        ("models:/iris/1/model", "is no model URI: expected"),
        ("models:/iris@", "does not say which version"),
        ("models:/@champion", "does not say which version"),
        ("models:/iris/Production", "stages, which are deprecated"),
        ("models:/iris/-1", "neither a version nor latest"),
        ("models:/a:b/1", "refuses the version 1 of model 'a:b'"),
        ("runs:/0123", "is no model URI: expected"),
        ("runs:/0123/", "is no model URI: expected"),
        ("mlflow-artifacts:/", "is no model URI: expected"),
        ("mlflow-artifacts:/0/model", "needs an MLflow server"),
        ("s3://bucket/model", "is no model URI: expected"),
        ("file://elsewhere/model", "is no model URI: expected"),
        ("", "is no model URI: expected"),
    ],
)
def test_a_malformed_uri_is_answered_with_the_accepted_forms(
    registry: Registry, uri: str, said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        registry.resolve(uri)
    assert said in caught.value.message


def test_a_directory_without_an_mlmodel_file_is_no_model(
    registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match="has no MLmodel file: it is no MLflow model"):
        registry.resolve(str(tmp_path))


def test_a_server_that_is_not_there_is_unreachable(cache: Path) -> None:
    with socket.socket() as unheard:  # Bound, so no one else's, but it does not listen.
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        gone = Registry(f"http://someone:secret@127.0.0.1:{port}", str(cache))
        with pytest.raises(RegistryUnavailable) as caught:
            gone.resolve("models:/iris/1")
    assert f"http://***@127.0.0.1:{port} does not answer" in caught.value.message
    assert "secret" not in caught.value.message


def test_a_database_that_is_not_there_is_unreachable_and_is_not_made(
    cache: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "nowhere" / "registry.db"
    with pytest.raises(RegistryUnavailable, match="cannot be opened: No such file"):
        Registry(f"sqlite:///{missing}", str(cache)).list_models()
    assert not missing.parent.exists()


def test_a_file_that_is_no_database_is_said_to_be_none(cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("These are notes, and quite some of them.")
    with pytest.raises(RegistryUnavailable, match="is no SQLite database"):
        Registry(f"sqlite:///{other}", str(cache)).resolve("models:/iris/1")


# Serving everything.


def test_every_model_is_listed_by_champion_or_as_its_latest_version(registry: Registry) -> None:
    assert sorted(registry.list_models()) == [
        "models:/by-path/latest",
        "models:/copied/latest",
        "models:/iris@champion",
    ]

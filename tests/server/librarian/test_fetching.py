"""Fetching: the files of a model into the cache, and what the operator allows."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.models import Model

from headrace.signature import Signature, TensorSpec
from headrace_server.errors import (
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    RegistryUnavailable,
)
from headrace_server.librarian.cache import Cache, digest_of
from headrace_server.librarian.example import write_example
from headrace_server.librarian.registry import Registry
from headrace_server.librarian.safety import Rules

from .conftest import Store, files_below

# Thirty lines that stand for a billion values.
DOUBLINGS = "a0: &a0 [0]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def registry(store: Store, cache: Path) -> Registry:
    return Registry(store.uri, str(cache))


def test_a_fetched_model_is_described_by_its_mlmodel_file(
    registry: Registry, store: Store, cache: Path
) -> None:
    fetched = registry.fetch(f"models:/{store.iris[0]}")
    assert fetched.path == str(cache / fetched.digest / "model")
    assert fetched.digest == digest_of(Path(fetched.path))
    assert fetched.flavor == "sklearn"
    assert fetched.config["serialization_format"] == "skops"
    assert fetched.pyfunc["predict_fn"] == "predict"
    assert fetched.signature == Signature(
        inputs=(
            TensorSpec("length", "FP64", (-1,), "double"),
            TensorSpec("width", "FP64", (-1,), "double"),
        ),
        outputs=(TensorSpec("output-0", "INT64", (-1,), "long"),),
    )
    assert not fetched.has_code
    assert fetched.mlflow_version == mlflow.__version__


def test_what_was_fetched_can_be_written_as_json(registry: Registry, store: Store) -> None:
    fetched = registry.fetch(str(store.saved))
    assert fetched.signature is not None
    read = json.loads(json.dumps(fetched.to_json()))
    assert Signature.from_json(read["signature"]) == fetched.signature
    assert read["flavor"] == "sklearn"


def test_fetching_leaves_the_registry_as_it_was(registry: Registry, store: Store) -> None:
    before = files_below(store.artifacts)
    for uri in ("models:/iris/1", "models:/by-path/1", f"runs:/{store.run}/old/model"):
        registry.fetch(registry.resolve(uri).source)
    assert files_below(store.artifacts) == before


def test_the_digest_is_that_of_the_contents_wherever_they_lie(
    registry: Registry, store: Store, model_copy: Path
) -> None:
    assert registry.fetch(str(model_copy)).digest == registry.fetch(str(store.saved)).digest


def test_the_note_that_mlflow_leaves_when_loading_does_not_count(
    registry: Registry, model_copy: Path
) -> None:
    before = registry.fetch(str(model_copy)).digest
    (model_copy / "registered_model_meta").write_text("model_name: iris")
    assert registry.fetch(str(model_copy)).digest == before


@pytest.mark.parametrize("change", ["edited", "renamed", "added"])
def test_changed_files_have_another_digest(model_copy: Path, change: str) -> None:
    before = digest_of(model_copy)
    note = model_copy / "requirements.txt"
    match change:
        case "edited":
            note.write_text(note.read_text() + "\n")
        case "renamed":
            note.rename(model_copy / "requirements.tx")  # Keeps its place among them.
        case "added":
            (model_copy / "empty").touch()
    assert digest_of(model_copy) != before


def test_a_directory_whose_contents_changed_is_fetched_again(
    registry: Registry, model_copy: Path
) -> None:
    before = registry.fetch(str(model_copy))
    (model_copy / "requirements.txt").write_text("scikit-learn\n# More.\n")
    after = registry.fetch(str(model_copy))
    assert before.digest != after.digest
    assert Path(before.path).is_dir()


def test_a_source_that_was_fetched_is_not_asked_for_again(store: Store, cache: Path) -> None:
    """Known sources stay loadable when the registry is down: here it is a file that is moved."""
    source = f"models:/{store.iris[0]}"
    copy = cache.parent / "registry.db"
    copy.write_bytes(Path(store.uri.removeprefix("sqlite:///")).read_bytes())
    first = Registry(f"sqlite:///{copy}", str(cache)).fetch(source)
    copy.rename(cache.parent / "elsewhere.db")
    reports: list[Any] = []
    again = Registry(f"sqlite:///{copy}", str(cache)).fetch(source, lambda *at: reports.append(at))
    assert again == first
    assert reports == []


def test_an_entry_that_was_deleted_is_fetched_again(
    registry: Registry, store: Store, cache: Path
) -> None:
    source = f"models:/{store.iris[0]}"
    first = registry.fetch(source)
    for path in sorted((cache / first.digest).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (cache / first.digest).rmdir()
    assert registry.fetch(source) == first


def test_many_may_fetch_one_source_at_once(store: Store, cache: Path) -> None:
    source = f"models:/{store.iris[0]}"
    start = threading.Barrier(4)

    def fetch(_: int) -> str:
        registry = Registry(store.uri, str(cache))
        start.wait()
        return registry.fetch(source).path

    with ThreadPoolExecutor(4) as pool:
        (path,) = set(pool.map(fetch, range(4)))
    assert sorted(os.listdir(cache)) == sorted([Path(path).parent.name, "sources"])


def test_a_download_that_failed_or_was_killed_leaves_nothing(
    registry: Registry, store: Store, cache: Path, tmp_path: Path
) -> None:
    (cache / "incoming-left" / "model").mkdir(parents=True)
    with pytest.raises(LoadFailed, match="has no MLmodel file"):
        registry.fetch(str(tmp_path / "cache"))
    assert os.listdir(cache) == []


def test_a_download_under_way_is_left_alone(cache: Path) -> None:
    with Cache(str(cache)).staging() as mine, Cache(str(cache)).staging() as theirs:
        assert mine.is_dir()
        assert theirs.is_dir()


def test_progress_is_told_from_nothing_to_everything(registry: Registry, store: Store) -> None:
    reports: list[tuple[int, int | None]] = []
    fetched = registry.fetch(
        f"models:/{store.iris[0]}", lambda done, total: reports.append((done, total))
    )
    size = sum(size for size, _ in files_below(Path(fetched.path)).values())
    assert reports[0] == (0, size)
    assert reports[-1] == (size, size)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flavors: {}\n", "names no flavor"),
        ("flavors: [\n", "cannot be read: ParserError"),
        ("flavors: {sklearn: {}}\nsignature: {inputs: nonsense}\n", "cannot be read"),
        ("", "expected a mapping, got nothing"),
        ("- sklearn\n", "expected a mapping, got list"),
        ("artifact_path: model\n", "expected a mapping 'flavors', got nothing"),
        ("flavors: sklearn\n", "expected a mapping 'flavors', got str"),
        ("flavors: {sklearn: 3}\n", "expected a mapping for the flavor 'sklearn', got int"),
        ("flavors: {3: {}}\n", "expected a mapping for the flavor 3"),
        ("flavors: &all {sklearn: *all}\n", "expected at most 1000000 values"),
        (DOUBLINGS, "expected at most 1000000 values"),
        ("flavors: " + "[" * 100_000, "cannot be read: RecursionError"),
        ("flavors: !!python/object/apply:os.abort []\n", "cannot be read: ConstructorError"),
        ("\0", "cannot be read: ReaderError"),
        ("x" * (9 << 20), "larger than 8388608 bytes"),
    ],
)
def test_a_broken_mlmodel_file_is_a_failure_to_load(
    registry: Registry, tmp_path: Path, cache: Path, text: str, said: str
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "MLmodel").write_text(text)
    with pytest.raises(LoadFailed, match=said):
        registry.fetch(str(tmp_path / "broken"))
    assert os.listdir(cache) == []


@pytest.mark.parametrize("link", ["up", "pipe"])
def test_a_directory_that_cannot_be_copied_is_a_failure_to_load(
    registry: Registry, model_copy: Path, link: str
) -> None:
    if link == "up":
        (model_copy / link).symlink_to(model_copy)
    else:
        os.mkfifo(model_copy / link)
    with pytest.raises(LoadFailed, match=f"holds .*'{link}'"):
        registry.fetch(str(model_copy))


def test_an_example_outside_of_the_model_is_not_read(model_copy: Path, tmp_path: Path) -> None:
    (model_copy / "input_example.json").rename(tmp_path / "input_example.json")
    model = Model.load(str(model_copy))
    info = model.saved_input_example_info
    assert info is not None
    info["artifact_path"] = "../input_example.json"
    assert not write_example(model, model_copy, None, tmp_path / "example.npz")


# What the operator allows.


def test_where_the_files_lie_must_be_allowed_too(store: Store, cache: Path) -> None:
    """The registry's answer may lead anywhere."""
    by_name = Rules(sources=("models:/", "s3://models"))
    registry = Registry(store.uri, str(cache), by_name)
    for uri in ("models:/iris/1", "models:/by-path/1"):
        source = registry.resolve(uri).source
        with pytest.raises(
            LoadFailed, match=r"its files are in .* allow_sources has models:/, s3:"
        ):
            registry.fetch(source)
    with pytest.raises(InvalidRequest, match=r"in-run is refused: allow_sources has"):
        registry.resolve(f"runs:/{store.run}/in-run")
    assert not cache.exists() or os.listdir(cache) == []

    by_place = Rules(sources=("models:/iris@champion", str(store.artifacts)))
    registry = Registry(store.uri, str(cache), by_place)
    assert registry.fetch(registry.resolve("models:/iris@champion").source).flavor == "sklearn"
    with pytest.raises(InvalidRequest, match="is refused"):
        registry.resolve("models:/iris/1")
    assert registry.list_models() == ["models:/iris@champion"]


def test_what_was_fetched_under_other_rules_is_judged_again(store: Store, cache: Path) -> None:
    source = Registry(store.uri, str(cache)).resolve("models:/iris/1").source
    Registry(store.uri, str(cache)).fetch(source)

    with pytest.raises(LoadFailed, match="its files are in"):
        Registry(store.uri, str(cache), Rules(sources=("models:/",))).fetch(source)
    with pytest.raises(LoadFailed, match="flavor 'sklearn' can execute code"):
        Registry(store.uri, str(cache), Rules(pickle=False)).fetch(source)
    with pytest.raises(LoadFailed, match="it needs the flavor sklearn; allow_flavors has onnx"):
        Registry(store.uri, str(cache), Rules(flavors=("onnx",))).fetch(source)


def test_a_link_out_of_an_allowed_directory_is_refused(model_copy: Path, cache: Path) -> None:
    outside = model_copy.parent / "outside"
    outside.write_text("secret")
    (model_copy / "extra").symlink_to(outside)
    uri = str(model_copy)

    with pytest.raises(LoadFailed, match=r"'extra' is a link to .*outside, and allow_sources has"):
        Registry("sqlite:////none", str(cache), Rules(sources=(uri,))).fetch(uri)
    with pytest.raises(LoadFailed, match="'extra' is a link that leads out"):
        Registry("sqlite:////none", str(cache), Rules(pickle=False)).fetch(uri)
    both = Rules(sources=(uri, str(outside)))
    assert Registry("sqlite:////none", str(cache), both).fetch(uri).flavor == "sklearn"


def test_a_logged_model_whose_files_are_gone_is_not_found(store: Store, cache: Path) -> None:
    client = MlflowClient(tracking_uri=store.uri, registry_uri=store.uri)
    experiment = client.get_experiment_by_name("tests")
    bare = client.create_logged_model(experiment.experiment_id, name="bare")
    registry = Registry(store.uri, str(cache))
    with pytest.raises(RegistryUnavailable, match="is still being logged"):
        registry.fetch(f"models:/{bare.model_id}")
    client.finalize_logged_model(bare.model_id, "READY")
    with pytest.raises(ModelNotFound, match="there is no content of models:"):
        registry.fetch(f"models:/{bare.model_id}")

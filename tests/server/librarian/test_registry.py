"""The registry against a real store: what URIs stand for, and what comes into the cache."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.models import Model, ModelSignature, infer_signature
from mlflow.types import ColSpec, ParamSchema, Schema
from mlflow.types import ParamSpec as MlflowParam
from mlflow.types import TensorSpec as MlflowTensor
from mlflow.types.schema import AnyType, Array, DataType, Map, Object, Property

from headrace.signature import ParamSpec, Signature, TensorSpec
from headrace_server.errors import (
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    RegistryUnavailable,
)
from headrace_server.librarian.cache import Cache, digest_of
from headrace_server.librarian.example import write_example
from headrace_server.librarian.mlmodel import describe, signature_of
from headrace_server.librarian.registry import Registry
from headrace_server.librarian.resolving import Resolved
from headrace_server.librarian.safety import Rules

from .conftest import MATRIX, TABLE, Store, files_below, log_classifier

# Thirty lines that stand for a billion values.
DOUBLINGS = "a0: &a0 [0]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))


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


# What comes into the cache.


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


# What an MLmodel file says.


def test_a_model_with_python_function_alone_is_a_pyfunc() -> None:
    entry = {"loader_module": "mlflow.pyfunc.model", "code": "code"}
    described = describe(Model(flavors={"python_function": entry}), "it")
    assert described.flavor == "pyfunc"
    assert described.config == described.pyfunc == entry
    assert described.has_code


def test_a_model_without_python_function_has_an_empty_entry() -> None:
    described = describe(Model(flavors={"pytorch": {"model_data": "data"}}), "it")
    assert (described.flavor, described.pyfunc) == ("pytorch", {})
    assert described.signature is None


KEYED = Object([Property("key", DataType.string)])
COLUMNS = [
    (DataType.boolean, "BOOL", "boolean", ""),
    (DataType.integer, "INT32", "integer", ""),
    (DataType.long, "INT64", "long", ""),
    (DataType.float, "FP32", "float", ""),
    (DataType.double, "FP64", "double", ""),
    (DataType.string, "BYTES", "string", ""),
    (DataType.binary, "BYTES", "binary", ""),
    (DataType.datetime, "INT64", "datetime", ""),
    (Array(DataType.double), "BYTES", "json", '{"type": "array", "items": {"type": "double"}}'),
    (KEYED, "BYTES", "json", json.dumps(KEYED.to_dict())),
    (Map(DataType.string), "BYTES", "json", '{"type": "map", "values": {"type": "string"}}'),
    (AnyType(), "BYTES", "json", '{"type": "any"}'),
]


@pytest.mark.parametrize(("given", "datatype", "kind", "schema"), COLUMNS)
def test_a_column_becomes_one_input_of_its_type(
    given: Any, datatype: str, kind: str, schema: str
) -> None:
    columns = Schema([ColSpec(given, "x"), ColSpec(given, "y", required=False)])
    expected = (
        TensorSpec("x", datatype, (-1,), kind, schema=schema),
        TensorSpec("y", datatype, (-1,), kind, optional=True, schema=schema),
    )
    assert signature_of(ModelSignature(columns, columns)) == Signature(expected, expected)


def test_type_hints_decide_themselves_what_an_object_must_be() -> None:
    """Their schema asks for every field, where pydantic has defaults."""
    signature = ModelSignature(Schema([ColSpec(KEYED)]))
    model = Model(flavors={"python_function": {}}, signature=signature)
    assert describe(model, "it").signature == Signature(
        (TensorSpec("input-0", "BYTES", (-1,), "json", schema=json.dumps(KEYED.to_dict())),)
    )

    model._is_signature_from_type_hint = lambda: True
    assert describe(model, "it").signature == Signature(
        (TensorSpec("input-0", "BYTES", (-1,), "json"),)
    )


def test_parameters_without_inputs_are_kept_for_custom_models_alone() -> None:
    signature = ModelSignature(params=ParamSchema([MlflowParam("scale", "double", 1.0)]))
    custom = describe(Model(flavors={"python_function": {}}, signature=signature), "it")
    assert custom.signature == Signature((), params=(ParamSpec("scale", "double", 1.0),))
    native = describe(Model(flavors={"sklearn": {}}, signature=signature), "it")
    assert native.signature is None


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [
        ("float32", "FP32"),
        ("float16", "FP16"),
        ("uint8", "UINT8"),
        ("int64", "INT64"),
        ("bool", "BOOL"),
        ("str", "BYTES"),
        ("bytes", "BYTES"),
        ("object", "BYTES"),
    ],
)
def test_a_tensor_keeps_its_name_type_and_shape(dtype: str, datatype: str) -> None:
    schema = Schema([MlflowTensor(np.dtype(dtype), (-1, 3, 4), "image")])
    found = signature_of(ModelSignature(schema))
    assert found == Signature((TensorSpec("image", datatype, (-1, 3, 4)),))


def test_what_has_no_name_is_numbered() -> None:
    columns = Schema([ColSpec(DataType.long), ColSpec(DataType.long)])
    tensor = Schema([MlflowTensor(np.dtype("float32"), (-1, 2))])
    assert signature_of(ModelSignature(columns, tensor)) == Signature(
        inputs=(
            TensorSpec("input-0", "INT64", (-1,), "long"),
            TensorSpec("input-1", "INT64", (-1,), "long"),
        ),
        outputs=(TensorSpec("output-0", "FP32", (-1, 2)),),
    )


def test_a_signature_without_inputs_says_nothing() -> None:
    outputs = Schema([ColSpec(DataType.long)])
    assert signature_of(ModelSignature(outputs=outputs)) is None
    assert signature_of(None) is None


def test_a_type_that_no_datatype_carries_is_a_failure_to_load() -> None:
    schema = Schema([MlflowTensor(np.dtype("complex64"), (-1,), "wave")])
    model = Model(flavors={"sklearn": {}}, signature=ModelSignature(schema))
    with pytest.raises(LoadFailed, match="complex64 has no datatype"):
        describe(model, "it")


def test_parameters_keep_defaults_that_json_can_hold() -> None:
    params = ParamSchema(
        [
            MlflowParam("scale", "double", np.float64(0.5)),
            MlflowParam("count", "integer", 3),
            MlflowParam("names", "string", ["a", "b"], (-1,)),
            MlflowParam("since", "datetime", np.datetime64("2024-01-02T03:04:05")),
            MlflowParam("options", Object([Property("deep", DataType.boolean)]), {"deep": True}),
        ]
    )
    schema = Schema([ColSpec(DataType.long, "x")])
    found = signature_of(ModelSignature(schema, params=params))
    assert found is not None
    assert found.params == (
        ParamSpec("scale", "double", 0.5),
        ParamSpec("count", "integer", 3),
        ParamSpec("names", "string", ["a", "b"], (-1,)),
        ParamSpec("since", "datetime", "2024-01-02T03:04:05"),
        ParamSpec("options", "object", {"deep": True}),
    )
    assert Signature.from_json(json.loads(json.dumps(found.to_json()))) == found


# Input examples.


def stored_example(tmp_path: Path, example: Any, schema: Schema | None) -> dict[str, Any] | None:
    """What a model logged with *example* has in its file, with dtype and values of each tensor."""
    signature = None if schema is None else ModelSignature(schema)
    model = Model(flavors={"sklearn": {}}, signature=signature)
    mlflow.models.utils._save_example(model, example, str(tmp_path))
    file = tmp_path / "example.npz"
    if not write_example(model, tmp_path, signature_of(signature), file):
        assert not file.exists()
        return None
    with np.load(file, allow_pickle=False) as stored:
        return {name: (stored[name].dtype.str, stored[name].tolist()) for name in stored.files}


def test_a_logged_example_is_stored_beside_the_model(registry: Registry, store: Store) -> None:
    fetched = registry.fetch(f"models:/{store.iris[0]}")
    assert fetched.example is not None
    with np.load(fetched.example, allow_pickle=False) as stored:
        assert stored.files == ["length", "width"]
        assert stored["length"].tolist() == TABLE["length"][:2].tolist()


def test_a_single_tensor_example_goes_by_the_inputs_name(registry: Registry, store: Store) -> None:
    fetched = registry.fetch(str(store.saved))
    assert fetched.example is not None
    with np.load(fetched.example, allow_pickle=False) as stored:
        assert stored["input-0"].dtype == np.float32
        assert np.array_equal(stored["input-0"], MATRIX[:2])


def test_columns_of_an_example_have_the_signatures_order_and_types(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "when": pd.to_datetime(["2024-01-02", "2024-01-03"]),
            "raw": [b"\x00\x01", b"\x02"],
            "text": ["one", "zwölf"],
            "parts": [[1.0, 2.0], [3.0]],
            "size": [1.5, 2.5],
            "is_new": [True, False],
            "count": [1, 2],
        }
    )
    schema = Schema(
        [
            ColSpec(DataType.integer, "count"),
            ColSpec(DataType.float, "size"),
            ColSpec(DataType.string, "text"),
            ColSpec(DataType.binary, "raw"),
            ColSpec(DataType.boolean, "is_new"),
            ColSpec(DataType.datetime, "when"),
            ColSpec(Array(DataType.double), "parts"),
            ColSpec(DataType.double, "more", required=False),
        ]
    )
    day = 86_400 * 10**9
    found = stored_example(tmp_path, rows.astype({"count": "int32", "size": "float32"}), schema)
    assert found == {
        "count": ("<i4", [1, 2]),
        "size": ("<f4", [1.5, 2.5]),
        "text": ("<U5", ["one", "zwölf"]),
        "raw": ("|S2", [b"\x00\x01", b"\x02"]),
        "is_new": ("|b1", [True, False]),
        "when": ("<i8", [19_724 * day, 19_725 * day]),
        "parts": ("<U10", ["[1.0, 2.0]", "[3.0]"]),
    }
    assert list(found) == ["count", "size", "text", "raw", "is_new", "when", "parts"]


def test_an_optional_column_of_nulls_is_left_out(tmp_path: Path) -> None:
    rows = pd.DataFrame({"text": ["a"], "note": [None]})
    schema = Schema([ColSpec("string", "text"), ColSpec("string", "note", required=False)])
    assert stored_example(tmp_path, rows, schema) == {"text": ("<U1", ["a"])}


def test_named_tensors_keep_their_names_even_those_numpy_claims(tmp_path: Path) -> None:
    example = {"file": np.ones((2, 3), np.float32), "allow_pickle": np.array([1, 2])}
    schema = Schema(
        [
            MlflowTensor(np.dtype("int64"), (-1,), "allow_pickle"),
            MlflowTensor(np.dtype("float32"), (-1, 3), "file"),
        ]
    )
    assert stored_example(tmp_path, example, schema) == {
        "allow_pickle": ("<i8", [1, 2]),
        "file": ("<f4", [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]),
    }


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (["a", "bc"], {"input-0": ("<U2", ["a", "bc"])}),
        ([{"x": 1}, {"x": 2}], {"x": ("<i8", [1, 2])}),
        ({"x": 1, "y": "b"}, {"x": ("<i8", [1]), "y": ("<U1", ["b"])}),
        ({"x": [1, 2]}, {"x": ("<U6", ["[1, 2]"])}),
    ],
)
def test_an_example_in_plain_python_is_one_row_per_element(
    tmp_path: Path, example: Any, expected: Any
) -> None:
    assert stored_example(tmp_path, example, infer_signature(example).inputs) == expected


def test_an_example_with_parameters_is_taken_without_them(tmp_path: Path) -> None:
    schema = Schema([ColSpec("double", "length")])
    found = stored_example(tmp_path, (TABLE[["length"]][:1], {"scale": 2.0}), schema)
    assert found == {"length": ("<f8", [1.0])}


def test_an_example_of_a_model_without_signature_keeps_its_own_types(tmp_path: Path) -> None:
    rows = pd.DataFrame({"text": ["a", "b"], "x": [1, 2]})
    assert stored_example(tmp_path, rows, None) == {
        "text": ("<U1", ["a", "b"]),
        "x": ("<i8", [1, 2]),
    }


@pytest.mark.parametrize(
    ("example", "schema"),
    [
        (np.ones((2, 3), np.float32), Schema([MlflowTensor(np.dtype("float32"), (-1, 4))])),
        (np.ones((2, 3)), Schema([ColSpec("double", "a"), ColSpec("double", "b")])),
        (pd.DataFrame({"a": ["x"]}), Schema([ColSpec("double", "a")])),
        (pd.DataFrame({"a": [1.0]}), Schema([ColSpec("double", "b")])),
        (pd.DataFrame({"a": [None]}), Schema([ColSpec("string", "a")])),
        ([1.5, 2.5], Schema([ColSpec("long")])),
    ],
)
def test_an_example_that_does_not_fit_its_signature_is_left_out(
    tmp_path: Path, example: Any, schema: Schema
) -> None:
    assert stored_example(tmp_path, example, schema) is None


# A real tracking server.


@pytest.fixture
def server(store: Store, tmp_path: Path) -> Iterator[str]:
    """An MLflow server on a copy of the store, which hands out artifacts itself."""
    (tmp_path / "registry.db").write_bytes(Path(store.uri.removeprefix("sqlite:///")).read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{tmp_path}/registry.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )
    assert process.stdout is not None
    try:
        # In whatever order: one is said before it listens.
        awaited = {"Application startup complete", "Uvicorn running on"}
        for line in iter(process.stdout.readline, ""):
            awaited = {sentence for sentence in awaited if sentence not in line}
            if not awaited:
                break
        assert not awaited, "it did not start"
        yield f"http://127.0.0.1:{port}"
    finally:
        # Its worker is a child of its own, in the session that we gave it.
        os.killpg(process.pid, 9)
        process.wait(10)
        process.stdout.close()


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

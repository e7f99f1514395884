"""Example: input examples as named tensors."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import Model, ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema
from mlflow.types import TensorSpec as MlflowTensor
from mlflow.types.schema import Array, DataType

from headrace_server.librarian.example import write_example
from headrace_server.librarian.mlmodel import signature_of
from headrace_server.librarian.registry import Registry

from .conftest import MATRIX, TABLE, Store


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def registry(store: Store, cache: Path) -> Registry:
    return Registry(store.uri, str(cache))


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

"""Rows that lack values: what each adapter hands to its model, and which take none."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import CountVectorizer

import models
from headrace.nulls import is_nullable, masks_of
from headrace.signature import Given as GivenTensor
from headrace.signature import ParamSpec, Signature, SignatureMismatch, TensorSpec
from headrace_server.adapters import Artifact, adapter_of
from headrace_server.adapters.base import NO_PARAMS, Adapter, Tensors, without_nulls
from headrace_server.adapters.pytorch import PytorchAdapter
from headrace_server.adapters.sklearn import SklearnAdapter
from headrace_server.devices import open_device
from headrace_server.worker.nulls import without_masks

Array = npt.NDArray[Any]
COLUMNS = Signature(
    (
        TensorSpec("size", "FP64", (-1,), "double"),
        TensorSpec("is_new", "BOOL", (-1,), "boolean"),
    )
)


def opened(name: str, **changes: Any) -> Adapter:
    model = models.model(name)
    return adapter_of(model.flavor)(replace(model.artifact, **changes), open_device("cpu"))


def asked(adapter: Adapter, tensors: Tensors) -> list[Any]:
    """The only output for *tensors*, masks among them."""
    assert adapter.signature is not None
    specs = adapter.signature.inputs
    staged = adapter.stage_nulls(*without_masks(tensors, specs, masks_of(specs)))
    (answer,) = adapter.finish(adapter.launch(staged, NO_PARAMS)).values()
    found: list[Any] = answer.tolist()
    return found


class Kinds(BaseEstimator):  # type: ignore[misc]
    """Answers with what it is asked with: the kind of table, and of its column."""

    def predict(self, given: Any) -> Array:
        is_frame = isinstance(given, pd.DataFrame)
        kind = given["is_new"].dtype.kind if is_frame else given.dtype.kind
        return np.array([f"{type(given).__name__} {kind}"] * len(given), object)


def estimator(folder: Path, model: Any, signature: Signature) -> SklearnAdapter:
    (folder / "model.pkl").write_bytes(pickle.dumps(model))
    config = {"pickled_model": "model.pkl", "serialization_format": "pickle"}
    return SklearnAdapter(Artifact(folder, config, {}, signature), open_device("cpu"))


class Sum(BaseEstimator):  # type: ignore[misc]
    """Adds up two columns, which a matrix and a frame do alike; NaN where one is missing."""

    def predict(self, given: Any) -> Array:
        self.seen_ = type(given).__name__
        values = given.to_numpy(np.float64) if isinstance(given, pd.DataFrame) else given
        total: Array = values.astype(np.float64) @ np.array([1.0, 2.0])
        return total


@pytest.mark.parametrize(("kind", "form"), [("boolean", "DataFrame"), ("double", "ndarray")])
def test_a_batch_that_lacks_more_than_numbers_goes_in_as_mlflow_does_it(
    tmp_path: Path, kind: str, form: str
) -> None:
    """Of numbers NaN is a value that the quick way was tried with."""
    datatype, values = {
        "boolean": ("BOOL", np.array([True, True])),
        "double": ("FP64", np.array([1.0, 1.0])),
    }[kind]
    specs = tuple(TensorSpec(name, datatype, (-1,), kind) for name in ("a", "b"))
    adapter = estimator(tmp_path, Sum(), Signature(specs))
    mask = np.array([False, True])

    assert adapter.predict({"a": values, "b": values})["output-0"].tolist() == [3.0, 3.0]
    assert adapter._model.seen_ == "ndarray"
    tensors = {"a": values, "b": values, "b.is_null": mask}
    np.testing.assert_equal(asked(adapter, tensors), [3.0, np.nan])
    assert adapter._model.seen_ == form


def test_a_column_that_was_left_out_is_there_beside_one_with_nulls(tmp_path: Path) -> None:
    note = TensorSpec("note", "BYTES", (-1,), "string", optional=True)
    adapter = estimator(tmp_path, Kinds(), Signature((*COLUMNS.inputs, note)))
    tensors = {"size": np.ones(2), "is_new.is_null": np.ones(2, bool)}

    assert asked(adapter, tensors) == ["DataFrame O"] * 2


def test_a_vectorizer_gets_its_column_of_texts_all_the_same(tmp_path: Path) -> None:
    fitted = CountVectorizer().fit(["a red house", "the sea"])
    signature = Signature((TensorSpec("text", "BYTES", (-1,), "string"),))
    adapter = estimator(tmp_path, fitted, signature)
    tensors = {"text": np.array(["red sea", ""], object)}

    assert len(asked(adapter, {**tensors, "text.is_null": np.zeros(2, bool)})) == 2
    # Which is what scikit-learn says of one that is missing.
    with pytest.raises(ValueError, match=r"np\.nan is an invalid document"):
        asked(adapter, {**tensors, "text.is_null": np.array([False, True])})


def test_lightgbms_categories_may_be_missing() -> None:
    tensors = {
        "city": np.array(["Lima", "", "Oslo"], object),
        "city.is_null": np.array([False, True, False]),
        "area": np.array([25.0, 25.0, 40.0]),
    }
    frame = pd.DataFrame(
        {
            "city": pd.Categorical(["Lima", None, "Oslo"], ["Kyoto", "Lima", "Oslo"]),
            "area": tensors["area"],
        }
    )
    recipe = models.recipe_of("lgb_categories").arguments["lgb_model"]

    assert asked(opened("lgb_categories"), tensors) == recipe.predict(frame).tolist()


def test_xgboost_with_parameters_takes_rows_that_lack_numbers() -> None:
    params = (ParamSpec("output_margin", "boolean", False),)
    signature = models.model("xgb_booster").artifact.signature
    assert signature is not None
    adapter = opened("xgb_booster", signature=replace(signature, params=params))
    rows = models.model("xgb_booster").rows(2)
    name = next(iter(rows))
    mask = np.array([False, True])

    lacking = {**rows, name: np.where(mask, np.nan, rows[name])}
    (expected,) = opened("xgb_booster").predict(lacking).values()
    assert asked(adapter, {**rows, f"{name}.is_null": mask}) == expected.tolist()


class Rows(torch.nn.Module):
    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return given.sum(dim=1)


def test_torch_takes_nan_for_floats_and_no_other_null(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    torch.save(Rows(), tmp_path / "data" / "model.pth")
    artifact = Artifact(tmp_path, {"model_data": "data"}, {}, COLUMNS)
    adapter = PytorchAdapter(artifact, open_device("cpu"))

    signature = adapter.signature
    assert signature is not None
    assert [is_nullable(spec) for spec in signature.inputs] == [True, False]
    tensors = {"is_new": np.ones(2, bool), "size.is_null": np.ones(2, bool)}
    np.testing.assert_equal(asked(adapter, tensors), [np.nan] * 2)
    with pytest.raises(SignatureMismatch, match=r"'is_new': expected boolean with .* none without"):
        signature.fit(
            [GivenTensor("size", "FP64", (2,)), GivenTensor("is_new.is_null", "BOOL", (2,))]
        )


@pytest.mark.parametrize("name", ["onnx_named", "hf_classifier"])
def test_frameworks_without_tables_take_no_nulls_but_nan(name: str) -> None:
    pytest.importorskip("transformers")
    signature = opened(name).signature

    assert signature is not None
    for spec in signature.inputs:
        assert not is_nullable(spec) or spec.datatype.startswith("FP")


def test_a_type_hint_takes_no_nulls() -> None:
    signature = opened("py_hinted").signature

    assert signature is not None
    assert not masks_of(signature.inputs)


def test_what_takes_no_nulls_stays_so() -> None:
    once = without_nulls(COLUMNS)

    assert without_nulls(once) == once
    assert [spec.no_nulls for spec in once.inputs] == [False, True]

"""Lightgbm: Boosters and models of LightGBM's scikit-learn kind, asked by their booster.

The text format of a Booster executes no code and is read by LightGBM itself, without MLflow; models
of the scikit-learn kind are pickled.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from headrace.datatypes import BYTES, DATATYPES
from headrace.signature import Signature, TensorSpec

from ..devices import Device
from ..devices.cpu import CpuDevice
from .base import Array, Artifact, LoadError, Tensors, spec_of, stack_columns
from .pickles import load_estimator
from .tabular import Call, TabularAdapter, Way

_BOOSTER = "lightgbm.basic.Booster"


class LightgbmAdapter(TabularAdapter):
    """A model of gradient boosted trees, on the host; a call uses the device's threads.

    Columns of text, integers or booleans become the categories that the model was fitted with,
    where pandas had such: MLflow's pyfunc would let the model fail.
    """

    extra = "lightgbm"
    packages = ("lightgbm", "sklearn", "skops", "cloudpickle", "pandas")

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, CpuDevice(device.threads))

    def _open(self) -> Any:
        import lightgbm

        file = self.artifact.file("data")
        if self.artifact.config.get("model_class", _BOOSTER) == _BOOSTER:
            model = lightgbm.Booster(model_file=str(file))
        else:
            model = load_estimator(file, self.artifact.config, "cloudpickle", self._load_by_mlflow)
        self._booster = model if isinstance(model, lightgbm.Booster) else model.booster_
        self._categories: list[list[Any]] = self._booster.pandas_categorical or []
        self._places = _category_places(self._booster) if self._categories else []
        return model

    def _load_by_mlflow(self) -> Any:
        import mlflow.lightgbm

        return mlflow.lightgbm.load_model(str(self.artifact.path))

    def _pyfunc_call(self) -> Call:
        method = super()._pyfunc_call()
        if self._model is self._booster and self.artifact.method not in {"", "predict"}:
            raise LoadError(f"a Booster answers by 'predict', not by {self.artifact.method!r}")
        if self.artifact.method in {"", "predict", "predict_proba"}:
            return partial(method, num_threads=self.device.threads)
        return method

    def _fast_calls(self) -> Sequence[Call]:
        ask = partial(self._booster.predict, num_threads=self.device.threads)
        if self._model is self._booster:
            return (ask,)
        if any(name.startswith(("pred_", "predict_")) for name in self._model.get_params()):
            return ()  # Asked with more than the booster knows of.
        method = self.artifact.method or "predict"
        classes = getattr(self._model, "classes_", None)
        if classes is None:
            return (ask,) if method == "predict" else ()
        is_binary = len(classes) <= 2
        if method == "predict":
            answer = _is_likelier if is_binary else _likeliest
            return (lambda given: classes[answer(ask(given))],)
        if method == "predict_proba":
            return (lambda given: _both(ask(given)),) if is_binary else (ask,)
        return ()

    def _features(self) -> Sequence[str] | int | None:
        if self._categories:
            return None
        names: list[str] = self._booster.feature_name()
        if names == [f"Column_{index}" for index in range(len(names))]:
            return len(names)
        # The booster's own have no blanks.
        return list(map(str, getattr(self._model, "feature_names_in_", names)))

    def _matrix_dtype(self, specs: Sequence[TensorSpec]) -> np.dtype[Any] | None:
        """What LightGBM makes of a DataFrame; of a matrix of integers it would make FP32."""
        if self._categories or any(DATATYPES[spec.datatype] is BYTES for spec in specs):
            return None
        return np.result_type(np.float32, *(DATATYPES[spec.datatype].dtype for spec in specs))

    def _ways(self, signature: Signature) -> Iterator[Way]:
        yield from super()._ways(signature)
        if columns := self._categorical(signature.inputs):
            # As LightGBM numbers them.
            numbers = {
                name: {value: at for at, value in enumerate(categories)}
                for name, categories in columns.items()
            }
            for call in self._fast_calls():
                yield Way(partial(_codes, numbers=numbers), call)

    def _categorical(self, specs: Sequence[TensorSpec]) -> dict[str, list[Any]]:
        """The columns that had pandas' categories when the model was fitted, with these.

        Raises:
            LoadError: Which they are cannot be told, or one holds other values.
        """
        if not self._categories:
            return {}
        columns = [specs[at] for at in self._places if at < len(specs)]
        if len(columns) != len(self._categories):
            # LightGBM forgets a column that it made no use of, but only one of categories has text.
            columns = [spec for spec in specs if DATATYPES[spec.datatype] is BYTES]
        if len(columns) != len(self._categories):
            raise LoadError(
                f"the model was fitted with {len(self._categories)} columns of pandas' categories, "
                f"and which of {[spec.name for spec in specs]} they are is not told"
            )
        for spec, categories in zip(columns, self._categories, strict=True):
            are_texts = any(isinstance(value, str) for value in categories)
            if are_texts != (DATATYPES[spec.datatype] is BYTES):
                kind = "texts" if are_texts else "numbers"
                raise LoadError(
                    f"input {spec.name!r} is {spec.datatype}, but the model's categories are {kind}"
                )
        named = (spec.name for spec in columns)
        return dict(zip(named, self._categories, strict=True))

    def _choices(self, signature: Signature) -> dict[str, Array]:
        return {
            name: np.array(categories, object)
            for name, categories in self._categorical(signature.inputs).items()
        }

    def _frame(self, tensors: Tensors, specs: tuple[TensorSpec, ...]) -> Any:
        import pandas as pd

        frame = super()._frame(tensors, specs)
        for name, categories in self._categorical(specs).items():
            # A category that is unknown is -1, which is a missing value.
            codes = pd.Index(categories).get_indexer(frame[name])
            frame[name] = pd.Categorical.from_codes(codes, categories)
        return frame

    def _as_given(self, tensors: Tensors) -> Any:
        if not self._categories:
            return super()._as_given(tensors)
        return self._frame(tensors, tuple(spec_of(*named) for named in tensors.items()))

    def close(self) -> None:
        """Let go of the model."""
        super().close()
        del self._booster


def _category_places(booster: Any) -> list[int]:
    """The features that LightGBM made categories of, which the head of the model's text tells.

    It has `[least:most]` of a feature of numbers, and one category after the other elsewhere.
    """
    head = booster.model_to_string(num_iteration=1)
    infos = head.partition("\nfeature_infos=")[2].partition("\n")[0].split(" ")
    return [at for at, info in enumerate(infos) if info != "none" and not info.startswith("[")]


def _codes(tensors: Tensors, numbers: Mapping[str, Mapping[Any, int]]) -> Array:
    """A matrix with numbers for categories; NaN is one that the model does not know."""
    columns = dict(tensors)
    for name, known in numbers.items():
        values = tensors[name].tolist()
        columns[name] = np.fromiter((known.get(v, np.nan) for v in values), float, len(values))
    return stack_columns(list(columns.values()), np.float64)


# From probabilities, [rows, classes] or of the second of two classes [rows].


def _likeliest(probabilities: Any) -> Array:
    found: Array = np.argmax(probabilities, axis=1)
    return found


def _is_likelier(probabilities: Any) -> Array:
    found: Array = (probabilities > 1.0 - probabilities).astype(np.intp)
    return found


def _both(probabilities: Any) -> Array:
    return np.vstack((1.0 - probabilities, probabilities)).transpose()


ADAPTER = LightgbmAdapter

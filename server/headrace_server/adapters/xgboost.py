"""Xgboost: Boosters and models of XGBoost's scikit-learn kind, asked without a DMatrix.

Their formats (ubj, json) execute no code and are read by XGBoost itself, without MLflow.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np

from headrace.datatypes import BYTES, DATATYPES
from headrace.signature import TensorSpec

from ..devices import Device
from ..devices.cpu import CpuDevice
from .base import NO_PARAMS, Array, Artifact, LoadError, Params, Tensors
from .tabular import Call, TabularAdapter


class XgboostAdapter(TabularAdapter):
    """A model of gradient boosted trees, or a linear one.

    A call uses the device's threads (`nthread`). On a GPU it runs where this build of XGBoost has
    CUDA; that has never been run. Parameters of the signature are arguments of `predict`, as for
    MLflow's pyfunc; a model that has any is asked in MLflow's way.

    Text is a category to columns that had pandas' categories, and so are integers for models of the
    scikit-learn kind: MLflow's pyfunc fails with these. A category that the model does not know is
    refused, which XGBoost does for some and takes others for one that it knows. A Booster without
    text takes integers for the numbers of categories, as with MLflow.
    """

    extra = "xgboost"
    packages = ("xgboost", "sklearn", "pandas")
    is_accelerated = True
    takes_params = True

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, device)
        signature = artifact.signature
        self._has_params = signature is not None and bool(signature.params)

    def launch(self, staged: Any, params: Params = NO_PARAMS) -> Any:
        """Ask the model, with *params* where its signature has any."""
        return self._call(staged, **params) if self._has_params else super().launch(staged)

    def _open(self) -> Any:
        import xgboost

        if self.device.name != "cpu" and not xgboost.build_info().get("USE_CUDA"):
            self.device = CpuDevice(self.device.threads)
        name: str = self.artifact.config.get("model_class") or "xgboost.core.Booster"
        module, _, kind = name.rpartition(".")
        if module.partition(".")[0] != "xgboost":
            import mlflow.xgboost

            model = mlflow.xgboost.load_model(str(self.artifact.path))
        else:
            model = getattr(import_module(module), kind)()
            model.load_model(str(self.artifact.file("data")))
        self._booster = model if isinstance(model, xgboost.Booster) else model.get_booster()
        self._booster.set_param({"nthread": self.device.threads, "device": self.device.name})
        self._categories = _categories(self._booster)
        self._is_booster = model is self._booster
        return model

    def _pyfunc_call(self) -> Call:
        import xgboost

        if not self._is_booster:
            method = super()._pyfunc_call()
            accepted = _arguments(method)
            fixed = {"validate_features": True} if "validate_features" in accepted else {}
            return lambda given, **params: method(given, **fixed, **_kept(params, accepted))
        if self.artifact.method not in {"", "predict"}:
            raise LoadError(f"a Booster answers by 'predict', not by {self.artifact.method!r}")
        predict, threads = self._model.predict, self.device.threads
        has_categories = bool(self._categories)
        accepted = _arguments(predict)
        return lambda given, **params: predict(
            xgboost.DMatrix(given, nthread=threads, enable_categorical=has_categories),
            **_kept(params, accepted),
        )

    def _fast_calls(self) -> Sequence[Call]:
        import xgboost

        signature = self.artifact.signature
        if self.device.name != "cpu" or (signature is not None and signature.params):
            # A matrix of the host's is none that a GPU can be asked with in place.
            return ()
        if self._categories:
            return ()
        ask = partial(self._booster.inplace_predict, validate_features=False)
        if self._is_booster:

            def checked(given: Array) -> Any:
                if np.isinf(given).any():
                    # In place it would answer what a DMatrix refuses.
                    xgboost.DMatrix(given)
                return ask(given)

            return (checked,)
        ask = partial(ask, missing=self._model.missing, iteration_range=_iterations(self._model))
        method = self.artifact.method or "predict"
        if not isinstance(self._model, xgboost.XGBClassifier):
            return (ask,) if method == "predict" else ()
        if self._model.objective == "multi:softmax":
            return ()  # It answers labels, from which no probability follows.
        is_binary = self._model.n_classes_ <= 2
        if method == "predict":
            answer = _is_likely if is_binary else _likeliest
            return (lambda given: answer(ask(given)),)
        if method == "predict_proba":
            return (lambda given: _both(ask(given)),) if is_binary else (ask,)
        return ()

    def _matrix_dtype(self, specs: Sequence[TensorSpec]) -> np.dtype[Any] | None:
        """FP32, which XGBoost makes of every column itself."""
        has_texts = any(DATATYPES[spec.datatype] is BYTES for spec in specs)
        return None if has_texts or self._categories else np.dtype(np.float32)

    def _frame(self, tensors: Tensors, specs: tuple[TensorSpec, ...]) -> Any:
        frame = super()._frame(tensors, specs)
        columns = [spec for spec in specs if spec.name in self._categories]
        has_texts = any(DATATYPES[spec.datatype] is BYTES for spec in columns)
        if has_texts or not self._is_booster:
            for spec in columns:
                frame[spec.name] = _categorical(frame[spec.name], self._categories[spec.name])
        return frame

    def _features(self) -> Sequence[str] | int | None:
        if "c" in (self._booster.feature_types or ()):
            return None
        names: list[str] | None = self._booster.feature_names
        return names or int(self._booster.num_features())

    def close(self) -> None:
        """Let go of the model."""
        super().close()
        del self._booster


def _iterations(model: Any) -> tuple[int, int]:
    """Which of its trees a model of the scikit-learn kind answers by: up to its best iteration."""
    try:
        return 0, model.best_iteration + 1
    except AttributeError:  # Trained without early stopping.
        return 0, 0


def _categories(booster: Any) -> dict[str, list[Any]]:
    """The categories of columns that had pandas', which XGBoost keeps from 3.1 on, in its order.

    One that was fitted with numbers of categories keeps none: it takes such numbers.
    """
    types, names = booster.feature_types or (), booster.feature_names or ()
    if "c" not in types or not names:
        return {}
    text = booster.save_raw("json").decode()
    found = text.rfind('"cats":')
    if found < 0:
        return {}
    kept, _ = json.JSONDecoder().raw_decode(text, found + len('"cats":'))
    encoded = zip(names, types, kept["enc"], strict=False)
    return {name: _values(one) for name, kind, one in encoded if kind == "c"}


def _values(encoded: Mapping[str, Any]) -> list[Any]:
    """The categories of one column: XGBoost's files have integers, or the bytes of text."""
    values: list[int] = encoded["values"]
    if "offsets" not in encoded:
        return values
    content = bytes(value & 0xFF for value in values)
    return [content[begin:end].decode() for begin, end in pairwise(encoded["offsets"])]


def _categorical(column: Any, categories: list[Any]) -> Any:
    """A column of *categories* for one of their values.

    Raises:
        ValueError: It has another value.
    """
    import pandas as pd

    known = pd.Index(categories)
    if known.dtype.kind == "i":
        # XGBoost tells integers of several widths apart.
        known = known.astype(column.dtype)
    codes = known.get_indexer(column)
    if ((codes < 0) & column.notna().to_numpy()).any():
        raise ValueError(f"column {column.name!r} has a category that the model does not know")
    return pd.Categorical.from_codes(codes, known)


def _arguments(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _kept(params: Mapping[str, Any], accepted: frozenset[str]) -> dict[str, Any]:
    """The *params* that are arguments; MLflow ignores the others too."""
    return {name: value for name, value in params.items() if name in accepted}


# From probabilities, [rows, classes] or of the second of two classes [rows].


def _likeliest(probabilities: Array) -> Array:
    labels: Array = np.argmax(probabilities, axis=1)
    return labels


def _is_likely(probabilities: Any) -> Array:
    labels: Array = (probabilities > 0.5).astype(np.int64)
    return labels


def _both(probabilities: Any) -> Array:
    return np.vstack((1.0 - probabilities, probabilities)).transpose()


ADAPTER = XgboostAdapter

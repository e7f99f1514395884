"""Lightgbm: Boosters and models of LightGBM's scikit-learn kind, asked by their booster.

The text format of a Booster executes no code and is read by LightGBM itself, without MLflow; models
of the scikit-learn kind are pickled.
"""

from collections.abc import Iterator, Sequence
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

    Columns of text become the categories that the model was fitted with, where pandas had such:
    MLflow's pyfunc would let the model fail.
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
        # As LightGBM numbers them.
        self._numbers = [{text: at for at, text in enumerate(one)} for one in self._categories]
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

    def _ways(self, signature: Signature) -> Iterator[Way]:
        yield from super()._ways(signature)
        if self._texts(signature.inputs):
            codes = partial(self._codes, specs=signature.inputs)
            for call in self._fast_calls():
                yield Way(codes, call)

    def _texts(self, specs: Sequence[TensorSpec]) -> list[str]:
        """The columns of text, where each is one of the model's categorical columns."""
        names = [spec.name for spec in specs if DATATYPES[spec.datatype] is BYTES]
        return names if len(names) == len(self._categories) else []

    def _sample(self, signature: Signature) -> Tensors:
        sample = super()._sample(signature)
        if self.artifact.example is None:
            for name, categories in zip(
                self._texts(signature.inputs), self._categories, strict=False
            ):
                texts = np.array(categories, object)
                sample[name] = texts[np.arange(self.sample_rows) % len(texts)]
        return sample

    def _frame(self, tensors: Tensors, specs: tuple[TensorSpec, ...]) -> Any:
        import pandas as pd

        frame = super()._frame(tensors, specs)
        for name, categories in zip(self._texts(specs), self._categories, strict=False):
            frame[name] = pd.Categorical(frame[name], categories=categories)
        return frame

    def _as_given(self, tensors: Tensors) -> Any:
        if not self._categories:
            return super()._as_given(tensors)
        return self._frame(tensors, tuple(spec_of(*named) for named in tensors.items()))

    def _codes(self, tensors: Tensors, specs: tuple[TensorSpec, ...]) -> Array:
        """A matrix with numbers for categories; NaN is one that the model does not know."""
        columns = dict(tensors)
        for name, codes in zip(self._texts(specs), self._numbers, strict=True):
            texts = tensors[name].tolist()
            columns[name] = np.fromiter((codes.get(t, np.nan) for t in texts), float, len(texts))
        return stack_columns(list(columns.values()), np.float64)

    def close(self) -> None:
        """Let go of the model."""
        super().close()
        del self._booster


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

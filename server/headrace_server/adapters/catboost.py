"""Catboost: models of MLflow's catboost flavor, asked with plain arrays.

Their format (cbm, json) executes no code and is read by CatBoost itself, without MLflow.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from headrace.datatypes import BYTES, DATATYPES
from headrace.signature import Signature, TensorSpec

from ..devices import Device
from ..devices.cpu import CpuDevice
from .base import Array, Artifact, LoadError, Tensors, stack_columns
from .tabular import Call, TabularAdapter, Way

_KINDS = ("CatBoost", "CatBoostClassifier", "CatBoostRegressor", "CatBoostRanker")


class CatboostAdapter(TabularAdapter):
    """A model of gradient boosted trees, on the host; a call uses the device's threads.

    Categorical features may be text or integers.
    """

    extra = "catboost"
    packages = ("catboost", "pandas")

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, CpuDevice(device.threads))

    def _open(self) -> Any:
        import catboost

        config, file = self.artifact.config, self.artifact.file("data")
        kind = config.get("model_type")
        if kind not in _KINDS:
            raise LoadError(f"unknown model_type {kind!r}: expected one of {', '.join(_KINDS)}")
        model = getattr(catboost, kind)()
        model.load_model(str(file), config.get("save_format", "cbm"))
        return model

    def _pyfunc_call(self) -> Call:
        return partial(super()._pyfunc_call(), thread_count=self.device.threads)

    def _features(self) -> Sequence[str] | int | None:
        model = self._model
        kinds = ("cat", "text", "embedding")
        if any(getattr(model, f"get_{kind}_feature_indices")() for kind in kinds):
            return None
        names: list[str] = model.feature_names_
        return len(names) if names == list(map(str, range(len(names)))) else names

    def _matrix_dtype(self, specs: Sequence[TensorSpec]) -> np.dtype[Any] | None:
        """FP32, which CatBoost makes of every number itself; its categories are no numbers."""
        has_texts = any(DATATYPES[spec.datatype] is BYTES for spec in specs)
        return None if has_texts or self._features() is None else np.dtype(np.float32)

    def _ways(self, signature: Signature) -> Iterator[Way]:
        yield from super()._ways(signature)
        if self._features() is None and all(spec.is_column for spec in signature.inputs):
            yield Way(_objects, self._call)


def _objects(tensors: Tensors) -> Array:
    return stack_columns(list(tensors.values()), object)


ADAPTER = CatboostAdapter

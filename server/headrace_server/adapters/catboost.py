"""Catboost: models of MLflow's catboost flavor, asked with plain arrays.

Their format (cbm, json) executes no code and is read by CatBoost itself, without MLflow.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from headrace.signature import Signature

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
        if model.get_cat_feature_indices() or model.get_text_feature_indices():
            return None
        names: list[str] = model.feature_names_
        return len(names) if names == list(map(str, range(len(names)))) else names

    def _ways(self, signature: Signature) -> Iterator[Way]:
        yield from super()._ways(signature)
        if all(spec.is_column for spec in signature.inputs):
            yield Way(_objects, self._call)


def _objects(tensors: Tensors) -> Array:
    return stack_columns(list(tensors.values()), object)


ADAPTER = CatboostAdapter

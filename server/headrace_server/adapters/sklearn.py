"""Sklearn: estimators and pipelines of MLflow's sklearn flavor, called with plain arrays.

MLflow and pandas are imported only where needed.
"""

import warnings
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from headrace.signature import Signature, TensorSpec

from ..devices import Device
from ..devices.cpu import CpuDevice
from .base import Artifact, Tensors
from .pickles import load_estimator
from .tabular import Call, TabularAdapter, Way, is_numeric_table, method_of, only


class SklearnAdapter(TabularAdapter):
    """An estimator, transformer or pipeline. scikit-learn has no GPU: it runs on the host.

    Inside a call its OpenMP and BLAS use the device's threads; an estimator's own `n_jobs` stays
    what it was saved with.
    """

    extra = "sklearn"
    packages = ("sklearn", "skops", "cloudpickle", "pandas")

    def __init__(self, artifact: Artifact, device: Device) -> None:
        # Leaving out names is this adapter's purpose; the filter stands for the whole worker.
        warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
        super().__init__(artifact, CpuDevice(device.threads))

    def _open(self) -> Any:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        artifact = self.artifact
        model = load_estimator(
            artifact.file("pickled_model"), artifact.config, "pickle", self._load_by_mlflow
        )
        threadpool_limits(self.device.threads)
        return model

    def _load_by_mlflow(self) -> Any:
        import mlflow.sklearn

        return mlflow.sklearn.load_model(str(self.artifact.path))

    def _pyfunc_call(self) -> Call:
        default = "predict" if hasattr(self._model, "predict") else "transform"
        wanted = self.artifact.method or self.artifact.pyfunc.get("predict_fn")
        return method_of(self._model, wanted or default)

    def _features(self) -> Sequence[str] | int | None:
        names = getattr(self._model, "feature_names_in_", None)
        if names is not None:
            return list(map(str, names))
        count = getattr(self._model, "n_features_in_", None)
        return None if count is None else int(count)

    def stage_nulls(self, tensors: Tensors, nullable: Collection[TensorSpec]) -> Any:
        """As for any table, but for a text vectorizer, which means the column itself."""
        if self._way.form is only:
            return self.stage(tensors)
        return super().stage_nulls(tensors, nullable)

    def _matrix_dtype(self, specs: Sequence[TensorSpec]) -> np.dtype[Any] | None:
        """None for integers: estimators of other packages may read those of a matrix otherwise.

        LightGBM's make FP32 of these, and FP64 of a DataFrame's.
        """
        dtype = super()._matrix_dtype(specs)
        return None if dtype is None or dtype.kind in "iu" else dtype

    def _is_in_order(self, signature: Signature) -> bool:
        """A model that was fitted with names may look for them; most refuse another order."""
        names = getattr(self._model, "feature_names_in_", None)
        return names is None or list(names) == [spec.name for spec in signature.inputs]

    def _way_for(self, signature: Signature) -> Way | None:
        """As for any table, but for a text vectorizer.

        That walks over a DataFrame's column names, not its rows: MLflow's pyfunc returns one answer
        for any number of texts. It means the column itself.
        """
        is_one_column = len(signature.inputs) == 1 and signature.inputs[0].is_column
        if is_one_column and not is_numeric_table(signature):
            own, column = self._pyfunc_way(signature), Way(only, self._call)
            rows = self._yardstick(signature, column).rows
            if rows is not None and self._has_rows(column, rows) and not self._has_rows(own, rows):
                return column
        return super()._way_for(signature)

    def _has_rows(self, way: Way, rows: Tensors) -> bool:
        """Whether the answer to *rows* in that way has as many."""
        try:
            answer = self._asked(way, rows)
        except Exception:  # noqa: BLE001 - a model may raise anything.
            return False
        count = len(only(rows))
        return all(array.shape[:1] == (count,) for array in answer.values())


ADAPTER = SklearnAdapter

"""Statsmodels: results of a fit, as MLflow's statsmodels flavor pickles them."""

from collections.abc import Iterator, Sequence
from typing import Any

from headrace.signature import Signature

from ..devices import Device
from ..devices.cpu import CpuDevice
from .base import Artifact, Tensors, is_unpickling_allowed
from .tabular import Call, TabularAdapter, Way


class StatsmodelsAdapter(TabularAdapter):
    """The results of a regression, or of a time series model. statsmodels runs on the host.

    A prediction is one product of a matrix, with as many threads as the worker's BLAS has. A time
    series model takes one row, of `start` and `end`, and answers the values from one to the other.
    """

    extra = "statsmodels"
    packages = ("statsmodels", "pandas")

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, CpuDevice(device.threads))

    def _open(self) -> Any:
        if not is_unpickling_allowed():
            import mlflow.statsmodels

            return mlflow.statsmodels.load_model(str(self.artifact.path))
        from statsmodels.iolib.smpickle import load_pickle

        return load_pickle(str(self.artifact.file("data")))

    def _pyfunc_call(self) -> Call:
        method = super()._pyfunc_call()
        if not self._is_time_series:
            return method
        return lambda frame: method(start=_single(frame, "start"), end=_single(frame, "end"))

    @property
    def _is_time_series(self) -> bool:
        from statsmodels.tsa.base.tsa_model import TimeSeriesModel

        return not self.artifact.method and isinstance(self._model.model, TimeSeriesModel)

    @property
    def _takes_frames(self) -> bool:
        """Whether columns are found by name: those of a formula, and of a time series."""
        return self._is_time_series or hasattr(self._model.model, "formula")

    def _features(self) -> Sequence[str] | int | None:
        """Those of a model that was given its matrix; one of a formula has columns of its own."""
        model = self._model.model
        names: list[str] | None = getattr(model, "exog_names", None)
        if names is None or self._takes_frames:
            return None
        is_frame = hasattr(getattr(model.data, "orig_exog", None), "columns")
        return names if is_frame else len(names)

    def _ways(self, signature: Signature) -> Iterator[Way]:
        """Where columns are found by name no matrix is tried."""
        return iter(()) if self._takes_frames else super()._ways(signature)

    def _as_given(self, tensors: Tensors) -> Any:
        if not self._takes_frames:
            return super()._as_given(tensors)
        import pandas as pd

        return pd.DataFrame({name: array.reshape(-1) for name, array in tensors.items()})


def _single(frame: Any, name: str) -> Any:
    """The one value of a column."""
    if len(frame) != 1 or name not in frame:
        # In MLflow's words.
        raise ValueError(
            "prediction dataframes for a TimeSeriesModel must have exactly one row and include "
            "columns called start and end"
        )
    return frame[name].iloc[0]


ADAPTER = StatsmodelsAdapter

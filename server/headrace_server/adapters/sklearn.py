"""Sklearn: estimators and pipelines of MLflow's sklearn flavor, called with plain arrays.

A DataFrame costs more than most estimators do, so columns are stacked into one matrix wherever that
is seen at load to give the same answer. MLflow and pandas are imported only where needed.
"""

import pickle
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from headrace.datatypes import BYTES, DATATYPES
from headrace.signature import Signature, TensorSpec

from ..devices import Device
from ..devices.cpu import CpuDevice
from .base import (
    NO_PARAMS,
    Adapter,
    Array,
    Artifact,
    LoadError,
    Params,
    Tensors,
    is_unpickling_allowed,
    loading,
    name_outputs,
    stack_columns,
)
from .samples import example_rows, synthetic_rows
from .tables import frame_of, with_nulls

# How many rows the forms of input are compared with.
SAMPLE_ROWS = 4

# Turns tensors into the one argument that the model's method takes.
Form = Callable[[Tensors], Any]


class SklearnAdapter(Adapter):
    """An estimator, transformer or pipeline. scikit-learn has no GPU: it runs on the host."""

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, CpuDevice(device.threads))
        with loading("sklearn", ("sklearn", "skops", "cloudpickle", "pandas")):
            import pandas as pd
            from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

            self._frame_type = pd.DataFrame
            self._model = _load(artifact)
            threadpool_limits(device.threads)
        # Leaving out names is this adapter's purpose; the filter stands for the whole worker.
        warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
        self._method = _method(self._model, artifact)
        self._signature = artifact.signature
        if self._signature is None:
            self._signature, self._form = self._introspected()
        else:
            self._form = self._form_for(self._signature) or self._pyfunc_form(self._signature)

    @property
    def signature(self) -> Signature | None:
        """The artifact's, else the features that the estimator was fitted with, where it tells."""
        return self._signature

    def stage(self, tensors: Tensors) -> Any:
        """The matrix, DataFrame or single array that the model takes.

        An estimator wants every column it was fitted with: one that was left out is one of nulls,
        where MLflow's pyfunc would let the estimator fail.
        """
        specs = self._signature.inputs if self._signature is not None else ()
        if len(tensors) < len(specs):
            return self._frame(with_nulls(tensors, specs), specs)
        return self._form(tensors)

    def launch(self, staged: Any, params: Params = NO_PARAMS) -> Any:
        """Call the method."""
        return self._method(staged)

    def finish(self, launched: Any) -> Tensors:
        """Name the outputs: a DataFrame's columns and a Series keep their names."""
        if hasattr(launched, "toarray"):  # A sparse matrix, as encoders and vectorizers return.
            launched = launched.toarray()
        if isinstance(launched, self._frame_type):
            return {str(name): column.to_numpy() for name, column in launched.items()}
        named = name_outputs(launched, self._signature)
        is_declared = self._signature is not None and self._signature.outputs
        if not is_declared and isinstance(name := getattr(launched, "name", None), str):
            return dict(zip((name,), named.values(), strict=True))
        return named

    def close(self) -> None:
        """Let go of the model."""
        del self._model, self._method

    def _form_for(self, signature: Signature) -> Form | None:
        """The fastest form that answers as the form MLflow uses does; None if that one fails."""
        pyfunc_form = self._pyfunc_form(signature)
        sample = self._sample(signature)
        expected = self._answer(pyfunc_form, sample)
        if _is_numeric_table(signature):
            dtype = np.result_type(*(DATATYPES[s.datatype].dtype for s in signature.inputs))
            matrix = partial(_matrix, dtype=dtype)
            given = self._answer(matrix, sample)
            if expected is not None and given is not None and _is_same(given, expected):
                return matrix
        elif len(signature.inputs) == 1 and signature.inputs[0].is_column:
            # A text vectorizer walks over a DataFrame's column names, not its rows: MLflow's
            # pyfunc returns one answer for any number of texts. It means the column itself.
            given = self._answer(_only, sample)
            if not _has_rows(expected, SAMPLE_ROWS) and _has_rows(given, SAMPLE_ROWS):
                return _only
        return None if expected is None else pyfunc_form

    def _pyfunc_form(self, signature: Signature) -> Form:
        """The form in which MLflow's pyfunc hands over inputs of *signature*."""
        if all(spec.is_column for spec in signature.inputs):
            return partial(self._frame, specs=signature.inputs)
        return _only if len(signature.inputs) == 1 else dict

    def _introspected(self) -> tuple[Signature | None, Form]:
        """What the model tells about its features, where it also takes such rows."""
        signature = _fitted_signature(self._model)
        form = None if signature is None else self._form_for(signature)
        return (None, self._as_given) if form is None else (signature, form)

    def _sample(self, signature: Signature) -> Tensors:
        if self.artifact.example is not None:
            return example_rows(self.artifact.example, signature, SAMPLE_ROWS)
        return _varied_rows(signature)

    def _answer(self, form: Form, sample: Tensors) -> Tensors | None:
        """The model's answer to *sample* in that form; None where it does not take it."""
        try:
            return self.finish(self._method(form(sample)))
        except Exception:  # noqa: BLE001 - a model may raise anything; the other form is tried.
            return None

    def _frame(self, tensors: Tensors, specs: tuple[TensorSpec, ...]) -> Any:
        return frame_of(tensors, specs)

    def _as_given(self, tensors: Tensors) -> Any:
        """The argument where nothing is known of the inputs: by name if the model has names."""
        names = getattr(self._model, "feature_names_in_", None)
        if names is not None and set(names) <= set(tensors):
            return self._frame_type({name: tensors[name].reshape(-1) for name in names})
        arrays = list(tensors.values())
        if len(arrays) == 1 and (arrays[0].ndim > 1 or arrays[0].dtype.kind == "O"):
            return arrays[0]
        columns = [array.reshape(-1) for array in arrays]
        return stack_columns(columns, np.result_type(*columns))


def _load(artifact: Artifact) -> Any:
    file = artifact.file("pickled_model")
    written_as = artifact.config.get("serialization_format", "pickle")
    if is_unpickling_allowed():
        if written_as == "skops":
            import skops.io

            return skops.io.load(file, trusted=artifact.config.get("skops_trusted_types"))
        if written_as in {"pickle", "cloudpickle"}:
            with file.open("rb") as stream:
                return pickle.load(stream)
    import mlflow.sklearn

    return mlflow.sklearn.load_model(str(artifact.path))


def _method(model: Any, artifact: Artifact) -> Callable[[Any], Any]:
    default = "predict" if hasattr(model, "predict") else "transform"
    name = artifact.method or artifact.pyfunc.get("predict_fn") or default
    method = getattr(model, name, None)
    if not callable(method):
        raise LoadError(f"{type(model).__name__} has no method {name!r}")
    found: Callable[[Any], Any] = method
    return found


def _fitted_signature(model: Any) -> Signature | None:
    names = getattr(model, "feature_names_in_", None)
    if names is not None:
        return Signature(tuple(TensorSpec(str(name), "FP64", (-1,), "double") for name in names))
    count = getattr(model, "n_features_in_", None)
    return None if count is None else Signature((TensorSpec("input-0", "FP64", (-1, int(count))),))


def _is_numeric_table(signature: Signature) -> bool:
    return all(
        spec.is_column
        and len(spec.shape) == 1
        and spec.kind != "datetime"
        and DATATYPES[spec.datatype] is not BYTES
        for spec in signature.inputs
    )


def _varied_rows(signature: Signature) -> Tensors:
    """Made-up rows in which columns and rows differ, so that forms that mix them up do too."""
    rows: Tensors = {}
    for index, (name, zeros) in enumerate(synthetic_rows(signature, SAMPLE_ROWS).items()):
        steps = np.arange(zeros.size).reshape(zeros.shape) * (index + 1) % 5
        rows[name] = zeros if zeros.dtype.kind == "O" else steps.astype(zeros.dtype)
    return rows


def _matrix(tensors: Tensors, dtype: np.dtype[Any]) -> Array:
    return stack_columns(list(tensors.values()), dtype)


def _only(tensors: Tensors) -> Array:
    (array,) = tensors.values()
    return array


def _has_rows(answer: Tensors | None, rows: int) -> bool:
    return answer is not None and all(array.shape[:1] == (rows,) for array in answer.values())


def _is_same(given: Tensors, expected: Tensors) -> bool:
    """Whether two answers agree in names, dtypes, shapes and, but for rounding, in values."""
    return given.keys() == expected.keys() and all(
        _is_same_array(array, expected[name]) for name, array in given.items()
    )


def _is_same_array(given: Array, expected: Array) -> bool:
    if (given.dtype, given.shape) != (expected.dtype, expected.shape):
        return False
    if given.dtype.kind != "f":
        return bool(np.array_equal(given, expected))
    return np.allclose(given, expected, rtol=1e-6, equal_nan=True)


ADAPTER = SklearnAdapter

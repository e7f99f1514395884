"""Tabular: what adapters of models of tables share.

MLflow hands such models a DataFrame, which costs more than most of them do. So a way of asking the
model without one is taken wherever it is seen at load to give the same answer.
"""

import sys
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from headrace.datatypes import BYTES, DATATYPES
from headrace.signature import Signature, TensorSpec

from ..devices import Device
from .base import (
    NO_PARAMS,
    Adapter,
    Array,
    Artifact,
    LoadError,
    Params,
    Tensors,
    is_float,
    loading,
    name_outputs,
    stack_columns,
)
from .samples import example_rows, synthetic_rows
from .tables import frame_of, with_nulls

# Turns tensors into the one argument that the model takes.
Form = Callable[[Tensors], Any]
# Asks the model with that argument.
Call = Callable[..., Any]


class Nullable(NamedTuple):
    """The argument for rows that may lack values: the model is asked with it in MLflow's way."""

    argument: Any


@dataclass(frozen=True, slots=True)
class Way:
    """One way of asking a model: the form of its argument, and what is called with it."""

    form: Form
    call: Call


class TabularAdapter(Adapter):
    """A model of tables.

    A flavor says how its model is opened, how MLflow's pyfunc calls it, which quicker calls there
    may be, and what the model knows of its features.

    Attributes:
        extra: The extra of headrace that brings the flavor's packages.
        packages: The top-level modules that this extra brings.
        sample_rows: How many rows the ways are compared with.
    """

    extra: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    sample_rows: ClassVar[int] = 32

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, device)
        with loading(self.extra, self.packages):
            if artifact.signature is None or any(s.is_column for s in artifact.signature.inputs):
                # Models of tensors do without it, unless their framework has it: it takes a third
                # of a second, and memory.
                import pandas as pd  # noqa: F401
            self._model = self._open()
        self._call = self._pyfunc_call()
        self._signature = artifact.signature
        if self._signature is None:
            self._signature, self._way = self._introspected()
        else:
            self._way = self._way_for(self._signature) or self._pyfunc_way(self._signature)

    @property
    def signature(self) -> Signature | None:
        """The artifact's, else the features that the model was fitted with, where it tells."""
        return self._signature

    def stage(self, tensors: Tensors) -> Any:
        """The matrix, DataFrame or single array that the model takes.

        A model wants every column it was fitted with: one that was left out is one of nulls, where
        MLflow's pyfunc would let the model fail.
        """
        specs = self._signature.inputs if self._signature is not None else ()
        if len(tensors) < len(specs):
            return self._frame(with_nulls(tensors, specs), specs)
        return self._way.form(tensors)

    def stage_nulls(self, tensors: Tensors, nullable: Collection[TensorSpec]) -> Any:
        """The DataFrame that MLflow would hand over, unless NaN is all that there may be."""
        if self._signature is None or all(is_float(spec) for spec in nullable):
            return self.stage(tensors)
        specs = self._signature.inputs
        return Nullable(self._frame(with_nulls(tensors, specs), specs))

    def launch(self, staged: Any, params: Params = NO_PARAMS) -> Any:
        """Ask the model. Every call takes a DataFrame too, for rows with columns left out."""
        if isinstance(staged, Nullable):
            return self._call(staged.argument)
        return self._way.call(staged)

    def finish(self, launched: Any) -> Tensors:
        """Name the outputs: a DataFrame's columns and a Series keep their names."""
        if hasattr(launched, "toarray"):  # A sparse matrix, as encoders and vectorizers return.
            launched = launched.toarray()
        if _is_frame(launched):
            return {str(name): column.to_numpy() for name, column in launched.items()}
        named = name_outputs(launched, self._signature)
        is_declared = self._signature is not None and self._signature.outputs
        if not is_declared and isinstance(name := getattr(launched, "name", None), str):
            return dict(zip((name,), named.values(), strict=True))
        return named

    def close(self) -> None:
        """Let go of the model."""
        del self._model, self._call, self._way

    # What a flavor says.

    @abstractmethod
    def _open(self) -> Any:
        """The framework's own object, from the artifact."""

    def _pyfunc_call(self) -> Call:
        """What MLflow's pyfunc calls, or else the method that is asked for.

        Raises:
            LoadError: The model has no such method.
        """
        return method_of(self._model, self.artifact.method or "predict")

    def _fast_calls(self) -> Sequence[Call]:
        """Calls that may answer a matrix as the other does, and sooner."""
        return ()

    def _features(self) -> Sequence[str] | int | None:
        """The names of numeric columns that the model was fitted with, or else their number.

        None where it does not tell, or where they are not numbers.
        """
        return None

    # The way of asking.

    def _ways(self, signature: Signature) -> Iterator[Way]:
        """Ways that may be quicker than MLflow's, the quickest first."""
        if is_numeric_table(signature):
            dtype = np.result_type(*(DATATYPES[s.datatype].dtype for s in signature.inputs))
            for call in (*self._fast_calls(), self._call):
                yield Way(partial(_matrix, dtype=dtype), call)
        elif len(signature.inputs) == 1 and not signature.inputs[0].is_column:
            for call in self._fast_calls():
                yield Way(only, call)

    def _way_for(self, signature: Signature) -> Way | None:
        """The quickest way that answers as MLflow's does; None if that one fails."""
        pyfunc_way = self._pyfunc_way(signature)
        sample = self._sample(signature)
        expected = self._answer(pyfunc_way, sample)
        if expected is None:
            return None
        for way in self._ways(signature):
            given = self._answer(way, sample)
            if given is not None and is_same(given, expected):
                return way
        return pyfunc_way

    def _pyfunc_way(self, signature: Signature) -> Way:
        """The way in which MLflow's pyfunc asks with inputs of *signature*."""
        if all(spec.is_column for spec in signature.inputs):
            return Way(partial(self._frame, specs=signature.inputs), self._call)
        return Way(only if len(signature.inputs) == 1 else dict, self._call)

    def _introspected(self) -> tuple[Signature | None, Way]:
        """What the model tells about its features, where it also takes such rows."""
        signature = _signature_of(self._features())
        way = None if signature is None else self._way_for(signature)
        return (None, Way(self._as_given, self._call)) if way is None else (signature, way)

    def _sample(self, signature: Signature) -> Tensors:
        if self.artifact.example is not None:
            return example_rows(self.artifact.example, signature, self.sample_rows)
        return _varied_rows(signature, self.sample_rows)

    def _answer(self, way: Way, sample: Tensors) -> Tensors | None:
        """The model's answer to *sample* asked in that way; None where it does not take it."""
        try:
            return self.finish(way.call(way.form(sample)))
        except Exception:  # noqa: BLE001 - a model may raise anything; another way is tried.
            return None

    def _frame(self, tensors: Tensors, specs: tuple[TensorSpec, ...]) -> Any:
        return frame_of(tensors, specs)

    def _as_given(self, tensors: Tensors) -> Any:
        """The argument where nothing is known of the inputs: by name if the model has names."""
        names = self._features()
        if isinstance(names, Sequence) and set(names) <= set(tensors):
            import pandas as pd

            return pd.DataFrame({name: tensors[name].reshape(-1) for name in names})
        arrays = list(tensors.values())
        if len(arrays) == 1 and (arrays[0].ndim > 1 or arrays[0].dtype.kind == "O"):
            return arrays[0]
        columns = [array.reshape(-1) for array in arrays]
        return stack_columns(columns, np.result_type(*columns))


def method_of(model: Any, name: str) -> Callable[..., Any]:
    """The method *name* of *model*.

    Raises:
        LoadError: It has none.
    """
    method = getattr(model, name, None)
    if not callable(method):
        raise LoadError(f"{type(model).__name__} has no method {name!r}")
    found: Callable[..., Any] = method
    return found


def is_numeric_table(signature: Signature) -> bool:
    """Whether all inputs are columns of plain numbers."""
    return all(
        spec.is_column
        and len(spec.shape) == 1
        and spec.kind != "datetime"
        and DATATYPES[spec.datatype] is not BYTES
        for spec in signature.inputs
    )


def is_same(given: Tensors, expected: Tensors) -> bool:
    """Whether two answers agree in names, dtypes, shapes and, but for rounding, in values."""
    return given.keys() == expected.keys() and all(
        _is_same_array(array, expected[name]) for name, array in given.items()
    )


def _is_frame(answer: Any) -> bool:
    """Whether it is a DataFrame: whoever made one has imported pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(answer, pandas.DataFrame)


def only(tensors: Tensors) -> Array:
    """The one tensor that there is."""
    (array,) = tensors.values()
    return array


def _is_same_array(given: Array, expected: Array) -> bool:
    if (given.dtype, given.shape) != (expected.dtype, expected.shape):
        return False
    if given.dtype.kind != "f":
        return bool(np.array_equal(given, expected))
    return np.allclose(given, expected, rtol=1e-6, equal_nan=True)


def _signature_of(features: Sequence[str] | int | None) -> Signature | None:
    if features is None:
        return None
    if isinstance(features, int):
        return Signature((TensorSpec("input-0", "FP64", (-1, features)),))
    return Signature(tuple(TensorSpec(str(name), "FP64", (-1,), "double") for name in features))


def _varied_rows(signature: Signature, count: int) -> Tensors:
    """Made-up rows in which columns and rows differ, so that ways that mix them up do too."""
    rows: Tensors = {}
    for index, (name, zeros) in enumerate(synthetic_rows(signature, count).items()):
        steps = np.arange(zeros.size).reshape(zeros.shape) * (index + 1) % 5
        rows[name] = zeros if zeros.dtype.kind == "O" else steps.astype(zeros.dtype)
    return rows


def _matrix(tensors: Tensors, dtype: np.dtype[Any]) -> Array:
    return stack_columns(list(tensors.values()), dtype)

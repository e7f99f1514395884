"""Tabular: what adapters of models of tables share.

MLflow hands such models a DataFrame, which costs more than most of them do. So a way of asking the
model without one is taken where it cannot lose anything of a value, and is shown at load, on rows
that differ, to answer as MLflow's (quickways.py).
"""

import sys
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

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
    spec_of,
    stack_columns,
)
from .quickways import Yardstick
from .raw import named
from .tables import frame_of, with_nulls

# Turns tensors into the one argument that the model takes.
Form = Callable[[Tensors], Any]
# Asks the model with that argument.
Call = Callable[..., Any]


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
    """

    extra: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]

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
        return self._frame(with_nulls(tensors, specs), specs)

    def launch(self, staged: Any, params: Params = NO_PARAMS) -> Any:
        """Ask the model; in MLflow's way with a DataFrame, as of rows with columns left out."""
        return (self._call if _is_frame(staged) else self._way.call)(staged)

    def finish(self, launched: Any) -> Tensors:
        """Name the outputs: a DataFrame's columns and a Series keep their names."""
        if _is_frame(launched):
            return named([(str(name), column) for name, column in launched.items()])
        outputs = name_outputs(launched, self._signature)
        is_declared = self._signature is not None and self._signature.outputs
        if not is_declared and isinstance(name := getattr(launched, "name", None), str):
            return dict(zip((name,), outputs.values(), strict=True))
        return outputs

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

    def _matrix_dtype(self, specs: Sequence[TensorSpec]) -> np.dtype[Any] | None:
        """What a matrix holds that the model cannot tell from a DataFrame of the columns *specs*.

        Columns of several datatypes have no such matrix: an integer among floats would be another,
        and even a float of another width may be computed with otherwise.
        """
        datatypes = {spec.datatype for spec in specs}
        return DATATYPES[datatypes.pop()].dtype if len(datatypes) == 1 else None

    def _is_in_order(self, signature: Signature) -> bool:
        """Whether the model's features are the columns of *signature*, one by one."""
        return True

    def _choices(self, signature: Signature) -> dict[str, Array]:
        """By column the values that the model knows, where these are few."""
        return {}

    def _ways(self, signature: Signature) -> Iterator[Way]:
        """Ways that may be quicker than MLflow's, the quickest first."""
        specs = signature.inputs
        if is_numeric_table(signature):
            dtype = self._matrix_dtype(specs)
            if dtype is not None and self._is_in_order(signature):
                for call in (*self._fast_calls(), self._call):
                    yield Way(partial(_matrix, dtype=dtype), call)
        elif len(specs) == 1 and not specs[0].is_column:
            for call in self._fast_calls():
                yield Way(only, call)

    def _way_for(self, signature: Signature) -> Way | None:
        """The quickest way that is shown to answer as MLflow's does; None if that one fails."""
        pyfunc_way = self._pyfunc_way(signature)
        yardstick = self._yardstick(signature, pyfunc_way)
        if yardstick.rows is None:
            return None
        shown = (
            way for way in self._ways(signature) if yardstick.allows(partial(self._asked, way))
        )
        return next(shown, pyfunc_way)

    def _yardstick(self, signature: Signature, way: Way) -> Yardstick:
        return Yardstick(
            partial(self._asked, way),
            signature,
            self.artifact.example,
            choices=self._choices(signature),
        )

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

    def _asked(self, way: Way, rows: Tensors) -> Tensors:
        return self.finish(way.call(way.form(rows)))

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
        columns = {name: array.reshape(-1) for name, array in tensors.items()}
        specs = tuple(spec_of(name, array) for name, array in columns.items())
        dtype = self._matrix_dtype(specs)
        return self._frame(columns, specs) if dtype is None else _matrix(columns, dtype)


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


def _is_frame(answer: Any) -> bool:
    """Whether it is a DataFrame: whoever made one has imported pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(answer, pandas.DataFrame)


def only(tensors: Tensors) -> Array:
    """The one tensor that there is."""
    (array,) = tensors.values()
    return array


def _signature_of(features: Sequence[str] | int | None) -> Signature | None:
    if features is None:
        return None
    if isinstance(features, int):
        return Signature((TensorSpec("input-0", "FP64", (-1, features)),))
    return Signature(tuple(TensorSpec(str(name), "FP64", (-1,), "double") for name in features))


def _matrix(tensors: Tensors, dtype: np.dtype[Any]) -> Array:
    columns = list(tensors.values())
    if dtype != np.float32:
        return stack_columns(columns, dtype)
    # A number beyond FP32 is infinite there, as frameworks have it that compute in it.
    with np.errstate(over="ignore"):
        return stack_columns(columns, dtype)

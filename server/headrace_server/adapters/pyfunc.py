"""Pyfunc: custom Python models, and all other flavors that have no adapter of their own.

MLflow loads the model; calling it goes past MLflow's schema enforcement, since the daemon has
checked the request. The input has the form that MLflow would hand over: a DataFrame of columns, or
arrays; the answer is the one of `PyFuncModel.predict`.
"""

import inspect
import logging
import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from headrace.signature import Signature

from ..devices import Device
from .base import (
    NO_PARAMS,
    Adapter,
    Array,
    Artifact,
    LoadError,
    Params,
    Tensors,
    loading,
    without_nulls,
)
from .outputs import named_outputs
from .raw import objects
from .tables import frame_of, python_column

# Turns tensors into the one argument that the model takes.
Form = Callable[[Tensors], Any]
# Calls the model with that argument and, where the signature has any, parameters.
Call = Callable[[Any, Params | None], Any]


class OneRowAtATime(Exception):
    """More rows than the one that the model answers."""


class PyfuncAdapter(Adapter):
    """What `mlflow.pyfunc.load_model` returned. Where it computes is the model's own affair."""

    takes_params = True
    is_presumed_batchable = False

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, device)
        with loading("server", ("mlflow", "pandas")):
            self._model = _load(artifact)
        signature = artifact.signature
        self._signature = signature
        if signature is not None and _has_type_hint(self._model):
            # MLflow knows no type hint of a single value that may be None.
            self._signature = without_nulls(signature)
        self._form = _form(self._model, signature)
        self._is_of_one_row = _is_of_one_row(self._model)
        outputs = () if signature is None else signature.outputs
        self._whole = outputs[0].name if len(outputs) == 1 else "output-0"
        self._call = _call(self._model, artifact)
        # MLflow hands over None, not nothing, where the signature has no parameters.
        self._has_params = signature is not None and bool(signature.params)
        kinds = {} if signature is None else {spec.name: spec.kind for spec in signature.params}
        self._moments = [name for name, kind in kinds.items() if kind == "datetime"]

    @property
    def signature(self) -> Signature | None:
        """The artifact's; a type hint takes no nulls."""
        return self._signature

    def stage(self, tensors: Tensors) -> Any:
        """The DataFrame, array, dict of arrays or list that the model takes.

        Raises:
            OneRowAtATime: There are several, of which MLflow would drop all but the first.
        """
        if self._is_of_one_row:
            rows = max((len(array) for array in tensors.values() if array.ndim), default=1)
            if rows > 1:
                raise OneRowAtATime(f"the model takes one row at a time, got {rows}")
        return self._form(tensors)

    def launch(self, staged: Any, params: Params = NO_PARAMS) -> Any:
        """Call the model."""
        if not self._has_params:
            return self._call(staged, None)
        given = dict(params)
        for name in self._moments:
            given[name] = _instants(given[name])
        return self._call(staged, given)

    def finish(self, launched: Any) -> Tensors:
        """Name the outputs.

        The answer of an agent is one value, whatever is declared: what is None is not in it, though
        its schema has it.
        """
        if self._is_of_one_row:
            return {self._whole: objects([launched])}
        return named_outputs(launched, self.signature)

    def close(self) -> None:
        """Let go of the model."""
        del self._call, self._form, self._model


def _load(artifact: Artifact) -> Any:
    """MLflow's PyFuncModel, loaded without a word."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "true")
    # Whoever looks for the daemon's log must not find MLflow's advice to people who save models.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc

        logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])
        return mlflow.pyfunc.load_model(str(artifact.path), suppress_warnings=True)


def _is_of_one_row(model: Any) -> bool:
    """Whether it is one of MLflow's agents, each of which answers the first row alone."""
    import mlflow.pyfunc

    kinds = [
        kind
        for name in ("ChatModel", "ChatAgent", "ResponsesAgent")
        if (kind := getattr(mlflow.pyfunc, name, None)) is not None
    ]
    get_raw = getattr(model._model_impl, "get_raw_model", None)  # noqa: SLF001
    return get_raw is not None and isinstance(get_raw(), tuple(kinds))


# The argument.


def _form(model: Any, signature: Signature | None) -> Form:
    """The form in which MLflow's pyfunc hands over inputs of *signature*."""
    if signature is None or not signature.inputs:
        return _as_given
    specs = signature.inputs
    if not all(spec.is_column for spec in specs):
        schema = model.metadata.get_input_schema()
        is_bare = len(specs) == 1 and not schema.has_input_names()
        return _only if is_bare else dict
    if _has_type_hint(model):
        # The model's own `predict` checks the values against its type hint.
        (spec,) = specs
        return lambda tensors: _python_values(python_column(tensors[spec.name], spec))
    # Columns without names have numbers.
    names = () if model.metadata.get_input_schema().has_input_names() else range(len(specs))
    frame = partial(frame_of, specs=specs, names=names)
    if model.metadata._is_type_hint_from_example() and model.input_example is not None:  # noqa: SLF001
        from mlflow.types.type_hints import _convert_dataframe_to_example_format

        return lambda tensors: _convert_dataframe_to_example_format(
            frame(tensors), model.input_example
        )
    return frame


def _has_type_hint(model: Any) -> bool:
    """Whether the signature is made of the type hint of the model's `predict`."""
    found: bool = model.metadata._is_signature_from_type_hint()  # noqa: SLF001 - nothing public.
    return found


def _as_given(tensors: Tensors) -> Any:
    """The argument where nothing is known of the inputs: columns are a table, arrays are arrays."""
    if all(array.ndim == 1 for array in tensors.values()):
        import pandas as pd

        return pd.DataFrame(tensors, copy=False)
    return _only(tensors) if len(tensors) == 1 else dict(tensors)


def _only(tensors: Tensors) -> Array:
    (array,) = tensors.values()
    return array


def _python_values(column: Array) -> list[Any]:
    if column.dtype.kind == "M":
        import pandas as pd

        return [pd.Timestamp(value) for value in column]
    values: list[Any] = column.tolist()
    return values


def _instants(value: Any) -> Any:
    """Instants as MLflow makes them of their text: dates, or datetimes where there is a time."""
    if isinstance(value, list):
        return [_instants(item) for item in value]
    return None if value is None else np.datetime64(value).item()


# The call.


def _call(model: Any, artifact: Artifact) -> Call:
    """How to call the Python model, or else what its loader made of another flavor.

    Raises:
        LoadError: It has no such method, or answers by streams alone.
    """
    wrapper = model._model_impl  # noqa: SLF001 - MLflow calls it a stable interface for developers.
    target = getattr(wrapper, "python_model", None)
    if target is None or not hasattr(wrapper, "_convert_input"):
        name = artifact.method or artifact.pyfunc.get("predict_fn") or "predict"
        return _bound(_method(wrapper, name), ())
    _refuse_streams(target)
    method = _method(target, artifact.method or "predict")
    convert = wrapper._convert_input  # noqa: SLF001 - what MLflow does for older type hints.
    from mlflow.models.signature import _is_context_in_predict_function_signature as takes_context

    context = (wrapper.context,) if takes_context(func=method) else ()
    bound = _bound(method, context)
    return lambda given, params: bound(convert(given), params)


def _bound(method: Callable[..., Any], leading: tuple[Any, ...]) -> Call:
    """*method* behind its *leading* arguments, with parameters only where it takes them."""
    try:
        parameter = inspect.signature(method).parameters.get("params")
    except ValueError:  # A builtin that tells nothing of its parameters.
        parameter = None
    if parameter is not None and parameter.kind is not parameter.VAR_KEYWORD:
        return lambda given, params: method(*leading, given, params=params)
    return lambda given, _: method(*leading, given)


def _method(target: Any, name: str) -> Callable[..., Any]:
    method = getattr(target, name, None)
    if not callable(method):
        raise LoadError(f"{type(target).__name__} has no method {name!r}")
    found: Callable[..., Any] = method
    return found


def _refuse_streams(target: Any) -> None:
    import mlflow.pyfunc

    if type(target).predict is mlflow.pyfunc.PythonModel.predict:
        raise LoadError(
            f"{type(target).__name__} defines no predict: models that only stream are not served"
        )


ADAPTER = PyfuncAdapter

"""Keras: models that MLflow's keras flavor saved, in Keras' own format or exported (SavedModel).

Keras computes with the backend that KERAS_BACKEND names, else with the one the model was saved with
where that is installed, else with the first of torch, tensorflow and jax. A model is called as a
function where that is shown to answer as `predict` does, which MLflow calls: it is made for data
sets, takes several times as long, and runs 32 rows at a time.
"""

import inspect
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from headrace.datatypes import BYTES, DATATYPES, datatype_of
from headrace.signature import Signature, TensorSpec

from ..devices import Device
from .base import (
    NO_PARAMS,
    Adapter,
    Artifact,
    LoadError,
    Params,
    Tensors,
    all_required,
    is_unpickling_allowed,
    loading,
    matched,
    name_outputs,
    stack_columns,
)
from .kerasweights import check_weights
from .probe import INNER_SIZES
from .quickways import Yardstick
from .raw import mapped
from .savedmodel import Scope, configure_tensorflow, host_array

BACKENDS = ("torch", "tensorflow", "jax")

# What `predict` is compared on: more rows than its batches have.
_ROWS = 40
# `predict` may add in another order, in FP32.
_TOLERANCE = 1e-4


class KerasAdapter(Adapter):
    """A Keras model on its device, in inference mode."""

    is_accelerated = True

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, device)
        is_exported = bool(artifact.config.get("save_exported_model"))
        extra = "tensorflow" if is_exported else "keras"
        with loading(extra, (extra,)):
            self._backend = "tensorflow" if is_exported else _choose_backend(artifact)
            self._scope = _prepare(self._backend, device)
            with self._scope():
                self._model = _open_exported(artifact) if is_exported else _open(artifact)
        self._call: Callable[[Any], Any]
        own_inputs, self._takes_dict = ({}, False) if is_exported else _own_inputs(self._model)
        signature = artifact.signature or _own_signature(own_inputs)
        self._signature = None if signature is None else all_required(signature)
        specs = () if self._signature is None else self._signature.inputs
        if self._backend == "torch":
            _refuse_texts(specs)
        self._is_table = bool(specs) and all(spec.is_column for spec in specs)
        self._targets = _targets([spec.name for spec in specs], list(own_inputs))
        self._output_names = tuple(getattr(self._model, "output_names", ()))
        self._is_quick = True
        if is_exported:
            self._call = _method(self._model, artifact.method or "serve")
        else:
            with loading(extra, (extra,)):
                self._choose_call()

    @property
    def signature(self) -> Signature | None:
        """The artifact's, else the model's own inputs; no model does without one of them."""
        return self._signature

    def stage(self, tensors: Tensors) -> Any:
        """What the model takes: a tensor, or several by its own names, else in its order."""
        if self._is_table:
            columns = list(tensors.values())
            # As of a DataFrame of numbers.
            return self._staged(stack_columns(columns, np.result_type(*columns)))
        if len(tensors) == 1 and not self._takes_dict:
            (array,) = tensors.values()
            return self._staged(array)
        if self._targets:
            return {self._targets[name]: self._staged(array) for name, array in tensors.items()}
        if self._signature is None:
            return {name: self._staged(array) for name, array in tensors.items()}
        return [self._staged(array) for array in tensors.values()]

    def launch(self, staged: Any, params: Params = NO_PARAMS) -> Any:
        """Call the model; on an asynchronous device the result may not be there yet."""
        with self._scope(), self._inference():
            return self._call(staged)

    def finish(self, launched: Any) -> Tensors:
        """Bring every output to the host, and name it."""
        found = mapped(self._host, launched)
        if isinstance(found, tuple | list):
            declared = () if self._signature is None else self._signature.outputs
            own = self._output_names
            if len(declared) != len(found) == len(own):
                return name_outputs(dict(zip(own, found, strict=True)), None)
            found = tuple(found)
        return name_outputs(found, self._signature)

    def close(self) -> None:
        """Let go of the model."""
        del self._call, self._model

    def _choose_call(self) -> None:
        """The method that is asked for; else the model itself, or `predict` where it must be."""
        method, model = self.artifact.method, self._model
        if not callable(model):
            raise LoadError(f"the artifact holds a {type(model).__name__}, not a Keras model")
        if method and method != "predict":
            self._call = _method(model, method)
            return
        quick = _compiled(model, self._backend)
        predict = cast("Callable[[Any], Any]", partial(model.predict, verbose=0))
        may_be_quick = not method and self._signature is not None
        self._is_quick = may_be_quick and self._is_shown(quick, predict)
        self._call = quick if self._is_quick else predict

    def _is_shown(self, quick: Callable[[Any], Any], predict: Callable[[Any], Any]) -> bool:
        """Whether *quick* answers as *predict* does, on more rows than that runs at a time."""
        assert self._signature is not None, "rows can be made"

        def ask(call: Callable[[Any], Any], rows: Tensors, *, is_quick: bool) -> Tensors:
            self._call, self._is_quick = call, is_quick
            return self.predict(rows)

        is_open = any(-1 in spec.shape[1:] for spec in self._signature.inputs)
        for inner in INNER_SIZES if is_open else INNER_SIZES[:1]:
            yardstick = Yardstick(
                partial(ask, predict, is_quick=False),
                self._signature,
                self.artifact.example,
                inner=inner,
                rows=_ROWS,
                is_careful=self.device.name != "cpu",
                tolerance=_TOLERANCE,
            )
            if yardstick.rows is not None:
                return yardstick.allows(partial(ask, quick, is_quick=True))
        return False

    def _staged(self, array: Any) -> Any:
        is_torch = self._backend == "torch" and self._is_quick
        return self.device.stage(array) if is_torch else array

    def _inference(self) -> AbstractContextManager[Any]:
        if self._backend != "torch":
            return nullcontext()
        import torch

        return torch.inference_mode()

    def _host(self, value: Any) -> Any:
        if self._backend == "torch" and hasattr(value, "detach"):
            return self.device.finish(value)
        return value if value is None else host_array(value)


# Loading.


def _choose_backend(artifact: Artifact) -> str:
    """Have Keras, where it is not imported yet, use the backend that suits *artifact* best.

    Returns:
        The backend that it uses.

    Raises:
        LoadError: No backend is installed.
    """
    saved_with = artifact.config.get("keras_backend", "")
    installed = [name for name in (saved_with, *BACKENDS) if name in BACKENDS and find_spec(name)]
    if not os.environ.get("KERAS_BACKEND"):
        if not installed:
            raise LoadError(
                "Keras computes with torch, tensorflow or jax, and none of them is installed: "
                'pip install "headrace[keras,torch]"'
            )
        os.environ["KERAS_BACKEND"] = installed[0]
    import keras

    return str(keras.backend.backend())


def _prepare(backend: str, device: Device) -> Scope:
    """Have *backend* use the threads of *device*; returns what makes a scope of computing there."""
    if backend == "tensorflow":
        return configure_tensorflow(device)
    if backend == "torch":
        import torch

        torch.set_num_threads(device.threads)
    import keras

    # Outside such a scope Keras computes on the first GPU. ("cpu:0" breaks its torch backend.)
    name = device.name.replace("cuda", "gpu")
    return lambda: keras.device(name)


def _open(artifact: Artifact) -> Any:
    """The model that Keras saved.

    The code of a Lambda layer is run only where the operator has allowed unpickling in so many
    words: MLflow's switch is on by default, and yet MLflow loads no such model.
    """
    import keras

    is_allowed = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION" in os.environ and is_unpickling_allowed()
    data = artifact.file("data")
    files = (data,) if data.is_file() else (data / "model.keras", data / "model.h5")
    file = next((file for file in files if file.exists()), None)
    if file is None:
        raise LoadError(f"{data.name!r} holds neither 'model.keras' nor 'model.h5'")
    if not is_unpickling_allowed():
        check_weights(file)
    try:
        return keras.saving.load_model(
            str(file),
            custom_objects=_custom_objects(data),
            compile=False,  # What training needs beside the model.
            safe_mode=not is_allowed,
        )
    except ValueError as error:
        if "safe_mode" not in str(error):
            raise
        raise LoadError(
            "the model holds code of its own, as Lambda layers do, which Keras does not run: where "
            "it is to be trusted, set MLFLOW_ALLOW_PICKLE_DESERIALIZATION=true"
        ) from error


def _custom_objects(data: Path) -> dict[str, Any]:
    """Classes and functions that the tensorflow flavor pickled beside the model."""
    found: dict[str, Any] = {}
    for name in ("global_custom_objects.cloudpickle", "custom_objects.cloudpickle"):
        if (file := data / name).exists():
            if not is_unpickling_allowed():
                raise LoadError(
                    f"{name!r} is a pickle, and MLFLOW_ALLOW_PICKLE_DESERIALIZATION is off"
                )
            with file.open("rb") as stream:
                found.update(pickle.load(stream))
    return found


def _open_exported(artifact: Artifact) -> Any:
    import tensorflow as tf

    return tf.saved_model.load(str(artifact.file("data") / "model"))


def _compiled(model: Any, backend: str) -> Callable[[Any], Any]:
    """The model itself as a function, in inference mode."""
    has_training = "training" in inspect.signature(model.call).parameters
    options = {"training": False} if has_training else {}

    def call(given: Any) -> Any:
        return model(given, **options)

    if backend != "tensorflow":
        return call
    import tensorflow as tf

    # One graph for any number of rows, which `predict` makes too: layer by layer TensorFlow takes
    # about eight times as long.
    compiled: Callable[[Any], Any] = tf.function(call, reduce_retracing=True)
    return compiled


def _method(model: Any, name: str) -> Callable[[Any], Any]:
    method = getattr(model, name, None)
    if not callable(method):
        raise LoadError(f"{type(model).__name__} has no method {name!r}")
    found: Callable[[Any], Any] = method
    return found


# Inputs.


def _own_inputs(model: Any) -> tuple[dict[str, Any], bool]:
    """The model's symbolic inputs by the names it takes them by; none where it does not tell.

    Returns:
        Them, and whether it takes nothing but a dict.
    """
    # Only a graph of layers has names of outputs, and a structure of inputs.
    structure = model.input if hasattr(model, "output_names") else None
    if isinstance(structure, Mapping):
        return dict(structure), True
    return {tensor.name: tensor for tensor in getattr(model, "inputs", None) or ()}, False


def _own_signature(inputs: Mapping[str, Any]) -> Signature | None:
    specs = tuple(_spec(name, tensor) for name, tensor in inputs.items())
    return Signature(specs) if specs else None


def _spec(name: str, tensor: Any) -> TensorSpec:
    shape = tuple(-1 if size is None else int(size) for size in tensor.shape)
    if tensor.dtype == "string":
        return TensorSpec(name, BYTES.name, shape)
    # Keras casts what comes to its own type: float32 where numpy has no such type.
    dtype = "float32" if tensor.dtype == "bfloat16" else tensor.dtype
    return TensorSpec(name, datatype_of(np.dtype(dtype)).name, shape)


def _targets(names: Sequence[str], own_names: Sequence[str]) -> dict[str, str]:
    """The model's name for each of the signature's inputs; empty where it does not tell its own."""
    return matched(names, own_names, "the model's") if own_names else {}


def _refuse_texts(specs: Sequence[TensorSpec]) -> None:
    for spec in specs:
        if DATATYPES[spec.datatype] is BYTES:
            raise LoadError(f"torch takes no strings, but input {spec.name!r} is BYTES")


ADAPTER = KerasAdapter

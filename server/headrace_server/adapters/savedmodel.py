"""Savedmodel: TensorFlow's own format, one function of which is called.

The function is the module itself where it can be called with the inputs that there are, as MLflow
does it; else the signature called "serving_default".
"""

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from headrace.datatypes import BYTES, datatype_of
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
    all_required,
    loading,
    matched,
    name_outputs,
)
from .raw import mapped

DEFAULT_SIGNATURE = "serving_default"

# Makes a scope in which a framework computes on one device.
Scope = Callable[[], AbstractContextManager[Any]]


class SavedModelAdapter(Adapter):
    """One function of a SavedModel, on its device."""

    is_accelerated = True

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, device)
        folder = artifact.file("saved_model_dir")
        # Models of TensorFlow 1 say which of their graphs and signatures is meant.
        tags = artifact.config.get("meta_graph_tags")
        key = artifact.config.get("signature_def_key", "")
        with loading("tensorflow", ("tensorflow",)):
            self._scope = configure_tensorflow(device)
            # The functions hold their variables by weak references alone.
            self._module = _open(folder, self._scope, tags)
        specs = () if artifact.signature is None else artifact.signature.inputs
        name = artifact.method or key or _default(self._module, len(specs))
        self._function, own_inputs = _function(self._module, name)
        self._is_flattened = bool(key)
        self._targets = _targets([spec.name for spec in specs], own_inputs)
        signature = artifact.signature or _own_signature(own_inputs)
        self._signature = None if signature is None else all_required(signature)

    @property
    def signature(self) -> Signature | None:
        """The artifact's, else that of the function; a function does without no input."""
        return self._signature

    def stage(self, tensors: Tensors) -> dict[str, Any]:
        """Tensors of TensorFlow's, by the function's names, else by the signature's."""
        import tensorflow as tf

        with self._scope():
            return {
                self._targets.get(name, name): tf.constant(array) for name, array in tensors.items()
            }

    def launch(self, staged: dict[str, Any], params: Params = NO_PARAMS) -> Any:
        """Call the function; on an asynchronous device the result may not be there yet."""
        with self._scope():
            if self._targets:
                return self._function(**staged)
            return self._function(*staged.values())

    def finish(self, launched: Any) -> Tensors:
        """Bring every output to the host, and name it."""
        found = mapped(self._host, launched)
        if isinstance(found, dict):
            # TensorFlow keeps no order of its own.
            found = {name: found[name] for name in sorted(found)}
        if isinstance(found, list):
            found = tuple(found)
        return name_outputs(found, self._signature)

    def close(self) -> None:
        """Let go of the model."""
        del self._function, self._module

    def _host(self, value: Any) -> Array | None:
        if value is None:
            return None
        array = host_array(value)
        # As MLflow has it.
        is_flat = self._is_flattened and array.ndim > 1 and array.shape[1] == 1
        return array.ravel() if is_flat else array


def configure_tensorflow(device: Device) -> Scope:
    """Have TensorFlow use the threads of *device*, and no more of a GPU's memory than it needs.

    Both hold for the process, and only before its first computation.

    Returns:
        What makes a scope in which it computes on *device*.

    Raises:
        LoadError: TensorFlow finds no such GPU.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(device.threads)
        tf.config.threading.set_inter_op_parallelism_threads(device.threads)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:
        pass  # It computes already: the first model of the process has settled it.
    gpus = tf.config.list_physical_devices("GPU")
    kind, _, index = device.name.partition(":")
    if kind == "cpu":
        return (lambda: tf.device("/CPU:0")) if gpus else nullcontext
    if int(index) >= len(gpus):
        raise LoadError(f"no {device.name}: TensorFlow finds {len(gpus)} GPU(s) on this machine")
    return lambda: tf.device(f"/GPU:{index}")


def host_array(value: Any) -> Array:
    """The values of a tensor of TensorFlow's or jax'; bfloat16, which numpy lacks, as float32."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _open(folder: Path, scope: Scope, tags: Collection[str] | None) -> Any:
    import tensorflow as tf

    with scope():
        return tf.saved_model.load(str(folder), tags=tags)


def _default(module: Any, inputs: int) -> str:
    """The function to call where none is asked for."""
    if callable(module) and inputs <= 1:
        return "__call__"
    return DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in module.signatures else "__call__"


def _function(module: Any, name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The signature, else the method, called *name*.

    Returns:
        It, and TensorFlow's specs of its inputs by name: empty for a method, which is called by
        position.

    Raises:
        LoadError: There is none.
    """
    if name in module.signatures:
        signature = module.signatures[name]
        return signature, dict(sorted(signature.structured_input_signature[1].items()))
    method = getattr(module, name, None)
    if not callable(method):
        known = sorted(module.signatures)
        raise LoadError(f"the SavedModel has no signature {name!r}: expected one of {known}")
    found: Callable[..., Any] = method
    return found, {}


def _targets(names: list[str], own_inputs: Mapping[str, Any]) -> dict[str, str]:
    """The function's name for each input of the model's signature; its own where it has none."""
    if not names:
        return {name: name for name in own_inputs}
    return matched(names, list(own_inputs), "the function's") if own_inputs else {}


def _own_signature(own_inputs: Mapping[str, Any]) -> Signature | None:
    specs = tuple(_spec(name, spec) for name, spec in own_inputs.items())
    return Signature(specs) if specs else None


def _spec(name: str, spec: Any) -> TensorSpec:
    if spec.shape.rank is None:
        raise LoadError(f"input {name!r} of the SavedModel may have any number of axes")
    shape = tuple(-1 if size is None else int(size) for size in spec.shape)
    datatype = BYTES.name if spec.dtype.name == "string" else _datatype(name, spec.dtype)
    return TensorSpec(name, datatype, shape)


def _datatype(name: str, dtype: Any) -> str:
    try:
        return datatype_of(np.dtype(dtype.as_numpy_dtype)).name
    except (TypeError, ValueError) as error:
        raise LoadError(f"input {name!r} is {dtype.name}, which no datatype carries") from error

"""Adapter: one MLflow flavor, from a directory on disk to tensors in and tensors out.

An adapter lives in a worker. It loads the framework's own object and calls it the way MLflow's
`predict_fn` would, without pandas or schema checks in between: the daemon has already checked
names, datatypes and shapes. One file in this package is one flavor key of an MLmodel file.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.datatypes import datatype_of
from headrace.signature import Signature, TensorSpec

from ..devices import Device

Array = npt.NDArray[np.generic]
Tensors = dict[str, Array]


class LoadError(Exception):
    """The artifact cannot be served; the message says why and, where there is one, the remedy."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """What an adapter loads from.

    Attributes:
        path: The model's directory, the one that holds MLmodel.
        config: The flavor's own entry in MLmodel.
        pyfunc: The python_function entry; empty where there is none.
        signature: The model's signature, None where it has none.
        method: The method to call instead of `predict_fn`; empty for the default.
    """

    path: Path
    config: Mapping[str, Any]
    pyfunc: Mapping[str, Any]
    signature: Signature | None
    method: str = ""


class Adapter(ABC):
    """A loaded model.

    Tensors handed in carry the signature's names, in its order, with its datatypes, all with the
    same number of rows; a BYTES input is an object array of str, or of bytes where its kind is "binary".
    For a model without a signature they are as the caller sent them.

    Tensors handed out keep the framework's own dtype. They may alias the inputs' memory: they are
    copied away before that memory is used again.

    One thread at a time calls an adapter.
    """

    def __init__(self, artifact: Artifact, device: Device) -> None:
        """Load the model.

        Raises:
            LoadError: It cannot be loaded, or the flavor's package is missing (with the pip line).
        """
        self.artifact = artifact
        self.device = device

    @property
    def signature(self) -> Signature | None:
        """The effective signature: the artifact's, else what the framework's object tells."""
        return self.artifact.signature

    def stage(self, tensors: Tensors) -> Any:
        """Bring *tensors* to the device."""
        return tensors

    @abstractmethod
    def launch(self, staged: Any) -> Any:
        """Start computing."""

    def finish(self, launched: Any) -> Tensors:
        """Wait for the outputs and name them, on the host."""
        return name_outputs(launched, self.artifact.signature)

    def close(self) -> None:  # noqa: B027 - most adapters have nothing to free by hand.
        """Free what the model holds; the adapter is not used afterwards."""

    def predict(self, tensors: Tensors) -> Tensors:
        """Stage, launch and finish in one go."""
        return self.finish(self.launch(self.stage(tensors)))


def name_outputs(result: Any, signature: Signature | None) -> Tensors:
    """Name what a model returned.

    A dict gives its keys. A single array, or a sequence of arrays, takes the names of the
    signature's outputs where the numbers agree, else "output-0", "output-1", ...
    """
    if isinstance(result, Mapping):
        return {str(name): np.asarray(value) for name, value in result.items()}
    values = list(result) if isinstance(result, tuple | list) else [result]
    specs = signature.outputs if signature is not None else ()
    names = (
        [spec.name for spec in specs]
        if len(specs) == len(values)
        else [f"output-{i}" for i in range(len(values))]
    )
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def spec_of(name: str, array: Array) -> TensorSpec:
    """The spec of one output as it was seen: its datatype and shape, with any number of rows."""
    return TensorSpec(name, datatype_of(array.dtype).name, (-1, *array.shape[1:]))

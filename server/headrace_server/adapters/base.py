"""Adapter: one MLflow flavor, from a directory on disk to tensors in and tensors out.

An adapter lives in a worker. It loads the framework's own object and calls it the way MLflow's
`predict_fn` would, without pandas or schema checks in between: the daemon has already checked
names, datatypes and shapes. One file in this package is one flavor key of an MLmodel file.
"""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from headrace.datatypes import DATATYPES, datatype_of
from headrace.nulls import is_nullable
from headrace.signature import Signature, TensorSpec

from ..devices import Device
from .raw import holds_arrays, leaves, named, raw_array

Array = npt.NDArray[np.generic]
Tensors = dict[str, Array]
# The signature's parameters by name, each of its kind, completed by their defaults.
Params = Mapping[str, Any]
NO_PARAMS: Params = MappingProxyType({})

# A cause longer than this is cut: some frameworks put a page into one exception.
CAUSE_CHARS_MAX = 300


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
        example: The model's input example by input name, None where it has none.
        tuning: How the operator wants it to compute: precision, compile, channels_last, cuda_graphs
            and providers, for adapters that know them; what is missing is as the framework has it.
    """

    path: Path
    config: Mapping[str, Any]
    pyfunc: Mapping[str, Any]
    signature: Signature | None
    method: str = ""
    example: Tensors | None = None
    tuning: Mapping[str, Any] = field(default_factory=dict)

    def file(self, key: str) -> Path:
        """The file or folder that the flavor's entry *key* names.

        Raises:
            LoadError: There is no such entry, or the artifact lacks what it names.
        """
        name: str | None = self.config.get(key)
        if not name:
            raise LoadError(f"the MLmodel file names no {key!r} for this flavor")
        found = self.path / name
        if not found.exists():
            raise LoadError(f"the artifact lacks {name!r}, which its MLmodel file names")
        return found


class Adapter(ABC):
    """A loaded model.

    Tensors handed in carry the signature's names, in its order, with its datatypes, all with the
    same number of rows; a BYTES input is an object array of str, or of bytes where its kind is
    "binary". Optional inputs may be missing. For a model without a signature they are as the caller
    sent them.

    Tensors handed out keep the framework's own dtype. They may alias the inputs' memory: they are
    copied away before that memory is used again.

    One thread at a time calls an adapter, the one that made it.

    Attributes:
        notes: What of the artifact's tuning could not be had, a sentence each.
        is_accelerated: Whether it can compute on an accelerator.
        tunes: The settings of the artifact's tuning that it knows.
        takes_params: Whether the model is given the signature's parameters.
        is_presumed_batchable: Whether models of the flavor take any number of rows by their nature,
            also where trying one out does not tell.
    """

    is_accelerated: ClassVar[bool] = False
    tunes: ClassVar[frozenset[str]] = frozenset()
    takes_params: ClassVar[bool] = False
    is_presumed_batchable: ClassVar[bool] = True

    def __init__(self, artifact: Artifact, device: Device) -> None:
        """Load the model.

        Raises:
            LoadError: It cannot be loaded, or the flavor's package is missing (with the pip line).
        """
        self.artifact = artifact
        self.device = device
        self.notes: list[str] = []

    @property
    def signature(self) -> Signature | None:
        """The effective signature: the artifact's, else what the framework's object tells."""
        return self.artifact.signature

    def prepare(self, tensors: Tensors) -> None:  # noqa: B027 - few have anything to get ready.
        """Get ready for batches of as many rows as *tensors*, an allowed size."""

    def stage(self, tensors: Tensors) -> Any:
        """Bring *tensors* to the device."""
        return tensors

    def stage_nulls(self, tensors: Tensors, nullable: Collection[TensorSpec]) -> Any:
        """Bring *tensors* to the device, where rows of the columns *nullable* may lack values.

        A model whose `signature` says `no_nulls` has no such columns but those of floats.
        """
        return self.stage(tensors)

    @abstractmethod
    def launch(self, staged: Any, params: Params = NO_PARAMS) -> Any:
        """Start computing, with *params* where the model takes them."""

    def fetch(self, launched: Any) -> Any:
        """Begin to bring what was launched home, where the device does that by itself."""
        return launched

    def finish(self, launched: Any) -> Tensors:
        """Wait for the outputs and name them, on the host."""
        return name_outputs(launched, self.signature)

    def close(self) -> None:  # noqa: B027 - most adapters have nothing to free by hand.
        """Free what the model holds; the adapter is not used afterwards."""

    def predict(self, tensors: Tensors, params: Params | None = None) -> Tensors:
        """Stage, launch and finish in one go; without *params* with the signature's defaults."""
        given = default_params(self.signature) if params is None else params
        batch = self.device.begin()
        try:
            staged = self.stage(tensors)
            with self.device.computing():
                launched = self.launch(staged, given)
            return self.finish(self.fetch(launched))
        finally:
            self.device.end(batch)


@contextmanager
def loading(extra: str, packages: Collection[str]) -> Iterator[None]:
    """Turn whatever is raised while a model loads into a LoadError of one sentence.

    Args:
        extra: The extra of headrace that brings the flavor's packages.
        packages: The top-level modules that this extra brings.
    """
    try:
        yield
    except LoadError:
        raise
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if sys.flags.isolated:  # In an environment made from the model's requirements; see boot.py.
            raise LoadError(
                f"the model needs the module {error.name!r}, which its requirements do not bring"
            ) from error
        if module in packages:
            raise LoadError(
                f'{module} is not installed: pip install "headrace[{extra}]"'
            ) from error
        raise LoadError(f"the model needs the module {error.name!r}, which is not here") from error
    except Exception as error:
        raise LoadError(f"the model does not load: {cause(error)}") from error


def cause(error: Exception) -> str:
    """Type and first line of *error*, bounded."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"[:CAUSE_CHARS_MAX]


def is_unpickling_allowed() -> bool:
    """Whether MLflow's own switch lets artifacts be unpickled.

    Where it does not, adapters let MLflow load, so that its rules of what is safe hold unchanged.
    """
    switch = os.environ.get("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    return switch.strip().lower() not in {"false", "0"}


def stack_columns(columns: Sequence[Array], dtype: npt.DTypeLike) -> Array:
    """The *columns*, each [rows], side by side: one row-major [rows, columns] array of *dtype*."""
    table: Array = np.empty((len(columns[0]), len(columns)), dtype)
    for index, column in enumerate(columns):
        table[:, index] = column
    return table


def all_required(signature: Signature) -> Signature:
    """*signature* for a model that cannot do without any of its inputs, nor of their values."""
    inputs = tuple(replace(spec, optional=False) for spec in signature.inputs)
    return without_nulls(replace(signature, inputs=inputs))


def without_nulls(signature: Signature) -> Signature:
    """*signature* for a model that wants a value in every row; among floats NaN is one."""
    inputs = tuple(
        replace(spec, no_nulls=True) if is_nullable(spec) and not is_float(spec) else spec
        for spec in signature.inputs
    )
    return replace(signature, inputs=inputs)


def is_float(spec: TensorSpec) -> bool:
    """Whether what is missing in *spec* is NaN."""
    return DATATYPES[spec.datatype].dtype.kind == "f"


def matched(names: Sequence[str], own: Sequence[str], whose: str) -> dict[str, str]:
    """The model's *own* name for each of its signature's input *names*.

    By name, else by position where no name is both: one that is would go elsewhere.

    Raises:
        LoadError: Neither fits. *whose* names the part of the model that has its own.
    """
    if set(names) == set(own):
        return {name: name for name in names}
    if len(names) == 1 == len(own) or (len(names) == len(own) and set(own).isdisjoint(names)):
        return dict(zip(names, own, strict=True))
    raise LoadError(f"the signature's inputs {list(names)} do not match {whose} {list(own)}")


def default_params(signature: Signature | None) -> Params:
    """What a request that gives no parameters runs with."""
    if signature is None:
        return NO_PARAMS
    return {spec.name: spec.default for spec in signature.params}


def name_outputs(result: Any, signature: Signature | None) -> Tensors:
    """Name what a model returned.

    A dict gives its keys. A single array, or a sequence of arrays, takes the names of the
    signature's outputs where the numbers agree, else "output-0", "output-1", ... Dicts and
    sequences within these are taken apart too, with dotted names. A table whose columns the
    signature names is taken apart into these.

    Raises:
        ValueError: Two outputs have one name.
    """
    if isinstance(result, Mapping):
        return named(list(leaves(result, "")))
    specs = signature.outputs if signature is not None else ()
    # A list of anything but arrays is one output, one element per row.
    is_many = isinstance(result, tuple) or (isinstance(result, list) and holds_arrays(result))
    values = list(result) if is_many else [raw_array(result)]
    is_table = len(specs) > 1 and all(spec.is_column for spec in specs)
    if is_table and len(values) == 1 and np.shape(values[0])[1:] == (len(specs),):
        values = [values[0][:, index] for index in range(len(specs))]
    names = (
        [spec.name for spec in specs]
        if len(specs) == len(values)
        else [f"output-{i}" for i in range(len(values))]
    )
    pairs = zip(names, values, strict=True)
    return named([leaf for name, value in pairs for leaf in leaves(value, name)])


def spec_of(name: str, array: Array) -> TensorSpec:
    """The spec of one output as it was seen: its datatype and shape, with any number of rows."""
    kind = "datetime" if array.dtype.kind == "M" else "tensor"
    return TensorSpec(name, datatype_of(array.dtype).name, (-1, *array.shape[1:]), kind)

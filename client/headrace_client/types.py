"""Types: what the client hands back: predictions, metadata of models, states of models."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.datatypes import DATATYPES
from headrace.nulls import is_nullable
from headrace.oip.open_inference_pb2 import (
    InferParameter,
    ModelMetadataResponse,
    RepositoryIndexResponse,
)
from headrace.signature import Signature, TensorSpec

from .errors import InvalidResponse
from .timings import Timings

if TYPE_CHECKING:  # Imported by whoever asks for one. Not so torch: checkers would read all of it.
    import pandas as pd

# Of the type that the datatype has, which no type checker can know.
Array: TypeAlias = npt.NDArray[Any]
# What the server's metadata calls kinds, and what a TensorSpec does.
_KINDS: Final = {
    "boolean": "boolean",
    "datetime64[ns]": "datetime",
    "string": "string",
    "binary": "binary",
    "json": "json",
}

# Elements of an output that its repr shows.
_SHOWN_ELEMENTS_MAX = 6


class Prediction(Mapping[str, Array]):
    """A model's answer: its outputs by name, in the model's order. Compared by identity.

    Arrays of fixed-size elements are read-only and may lie unaligned in the response's bytes, which
    live as long as any of them; `copy()` gives one of its own. BYTES outputs are object arrays of
    bytes: the protocol cannot tell text from binary, so `strings` is for those that are text.

    Attributes:
        model: The name of the model that answered.
        version: The version that answered.
        id: The request's id, as the caller gave it; empty for none.
        timings: Where its time went, for a caller who asked a server that tells; else None.
    """

    __slots__ = ("_arrays", "id", "model", "timings", "version")

    def __init__(self, model: str, version: str, id: str, arrays: dict[str, Array]) -> None:  # noqa: A002 - the protocol's name.
        self.model = model
        self.version = version
        self.id = id
        self.timings: Timings | None = None
        self._arrays = arrays

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @property
    def array(self) -> Array:
        """The only output.

        Raises:
            ValueError: There are several, or none.
        """
        if len(self._arrays) != 1:
            raise ValueError(f"expected a single output, got {list(self._arrays)}: name one")
        return next(iter(self._arrays.values()))

    def strings(self, name: str = "") -> Array:
        """A BYTES output as an object array of str, from UTF-8; without *name* the only output.

        Raises:
            KeyError: There is no output *name*.
            ValueError: It does not hold text, or no name is given and there are several outputs.
        """
        array = self[name] if name else self.array
        if array.dtype != object:
            raise ValueError(f"expected a BYTES output, got {array.dtype.name}")
        texts = map(bytes.decode, array.ravel().tolist())
        return np.fromiter(texts, object, array.size).reshape(array.shape)

    def json(self, name: str = "") -> list[Any]:
        """What the elements of a BYTES output hold as JSON; without *name* the only output.

        Raises:
            KeyError: There is no output *name*.
            ValueError: An element is no JSON, or no name is given and there are several outputs.
        """
        return [json.loads(text) for text in self.strings(name).ravel().tolist()]

    def as_dict(self) -> dict[str, Any]:
        """Every output as lists of Python's own values, as JSON takes them; text from UTF-8.

        Raises:
            ValueError: A BYTES output does not hold text.
        """
        return {
            name: (self.strings(name) if array.dtype == object else array).tolist()
            for name, array in self._arrays.items()
        }

    def as_frame(self) -> "pd.DataFrame":
        """A pandas DataFrame: a row per row, a column per output.

        An output of shape [n, k] makes k columns, named "NAME_0" and so on, or one of its own name
        for k = 1. Rows of more axes are one array each. BYTES that are UTF-8 become text.

        Raises:
            ModuleNotFoundError: pandas is not installed.
            ValueError: Outputs differ in their rows.
        """
        import pandas as pd  # noqa: PLC0415 - not everybody's.

        columns: dict[str, Any] = {}
        for name, array in self._arrays.items():
            rows = np.atleast_1d(_as_text(array))
            if rows.ndim == 1:
                columns[name] = rows
            elif rows.ndim == 2 and rows.shape[1] == 1:
                columns[name] = rows[:, 0]
            elif rows.ndim == 2:
                columns |= {f"{name}_{at}": rows[:, at] for at in range(rows.shape[1])}
            else:
                columns[name] = list(rows)
        return pd.DataFrame(columns)

    def as_tensor(self, name: str = "") -> Any:
        """A numeric output as a torch.Tensor on the CPU; without *name* the only output.

        By DLPack: the memory is the answer's own where its elements lie aligned in it, else a copy.
        It is read-only though torch cannot say so; clone the tensor before writing.

        Raises:
            KeyError: There is no output *name*.
            ModuleNotFoundError: torch is not installed.
            ValueError: It is BYTES, or no name is given and there are several outputs.
        """
        import torch.utils.dlpack  # noqa: PLC0415 - not everybody's.

        array = self[name] if name else self.array
        if array.dtype == object:
            raise ValueError("expected an output of numbers, got BYTES")
        return torch.utils.dlpack.from_dlpack(array if array.flags.aligned else array.copy())

    def __repr__(self) -> str:
        outputs = ", ".join(f"{name}: {_shown(array)}" for name, array in self._arrays.items())
        return f"<Prediction {self.model} version {self.version}: {outputs}>"


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model is and takes.

    Attributes:
        name: The name it is served by.
        versions: The versions that answer under it.
        platform: The MLflow flavor behind "mlflow_".
        inputs: Its inputs; empty for a model without a signature, which takes what comes.
        outputs: Its outputs; may be empty too.
        parameters: Parameters that a request may give, with their defaults as a request would give
            them: lists and objects as JSON, None for null.
        signature: All of its signature, where the server tells it; None elsewhere.
        field_numbers: Those of its typed service, as `headrace.typed.FieldNumbers` writes them;
            empty where the server does not tell them.
        batching: Whether requests share batches: "batched", "whole", or "unproven" until its
            traffic has shown; empty where the server does not say.
        batching_reason: How that is known.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: Mapping[str, bool | int | float | str | None] = field(default_factory=dict)
    signature: Signature | None = field(default=None, compare=False, repr=False)
    field_numbers: str = field(default="", compare=False, repr=False)
    batching: str = field(default="", compare=False)
    batching_reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model version that the server holds.

    Attributes:
        name: The name it is served by.
        version: Its version.
        state: LOADING, READY, UNLOADING or UNAVAILABLE.
        reason: Why it is unavailable, or why the last load left it as it is.
        device: Where it computes; empty where the server does not say.
        workers: The processes that hold it; empty where the server does not say.
        rows: Rows run since it was loaded; None where the server does not say.
        batching: Whether requests share batches, and
        batching_reason: how that is known; as in ModelMetadata.
    """

    name: str
    version: str
    state: str
    reason: str
    device: str = ""
    workers: tuple[str, ...] = ()
    rows: int | None = None
    batching: str = ""
    batching_reason: str = ""


def metadata_of(message: ModelMetadataResponse) -> ModelMetadata:
    """The metadata that a server stated.

    Raises:
        InvalidResponse: It names a datatype that the protocol does not have, or its signature makes
            no sense.
    """
    return ModelMetadata(
        name=message.name,
        versions=tuple(message.versions),
        platform=message.platform,
        inputs=tuple(map(_input, message.inputs)),
        outputs=tuple(map(_spec, message.outputs)),
        parameters={name: _value(value) for name, value in message.parameters.items()},
        signature=_signature(message.signature),
        field_numbers=message.field_numbers,
        batching=message.batching,
        batching_reason=message.batching_reason,
    )


def statuses_of(message: RepositoryIndexResponse) -> tuple[ModelStatus, ...]:
    """The models that a server listed, in its order."""
    return tuple(map(_status, message.models))


def _status(model: RepositoryIndexResponse.ModelIndex) -> ModelStatus:
    known = model.parameters

    def text(name: str) -> str:
        return known[name].string_param if name in known else ""

    workers = text("workers")
    return ModelStatus(
        model.name,
        model.version,
        model.state,
        model.reason,
        device=text("device"),
        workers=tuple(workers.split(",")) if workers else (),
        rows=known["rows"].int64_param if "rows" in known else None,
        batching=text("batching"),
        batching_reason=text("batching_reason"),
    )


def _input(tensor: ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    spec = _spec(tensor)
    is_told = "nullable" in tensor.parameters and tensor.parameters["nullable"].bool_param
    return replace(spec, no_nulls=True) if is_nullable(spec) and not is_told else spec


def _spec(tensor: ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    if tensor.datatype not in DATATYPES:
        raise InvalidResponse(f"tensor {tensor.name!r} has an unknown datatype {tensor.datatype!r}")
    # Looking up would enter what is missing into a map of protobuf's.
    said = {name: _value(value) for name, value in tensor.parameters.items()}
    return TensorSpec(
        tensor.name,
        tensor.datatype,
        tuple(tensor.shape),
        kind=_KINDS.get(str(said.get("kind")), "tensor"),
        optional=said.get("optional") is True,
        schema=str(said.get("schema", "")),
    )


def _signature(text: str) -> Signature | None:
    if not text:
        return None
    try:
        return Signature.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidResponse("the signature of a model makes no sense") from error


def _value(parameter: InferParameter) -> bool | int | float | str | None:
    choice = parameter.WhichOneof("parameter_choice")
    value: bool | int | float | str | None = getattr(parameter, choice) if choice else None
    return value


def _as_text(array: Array) -> Array:
    """A BYTES array with texts in place of UTF-8, where all of it is; any other as it is."""
    if array.dtype != object:
        return array
    try:
        texts = list(map(bytes.decode, array.ravel().tolist()))
    except UnicodeDecodeError:
        return array
    return np.fromiter(texts, object, array.size).reshape(array.shape)


def _shown(array: Array) -> str:
    shape = "x".join(map(str, array.shape)) or "scalar"
    elements = array.ravel()[:_SHOWN_ELEMENTS_MAX].tolist()
    values = " ".join(
        f"{value:.6g}" if isinstance(value, float) else repr(value) for value in elements
    )
    more = " ..." if array.size > _SHOWN_ELEMENTS_MAX else ""
    kind = "BYTES" if array.dtype == object else array.dtype.name
    return f"{kind} {shape} [{values}{more}]"

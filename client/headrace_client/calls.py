"""Calls: tensors to ModelInferRequest bytes, ModelInferResponse bytes to a Prediction.

Requests of one kind differ in their ids and tensors only, and so do responses. Protobuf sees what
they have in common, once per kind; raw tensors never enter it. No gRPC: bytes in, bytes out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from headrace.cells import CellError, write_cell
from headrace.datatypes import DATATYPES, Datatype
from headrace.elements import Buffer, TensorError
from headrace.oip.open_inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from headrace.tensors import decode
from headrace.wire import WireError, split, varint

from .errors import InvalidResponse
from .inputs import Tensors
from .types import Array, Prediction

# What a parameter of a request may be; lists and dicts travel as JSON.
Parameter: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any]

INFER_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"

# Kinds of requests, and of responses, that are remembered; beyond it all are learned anew.
_KEPT_MAX: Final = 256
# Up to this size a copied slice costs less than a view of the message.
_SLICE_BYTES_MAX: Final = 1024

_FLOATS: Final = '{"type": "array", "items": {"type": "double"}}'

_REQUEST_ID: Final = b"\x1a"
_RAW_INPUT: Final = b"\x3a"
_RESPONSE_ID: Final = 0x1A
_RAW_OUTPUT: Final = 0x32


class _RequestHeader(NamedTuple):
    """What requests of one kind share: the fields before the id, and those up to the tensors."""

    model: bytes
    rest: bytes


class _ResponseHeader(NamedTuple):
    """What responses of one kind share."""

    model: str
    version: str
    outputs: tuple[tuple[str, Datatype, tuple[int, ...]], ...]


class RequestEncoder:
    """Requests to bytes. Safe from any thread."""

    def __init__(self) -> None:
        self._headers: dict[object, _RequestHeader] = {}

    def encode(
        self,
        model: str,
        version: str,
        tensors: Tensors,
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        request_id: str = "",
    ) -> bytes:
        """A ModelInferRequest, with its fields in the order of their numbers.

        Raises:
            TypeError: A parameter is neither bool, int, float, str, list nor dict, or one of the
                latter holds what JSON cannot.
            ValueError: An integer parameter needs more than 64 bits; an object holds NaN, which
                JSON has not.
        """
        wanted = tuple(outputs) if outputs else ()
        given: tuple[tuple[str, type, object], ...] = ()
        if parameters:
            parameters = {name: _plain(name, value) for name, value in parameters.items()}
            # True, 1 and 1.0 are equal, but three parameters; so are the zeros of floats.
            given = tuple(
                (k, type(v), v or str(v) if isinstance(v, float) else v)
                for k, v in parameters.items()
            )
        key = (model, version, tensors.names, tensors.datatypes, tensors.shapes, wanted, given)
        header = self._headers.get(key)
        if header is None:
            header = _request_header(model, version, tensors, wanted, parameters or {})
            if len(self._headers) >= _KEPT_MAX:
                self._headers.clear()
            self._headers[key] = header
        pieces: list[Buffer] = [header.model]
        if request_id:
            encoded = request_id.encode()
            pieces += (_REQUEST_ID, varint(len(encoded)), encoded)
        pieces.append(header.rest)
        for raw in tensors.raws:
            pieces += (_RAW_INPUT, varint(len(raw)), raw)
        return b"".join(pieces)


class ResponseDecoder:
    """Bytes to predictions. Safe from any thread."""

    def __init__(self) -> None:
        self._headers: dict[bytes, _ResponseHeader] = {}

    def decode(self, payload: bytes) -> Prediction:
        """The prediction in a ModelInferResponse; large raw tensors are views of *payload*.

        Raises:
            InvalidResponse: *payload* is no such message, or its tensors do not add up.
        """
        shared, request_id, raws = _split(payload)
        header = self._headers.get(shared)
        if header is None:
            message = _parse(shared)
            header = _response_header(message)
            if header.outputs and not raws:
                # Typed elements, as other servers may answer: they are in the header, so not kept.
                return Prediction(header.model, header.version, request_id, _typed_arrays(message))
            if len(self._headers) >= _KEPT_MAX:
                self._headers.clear()
            self._headers[shared] = header
        if len(raws) != len(header.outputs):
            raise InvalidResponse(
                f"expected {len(header.outputs)} raw outputs, one per output, got {len(raws)}"
            )
        arrays: dict[str, Array] = {}
        for (name, datatype, shape), raw in zip(header.outputs, raws, strict=True):
            try:
                arrays[name] = decode(raw, datatype, shape)
            except TensorError as error:
                raise InvalidResponse(f"output {name!r}: {error}") from None
        return Prediction(header.model, header.version, request_id, arrays)


def _request_header(
    model: str,
    version: str,
    tensors: Tensors,
    outputs: Sequence[str],
    parameters: Mapping[str, Parameter],
) -> _RequestHeader:
    message = ModelInferRequest()
    for name, value in parameters.items():
        _set_parameter(message.parameters[name], name, value)
    for name, datatype, shape in zip(tensors.names, tensors.datatypes, tensors.shapes, strict=True):
        message.inputs.add(name=name, datatype=datatype, shape=shape)
    for name in outputs:
        message.outputs.add(name=name)
    return _RequestHeader(
        ModelInferRequest(model_name=model, model_version=version).SerializeToString(),
        message.SerializeToString(),
    )


def _plain(name: str, value: Parameter) -> Parameter:
    """Lists and dicts as the JSON that they travel as; NaN in a list is that of a float."""
    if not isinstance(value, list | dict):
        return value
    try:
        return write_cell(value, _FLOATS if isinstance(value, list) else "")
    except CellError as error:
        raise ValueError(f"parameter {name!r}: {error}") from None


def _set_parameter(parameter: InferParameter, name: str, value: Parameter) -> None:
    match value:
        case bool():
            parameter.bool_param = value
        case int() if not -(2**63) <= value < 2**64:
            raise ValueError(
                f"parameter {name!r}: expected an integer of at most 64 bits, got one of "
                f"{value.bit_length()}"
            )
        case int() if value >= 2**63:
            parameter.uint64_param = value
        case int():
            parameter.int64_param = value
        case float():
            parameter.double_param = value
        case str():
            parameter.string_param = value
        case _:
            raise TypeError(
                f"parameter {name!r}: expected bool, int, float, str, list or dict, "
                f"got {type(value).__name__}"
            )


def _split(payload: bytes) -> tuple[bytes, str, list[Buffer]]:
    """The fields of a response: all that responses of its kind share, the id, the raw tensors."""
    try:
        fields = split(payload, id_tag=_RESPONSE_ID, raw_tag=_RAW_OUTPUT)
        request_id = fields.id_field[fields.id_start :].decode()
    except (WireError, UnicodeDecodeError) as error:
        raise InvalidResponse(f"not a ModelInferResponse: {error}") from None
    raws: list[Buffer] = [
        (payload if end - start <= _SLICE_BYTES_MAX else memoryview(payload))[start:end]
        for start, end in fields.raws
    ]
    return fields.shared, request_id, raws


def _parse(payload: bytes) -> ModelInferResponse:
    try:
        return ModelInferResponse.FromString(payload)
    except DecodeError as error:
        raise InvalidResponse("not a ModelInferResponse") from error


def _response_header(message: ModelInferResponse) -> _ResponseHeader:
    outputs = []
    for tensor in message.outputs:
        datatype = DATATYPES.get(tensor.datatype)
        if datatype is None:
            raise InvalidResponse(
                f"output {tensor.name!r} has an unknown datatype {tensor.datatype!r}"
            )
        if any(size < 0 for size in tensor.shape):
            raise InvalidResponse(f"output {tensor.name!r} has shape {list(tensor.shape)}")
        outputs.append((tensor.name, datatype, tuple(tensor.shape)))
    return _ResponseHeader(message.model_name, message.model_version, tuple(outputs))


def _typed_arrays(message: ModelInferResponse) -> dict[str, Array]:
    """The outputs that came as typed elements."""
    arrays: dict[str, Array] = {}
    for tensor in message.outputs:
        datatype = DATATYPES[tensor.datatype]
        elements = getattr(tensor.contents, datatype.contents) if datatype.contents else ()
        if len(elements) != math.prod(tensor.shape):
            raise InvalidResponse(
                f"output {tensor.name!r}: expected {math.prod(tensor.shape)} elements of "
                f"{datatype.name}, got {len(elements)}"
            )
        array = np.empty(len(elements), datatype.dtype)
        array[:] = elements
        arrays[tensor.name] = array.reshape(tensor.shape)
    return arrays

"""Contract: what a stub knows of its model, and how its values travel.

A stub is a module that `headrace stub` wrote from a model's signature. Its values become messages
of the tensor protocol, as those of every other client, without asking the server first. No gRPC:
bytes in, bytes out.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

import numpy as np

from headrace.cells import revive
from headrace.datatypes import DATATYPES, EXACT_INTEGER_MAX
from headrace.jsontext import read_json
from headrace.signature import Signature, TensorSpec
from headrace.typed import SIGNATURE_PARAMETER

from .calls import Parameter, RequestEncoder, ResponseDecoder
from .errors import InputMismatch, InvalidResponse
from .inputs import Form, Tensors
from .types import Array, ModelMetadata, Prediction

_COLUMN: Final = (-1,)
# How one value of these datatypes is packed, and the type that takes no other way.
_PACKED: Final = {"FP64": ("d", float), "INT64": ("q", int), "INT32": ("i", int)}
_NANOSECONDS: Final = np.dtype("datetime64[ns]")


@dataclass(frozen=True, slots=True)
class Contract:
    """A model as the stub's module has it.

    Attributes:
        model: The name it was served by when the stub was written.
        fingerprint: That of its signature, by which a server knows whether the model still is one
            that the stub can ask.
        inputs: In the signature's order, which is that of a call's values.
        outputs: In the signature's order; empty where it names none.
    """

    model: str
    fingerprint: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()


class StubCodec:
    """A stub's values to requests, and answers to values. Safe from any thread."""

    def __init__(self, contract: Contract, model: str, version: str) -> None:
        self._model, self._version = model, version
        self._inputs, self._outputs = contract.inputs, contract.outputs
        signature = Signature(tuple(contract.inputs), tuple(contract.outputs))
        self._form = Form(
            ModelMetadata(model, (), "", contract.inputs, contract.outputs, signature=signature)
        )
        self._encoder = RequestEncoder()
        self._decoder = ResponseDecoder()
        # With it a server refuses us where the model has changed too much.
        self._own: dict[str, Parameter] = {SIGNATURE_PARAMETER: contract.fingerprint}
        self._packed = _PackedRow.of(contract.inputs)

    def row(self, values: Sequence[Any], parameters: Mapping[str, Any] | None) -> bytes:
        """The request of a single row: one value per input, None for what is left out.

        Raises:
            InputMismatch: A value does not fit its input.
            TypeError: A parameter is of a type that cannot be sent.
        """
        packed = self._packed
        if packed is not None and parameters is None and packed.takes(values):
            try:
                return packed.head(self._header) + packed.pack(values)
            except struct.error:
                pass  # Beyond the datatype's range, which the other way says in words.
        given = {
            spec.name: _one_row(spec, value)
            for spec, value in zip(self._inputs, values, strict=True)
            # Any JSON may be null, where it must be given.
            if (spec.kind == "json" and not spec.optional) or not _is_left_out(spec, value)
        }
        return self._encode(given, parameters)

    def batch(self, columns: Sequence[Any], parameters: Mapping[str, Any] | None) -> bytes:
        """The request of several rows: an array or list per input, None for what is left out.

        Raises:
            InputMismatch: Values do not fit their input, or columns differ in their rows.
            TypeError: A parameter is of a type that cannot be sent.
        """
        pairs = zip(self._inputs, columns, strict=True)
        given = {spec.name: column for spec, column in pairs if not _is_left_out(spec, column)}
        return self._encode(given, parameters)

    def prediction(self, payload: bytes) -> Prediction:
        """The answer as the tensor protocol has it.

        Raises:
            InvalidResponse: *payload* is no answer.
        """
        return self._decoder.decode(payload)

    def row_values(self, payload: bytes) -> tuple[Any, ...]:
        """The answer to a single row: one value per output.

        Raises:
            InvalidResponse: *payload* is no answer, or not the one that the contract tells of.
        """
        return tuple(
            None if array is None else _row_value(spec, array)
            for spec, array in self._answered(self.prediction(payload))
        )

    def batch_values(self, payload: bytes) -> tuple[Any, ...]:
        """The answer to several rows: one array per output, a list where its values are JSON.

        Raises:
            InvalidResponse: *payload* is no answer, or not the one that the contract tells of.
        """
        return tuple(
            None if array is None else _batch_value(spec, array)
            for spec, array in self._answered(self.prediction(payload))
        )

    def _encode(self, given: Mapping[str, Any], parameters: Mapping[str, Any] | None) -> bytes:
        tensors = self._form.fill(given)
        own = self._own if parameters is None else {**_parameters(parameters), **self._own}
        return self._encoder.encode(self._model, self._version, tensors, parameters=own)

    def _header(self, tensors: Tensors) -> bytes:
        return self._encoder.encode(self._model, self._version, tensors, parameters=self._own)

    def _answered(self, prediction: Prediction) -> list[tuple[TensorSpec, Array | None]]:
        """Each output of the contract with its array; None for one that may be missing, and is."""
        answered: list[tuple[TensorSpec, Array | None]] = []
        for spec in self._outputs:
            if spec.name not in prediction:
                if spec.optional:
                    answered.append((spec, None))
                    continue
                raise InvalidResponse(
                    f"expected output {spec.name!r}, got {list(prediction)}: the model does not "
                    "answer as its signature says"
                )
            answered.append((spec, prediction[spec.name]))
        return answered


class _PackedRow:
    """One row of numbers, written in one go behind a header that does not change."""

    def __init__(self, inputs: tuple[TensorSpec, ...], codes: str, types: tuple[type, ...]) -> None:
        # Before each value its field: tag 7, the length.
        sizes = [struct.calcsize(f"<{code}") for code in codes]
        self._fields = [bytes((0x3A, size)) for size in sizes]
        self._struct = struct.Struct("<" + "".join(f"2s{code}" for code in codes))
        self._types = types
        self._tensors = Tensors(
            tuple(spec.name for spec in inputs),
            tuple(spec.datatype for spec in inputs),
            ((1,),) * len(inputs),
            (),
        )
        self._head: bytes | None = None

    @classmethod
    def of(cls, inputs: tuple[TensorSpec, ...]) -> "_PackedRow | None":
        """The way for rows of *inputs*; None where they are not all plain numbers."""
        ways = [
            _PACKED.get(spec.datatype)
            if spec.shape == _COLUMN and not spec.optional and spec.kind != "datetime"
            else None
            for spec in inputs
        ]
        codes = "".join(way[0] for way in ways if way is not None)
        if len(codes) < len(ways):
            return None
        return cls(inputs, codes, tuple(way[1] for way in ways if way is not None))

    def takes(self, values: Sequence[Any]) -> bool:
        """Whether the values can be packed without being cast."""
        return tuple(map(type, values)) == self._types or all(map(_is_packed, values, self._types))

    def head(self, header: Callable[[Tensors], bytes]) -> bytes:
        """What stands before the values."""
        if self._head is None:
            self._head = header(self._tensors)
        return self._head

    def pack(self, values: Sequence[Any]) -> bytes:
        """The values with their fields."""
        pieces: list[Any] = [None] * (2 * len(values))
        pieces[::2] = self._fields
        pieces[1::2] = values
        return self._struct.pack(*pieces)


def _is_packed(value: Any, wanted: type) -> bool:
    """Whether packing keeps *value* as it is, where *wanted* is float or int."""
    kind = type(value)
    if kind is wanted or (kind is np.float64 and wanted is float):
        return True
    is_whole = kind is int and wanted is float
    return is_whole and -EXACT_INTEGER_MAX <= value <= EXACT_INTEGER_MAX


def _is_left_out(spec: TensorSpec, value: Any) -> bool:
    """Whether an optional input has no value.

    Raises:
        InputMismatch: It has none, and is not optional.
    """
    if value is None and not spec.optional:
        kind = spec.datatype if spec.kind == "tensor" else spec.kind
        raise InputMismatch(input=spec.name, expected=f"{kind}: it is not optional", got="None")
    return value is None


def _one_row(spec: TensorSpec, value: Any) -> Any:
    """The value of one row as a column, or tensor, of one row."""
    if spec.kind == "json":
        # A list would be taken for the row of an array itself, where its items are no lists.
        cell = np.empty(1, object)
        cell[0] = value
        return cell
    if spec.is_column:
        return [value]
    try:
        row = np.asarray(value, object if spec.datatype == "BYTES" else None)
    except ValueError:
        raise InputMismatch(
            input=spec.name, expected="values of one shape", got="nested lists of several lengths"
        ) from None
    return row[np.newaxis] if spec.shape else row


def _row_value(spec: TensorSpec, array: Array) -> Any:
    if spec.shape and array.shape[:1] != (1,):
        raise InvalidResponse(
            f"output {spec.name!r}: expected one row, got shape {list(array.shape)}: the model "
            "does not answer row by row"
        )
    if not spec.is_column:
        row = _typed(spec, array)
        return row.reshape(()).item() if len(spec.shape) <= 1 and row.size == 1 else row[0]
    if array.size != 1:
        raise InvalidResponse(
            f"output {spec.name!r}: expected one value a row, got shape {list(array.shape)}"
        )
    if spec.kind == "datetime":
        return _typed(spec, array).reshape(1)[0]
    if spec.kind == "json":
        return _json(spec, array)[0]
    return _typed(spec, array).reshape(()).item()


def _batch_value(spec: TensorSpec, array: Array) -> Any:
    if spec.is_column and array.ndim > 1 and array.shape[1:] == (1,) * (array.ndim - 1):
        array = array.reshape(array.shape[0])
    return _json(spec, array) if spec.kind == "json" else _typed(spec, array)


def _typed(spec: TensorSpec, array: Array) -> Array:
    """The array with the numpy type that the signature says."""
    if spec.kind == "datetime" and array.dtype == np.int64:
        return array.view(_NANOSECONDS)
    if spec.kind == "string" and array.dtype == object:
        texts = [item.decode() for item in array.ravel().tolist()]
        return np.fromiter(texts, object, array.size).reshape(array.shape)
    wanted = DATATYPES[spec.datatype].dtype
    if array.dtype == wanted:
        return array
    if not np.can_cast(array.dtype, wanted, "same_kind"):
        raise InvalidResponse(
            f"output {spec.name!r}: expected {spec.datatype}, got {array.dtype.name}: the model "
            "does not answer as its signature says"
        )
    return array.astype(wanted)


def _json(spec: TensorSpec, array: Array) -> list[Any]:
    """What the texts hold, with floats where the schema has them and JSON spells them out."""
    try:
        return [revive(read_json(text), spec.schema) for text in array.ravel().tolist()]
    except (TypeError, ValueError, RecursionError):
        raise InvalidResponse(f"output {spec.name!r}: expected JSON in BYTES") from None


def _parameters(given: Mapping[str, Any]) -> dict[str, Parameter]:
    """The parameters that were given, as `Client.predict` takes them."""
    return {name: _parameter(value) for name, value in given.items() if value is not None}


def _parameter(value: Any) -> Parameter:
    if isinstance(value, np.datetime64):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        return _parameter(value.tolist())
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_parameter(item) for item in value]
    parameter: Parameter = value
    return parameter

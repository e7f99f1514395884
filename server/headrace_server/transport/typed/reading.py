"""Reading: the pieces of an input's field as a tensor."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from headrace.datatypes import BYTES, DATATYPES
from headrace.elements import encode_elements
from headrace.tensors import float32_to_bf16
from headrace.typed import Item, Kind
from headrace.wire import WireError, read_varint

from ...errors import InvalidRequest
from ...types import Buffer
from .fields import WIDTHS, joined
from .values import read_array, read_instant, read_json

Tensor = tuple[tuple[int, ...], Buffer, bool]
Read = Callable[[list[Buffer]], Tensor]

_SHAPE_PACKED, _SHAPE = 0x0A, 0x08
_VALUES = 2
_RAW = 0x1A


def reader_of(item: Item, array_class: Any, *, is_row: bool) -> Read:
    """What makes a tensor of the pieces of *item*'s field, of which there is at least one.

    It gives its shape, its raw bytes, and whether these came as raw bytes of a tensor's message. It
    raises InvalidRequest where the pieces do not hold one.

    Args:
        item: An input.
        array_class: The message of its values where it is of Kind.ARRAY.
        is_row: Whether the message is one row.
    """
    match item.kind:
        case Kind.TENSOR:
            return lambda pieces: _read_tensor(item, joined(pieces), is_row=is_row)
        case Kind.INSTANT:
            return lambda pieces: _read_instants(item, _messages(pieces, is_row=is_row))
        case Kind.VALUE:
            schema = json.loads(item.tensor.schema) if item.tensor.schema else None
            return lambda pieces: _read_cells(
                item, _messages(pieces, is_row=is_row), lambda piece: read_json(piece, schema)
            )
        case Kind.ARRAY:

            def read(piece: bytes) -> bytes:
                try:
                    return read_array(array_class.FromString(piece))
                except Exception as error:  # protobuf's DecodeError has no stable import path.
                    raise ValueError(f"expected a {item.type}") from error

            return lambda pieces: _read_cells(item, _messages(pieces, is_row=is_row), read)
        case _:
            if item.type in WIDTHS:
                return _number_reader(item, is_row=is_row)
            return lambda pieces: _read_elements(pieces[-1:] if is_row else pieces)


def _messages(pieces: list[Buffer], *, is_row: bool) -> Sequence[bytes]:
    """The messages of a field; those of a single one are merged, as protobuf merges them."""
    return [bytes(joined(pieces))] if is_row else pieces  # type: ignore[return-value]


def _number_reader(item: Item, *, is_row: bool) -> Read:
    name = item.name
    width = WIDTHS[item.type] or 1
    is_same = lies_alike(item)

    def read(pieces: list[Buffer]) -> Tensor:
        raw = pieces[-1] if is_row else joined(pieces)
        count, rest = divmod(len(raw), width)
        if rest:
            raise InvalidRequest(
                f"input {name!r}: expected values of {width} bytes, got {len(raw)}"
            )
        if not is_same:
            raw = _narrowed(item, raw)
        return (count,), raw, False

    return read


def _read_elements(pieces: Sequence[Buffer]) -> Tensor:
    return (len(pieces),), encode_elements(pieces), False


def _read_instants(item: Item, pieces: Sequence[bytes]) -> Tensor:
    values = np.empty(len(pieces), "<i8")
    for row, piece in enumerate(pieces):
        try:
            values[row] = read_instant(piece)
        except ValueError as error:
            raise InvalidRequest(f"input {item.name!r}: row {row}: {error}") from None
    return (len(pieces),), values.tobytes(), False


def _read_cells(item: Item, pieces: Sequence[bytes], read: Callable[[bytes], bytes]) -> Tensor:
    cells = []
    for row, piece in enumerate(pieces):
        try:
            cells.append(read(piece))
        except ValueError as error:
            raise InvalidRequest(f"input {item.name!r}: row {row}: {error}") from None
    return _read_elements(cells)


def _read_tensor(item: Item, message: Buffer, *, is_row: bool) -> Tensor:
    spec = item.tensor
    try:
        shape, values, raw = _split_tensor(item, message)
    except WireError as error:
        raise InvalidRequest(
            f"input {item.name!r}: the message is no {item.type}: {error}"
        ) from None
    is_raw = raw is not None
    if raw is not None and values:
        raise InvalidRequest(f"input {item.name!r}: values and raw exclude each other")
    datatype = DATATYPES[spec.datatype]
    if raw is not None:
        count = len(raw) // datatype.itemsize if datatype.itemsize else -1
    elif datatype is BYTES:
        count, raw = len(values), encode_elements([bytes(value) for value in values])
    else:
        raw = joined(values) if values else b""
        count, rest = divmod(len(raw), WIDTHS[item.type_of_values] or 1)
        if rest:
            raise InvalidRequest(f"input {item.name!r}: its values end inside a value")
        if not lies_alike(item):
            raw = _narrowed(item, raw)
    wanted = spec.shape[1:] if is_row else spec.shape
    if not shape:
        shape = _inferred(item, wanted, count)
    return (1, *shape) if is_row else shape, raw, is_raw


def _split_tensor(
    item: Item, message: Buffer
) -> tuple[tuple[int, ...], list[Buffer], Buffer | None]:
    """Shape, pieces of its values, and raw bytes if there are any."""
    shape: list[int] = []
    values: list[Buffer] = []
    raw: Buffer | None = None
    width = WIDTHS.get(item.type_of_values)
    single = -1 if width is None else _VALUES << 3 | {0: 0, 4: 5, 8: 1}[width]
    at, end = 0, len(message)
    while at < end:
        tag, at = read_varint(message, at)
        if tag == _SHAPE:
            size, at = read_varint(message, at)
            shape.append(_signed(size))
            continue
        if tag == single:
            if width:
                stop = at + width
                values.append(message[at:stop])
            else:
                value, stop = read_varint(message, at)
                values.append(b"\1" if value else b"\0")
            at = stop
            continue
        size, at = read_varint(message, at)
        stop = at + size
        if stop > end:
            raise WireError("it ends inside a field")
        if tag == _SHAPE_PACKED:
            while at < stop:
                size, at = read_varint(message, at)
                shape.append(_signed(size))
        elif tag == _VALUES << 3 | 2:
            values.append(message[at:stop])
        elif tag == _RAW:
            raw = message[at:stop]
        else:
            raise WireError(f"it has no field {tag >> 3}")
        at = stop
    if at != end:
        raise WireError("it ends inside a field")
    return tuple(shape), values, raw


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _inferred(item: Item, wanted: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The shape of *count* elements where at most one size of *wanted* is open."""
    fixed = math.prod(size for size in wanted if size != -1)
    is_open = wanted.count(-1)
    if is_open > 1 or count < 0 or not fixed or (is_open and count % fixed):
        raise InvalidRequest(
            f"input {item.name!r}: expected a shape such as {list(wanted)}, got none"
            f"{f' and {count} values' if count >= 0 else ''}"
        )
    return tuple(count // fixed if size == -1 else size for size in wanted)


def lies_alike(item: Item) -> bool:
    """Whether values lie on the wire as in the tensor."""
    itemsize = DATATYPES[item.tensor.datatype].itemsize
    return (WIDTHS[item.type_of_values] or 1) == itemsize


def _narrowed(item: Item, raw: Buffer) -> bytes:
    """Values in the datatype's own width; one that does not fit is refused, never cut."""
    datatype = DATATYPES[item.tensor.datatype]
    assert datatype.wire is not None, "BYTES have no width"
    if item.type_of_values == "float":
        floats = np.frombuffer(raw, "<f4")
        if datatype.name == "BF16":
            return float32_to_bf16(floats).tobytes()
        with np.errstate(over="ignore"):
            return floats.astype(datatype.wire).tobytes()
    wide = np.frombuffer(raw, "<u4" if datatype.wire.kind == "u" else "<i4")
    bounds = np.iinfo(datatype.wire.str)
    if wide.size and (int(wide.max()) > bounds.max or int(wide.min()) < bounds.min):
        raise InvalidRequest(
            f"input {item.name!r}: {datatype.name} holds {bounds.min} to {bounds.max}, "
            f"got {int(wide.min())} to {int(wide.max())}"
        )
    return wide.astype(datatype.wire).tobytes()

"""Writing: rows of an output as the field of an answer."""

from collections.abc import Callable
from itertools import chain, pairwise

import numpy as np

from headrace.datatypes import BYTES, DATATYPES
from headrace.elements import element_offsets, find_not_utf8
from headrace.tensors import bf16_to_float32
from headrace.typed import Item, Kind
from headrace.wire import varint

from ...errors import HeadraceError
from ...types import Buffer, OutputTensor
from .fields import WIDTHS
from .values import write_instant, write_json

# Of an output, its rows' bytes and shape: pieces of the message.
Write = Callable[[OutputTensor, Buffer, tuple[int, ...]], list[Buffer]]

_WIRE_TYPES = {0: 0, 4: 5, 8: 1}
_SHAPE = b"\x0a"
_VALUES = 2
_RAW = b"\x1a"


class OutputUnlike(HeadraceError):
    """The model answered what its signature does not say, so that no field can hold it."""

    reason = "model"


def writer_of(item: Item, *, is_row: bool, is_raw: bool) -> Write:
    """What writes the output *item*.

    It raises OutputUnlike where the output is not what the signature says.

    Args:
        item: The output.
        is_row: Whether the answer is one row.
        is_raw: Whether tensors are written as raw bytes.
    """
    tag = varint(item.number << 3 | 2)
    if item.kind is Kind.TENSOR:
        return _tensor_writer(item, tag, is_row=is_row, is_raw=is_raw)
    if item.type in WIDTHS:
        return _number_writer(item, tag, is_row=is_row)

    def write(tensor: OutputTensor, data: Buffer, shape: tuple[int, ...]) -> list[Buffer]:
        _check(item, tensor, shape, is_row=is_row)
        if item.kind is Kind.INSTANT:
            moments = np.frombuffer(data, "<i8").tolist()
            return _fields(tag, [write_instant(moment) for moment in moments])
        elements = _elements(item, data, shape[0], is_text=item.type == "string")
        if item.kind is Kind.VALUE:
            elements = [_value(item, text) for text in elements]
        return _fields(tag, elements)

    return write


def _number_writer(item: Item, tag: bytes, *, is_row: bool) -> Write:
    width = WIDTHS[item.type]
    row_tag = varint(item.number << 3 | _WIRE_TYPES[width])
    datatype = DATATYPES[item.tensor.datatype]
    is_alike = datatype.itemsize == (width or 1)

    def write(tensor: OutputTensor, data: Buffer, shape: tuple[int, ...]) -> list[Buffer]:
        if not (is_alike and tensor.datatype is datatype and len(shape) == 1) or is_row:
            _check(item, tensor, shape, is_row=is_row)
            data = _wide(item, tensor, data)
        return [row_tag, data] if is_row else [tag, varint(len(data)), data]

    return write


def _tensor_writer(item: Item, tag: bytes, *, is_row: bool, is_raw: bool) -> Write:
    values_tag = varint(_VALUES << 3 | 2)
    is_following = item.tensor.shape[:1] == (-1,)

    def write(tensor: OutputTensor, data: Buffer, shape: tuple[int, ...]) -> list[Buffer]:
        if tensor.datatype is not DATATYPES[item.tensor.datatype] and not _can_cast(item, tensor):
            raise _unlike(item, tensor, shape)
        if is_row and is_following:
            if shape[:1] != (1,):
                raise _unlike(item, tensor, shape)
            shape = shape[1:]
        sizes = b"".join(map(varint, shape))
        pieces: list[Buffer] = [_SHAPE, varint(len(sizes)), sizes]
        if tensor.datatype is BYTES and not is_raw:
            count = int(np.prod(shape, dtype=np.int64))
            pieces += _fields(values_tag, _elements(item, data, count, is_text=True))
        else:
            if not is_raw or tensor.datatype is not DATATYPES[item.tensor.datatype]:
                data = _wide(item, tensor, data)
            pieces += [_RAW if is_raw else values_tag, varint(len(data)), data]
        return [tag, varint(sum(map(len, pieces))), *pieces]

    return write


def _check(item: Item, tensor: OutputTensor, shape: tuple[int, ...], *, is_row: bool) -> None:
    datatype = DATATYPES[item.tensor.datatype]
    fits = tensor.datatype is datatype or _can_cast(item, tensor)
    if not fits or len(shape) != 1 or (is_row and shape[0] != 1):
        raise _unlike(item, tensor, shape)


def _can_cast(item: Item, tensor: OutputTensor) -> bool:
    wanted = DATATYPES[item.tensor.datatype]
    if BYTES in (wanted, tensor.datatype) or "BF16" in (wanted.name, tensor.datatype.name):
        return False
    return np.can_cast(tensor.datatype.dtype, wanted.dtype, casting="safe")


def _wide(item: Item, tensor: OutputTensor, data: Buffer) -> Buffer:
    """Values as wide as the field's type, from those of the output."""
    if tensor.datatype.name == "BF16":
        return bf16_to_float32(np.frombuffer(data, "<u2")).astype("<f4").tobytes()
    width = WIDTHS[item.type_of_values] or 1
    if tensor.datatype.itemsize == width and tensor.datatype is DATATYPES[item.tensor.datatype]:
        return data
    wire = {"float": "<f4", "double": "<f8", "bool": "?"}.get(
        item.type_of_values,
        f"<{'i' if item.type_of_values.startswith('s') else 'u'}{width}",
    )
    return np.frombuffer(data, tensor.datatype.wire).astype(wire).tobytes()


def _elements(item: Item, data: Buffer, count: int, *, is_text: bool) -> list[Buffer]:
    offsets = element_offsets(data, count)
    if is_text and find_not_utf8(data, offsets) is not None:
        raise OutputUnlike(
            f"output {item.name!r}: the model answered bytes that are no UTF-8: ask by ModelInfer"
        )
    whole = bytes(data)
    return [whole[begin + 4 : end] for begin, end in pairwise(offsets)]


def _value(item: Item, text: Buffer) -> bytes:
    try:
        return write_json(bytes(text))
    except (ValueError, OverflowError) as error:
        raise OutputUnlike(
            f"output {item.name!r}: the model answered {error}: ask by ModelInfer"
        ) from None


def _fields(tag: bytes, values: list[Buffer] | list[bytes]) -> list[Buffer]:
    return list(chain.from_iterable((tag, varint(len(value)), value) for value in values))


def _unlike(item: Item, tensor: OutputTensor, shape: tuple[int, ...]) -> OutputUnlike:
    spec = item.tensor
    return OutputUnlike(
        f"output {item.name!r}: the model answered {tensor.datatype.name} of shape {list(shape)}, "
        f"its signature says {spec.datatype} of shape {list(spec.shape)}: ask by ModelInfer"
    )

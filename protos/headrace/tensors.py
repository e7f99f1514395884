"""Tensor codec: numpy arrays to the protocol's raw bytes, and back.

Raw bytes are little-endian, row-major, without padding. A BYTES tensor is a chain of elements, each
a uint32 length and its bytes. Nothing here copies what need not be copied: encoding a contiguous
array gives a view of it, decoding fixed-size elements gives a read-only view of the bytes.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .datatypes import Datatype

Buffer = bytes | bytearray | memoryview

_LENGTH = struct.Struct("<I")


class TensorError(ValueError):
    """Bytes and shape do not make a tensor of the stated datatype."""


def encode(array: npt.NDArray[np.generic], datatype: Datatype) -> Buffer:
    """The raw bytes of *array* as elements of *datatype*.

    Args:
        array: Any shape, of `datatype.dtype`; for BYTES an array of str, bytes or objects that are.
        datatype: How the elements are to lie.

    Returns:
        A view of the array's own memory where that already lies right, else fresh bytes.

    Raises:
        TensorError: An element cannot be written as *datatype*.
    """
    if datatype.wire is None:
        return encode_elements(array.ravel().tolist())
    if datatype.name == "BF16":
        array = float32_to_bf16(np.ascontiguousarray(array, np.float32))
    # ascontiguousarray makes a scalar one-dimensional, which leaves its bytes as they are.
    flat = np.ascontiguousarray(array, datatype.wire)
    return flat.reshape(-1).view(np.uint8).data


def decode(raw: Buffer, datatype: Datatype, shape: Sequence[int]) -> npt.NDArray[np.generic]:
    """The array that *raw* holds: a read-only view, or a fresh array for BYTES and BF16.

    BYTES decode to an object array of bytes.

    Raises:
        TensorError: The number of bytes or elements is not what *shape* needs.
    """
    if min(shape, default=0) < 0:
        raise TensorError(f"shape {list(shape)} has a negative size")
    count = math.prod(shape)
    if datatype.wire is None:
        elements = decode_elements(raw, count)
        array = np.empty(count, object)
        array[:] = elements
        return array.reshape(shape)
    if len(raw) != count * datatype.itemsize:
        raise TensorError(
            f"expected {count * datatype.itemsize} bytes for {datatype.name} of shape "
            f"{list(shape)}, got {len(raw)}"
        )
    flat = np.frombuffer(raw, datatype.wire)
    if datatype.name == "BF16":
        return bf16_to_float32(flat).reshape(shape)
    view = flat.reshape(shape)
    view.flags.writeable = False
    return view


def encode_elements(elements: Iterable[object]) -> bytes:
    """Chain *elements* (str as UTF-8, or bytes) as BYTES.

    Raises:
        TensorError: An element is neither str nor bytes, or a str that has no UTF-8.
    """
    pieces: list[bytes] = []
    append = pieces.append
    pack = _LENGTH.pack
    try:
        for element in elements:
            if isinstance(element, str):
                data = element.encode()
            elif isinstance(element, bytes):
                data = element
            else:
                raise TensorError(f"expected str or bytes, got {type(element).__name__}")
            append(pack(len(data)))
            append(data)
    except UnicodeEncodeError as error:
        raise TensorError(f"a string has no UTF-8: {error.reason}") from None
    return b"".join(pieces)


def element_offsets(raw: Buffer, count: int) -> list[int]:
    """Where each of the *count* BYTES elements of *raw* begins, and where the last one ends.

    Raises:
        TensorError: *raw* holds another number of elements, or ends inside one.
    """
    unpack = _LENGTH.unpack_from
    at, end = 0, len(raw)
    # Every element has a length of 4 bytes: a shape alone must not make us allocate.
    if count > end // 4:
        raise TensorError(f"expected {count} BYTES elements, got {end} bytes")
    offsets = [0] * (count + 1)
    for index in range(count):
        if at + 4 > end:
            raise TensorError(f"expected {count} BYTES elements, got {index} and {end - at} bytes")
        at += 4 + unpack(raw, at)[0]
        if at > end:
            raise TensorError(
                f"BYTES element {index} of {count} says it ends at byte {at} of {end} bytes"
            )
        offsets[index + 1] = at
    if at != end:
        raise TensorError(f"expected {count} BYTES elements, got {end - at} bytes more than these")
    return offsets


def decode_elements(raw: Buffer, count: int) -> list[bytes]:
    """The *count* elements that *raw* chains.

    Raises:
        TensorError: *raw* holds another number of elements, or ends inside one.
    """
    offsets = element_offsets(raw, count)
    data = bytes(raw)
    return [data[a + 4 : b] for a, b in pairwise(offsets)]


def float32_to_bf16(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper halves of float32 values, rounded to nearest even; NaN stays NaN.

    Adding 0x7FFF plus the lowest kept bit carries into the kept half exactly when the dropped half
    is above its middle, or at its middle with an odd kept half.
    """
    bits = array.view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    quiet = (bits >> 16) | np.uint32(0x0040)
    return np.where(np.isnan(array), quiet, rounded).astype(np.uint16)


def bf16_to_float32(bits: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """The float32 values whose upper halves are *bits*."""
    return (bits.astype(np.uint32) << 16).view(np.float32)

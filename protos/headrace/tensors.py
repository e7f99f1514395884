"""Tensor codec: numpy arrays to the protocol's raw bytes, and back.

Raw bytes are little-endian, row-major, without padding. Nothing here copies what need not be
copied: encoding a contiguous array gives a view of it, decoding fixed-size elements gives a
read-only view of the bytes. BYTES tensors are the matter of `elements`.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from .datatypes import Datatype
from .elements import Buffer, TensorError, decode_elements, encode_elements

# Up to this size a copy costs less than a view.
_COPIED_BYTES_MAX: Final = 1024


def encode(array: npt.NDArray[np.generic], datatype: Datatype) -> Buffer:
    """The raw bytes of *array* as elements of *datatype*.

    Args:
        array: Any shape, of `datatype.dtype`; for BYTES an array of str, bytes or objects that are.
        datatype: How the elements are to lie.

    Returns:
        A view of the array's own memory where that already lies right and is large, else fresh
        bytes.

    Raises:
        TensorError: An element cannot be written as *datatype*.
    """
    if datatype.wire is None:
        return encode_elements(array.ravel().tolist())
    if array.dtype == datatype.wire and array.nbytes <= _COPIED_BYTES_MAX:
        return array.tobytes()
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
        return np.fromiter(elements, object, count).reshape(shape)
    if len(raw) != count * datatype.itemsize:
        raise TensorError(
            f"expected {count * datatype.itemsize} bytes for {datatype.name} of shape "
            f"{list(shape)}, got {len(raw)}"
        )
    view: npt.NDArray[np.generic] = np.ndarray(shape, datatype.wire, raw)
    if datatype.name == "BF16":
        return bf16_to_float32(view)
    if not isinstance(raw, bytes):
        view.flags.writeable = False
    return view


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

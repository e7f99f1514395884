"""Tensors: from references in a frame to arrays over the arena, and back into it.

Reading copies nothing but what must change its form: BYTES, BF16, and widened datatypes. Writing is
the one copy of a model's outputs into the slot.
"""

import mmap
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headrace.datatypes import BY_CODE, BYTES, DATATYPES, datatype_of
from headrace.elements import decode_elements, decode_texts, encode_with_offsets
from headrace.signature import Signature, TensorSpec
from headrace.tensors import bf16_to_float32

from ..arena import aligned
from ..batchframes import Place, TensorRef

Array = npt.NDArray[np.generic]


def read_inputs(
    refs: Sequence[TensorRef], memory: memoryview, signature: Signature | None
) -> dict[str, Array]:
    """The arrays that *refs* stand for, with the datatypes and axes of *signature*."""
    specs = {} if signature is None else {spec.name: spec for spec in signature.inputs}
    return {ref.name: _read(ref, memory, specs.get(ref.name)) for ref in refs}


def _read(ref: TensorRef, memory: memoryview, spec: TensorSpec | None) -> Array:
    datatype = BY_CODE[ref.code]
    count = 1
    for size in ref.shape:
        count *= size
    array: Array
    if datatype.wire is None:
        raw = memory[ref.offset : ref.offset + ref.nbytes]
        is_binary = spec is not None and spec.kind == "binary"
        elements = decode_elements(raw, count) if is_binary else _texts(raw, count)
        array = np.fromiter(elements, object, count)
    else:
        array = np.frombuffer(memory, datatype.wire, count, ref.offset)
        if datatype.name == "BF16":
            array = bf16_to_float32(array)
    shape = ref.shape
    if spec is not None:
        if spec.is_column:
            shape = shape[:1]
        array = array.astype(DATATYPES[spec.datatype].dtype, copy=False)
    return array.reshape(shape)


def _texts(raw: memoryview, count: int) -> Sequence[str | bytes]:
    """Strings; an element that is not UTF-8 stays as it came.

    Each by itself: what one caller sends must not change what another's model sees.
    """
    try:
        return decode_texts(raw, count)
    except UnicodeDecodeError:
        return [_text_or_bytes(element) for element in decode_elements(raw, count)]


def _text_or_bytes(element: bytes) -> str | bytes:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return element


def write_outputs(
    outputs: dict[str, Array],
    memory: memoryview,
    offset: int,
    nbytes: int,
    *,
    may_be_there: bool = False,
) -> tuple[tuple[TensorRef, ...], tuple[int, ...]]:
    """Write *outputs* into the slot at *offset*, or into a memfd where they exceed its *nbytes*.

    Args:
        outputs: By name.
        memory: The arena.
        offset: Where the slot's output side begins.
        nbytes: How large it is.
        may_be_there: Whether outputs may lie there already, as a device brings them home.

    Returns:
        The references, and the descriptors that must ride along; the caller closes them.
    """
    if may_be_there:
        if (refs_there := _refs_there(outputs, memory, offset, nbytes)) is not None:
            return refs_there, ()
        side = np.frombuffer(memory, np.uint8, nbytes, offset)
        # None may be written over before it was read.
        outputs = {
            name: array.copy() if np.may_share_memory(array, side) else array
            for name, array in outputs.items()
        }
    arrays = [(name, *_as_wire(array)) for name, array in outputs.items()]
    total = sum(
        aligned(data.nbytes) + (0 if starts is None else aligned(starts.nbytes))
        for _, _, _, data, starts in arrays
    )
    place = Place.ARENA
    fds: tuple[int, ...] = ()
    if total > nbytes:
        fd = os.memfd_create("headrace-outputs", os.MFD_CLOEXEC)
        os.ftruncate(fd, total)
        memory, offset, place, fds = memoryview(mmap.mmap(fd, total)), 0, Place.MEMFD, (fd,)
    refs = []
    for name, code, shape, data, starts in arrays:
        _put(memory, offset, data)
        at, offset = offset, offset + aligned(data.nbytes)
        row_ends = 0
        if starts is not None:
            _put(memory, offset, starts)
            row_ends, offset = offset, offset + aligned(starts.nbytes)
        refs.append(TensorRef(name, code, shape, at, data.nbytes, place, row_ends))
    return tuple(refs), fds


def _refs_there(
    outputs: dict[str, Array], memory: memoryview, offset: int, nbytes: int
) -> tuple[TensorRef, ...] | None:
    """The references of *outputs* that all lie in the slot as they travel; else None."""
    begin = np.frombuffer(memory, np.uint8, 0).ctypes.data
    refs = []
    for name, array in outputs.items():
        at = array.ctypes.data - begin
        datatype = datatype_of(array.dtype)
        is_there = offset <= at and at + array.nbytes <= offset + nbytes
        if not (is_there and array.flags.c_contiguous and array.dtype == datatype.wire):
            return None
        refs.append(TensorRef(name, datatype.code, array.shape, at, array.nbytes, Place.ARENA, 0))
    return tuple(refs)


def _put(memory: memoryview, offset: int, data: Array) -> None:
    # Not by way of a flat view: of an array that is not contiguous that would be a copy.
    target = np.frombuffer(memory, data.dtype, data.size, offset)
    np.copyto(target.reshape(data.shape), data)


def _as_wire(array: Array) -> tuple[int, tuple[int, ...], Array, Array | None]:
    """Datatype code, shape, raw elements (not yet contiguous) and, for BYTES, where rows begin."""
    datatype = datatype_of(array.dtype)
    if datatype is not BYTES:
        if array.dtype.kind == "M":
            array = array.astype("datetime64[ns]").view(np.int64)
        # The other byte order is turned around here; everything else stays as it is.
        return datatype.code, array.shape, array.astype(datatype.wire, copy=False), None
    raw, offsets = encode_with_offsets(array.ravel().tolist())
    rows = array.shape[0] if array.ndim else 1
    if array.size:
        starts = np.asarray(offsets, np.uint64)[:: array.size // rows]
    else:
        starts = np.zeros(rows + 1, np.uint64)
    return BYTES.code, array.shape, np.frombuffer(raw, np.uint8), starts

"""Elements: BYTES tensors, each a chain of elements: a uint32 length, little-endian, and its bytes.

Where an element begins is known only once the one before it has been read, so a chain of many short
elements is guessed by numpy as a whole and then proven link by link, also as a whole. Where the
guess is wrong, where elements are few and where they are long, a plain loop walks the chain. Which
of both it was cannot be told from the result.
"""

import struct
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise, repeat
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Buffer = bytes | bytearray | memoryview
Offsets = npt.NDArray[np.int64]

_LENGTH_BYTES: Final = 4
_pack_length: Final = struct.Struct("<I").pack
_unpack_length: Final = struct.Struct("<I").unpack_from
# What stands between joined elements until their lengths are filled in.
_HOLE: Final = bytearray(_LENGTH_BYTES)

# Below so many elements a plain loop is faster than numpy's calls: to find elements that all have
# one length, to find others, to cut them out, and to chain them.
_ALIKE_MIN: Final = 64
_GUESSED_MIN: Final = 768
_SPLIT_MIN: Final = 256
_FILLED_MIN: Final = 512
# How many elements are looked at to tell what the others are like.
_SAMPLED: Final = 64
# Above so many bytes per element a step of a plain loop costs less than a look at all the bytes.
_GUESSED_MEAN_MAX: Final = 256
_SPLIT_MEAN_MAX: Final = 96
_SPLIT_TEXT_MEAN_MAX: Final = 160
# Above so many bytes per element a second copy of them costs more than what it saves.
_FILLED_MEAN_MAX: Final = 1024
# What is worked on at once, so that it stays in the processor's cache.
_BLOCK_BYTES: Final = 256 * 1024
_BLOCK_ELEMENTS: Final = 2048


class TensorError(ValueError):
    """Bytes and shape do not make a tensor of the stated datatype."""


# Where elements begin.


def element_offsets(raw: Buffer, count: int) -> Sequence[int]:
    """Where each of the *count* elements of *raw* begins, and where the last one ends.

    Returns:
        `count + 1` byte offsets: a list for few, a view of int64 for many.

    Raises:
        TensorError: *raw* holds another number of elements, or ends inside one.
    """
    at, end = 0, len(raw)
    # Every element has a length of 4 bytes: a shape alone must not make us allocate.
    if count * _LENGTH_BYTES > end:
        raise TensorError(f"expected {count} BYTES elements, got {end} bytes")
    if count >= _ALIKE_MIN:
        size = _common_size(raw, count)
        guessed = _guess(raw, count) if size is None else _regular(count, size)
        if guessed is not None:
            return guessed.data
    offsets = [at]
    try:
        for _ in range(count):
            at += _LENGTH_BYTES + _unpack_length(raw, at)[0]
            offsets.append(at)
    except struct.error:
        raise _broken(offsets, count, end) from None
    if at != end:
        raise _broken(offsets, count, end)
    return offsets


def _broken(offsets: Sequence[int], count: int, end: int) -> TensorError:
    """What is wrong with a chain whose elements could be read up to the last of *offsets*."""
    done, at = len(offsets) - 1, offsets[-1]
    if at > end:
        return TensorError(
            f"BYTES element {done - 1} of {count} says it ends at byte {at} of {end} bytes"
        )
    if done < count:
        return TensorError(f"expected {count} BYTES elements, got {done} and {end - at} bytes")
    return TensorError(f"expected {count} BYTES elements, got {end - at} bytes more than these")


def _common_size(raw: Buffer, count: int) -> int | None:
    """The bytes of each element where all have as many; else None."""
    stride, rest = divmod(len(raw), count)
    size = stride - _LENGTH_BYTES
    if rest or _unpack_length(raw)[0] != size:
        return None
    lengths = np.ndarray(count, "<u4", raw, strides=(stride,))
    return size if (lengths == size).all() else None


def _regular(count: int, size: int) -> Offsets:
    """The offsets of *count* elements of *size* bytes."""
    return np.arange(count + 1) * (_LENGTH_BYTES + size)


def _guess(raw: Buffer, count: int) -> Offsets | None:
    """The offsets, if no element has zeros among its bytes, as text has not, or 65536 bytes.

    Then every run of zeros tells what it belongs to: three or two bytes that end a length, or the
    lengths of empty elements, each four zeros.
    """
    if count < _GUESSED_MIN or len(raw) > _GUESSED_MEAN_MAX * count or _has_zeros(raw):
        return None
    is_zero = np.frombuffer(raw, np.uint8) == 0
    # More than lengths have: must not make us allocate.
    if np.count_nonzero(is_zero) > _LENGTH_BYTES * count:
        return None
    zeros = np.flatnonzero(is_zero)
    if len(zeros) == 3 * count:
        offsets = _proven(raw, zeros[::3] - 1, count)
        if offsets is not None:
            return offsets
    is_last = np.ones(len(zeros), np.bool_)
    np.not_equal(zeros[1:], zeros[:-1] + 1, out=is_last[:-1])
    lasts = np.flatnonzero(is_last)
    runs = lasts.copy()
    runs[1:] -= lasts[:-1]
    runs[:1] += 1
    begins = zeros[lasts] - 3
    is_empty = runs > 3
    if not is_empty.any():
        return _proven(raw, begins[runs > 1], count)
    # A run of empty elements begins with its zeros, each of them four bytes after the one before.
    found = np.where(is_empty, runs // _LENGTH_BYTES, runs > 1)
    begins += np.where(is_empty, _LENGTH_BYTES - runs, 0)
    before = np.cumsum(found) - found
    begins = np.repeat(begins - _LENGTH_BYTES * before, found)
    begins += np.arange(0, _LENGTH_BYTES * len(begins), _LENGTH_BYTES)
    return _proven(raw, begins, count)


def _has_zeros(raw: Buffer) -> bool:
    """Whether there are zeros among the bytes of the first elements, or no such elements."""
    at = 0
    try:
        for _ in range(_SAMPLED):
            begin = at + _LENGTH_BYTES
            at = begin + _unpack_length(raw, at)[0]
            if 0 in bytes(raw[begin:at]):
                return True
    except struct.error:
        return True
    return False


def _proven(raw: Buffer, begins: npt.NDArray[np.intp], count: int) -> Offsets | None:
    """The offsets, if *begins*, in rising order, are the *count* links of the chain; else None."""
    end = len(raw)
    if len(begins) != count or begins[0] != 0 or begins[-1] > end - _LENGTH_BYTES:
        return None
    offsets = np.empty(count + 1, np.int64)
    offsets[:-1] = begins
    offsets[-1] = end
    sizes = offsets[1:] - begins
    sizes -= _LENGTH_BYTES
    return offsets if (_lengths_at(raw)[begins] == sizes).all() else None


def _lengths_at(raw: Buffer) -> npt.NDArray[np.uint32]:
    """At each byte of *raw*, the length that an element which begins there has; a view."""
    return np.ndarray(len(raw) - _LENGTH_BYTES + 1, "<u4", raw, strides=(1,))


# Decoding.


def decode_elements(raw: Buffer, count: int) -> list[bytes]:
    """The *count* elements that *raw* chains.

    Raises:
        TensorError: *raw* holds another number of elements, or ends inside one.
    """
    data = bytes(raw)
    at, end = 0, len(data)
    if count >= _ALIKE_MIN and count * _LENGTH_BYTES <= end:
        size = _common_size(data, count)
        many = _split(data, count) if size is None else _alike(data, count, size)
        if many is not None:
            return many
    elements: list[bytes] = []
    try:
        for _ in range(count):
            begin = at + _LENGTH_BYTES
            at = begin + _unpack_length(data, at)[0]
            elements.append(data[begin:at])
    except struct.error:
        at = -1
    if at != end:
        # Says what is wrong.
        element_offsets(data, count)
    return elements


def decode_texts(raw: Buffer, count: int) -> list[str]:
    """The *count* elements that *raw* chains, each from UTF-8.

    Raises:
        TensorError: *raw* holds another number of elements, or ends inside one.
        UnicodeDecodeError: An element is not UTF-8.
    """
    if count < _SPLIT_MIN or len(raw) > _SPLIT_TEXT_MEAN_MAX * count:
        return list(map(bytes.decode, decode_elements(raw, count)))
    texts: list[str] = []
    for block, begins in _blocks(raw, np.asarray(element_offsets(raw, count))):
        if not _overwrite_lengths(block, begins, 0):
            return list(map(bytes.decode, decode_elements(raw, count)))
        texts += block.decode().split("\0\0\0\0")[1:]
    return texts


def find_not_utf8(raw: Buffer, offsets: Sequence[int]) -> int | None:
    """Which element of *raw* is the first that is not UTF-8; None where all are.

    Args:
        raw: Elements.
        offsets: What `element_offsets` said of them.
    """
    data = bytes(raw)
    # Usual text: seen at once, the lengths between the elements included.
    if data.isascii():
        return None
    if len(offsets) <= _ALIKE_MIN:
        return _find_not_utf8(data, offsets)
    done = 0
    for block, begins in _blocks(data, np.asarray(offsets)):
        # Zeros between elements end every sequence of bytes that makes a character.
        _overwrite_lengths(block, begins, 0)
        try:
            if not block.isascii():
                block.decode()
        except UnicodeDecodeError as error:
            return done + int(np.searchsorted(begins, error.start, "right")) - 1
        done += len(begins)
    return None


def _find_not_utf8(data: bytes, offsets: Sequence[int]) -> int | None:
    """The same, one element after another."""
    for index, (begin, end) in enumerate(pairwise(offsets)):
        try:
            data[begin + _LENGTH_BYTES : end].decode()
        except UnicodeDecodeError:
            return index
    return None


def _alike(data: bytes, count: int, size: int) -> list[bytes]:
    """The elements where all have *size* bytes."""
    if size == 0:
        return [b""] * count
    # numpy's type for bytes would cut zeros off their ends; this one does not.
    kind = np.dtype((np.void, size))
    stride = _LENGTH_BYTES + size
    elements: list[bytes] = np.ndarray(count, kind, data, _LENGTH_BYTES, (stride,)).tolist()
    return elements


def _split(data: bytes, count: int) -> list[bytes] | None:
    """The elements, where their offsets can be guessed and they are short text; else None."""
    if len(data) > _SPLIT_MEAN_MAX * count:
        return None
    offsets = _guess(data, count)
    if offsets is None:
        return None
    elements: list[bytes] = []
    for block, begins in _blocks(data, offsets):
        # A byte that UTF-8 has no use for.
        if not _overwrite_lengths(block, begins, 0xFF):
            return None
        elements += bytes(block).split(b"\xff\xff\xff\xff")[1:]
    return elements


def _blocks(raw: Buffer, offsets: Offsets) -> Iterator[tuple[bytearray, Offsets]]:
    """Copies of some elements at a time, each with where these begin within it."""
    if len(raw) <= _BLOCK_BYTES:
        yield bytearray(raw), offsets[:-1]
        return
    marks = np.arange(_BLOCK_BYTES, len(raw), _BLOCK_BYTES)
    cuts = np.unique([0, *np.searchsorted(offsets, marks), len(offsets) - 1])
    for first, last in pairwise(cuts.tolist()):
        begin, end = int(offsets[first]), int(offsets[last])
        yield bytearray(raw[begin:end]), offsets[first:last] - begin


def _overwrite_lengths(block: bytearray, begins: Offsets, octet: int) -> bool:
    """Put four times *octet* in place of every length; whether it is nowhere else."""
    _lengths_at(block)[begins] = octet * 0x01010101
    octets = np.frombuffer(block, np.uint8)
    return int(np.count_nonzero(octets == octet)) == _LENGTH_BYTES * len(begins)


# Encoding.


def encode_elements(elements: Sequence[object]) -> bytes | memoryview:
    """Chain *elements* (str as UTF-8, or bytes).

    Raises:
        TensorError: An element is neither str nor bytes, or a str that has no UTF-8.
    """
    if len(elements) >= _FILLED_MIN:
        return _fill(list(elements))[0]
    pieces: list[bytes] = []
    try:
        for element in elements:
            if isinstance(element, str):
                data = element.encode()
            elif isinstance(element, bytes):
                data = element
            else:
                raise _no_text(type(element))
            pieces.append(_pack_length(len(data)))
            pieces.append(data)
    except UnicodeEncodeError as error:
        raise _no_utf8(error) from None
    return b"".join(pieces)


def encode_with_offsets(elements: Sequence[object]) -> tuple[bytes | memoryview, Sequence[int]]:
    """Chain *elements* (str as UTF-8, or bytes), and say where they lie as `element_offsets` does.

    Raises:
        TensorError: An element is neither str nor bytes, or a str that has no UTF-8.
    """
    if len(elements) < _FILLED_MIN:
        raw = encode_elements(elements)
        return raw, element_offsets(raw, len(elements))
    raw, sizes = _fill(list(elements))
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes + _LENGTH_BYTES, out=offsets[1:])
    return raw, offsets.data


def _fill(items: list[Any]) -> tuple[bytes | memoryview, Offsets]:
    """The chain, and the bytes of each element: joined in blocks with holes for the lengths."""
    kinds = set(map(type, items))
    odd = {kind for kind in kinds if not issubclass(kind, str | bytes)}
    if odd:
        raise _no_text(next(kind for kind in map(type, items) if kind in odd))
    are_bytes = not any(issubclass(kind, str) for kind in kinds)
    are_texts = all(issubclass(kind, str) for kind in kinds)
    try:
        if are_texts and not "".join(items[:_SAMPLED]).isascii():
            items, are_bytes = list(map(str.encode, items)), True
        elif not are_texts and not are_bytes:
            items, are_bytes = _as_bytes(items), True
        sizes = np.fromiter(map(len, items), np.int64, len(items))
        if sizes.sum() > _FILLED_MEAN_MAX * len(items):
            return _interleave(items if are_bytes else list(map(str.encode, items)))
        raw = bytearray()
        for begin in range(0, len(items), _BLOCK_ELEMENTS):
            block = slice(begin, begin + _BLOCK_ELEMENTS)
            chunk, sizes[block] = _fill_block(items[block], sizes[block], are_bytes=are_bytes)
            raw += chunk
    except UnicodeEncodeError as error:
        raise _no_utf8(error) from None
    return memoryview(raw), sizes


def _fill_block(items: list[Any], sizes: Offsets, *, are_bytes: bool) -> tuple[bytearray, Offsets]:
    """A part of the chain, and the bytes of its elements, where *sizes* are their characters."""
    chunk: bytearray | None = None
    if not are_bytes:
        text = "\0\0\0\0".join(chain(("",), items))
        if text.isascii():
            chunk = bytearray(text, "ascii")
        else:
            items = list(map(str.encode, items))
            sizes = np.fromiter(map(len, items), np.int64, len(items))
    if chunk is None:
        chunk = _HOLE.join(chain((b"",), items))
    steps = sizes + _LENGTH_BYTES
    _lengths_at(chunk)[np.cumsum(steps) - steps] = sizes
    return chunk, sizes


def _as_bytes(items: list[Any]) -> list[bytes]:
    """Elements of str and of bytes, all as bytes."""
    is_text = np.fromiter(map(isinstance, items, repeat(str)), np.bool_, len(items))
    mixed = np.fromiter(items, object, len(items))
    mixed[is_text] = list(map(str.encode, mixed[is_text]))
    pieces: list[bytes] = mixed.tolist()
    return pieces


def _interleave(pieces: list[bytes]) -> tuple[bytes, Offsets]:
    """The chain, in one copy, and the bytes of each element."""
    sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
    lengths = sizes.astype("<u4").view("V4").tolist()
    return b"".join(chain.from_iterable(zip(lengths, pieces, strict=True))), sizes


def _no_text(kind: type) -> TensorError:
    return TensorError(f"expected str or bytes, got {kind.__name__}")


def _no_utf8(error: UnicodeEncodeError) -> TensorError:
    return TensorError(f"a string has no UTF-8: {error.reason}")

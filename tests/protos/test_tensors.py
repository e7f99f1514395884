"""Tensors: arrays to raw bytes and back."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.datatypes import BYTES, DATATYPES, Datatype
from headrace.elements import TensorError, decode_elements
from headrace.tensors import bf16_to_float32, decode, encode, float32_to_bf16
from strategies import Array, arrays, chained, shapes, texts

NUMERIC = [row for row in DATATYPES.values() if row is not BYTES]
# What the struct module calls them.
CODES = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
BF16 = DATATYPES["BF16"]
FP32 = DATATYPES["FP32"]


def same(one: Array, other: Array) -> bool:
    """Equal in shape, type and bits, so that NaN equals itself and -0.0 is not 0.0."""
    return (
        one.shape == other.shape
        and one.dtype == other.dtype
        and (
            one.tolist() == other.tolist()
            if one.dtype == object
            else one.tobytes() == other.tobytes()
        )
    )


def rounded(bits: int) -> int:
    """Reference for BF16: the nearest of the two neighbours, by exact distance; ties to even."""
    if bits & 0x7F800000 == 0x7F800000 and bits & 0x007FFFFF:
        return bits >> 16 | 0x40
    low = bits >> 16
    # Distances of magnitudes are exact as integers: neighbouring floats are neighbouring integers.
    below, above = bits - (low << 16), ((low + 1) << 16) - bits
    if below == above:
        return low + (low & 1)
    return low if below < above else low + 1


@given(arrays())
def test_what_is_encoded_decodes_to_the_same(pair: tuple[Datatype, Array]) -> None:
    datatype, array = pair

    decoded = decode(encode(array, datatype), datatype, array.shape)

    assert same(decoded, array)


@given(arrays(shape=shapes(min_dims=2, max_dims=2)))
def test_memory_order_and_strides_leave_no_trace(pair: tuple[Datatype, Array]) -> None:
    datatype, array = pair

    expected = bytes(encode(array, datatype))

    assert bytes(encode(np.asfortranarray(array), datatype)) == expected
    assert bytes(encode(np.repeat(array, 2, axis=1)[:, ::2], datatype)) == expected
    assert bytes(encode(array[::-1][::-1], datatype)) == expected


@given(arrays(st.sampled_from([row for row in NUMERIC if row is not BF16])))
def test_raw_bytes_are_the_elements_one_after_another(pair: tuple[Datatype, Array]) -> None:
    datatype, array = pair
    expected = struct.pack(f"<{array.size}{CODES[datatype.name]}", *array.ravel().tolist())

    if array.dtype.kind == "f" and np.isnan(array).any():
        # Python keeps no NaN's payload apart.
        expected = array.tobytes()
    assert bytes(encode(array, datatype)) == expected


def test_a_big_endian_array_is_turned_around() -> None:
    array = np.array([1.5, -2.0], ">f4")

    assert bytes(encode(array, FP32)) == struct.pack("<2f", 1.5, -2.0)


def test_a_contiguous_array_of_some_size_is_not_copied() -> None:
    array = np.arange(600, dtype=np.float32).reshape(200, 3)

    raw = encode(array, FP32)
    array[0, 0] = 9

    assert struct.unpack_from("<f", raw) == (9.0,)


def test_decoding_copies_nothing_and_hands_out_what_cannot_be_written() -> None:
    raw = bytearray(struct.pack("<2f", 1.0, 2.0))

    array = decode(raw, FP32, (2,))
    raw[:4] = struct.pack("<f", 7.0)

    assert array.tolist() == [7.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 3.0


@given(st.lists(st.integers(0, 2**32 - 1), max_size=30))
def test_bf16_rounds_to_nearest_even_bit_for_bit(bits: list[int]) -> None:
    array = np.array(bits, np.uint32).view(np.float32)

    assert float32_to_bf16(array).tolist() == [rounded(one) for one in bits]


def test_bf16_rounds_right_at_every_boundary() -> None:
    """Half a step, one less and one more, above even and odd neighbours and across exponents."""
    kept = [0x0000, 0x0001, 0x007F, 0x0080, 0x3F80, 0x3F81, 0x3FFF, 0x7F7F, 0x7F80, 0x8000, 0xBF81]
    dropped = [0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF]
    bits = [high << 16 | low for high in kept for low in dropped]

    array = np.array(bits, np.uint32).view(np.float32)

    assert float32_to_bf16(array).tolist() == [rounded(one) for one in bits]


def test_bf16_keeps_infinities_and_turns_what_is_too_large_into_them() -> None:
    array = np.array([np.inf, -np.inf, np.finfo(np.float32).max], np.float32)

    assert bf16_to_float32(float32_to_bf16(array)).tolist() == [np.inf, -np.inf, np.inf]


def test_bf16_of_any_nan_is_a_nan() -> None:
    """Rounding must not carry a NaN's payload into infinity, or cut it to one."""
    bits = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7FC00000], np.uint32)

    halves = float32_to_bf16(bits.view(np.float32))

    assert np.isnan(bf16_to_float32(halves)).all()
    assert [int(half) >> 15 for half in halves] == [0, 0, 1, 1, 0]


def test_every_bf16_value_survives_the_round_trip() -> None:
    halves = np.arange(0x10000, dtype=np.uint32).astype(np.uint16)
    values = bf16_to_float32(halves)

    back = float32_to_bf16(values)

    is_nan = np.isnan(values)
    assert (back[~is_nan] == halves[~is_nan]).all()
    assert np.isnan(bf16_to_float32(back[is_nan])).all()


@pytest.mark.parametrize("datatype", NUMERIC, ids=lambda row: row.name)
@pytest.mark.parametrize("extra", [-1, 1])
def test_a_wrong_number_of_bytes_is_refused(datatype: Datatype, extra: int) -> None:
    needed = 6 * datatype.itemsize

    with pytest.raises(TensorError) as caught:
        decode(bytes(needed + extra), datatype, (2, 3))

    assert str(caught.value) == (
        f"expected {needed} bytes for {datatype.name} of shape [2, 3], got {needed + extra}"
    )


@pytest.mark.parametrize("datatype", DATATYPES.values(), ids=lambda row: row.name)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_empty_tensors_are_tensors(datatype: Datatype, shape: tuple[int, ...]) -> None:
    array = np.empty(shape, datatype.dtype)

    raw = encode(array, datatype)

    assert bytes(raw) == b""
    assert decode(raw, datatype, shape).shape == shape


@pytest.mark.parametrize("shape", [(-1,), (-1, -1), (-2, 3)])
@pytest.mark.parametrize("datatype", [FP32, BYTES], ids=lambda row: row.name)
def test_a_negative_size_is_refused(datatype: Datatype, shape: tuple[int, ...]) -> None:
    with pytest.raises(TensorError):
        decode(bytes(4), datatype, shape)


@given(st.lists(texts))
def test_text_travels_as_utf8(items: list[str]) -> None:
    raw = encode(np.array(items, object), BYTES)

    assert [item.decode() for item in decode_elements(raw, len(items))] == items


def test_numpys_own_strings_and_bytes_are_elements_too() -> None:
    assert encode(np.array(["a", "bcd"]), BYTES) == chained([b"a", b"bcd"])
    assert encode(np.array([b"a", b"bcd"]), BYTES) == chained([b"a", b"bcd"])


@given(st.lists(st.binary(max_size=6), max_size=6), st.integers(-3, 3).filter(bool))
def test_another_number_of_elements_is_refused(items: list[bytes], more: int) -> None:
    count = max(len(items) + more, 0)
    if count == len(items):
        return

    with pytest.raises(TensorError):
        decode(chained(items), BYTES, (count,))

"""Elements: chains of BYTES elements, found, cut and made; few of them and many."""

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.elements import (
    TensorError,
    decode_elements,
    decode_texts,
    element_offsets,
    encode_elements,
    encode_with_offsets,
    find_not_utf8,
)
from strategies import chained, texts

# Of text, of random bytes, of what lengths are made of, and long ones among short ones.
short = st.binary(max_size=8)
kinds_of_items = [
    st.text("abc ", max_size=9).map(str.encode),
    texts.map(str.encode),
    short,
    st.text("\0\1\4a", max_size=6).map(str.encode),
    st.sampled_from([b"", b"a", b"ab" * 150, b"c" * 512]),
    st.sampled_from([b"\xff" * 4, b"\xff\xff\xff\xffab", b"ab"]),
    st.just(b"same"),
    st.just(b""),
]


@st.composite
def many(draw: st.DrawFn) -> list[bytes]:
    """Enough items for everything that is done to many at once, a few drawn and repeated."""
    kind = draw(st.sampled_from(kinds_of_items))
    drawn = draw(st.lists(kind, min_size=1, max_size=9))
    odd = draw(st.lists(st.sampled_from(kinds_of_items).flatmap(lambda one: one), max_size=2))
    count = draw(st.sampled_from([64, 65, 300, 900, 2500]))
    items = (drawn * count)[:count]
    for item in odd:
        items[draw(st.integers(0, count - 1))] = item
    return items


any_items = st.lists(short, max_size=20) | many()


def walked(raw: bytes, count: int) -> list[int]:
    """The offsets, or the error, by the definition: one element after another."""
    at, end = 0, len(raw)
    offsets = [0]
    if count > end // 4:
        raise TensorError(f"expected {count} BYTES elements, got {end} bytes")
    for index in range(count):
        if at + 4 > end:
            raise TensorError(f"expected {count} BYTES elements, got {index} and {end - at} bytes")
        at += 4 + struct.unpack_from("<I", raw, at)[0]
        if at > end:
            raise TensorError(
                f"BYTES element {index} of {count} says it ends at byte {at} of {end} bytes"
            )
        offsets.append(at)
    if at != end:
        raise TensorError(f"expected {count} BYTES elements, got {end - at} bytes more than these")
    return offsets


def cut(raw: bytes, count: int) -> list[bytes]:
    """The elements, or the error, by the definition."""
    return [raw[begin + 4 : end] for begin, end in pairwise(walked(raw, count))]


def outcome(function: Callable[..., Any], *args: Any) -> list[Any] | str:
    """What *function* returns, or what its TensorError says."""
    try:
        return list(function(*args))
    except TensorError as error:
        return str(error)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, int]:
    """A chain that is whole, cut, longer, changed in one byte or miscounted, and a count."""
    items = draw(any_items)
    raw, count = chained(items), len(items)
    harm = draw(st.sampled_from(["none", "cut", "longer", "changed", "miscounted"]))
    if harm == "cut":
        raw = raw[: draw(st.integers(0, len(raw)))]
    elif harm == "longer":
        raw += draw(st.binary(min_size=1, max_size=9))
    elif harm == "changed" and raw:
        at = draw(st.integers(0, len(raw) - 1))
        raw = raw[:at] + draw(st.binary(min_size=1, max_size=1)) + raw[at + 1 :]
    elif harm == "miscounted":
        count = max(count + draw(st.integers(-2, 2)), 0)
    return raw, count


@given(damaged())
def test_any_bytes_are_cut_or_refused_as_if_one_element_after_another(
    given_chain: tuple[bytes, int],
) -> None:
    raw, count = given_chain

    assert outcome(element_offsets, raw, count) == outcome(walked, raw, count)
    assert outcome(element_offsets, memoryview(raw), count) == outcome(walked, raw, count)
    assert outcome(decode_elements, raw, count) == outcome(cut, raw, count)


@given(any_items)
def test_elements_are_chained_by_their_lengths(items: list[bytes]) -> None:
    raw = encode_elements(items)

    assert raw == chained(items)
    assert decode_elements(raw, len(items)) == items


@given(any_items)
def test_offsets_of_what_was_chained_are_those_of_the_chain(items: list[bytes]) -> None:
    raw, offsets = encode_with_offsets(items)

    assert raw == chained(items)
    assert list(offsets) == walked(chained(items), len(items))


@given(st.lists(texts | short, max_size=9), st.sampled_from([1, 100, 700]))
def test_text_and_bytes_may_share_a_chain(few: list[str | bytes], times: int) -> None:
    items = few * times

    expected = chained([item.encode() if isinstance(item, str) else item for item in items])

    assert encode_elements(items) == expected


@given(st.lists(texts, min_size=1, max_size=9), st.sampled_from([1, 100, 700]))
def test_text_is_decoded_as_it_was_encoded(few: list[str], times: int) -> None:
    items = few * times

    assert decode_texts(encode_elements(items), len(items)) == items


def test_text_that_only_later_is_not_ascii_is_encoded() -> None:
    items = ["plain"] * 3000 + ["\u00e9\U0001f600"] + ["plain"] * 3000

    raw, offsets = encode_with_offsets(items)

    assert raw == chained([item.encode() for item in items])
    assert list(offsets) == walked(bytes(raw), len(items))
    assert decode_texts(raw, len(items)) == items


def test_a_chain_of_many_blocks_is_cut_as_a_short_one() -> None:
    items = [b"%d" % number for number in range(100_000)]
    raw = chained(items)

    assert decode_elements(raw, len(items)) == items
    assert decode_texts(raw, len(items)) == [item.decode() for item in items]
    assert find_not_utf8(raw, element_offsets(raw, len(items))) is None


@pytest.mark.parametrize("size", [1500, 70_000])
def test_long_elements_are_chained_and_cut(size: int) -> None:
    items = [bytes([number % 256]) * (size + number % 3) for number in range(600)]
    raw = encode_elements(items)

    assert raw == chained(items)
    assert encode_elements(["a" * size] * 600) == chained([b"a" * size] * 600)
    assert decode_elements(raw, len(items)) == items


@given(any_items)
def test_the_first_element_that_is_not_utf8_is_found(items: list[bytes]) -> None:
    def is_utf8(item: bytes) -> bool:
        try:
            item.decode()
        except UnicodeDecodeError:
            return False
        return True

    raw = chained(items)
    expected = next((index for index, item in enumerate(items) if not is_utf8(item)), None)

    assert find_not_utf8(raw, element_offsets(raw, len(items))) == expected
    if expected is None:
        assert decode_texts(raw, len(items)) == [item.decode() for item in items]
    else:
        with pytest.raises(UnicodeDecodeError):
            decode_texts(raw, len(items))


def test_a_character_cut_by_the_end_of_an_element_is_found() -> None:
    """The bytes of two elements together would be text."""
    items = [b"a", "\u00e9".encode()[:1], "\u00e9".encode()[1:]] * 200
    raw = chained(items)

    assert find_not_utf8(raw, element_offsets(raw, len(items))) == 1


@pytest.mark.parametrize("item", [1, None, 1.5, ["a"], bytearray(b"a")])
@pytest.mark.parametrize("others", [1, 1000])
def test_an_element_that_is_no_text_is_refused_by_its_type(item: object, others: int) -> None:
    with pytest.raises(TensorError, match=f"expected str or bytes, got {type(item).__name__}"):
        encode_elements(["a"] * others + [item])


@pytest.mark.parametrize("others", [0, 1000, 3000])
@pytest.mark.parametrize("other", ["a", "\u00e9", b"a"])
def test_text_without_utf8_is_refused(others: int, other: str | bytes) -> None:
    with pytest.raises(TensorError, match="UTF-8"):
        encode_elements([other] * others + ["\ud800"])


def test_an_element_that_claims_more_than_is_there_is_refused_with_numbers() -> None:
    raw = chained([b"ab"]) + (100).to_bytes(4, "little") + b"cd"

    with pytest.raises(TensorError, match="element 1 of 2 says it ends at byte 110 of 12 bytes"):
        element_offsets(raw, 2)


def test_a_count_that_the_bytes_cannot_hold_costs_no_memory() -> None:
    """A message of a few bytes may claim any shape."""
    with pytest.raises(TensorError, match="got 8 bytes"):
        element_offsets(bytes(8), 2**50)


@given(st.binary(max_size=40), st.integers(0, 10))
def test_random_bytes_are_elements_or_a_tensor_error(raw: bytes, count: int) -> None:
    assert outcome(element_offsets, raw, count) == outcome(walked, raw, count)
    assert outcome(decode_elements, raw, count) == outcome(cut, raw, count)

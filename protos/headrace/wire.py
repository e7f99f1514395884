"""Wire: the little of protobuf's wire format that we read and write ourselves.

Enough to keep large raw tensors out of protobuf: the top-level fields of a message, and lengths.
"""

from typing import Final, NamedTuple

# The numbers that are one byte.
_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(0x80))


class WireError(ValueError):
    """Bytes that are no protobuf message."""


class Fields(NamedTuple):
    """Where the top-level fields of a message lie.

    Attributes:
        shared: All bytes but the id and the raw tensors.
        id_field: The encoded id, tag and length included; empty for none. The last one counts.
        id_start: Where the id's own bytes begin within *id_field*.
        raws: First byte and end of each raw tensor's data.
        raws_begin: Where the tag of the first raw tensor stands.
    """

    shared: bytes
    id_field: bytes
    id_start: int
    raws: list[tuple[int, int]]
    raws_begin: int


def split(payload: bytes, *, id_tag: int, raw_tag: int) -> Fields:
    """Walk over the top-level fields of *payload*; tags are field number << 3 | 2, below 128.

    Raises:
        WireError: A field has no known form, or does not end within *payload*.
    """
    pieces: list[bytes] = []
    raws: list[tuple[int, int]] = []
    id_field, id_start, raws_begin = b"", 0, 0
    at, end = 0, len(payload)
    while at < end:
        begin = at
        # Most numbers are one byte: those are read here and now.
        tag, start = payload[at], at + 1
        if tag >= 0x80:
            tag, start = read_varint(payload, at)
        match tag & 7:
            case 2:
                if start < end and (size := payload[start]) < 0x80:
                    start += 1
                else:
                    size, start = read_varint(payload, start)
                at = start + size
            case 0:
                _, at = read_varint(payload, start)
            case 1:
                at = start + 8
            case 5:
                at = start + 4
            case _:
                raise WireError(f"unknown wire type at byte {begin}")
        if at > end:
            raise WireError(f"it ends inside the field at byte {begin}")
        if tag == raw_tag:
            if not raws:
                raws_begin = begin
            raws.append((start, at))
        elif tag == id_tag:
            id_field, id_start = payload[begin:at], start - begin
        else:
            pieces.append(payload[begin:at])
    return Fields(b"".join(pieces), id_field, id_start, raws, raws_begin)


def read_varint(payload: bytes | memoryview, at: int) -> tuple[int, int]:
    """The number at *at*, and where the next thing begins.

    Raises:
        WireError: It does not end, or has more than 64 bits.
    """
    value = shift = 0
    try:
        while True:
            byte = payload[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 63:
                raise WireError(f"the number before byte {at} is too long")
    except IndexError:
        raise WireError("it ends inside a field") from None


def varint(value: int) -> bytes:
    """A number of 0 or more, as protobuf writes lengths."""
    if value < 0x80:
        return _ONE_BYTE[value]
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)

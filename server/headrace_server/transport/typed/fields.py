"""Fields: the top-level fields of a typed message, as slices of its bytes.

A packed field of fixed width is the tensor's own bytes, so no message is made of it. Which fields
there are was worked out when the model was loaded; whatever order and form they come in, protobuf's
rules hold: lists are joined, of single values the last one counts, messages are merged.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from headrace.typed import Item, Kind, TypedService
from headrace.typed.description import MASK_NUMBER, PARAMS_NUMBER
from headrace.wire import WireError, read_varint

from ...errors import InvalidRequest
from ...types import Buffer

# Bytes of an element on the wire, by protobuf type; 0 for a varint.
WIDTHS: Final[Mapping[str, int]] = {
    "double": 8,
    "float": 4,
    "sfixed32": 4,
    "sfixed64": 8,
    "fixed32": 4,
    "fixed64": 8,
    "bool": 0,
}
_VARINT: Final = 0
_LENGTH_DELIMITED: Final = 2
_WIRE_TYPES: Final = {0: _VARINT, 4: 5, 8: 1}
# Up to this size a copied slice costs less than a view.
_SLICE_BYTES_MAX: Final = 1024

# What the pieces of a field are to the one who reads them.
_VIEW: Final = -1
_BYTES: Final = -2


class FieldTable:
    """Recognises the fields of one message type.

    Attributes:
        message: Its name.
        items: The inputs and their masks; the slots of `split`, before the one of the parameters.
    """

    def __init__(self, service: TypedService, *, is_row: bool) -> None:
        self.message = service.row if is_row else service.request
        self.items = (*service.inputs, *service.masks)
        self._retired = {one.number: one.name for one in service.retired_inputs}
        # Tag -> the slot of its item, and the bytes of a value, or _VIEW or _BYTES.
        self._table: dict[int, tuple[int, int]] = {}
        for slot, item in enumerate(self.items):
            for tag, form in _forms(item, is_row=is_row):
                self._table[tag] = (slot, form)
        self._table[PARAMS_NUMBER << 3 | _LENGTH_DELIMITED] = (len(self.items), _BYTES)

    def split(self, payload: bytes) -> list[list[Buffer]]:
        """The pieces of each slot, in the order of the message; the parameters' are the last.

        Raises:
            InvalidRequest: It is no such message, or has a field that the model has not.
        """
        slots: list[list[Buffer]] = [[] for _ in range(len(self.items) + 1)]
        whole: Buffer = payload if len(payload) <= _SLICE_BYTES_MAX else memoryview(payload)
        table = self._table
        at, end = 0, len(payload)
        try:
            while at < end:
                tag = payload[at]
                at += 1
                if tag > 0x7F:
                    tag, at = read_varint(payload, at - 1)
                known = table.get(tag)
                if known is None:
                    raise self._unknown(tag)
                slot, form = known
                if form > 0:
                    stop = at + form
                    slots[slot].append(whole[at:stop])
                elif form == 0:
                    value, stop = read_varint(payload, at)
                    slots[slot].append(b"\1" if value else b"\0")
                else:
                    size = payload[at]
                    at += 1
                    if size > 0x7F:
                        size, at = read_varint(payload, at - 1)
                    stop = at + size
                    slots[slot].append((whole if form == _VIEW else payload)[at:stop])
                at = stop
        except (IndexError, WireError):
            at = end + 1
        if at != end:
            raise InvalidRequest(f"the message is no {self.message}: it ends inside a field")
        return slots

    def spans(self, payload: bytes) -> list[tuple[int, int, int]] | None:
        """Slot, begin and end of the values of each field, of a message that `split` has read.

        None where a field's bytes are not the tensor's, or a slot has several; that of the
        parameters has no values.
        """
        spans = []
        at = 0
        while at < len(payload):
            tag, at = read_varint(payload, at)
            slot, form = self._table[tag]
            stop = at + form
            if form <= 0:
                size, at = read_varint(payload, at)
                stop = at + size
            if slot < len(self.items):
                is_number = self.items[slot].kind is Kind.SCALAR and form != 0
                if not is_number or (form == _BYTES and self.items[slot].type != "bool"):
                    return None
                spans.append((slot, at, stop))
            at = stop
        return spans if len({slot for slot, _, _ in spans}) == len(spans) else None

    def _unknown(self, tag: int) -> InvalidRequest:
        number = tag >> 3
        name = self._retired.get(number) or self._retired.get(number - MASK_NUMBER)
        if name is not None:
            return InvalidRequest(
                f"{self.message}: field {number} was input {name!r}, which the model does not have "
                "in that form any more"
            )
        known = {item.number: item.name for item in self.items}.get(number)
        if known is not None:
            return InvalidRequest(f"input {known!r}: its field has another type on the wire")
        return InvalidRequest(f"{self.message} has no field {number}: look at its descriptor")


def _forms(item: Item, *, is_row: bool) -> Iterable[tuple[int, int]]:
    """Each tag that *item* may come with, and the form of what follows."""
    width = WIDTHS.get(item.type)
    if width is None:
        form = _VIEW if item.kind is Kind.TENSOR else _BYTES
        yield item.number << 3 | _LENGTH_DELIMITED, form
        return
    yield item.number << 3 | _WIRE_TYPES[width], width
    if not is_row:
        yield item.number << 3 | _LENGTH_DELIMITED, _VIEW if width else _BYTES


def joined(pieces: list[Buffer]) -> Buffer:
    """The pieces of one field as one."""
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

"""Columns: text and JSON checked value by value, so that the guilty request alone is refused."""

from collections.abc import Sequence
from itertools import pairwise

from headrace.cells import CellError, read_cell
from headrace.elements import find_not_utf8
from headrace.signature import TensorSpec

from ..errors import InvalidRequest
from ..types import Buffer


def check_column(
    spec: TensorSpec, data: Buffer, offsets: Sequence[int], mask: Buffer = b""
) -> None:
    """Refuse text that is not UTF-8, and JSON that is not of the column's type.

    Args:
        spec: The column.
        data: Its elements, as BYTES.
        offsets: Where each of them begins, and where the last one ends.
        mask: A byte per row, other than 0 where what stands there does not count; empty for none.

    Raises:
        InvalidRequest: A row is wrong; the message names it.
    """
    data = bytes(data)
    if spec.kind != "json":
        row = find_not_utf8(data, offsets)
        if row is not None and mask:
            row = _find_not_utf8(data, offsets, mask)
        if row is not None:
            raise InvalidRequest(
                f"input {spec.name!r}: row {row}: expected text, got bytes that are not UTF-8"
            )
        return
    for row, (begin, end) in enumerate(pairwise(offsets)):
        if mask and mask[row]:
            continue
        try:
            read_cell(data[begin + 4 : end], spec)
        except CellError as error:
            raise InvalidRequest(f"input {spec.name!r}: row {row}: {error}") from None


def _find_not_utf8(data: bytes, offsets: Sequence[int], mask: Buffer) -> int | None:
    """The first row that counts and is not UTF-8."""
    for row, (begin, end) in enumerate(pairwise(offsets)):
        if not mask[row]:
            try:
                data[begin + 4 : end].decode()
            except UnicodeDecodeError:
                return row
    return None

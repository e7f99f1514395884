"""Columns: text and JSON checked value by value, so that the guilty request alone is refused."""

from collections.abc import Sequence
from itertools import pairwise

from headrace.cells import CellError, read_cell
from headrace.signature import TensorSpec

from ..errors import InvalidRequest
from ..types import Buffer


def check_column(spec: TensorSpec, data: Buffer, offsets: Sequence[int]) -> None:
    """Refuse text that is not UTF-8, and JSON that is not of the column's type.

    Args:
        spec: The column.
        data: Its elements, as BYTES.
        offsets: Where each of them begins, and where the last one ends.

    Raises:
        InvalidRequest: A row is wrong; the message names it.
    """
    is_json = spec.kind == "json"
    data = bytes(data)
    # Usual text: seen at once, the lengths between the elements included.
    if not is_json and data.isascii():
        return
    for row, (begin, end) in enumerate(pairwise(offsets)):
        element = data[begin + 4 : end]
        try:
            if is_json:
                read_cell(element, spec)
            else:
                element.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"input {spec.name!r}: row {row}: expected text, got bytes that are not UTF-8"
            ) from None
        except CellError as error:
            raise InvalidRequest(f"input {spec.name!r}: row {row}: {error}") from None

"""Nulls: columns that lack values in some rows, taken apart into values and a mask.

A column that says by its own type that values are missing, as those of pandas and numpy's masked
arrays do, becomes values and a mask. A list of nothing but None becomes a mask alone, since pandas
knows as little of what it might hold.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from headrace.datatypes import BYTES
from headrace.signature import TensorSpec

from .errors import InputMismatch
from .types import Array


class NullFound(InputMismatch):
    """A row has no value, and the datatype has no word for that."""


class Split(NamedTuple):
    """A column of which some rows have no value.

    Attributes:
        values: Its values, something else where there is none; None where there are none at all.
        mask: A value per row, true where there is none.
    """

    values: Array | None
    mask: npt.NDArray[np.bool_]


def split(spec: TensorSpec, values: Any) -> Split | None:
    """What *values* are made of, for the column *spec*; None where every row has one."""
    items = _items(values)
    if items is None:
        return None
    mask = np.fromiter(map(is_null, items), bool, len(items))
    if not mask.any():
        return None
    # The type of a masked array tells of its column what None alone does not.
    if mask.all() and not isinstance(values, np.ma.MaskedArray):
        return Split(None, mask)
    filler = "" if spec.datatype == BYTES.name else False
    filled = np.fromiter(items, object, len(items))
    filled[mask] = filler
    return Split(filled, mask)


def with_none(array: "np.ma.MaskedArray[Any, Any]") -> Array:
    """What *array* shows: None where it is masked. What is hidden there must never be sent."""
    objects: Any = array.data.astype(object)
    objects[np.ma.getmaskarray(array)] = None
    return cast("Array", objects)


def null_row(values: Sequence[Any]) -> int | None:
    """The first row without a value; None where there is none."""
    return next((index for index, item in enumerate(values) if is_null(item)), None)


def is_null(item: Any) -> bool:
    """Whether *item* is one of the words for no value: None, NaN, NaT or pandas' NA."""
    return (
        item is None
        or (isinstance(item, float) and item != item)  # noqa: PLR0124 - only NaN is not itself.
        or type(item).__name__ in {"NaTType", "NAType"}
        or (isinstance(item, np.datetime64) and bool(np.isnat(item)))
    )


def _items(values: Any) -> list[Any] | None:
    """The values of a column; None of an array whose type has no room for a null."""
    if isinstance(values, np.ma.MaskedArray):
        values = with_none(values)
    if isinstance(values, np.ndarray):
        return values.ravel().tolist() if values.dtype.kind in "OT" else None
    return list(values) if isinstance(values, list | tuple) else [values]

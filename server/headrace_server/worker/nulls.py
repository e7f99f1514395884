"""Nulls: a batch's masks laid over its columns, which then hold what pandas has for a null.

That is NaN among numbers, NaT among instants, None among truths, bytes and JSON, and among texts
what pandas' own type for them has. A column without its mask stays as it came.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from headrace.datatypes import DATATYPES
from headrace.nulls import mask_name
from headrace.signature import TensorSpec

from ..adapters.base import Array, Tensors
from ..adapters.tables import text_null

_NAT = np.iinfo(np.int64).min


def without_masks(
    tensors: Tensors, specs: Sequence[TensorSpec], masks: Mapping[str, TensorSpec]
) -> tuple[Tensors, list[TensorSpec]]:
    """The columns of *tensors* with their nulls, and which of them had a mask.

    Args:
        tensors: Columns and masks, with the datatypes of the signature.
        specs: The signature's inputs.
        masks: Those that may have a mask, by its name.
    """
    columns: Tensors = {}
    nullable = []
    for spec in specs:
        name, column = mask_name(spec.name), tensors.get(spec.name)
        if name in tensors and name in masks:
            nullable.append(spec)
            mask = tensors[name].reshape(-1)
            column = _nulls(spec, len(mask)) if column is None else _masked(spec, column, mask)
        if column is not None:
            columns[spec.name] = column
    return columns, nullable


def _masked(spec: TensorSpec, column: Array, mask: Array) -> Array:
    """*column* with nulls where *mask* is true."""
    if column.dtype.kind == "f":
        masked: Array = np.where(mask, column.dtype.type(np.nan), column)
        return masked
    if spec.kind == "datetime":
        return np.where(mask, column.dtype.type(_NAT), column)
    if column.dtype.kind == "b" and not mask.any():
        return column
    objects: Any = column.astype(object)
    objects[mask] = text_null() if spec.kind == "string" else None
    return cast("Array", objects)


def _nulls(spec: TensorSpec, rows: int) -> Array:
    """A column of nothing but nulls, as pandas makes it of so many None."""
    if spec.kind == "datetime":
        return np.full(rows, _NAT)
    dtype = DATATYPES[spec.datatype].dtype
    if dtype.kind == "f":
        return np.full(rows, np.nan, dtype)
    return np.full(rows, None, object)

"""Cells: instants, JSON and nulls of a caller's columns, which numpy alone would get wrong.

Among floats NaN is null, among instants NaT, in JSON null; what else may lack values has a mask, by
`nulls`. Integers have none, as in MLflow.
"""

import base64
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from headrace.cells import CellError, write_cell
from headrace.jsontext import NoNumber, read_json
from headrace.signature import TensorSpec

from .errors import InputMismatch
from .nulls import is_null
from .types import Array

_NANOSECONDS: Final = np.dtype("datetime64[ns]")


def instants(name: str, values: Any) -> Array:
    """Instants as int64 nanoseconds since 1970, in UTC where they have a time zone.

    Args:
        name: The column's name.
        values: datetimes, dates, pandas Timestamps, numpy datetimes, ISO 8601 texts or None; or
            integers, which are nanoseconds already.

    Raises:
        InputMismatch: A value is none of these, or beyond what 64 bits of nanoseconds hold.
    """
    array = values if isinstance(values, np.ndarray) else np.asarray(values, object)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind == "M":
        return _nanoseconds(name, array)
    if array.dtype.kind not in "OSUT":
        raise InputMismatch(input=name, expected="instants", got=array.dtype.name)
    moments = np.empty(array.size, np.int64)
    for row, item in enumerate(array.ravel().tolist()):
        moments[row] = _nanoseconds(name, np.asarray(_moment(name, row, item)))
    return moments.reshape(array.shape)


def json_cells(spec: TensorSpec, values: Any) -> Array:
    """One JSON text per row.

    A row without a value (None, NaN, NaT) is null. Within a value NaN and infinities are texts,
    where the column's schema says that a float or double is there; elsewhere JSON has none.

    Args:
        spec: The column.
        values: A list or array of one value per row, or the value of a single row. Text that is
            JSON of a list or an object goes as it is; bytes within a value go in base64.

    Raises:
        InputMismatch: A value cannot be written as JSON.
    """
    cells = _cells(spec, values)
    texts = [_json(spec, row, cell) for row, cell in enumerate(cells)]
    return np.fromiter(texts, object, len(texts))


def _cells(spec: TensorSpec, values: Any) -> Sequence[Any]:
    if isinstance(values, np.ndarray) and values.ndim > 0:
        return list(values)
    if not isinstance(values, list | tuple):
        return [values]
    kind = json.loads(spec.schema) if spec.schema else {}
    if kind.get("type") != "array":
        return values
    # What no row of an array column could be makes the whole list the value of one row.
    are_bytes = kind.get("items") == {"type": "binary"}
    is_one = any(not _may_be_array(item, are_bytes=are_bytes) for item in values)
    return [values] if is_one else values


def _may_be_array(item: Any, *, are_bytes: bool) -> bool:
    if isinstance(item, bytes) and are_bytes:
        return False
    if isinstance(item, str | bytes):
        return item.lstrip()[:1] in ("[", b"[")
    return item is None or isinstance(item, list | tuple | np.ndarray)


def _json(spec: TensorSpec, row: int, cell: Any) -> str:
    if isinstance(cell, bytes):
        cell = cell.decode(errors="surrogateescape")
    try:
        if isinstance(cell, str) and _is_container(cell):
            return cell
        return write_cell(None if is_null(cell) else cell, spec.schema, _plain)
    except (CellError, NoNumber) as error:
        raise InputMismatch(
            input=spec.name, expected="values that JSON has", got=f"{error} (row {row})"
        ) from None
    except (TypeError, ValueError, RecursionError):
        raise InputMismatch(
            input=spec.name, expected="values that JSON has", got=f"others in row {row}"
        ) from None


def _is_container(text: str) -> bool:
    """Whether *text* is JSON of a list or an object; raises NoNumber where NaN alone spoils it."""
    if text.lstrip()[:1] not in ("[", "{"):
        return False
    try:
        return isinstance(read_json(text), list | dict)
    except NoNumber:
        raise
    except (ValueError, RecursionError):
        return False


def _plain(value: Any) -> Any:
    """What json has no word for, in its words; bytes in base64."""
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


def _moment(name: str, row: int, item: Any) -> Any:
    """One instant as numpy takes it, without a time zone."""
    if is_null(item):
        return np.datetime64("NaT", "ns")
    if hasattr(item, "to_datetime64"):  # A pandas Timestamp: a datetime with nanoseconds.
        return item.to_datetime64()
    if isinstance(item, np.datetime64):
        return item
    try:
        if isinstance(item, str):
            item = _from_text(item)
        if isinstance(item, dt.datetime) and item.tzinfo is not None:
            item = item.astimezone(dt.UTC).replace(tzinfo=None)
        if isinstance(item, dt.date | np.datetime64):
            return np.datetime64(item)
        if isinstance(item, int) and not isinstance(item, bool):
            return np.datetime64(item, "ns")
    except (ValueError, OverflowError):
        raise InputMismatch(
            input=name, expected="instants in ISO 8601", got=f"other text in row {row}"
        ) from None
    raise InputMismatch(input=name, expected="instants", got=f"{type(item).__name__} in row {row}")


def _from_text(text: str) -> dt.datetime | np.datetime64:
    """An instant from ISO 8601; numpy keeps its nanoseconds, but knows no time zones."""
    moment = dt.datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else np.datetime64(text)


def _nanoseconds(name: str, array: Array) -> Array:
    converted = array.astype(_NANOSECONDS)
    # numpy wraps around without a word.
    if array.dtype != _NANOSECONDS and array.size:
        lost = (converted.astype(array.dtype) != array) & ~np.isnat(array)
        if lost.any():
            raise InputMismatch(
                input=name,
                expected="instants that 64 bits of nanoseconds hold (1677 to 2262)",
                got=str(array[lost][0] if array.ndim else array),
            )
    nanoseconds: Array = converted.view(np.int64)
    return nanoseconds

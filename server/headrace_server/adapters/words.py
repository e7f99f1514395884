"""Words: JSON of what Python models put into their answers.

What JSON has no word for is refused, never written as Python shows it.
"""

import base64
import datetime as dt
from typing import Any

import numpy as np

from headrace.jsontext import write_json

from .raw import is_null, raw_array


def json_of(value: Any) -> str:
    """*value* as JSON: a missing one, and NaN alone, is null.

    Raises:
        TypeError: There is something in it that JSON has no word for; the message names its type.
        ValueError: It holds itself.
        RecursionError: It is nested too deeply.
    """
    # NaN is how pandas says null in a column of anything.
    is_missing = is_null(value) or (isinstance(value, float | np.floating) and np.isnan(value))
    return write_json(None if is_missing else value, plain)


def plain(value: Any) -> Any:
    """The words of JSON for *value*: numpy's and pandas' values, pydantic models, instants, bytes.

    Raises:
        TypeError: There are none.
    """
    if is_null(value):
        return None
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else np.datetime_as_string(value)
    if isinstance(value, np.generic):
        return _item(value)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, set | frozenset):
        return list(value)
    if hasattr(value, "model_dump"):  # A pydantic model.
        return value.model_dump()
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # A DataFrame.
        return value.to_dict(orient="records")
    if hasattr(value, "detach"):  # A torch tensor that may still have a gradient.
        value = value.detach().cpu()
    if hasattr(value, "__array__"):
        return _listed(raw_array(value))
    raise TypeError(f"a value of type {type(value).__name__}")


def _item(value: Any) -> Any:
    found = value.item() if value.dtype.kind in "biufSU" else value
    if isinstance(found, np.generic):  # Python has no number as long either.
        raise TypeError(f"a value of type {value.dtype.name}")
    return found


def _listed(array: Any) -> Any:
    if array.dtype.kind == "M":
        texts = np.asarray(np.datetime_as_string(array), object)
        texts[np.isnat(array)] = None
        return texts.tolist()
    if array.dtype.kind not in "biufSUO" or array.dtype.type is np.longdouble:
        raise TypeError(f"an array of {array.dtype.name}")
    return array.tolist()

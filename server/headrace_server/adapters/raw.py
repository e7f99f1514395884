"""Raw: what a framework or a Python model returned, as arrays that have lost nothing.

Arrays of numbers, instants and text stay what they are. Everything else becomes an object array of
Python's own values, one per row, which are typed once all that is declared is known
(conforming.py). What is hidden behind a mask is None.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headrace.datatypes import EXACT_INTEGER_MAX

Array = npt.NDArray[np.generic]

# Types that pandas and numpy say "no value" with, by name: pandas need not be imported.
_NULLS: Final = frozenset({"NoneType", "NAType", "NaTType", "MaskedConstant"})


def is_null(value: Any) -> bool:
    """Whether *value* stands for a missing one; NaN does not say."""
    return type(value).__name__ in _NULLS


def is_utf8(data: bytes) -> bool:
    """Whether *data* is text."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def objects(items: Sequence[Any]) -> Array:
    """An array of *items* as they are: numpy would make further axes of lists of one length."""
    return np.fromiter(items, object, len(items))


def raw_array(value: Any) -> Array:
    """The values of one output.

    A list or a pandas Series has a value per row; anything that is no array is a single value.
    """
    if isinstance(value, np.ndarray):
        return _unmasked(value)
    if isinstance(value, list | tuple):
        return objects(value)
    if hasattr(value, "toarray"):  # A sparse matrix, as encoders and vectorizers return.
        return raw_array(value.toarray())
    if hasattr(value, "dtype") and hasattr(value, "to_numpy"):
        return _column(value)
    if hasattr(value, "detach"):  # A torch tensor, which may have a gradient yet.
        value = value.detach().cpu()
    if isinstance(value, np.generic) or hasattr(value, "__array__"):
        return _unmasked(np.asarray(value))
    single: Array = np.empty((), object)
    single[()] = value
    return single


def rows_of(array: Array) -> list[Any]:
    """The rows of *array* as Python's own values, instants as numpy's; a value alone is a row."""
    if not array.ndim:
        return [array[()]]
    return list(array) if array.dtype.kind == "M" else array.tolist()


def scalar(value: Any) -> Any:
    """What an array or tensor without axes holds; any other value as it is."""
    if hasattr(value, "__array__") and hasattr(value, "ndim") and not value.ndim:
        return raw_array(value)[()]
    return value


def nested(item: Any) -> Array | None:
    """A row's list or array as an array of objects; None where it is neither."""
    if isinstance(item, list | tuple):
        try:
            return np.asarray(item, object)
        except ValueError:  # Arrays of several shapes.
            return objects(item)
    if hasattr(item, "__array__") and getattr(item, "ndim", False):
        return raw_array(item).astype(object)
    return None


def regular(values: Any) -> Array | None:
    """Nested lists of numbers as an array of numbers; None where it would not be exactly them."""
    lists = (value for value in values if isinstance(value, list | tuple))
    kinds = set(map(type, chain(values, *lists)))
    if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
        # Of which numpy would show what is hidden.
        return None
    try:
        table = np.asarray(values)
    except (ValueError, TypeError, RuntimeError):  # Of several lengths; tensors elsewhere.
        return None
    if table.dtype.kind in "biu":
        return table
    # Whole numbers among floats become floats, which must not cost them digits.
    is_exact = table.dtype.kind == "f" and not (np.abs(table) >= EXACT_INTEGER_MAX).any()
    return table if is_exact else None


def leaves(value: Any, name: str, *, are_lists_rows: bool = False) -> Iterator[tuple[str, Any]]:
    """The arrays and single values that *value* holds, however deep, with dotted names.

    The items of a dict are called by their keys; those of a sequence that holds arrays by number,
    unless it is a list and *are_lists_rows*.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            dotted = f"{name}.{key}" if name else str(key)
            yield from leaves(item, dotted, are_lists_rows=are_lists_rows)
    elif isinstance(value, tuple if are_lists_rows else (tuple, list)) and holds_arrays(value):
        for index, item in enumerate(value):
            yield from leaves(item, f"{name}.{index}", are_lists_rows=are_lists_rows)
    else:
        yield name, value


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """*value* with *change* made to all that it holds, wherever dicts and sequences have it."""
    if isinstance(value, Mapping):
        return {key: mapped(change, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [mapped(change, item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return change(value)


def holds_arrays(value: Any) -> bool:
    """Whether an item of the dict or sequence *value* is an array, or holds one."""
    items = value.values() if isinstance(value, Mapping) else value
    return any(
        holds_arrays(item)
        if isinstance(item, Mapping | list | tuple)
        else bool(getattr(item, "ndim", False))
        for item in items
    )


def named(pairs: Sequence[tuple[str, Any]]) -> dict[str, Array]:
    """The outputs of *pairs* of names and values; None is a null in every row of the others.

    Raises:
        ValueError: Two have one name.
    """
    arrays = {name: raw_array(value) for name, value in pairs if value is not None}
    rows = {array.shape[:1] for array in arrays.values()}
    shape = rows.pop() if len(rows) == 1 else ()
    outputs = {
        name: np.full(shape, None, object) if value is None else arrays[name]
        for name, value in pairs
    }
    if len(outputs) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the model answered two outputs called {twice!r}")
    return outputs


def _unmasked(array: Array) -> Array:
    """*array* without its mask: NaN, NaT or None in the places that it hides."""
    if not isinstance(array, np.ma.MaskedArray):
        return array
    mask = np.ma.getmaskarray(array)
    data = np.asarray(array.data)
    if not mask.any():
        return data
    kind = data.dtype.kind
    filled = data.copy() if kind in "fM" else data.astype(object)
    filled[mask] = {"f": np.nan, "M": np.datetime64("NaT")}.get(kind)
    return filled


def _column(series: Any) -> Array:
    """The values of a pandas Series; those of its nullable types as numpy's, with None for null."""
    plain = getattr(series.dtype, "numpy_dtype", None)
    if plain is None or plain.kind not in "biuf":
        values: Array = series.to_numpy()
    elif series.hasnans:
        values = series.to_numpy(object, na_value=None)
    else:
        values = series.to_numpy(plain)
    return values

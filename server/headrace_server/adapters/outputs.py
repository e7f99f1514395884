"""Outputs: whatever a Python model returns, by name, as values that are yet to be typed.

A list, or the column of a table, has a value per row. Which datatype these have is not told by one
answer: see conforming.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.signature import Signature, TensorSpec

from .base import Array, Tensors, name_outputs
from .raw import holds_arrays, leaves, named, objects, raw_array


def named_outputs(result: Any, signature: Signature | None) -> Tensors:
    """Name what a model returned.

    A DataFrame gives its columns, a Series its name, a tuple its items. A dict gives its items
    where the signature's outputs are its keys, all are lists or arrays, or all are single values;
    arrays in dicts and tuples within it have dotted names. Any other dict is one answer, a row of
    JSON. A list has a value per row; of dicts or lists it is taken apart where they are rows of the
    signature's outputs.

    Raises:
        ValueError: Two outputs have one name.
    """
    specs = {spec.name: spec for spec in signature.outputs} if signature is not None else {}
    if isinstance(result, Iterator):
        result = list(result)
    if _is_frame(result):
        return _frame_columns(result, list(specs))
    if hasattr(result, "to_numpy") and hasattr(result, "name"):  # A Series.
        name = result.name if isinstance(result.name, str) and not specs else None
        return _single(raw_array(result), specs, name)
    if hasattr(result, "model_dump"):  # A pydantic model.
        result = result.model_dump()
    if isinstance(result, Mapping):
        return _of_dict(result, specs)
    if isinstance(result, tuple):
        items = (one if isinstance(one, Mapping | tuple) else raw_array(one) for one in result)
        return name_outputs(tuple(items), signature)
    if isinstance(result, list) and specs and (columns := _of_rows(result, specs)) is not None:
        return columns
    return _single(raw_array(result), specs)


def _of_dict(result: Mapping[Any, Any], specs: Mapping[str, TensorSpec]) -> Tensors:
    """The items of a dict, or all of it as one row."""
    result = {
        str(name): dict(value.items()) if _is_frame(value) else value
        for name, value in result.items()
    }
    if result and all(map(_is_single, result.values())):
        if not specs or _are_outputs(result, specs):
            return {name: objects([result.get(name)]) for name in specs or result}
    elif _are_outputs(result, specs):
        pairs = [(name, _column(result.get(name))) for name in specs]
        return named([leaf for name, value in pairs for leaf in _leaves(value, name)])
    elif result and all(map(_is_output, result.values())):
        return named(list(_leaves(result, "")))
    return _single(objects([result]), specs)


def _are_outputs(row: Any, specs: Mapping[str, TensorSpec]) -> bool:
    """Whether a dict has the declared outputs for its keys; optional ones may be absent."""
    return (
        isinstance(row, Mapping)
        and bool(specs)
        and row.keys() <= specs.keys()
        and all(spec.optional or name in row for name, spec in specs.items())
    )


def _of_rows(rows: Sequence[Any], specs: Mapping[str, TensorSpec]) -> Tensors | None:
    """The outputs of a list whose rows hold a value for each of them; None where one does not.

    Where several tensors are declared, it may also be as many arrays.
    """
    if not rows:
        return None
    if all(_are_outputs(row, specs) for row in rows):
        return {name: objects([row.get(name) for row in rows]) for name in specs}
    are_columns = len(specs) > 1 and all(spec.is_column for spec in specs.values())
    if len(rows) == len(specs) > 1 and not are_columns and all(map(_is_array, rows)):
        return dict(zip(specs, map(raw_array, rows), strict=True))
    if are_columns and all(
        isinstance(row, list | tuple) and len(row) == len(specs) for row in rows
    ):
        return {name: objects([row[index] for row in rows]) for index, name in enumerate(specs)}
    return None


def _frame_columns(frame: Any, declared: Sequence[str]) -> Tensors:
    """The columns of a DataFrame; those that have numbers take the signature's names."""
    names = [str(name) for name in frame.columns]
    if list(frame.columns) == list(range(len(declared))):
        names = list(declared)
    return named([(name, frame.iloc[:, index]) for index, name in enumerate(names)])


def _single(array: Array, specs: Mapping[str, TensorSpec], name: str | None = None) -> Tensors:
    """One output, by the name of the only one that is declared; tables as name_outputs does."""
    if len(specs) == 1:
        name = next(iter(specs))
    if name is not None:
        return {name: array}
    return name_outputs(array, Signature((), tuple(specs.values())))


def _column(value: Any) -> Any:
    """The values of one output in all rows: one value alone is that of a single row."""
    return objects([value]) if _is_single(value) and value is not None else value


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """As `leaves`, but for lists, which have a value per row."""
    return leaves(value, name, are_lists_rows=True)


def _is_frame(value: Any) -> bool:
    return hasattr(value, "columns") and hasattr(value, "items")


def _is_single(value: Any) -> bool:
    return value is None or isinstance(value, str | bytes | int | float | np.generic)


def _is_column(value: Any) -> bool:
    """Whether *value* has a value for each row."""
    return isinstance(value, list) or _is_array(value)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and value.ndim > 0


def _is_output(value: Any) -> bool:
    """Whether *value* is a column, or columns with names; None is one of nulls."""
    if isinstance(value, Mapping | tuple):
        items = value.values() if isinstance(value, Mapping) else value
        return holds_arrays(value) and all(
            item is None or (not isinstance(item, list) and _is_output(item)) for item in items
        )
    return value is None or _is_column(value)

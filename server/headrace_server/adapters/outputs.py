"""Outputs: whatever a Python model returns, as named arrays.

Numbers, texts and instants become arrays of their own kind, one element per row. What no datatype
carries becomes JSON: rows that are lists or dicts, and nulls among texts.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Final

import numpy as np

from headrace.signature import Signature, TensorSpec

from .base import Array, Tensors, name_outputs

_TEXT_KINDS: Final = {str, bytes}


def named_outputs(result: Any, signature: Signature | None) -> Tensors:
    """Name what a model returned.

    A DataFrame gives its columns, a Series its name. A dict gives its items where all are lists or
    arrays, all are single values, or the signature's outputs are its keys; any other dict is one
    answer, in JSON. A list of dicts is taken apart where the signature's outputs are their keys,
    else each is a row of JSON.
    """
    specs = {spec.name: spec for spec in signature.outputs} if signature is not None else {}
    if isinstance(result, Iterator):
        result = list(result)
    if hasattr(result, "columns") and hasattr(result, "items"):  # A DataFrame.
        return _frame_columns(result, list(specs.values()))
    if hasattr(result, "to_numpy"):  # A Series.
        name = result.name if isinstance(result.name, str) and not specs else None
        return _single(_series_values(result), specs, name)
    if hasattr(result, "model_dump"):  # A pydantic model.
        result = result.model_dump()
    if isinstance(result, Mapping):
        if not _is_taken_apart(result, specs):
            return _single(_json_rows([result]), specs)
        return {
            str(name): _array(value if _is_column(value) else [value], specs.get(str(name)))
            for name, value in result.items()
        }
    if isinstance(result, list) and specs and _are_records(result, specs):
        return {name: _array([row[name] for row in result], spec) for name, spec in specs.items()}
    if isinstance(result, tuple) or _is_list_of_arrays(result):
        return name_outputs(tuple(map(_array, result)), signature)
    return _single(result, specs)


def _frame_columns(frame: Any, specs: Sequence[TensorSpec]) -> Tensors:
    """The columns of a DataFrame; those that have numbers take the signature's names."""
    names = [str(name) for name in frame.columns]
    if list(frame.columns) == list(range(len(specs))):
        names = [spec.name for spec in specs]
    declared = {spec.name: spec for spec in specs}
    return {
        name: _array(_series_values(frame.iloc[:, index]), declared.get(name))
        for index, name in enumerate(names)
    }


def _series_values(series: Any) -> Array:
    """The values of a pandas Series; nullable numbers as plain ones, with NaN for null."""
    is_nullable = not isinstance(series.dtype, np.dtype) and series.dtype.kind in "biuf"
    if not is_nullable:
        values: Array = series.to_numpy()
    elif series.hasnans:
        values = series.to_numpy(np.float64, na_value=np.nan)
    else:
        values = series.to_numpy(series.dtype.numpy_dtype)
    return values


def _single(value: Any, specs: Mapping[str, TensorSpec], name: str | None = None) -> Tensors:
    """One output, by the name of the only one that is declared; tables as name_outputs does."""
    if len(specs) == 1:
        ((declared, spec),) = specs.items()
        return {declared: _array(value, spec)}
    array = _array(value)
    if name is not None:
        return {name: array}
    return name_outputs(array, Signature((), tuple(specs.values())))


def _array(value: Any, spec: TensorSpec | None = None) -> Array:
    """The values of one output."""
    if hasattr(value, "toarray"):  # A sparse matrix.
        value = value.toarray()
    kind = "" if spec is None else spec.kind
    if not _is_column(value):
        array = np.asarray(value)
        return array if array.dtype.kind not in "OSU" else _texts([value]).reshape(())
    if kind == "json":
        return _json_rows(list(value))
    if isinstance(value, np.ndarray) and (value.dtype.kind != "O" or value.ndim > 1):
        return value if value.dtype.kind != "O" else _texts(value.ravel()).reshape(value.shape)
    if kind == "datetime":
        return np.asarray(value, "datetime64[ns]")
    items = list(value)
    # By type, of which there are few, not by value.
    kinds = set(map(type, items))
    if kinds and kinds <= _TEXT_KINDS:
        return np.fromiter(items, object, len(items))
    if any(issubclass(kind, Mapping | list | tuple | np.ndarray) for kind in kinds):
        return _nested(items)
    array = np.asarray(items)
    # numpy makes text of numbers among texts, and cuts zeros off the ends of bytes.
    return array if array.dtype.kind not in "OSU" else _texts(items)


def _is_column(value: Any) -> bool:
    """Whether *value* has a value for each row."""
    return isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_taken_apart(result: Mapping[Any, Any], specs: Mapping[str, TensorSpec]) -> bool:
    """Whether each item of a dict is an output of its own."""
    if result.keys() == specs.keys() or all(map(_is_column, result.values())):
        return bool(result)
    return all(
        value is None or isinstance(value, str | bytes | int | float | np.generic)
        for value in result.values()
    )


def _nested(items: list[Any]) -> Array:
    """Rows that are lists or dicts: an array where they are lists of numbers alike, else JSON."""
    if all(isinstance(item, list | tuple | np.ndarray) for item in items):
        try:
            table = np.asarray(items)
        except ValueError:  # Of several lengths.
            return _json_rows(items)
        if table.dtype.kind not in "OSU":
            return table
    return _json_rows(items)


def _json_rows(items: Iterable[Any]) -> Array:
    texts = [json.dumps(item, default=_plain) for item in items]
    return np.fromiter(texts, object, len(texts))


def _texts(items: Sequence[Any] | Array) -> Array:
    """Text and bytes as they are; anything else, null among it, as JSON."""
    texts = np.fromiter(items, object, len(items))
    is_text = np.fromiter(map(isinstance, items, repeat((str, bytes))), np.bool_, len(items))
    for index in np.flatnonzero(~is_text).tolist():
        texts[index] = _json(items[index])
    return texts


def _json(item: Any) -> str:
    # NaN is how pandas says null among texts.
    is_null = isinstance(item, float) and item != item  # noqa: PLR0124 - only NaN is not itself.
    return json.dumps(None if is_null else item, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON has no word for, in its nearest words; bytes in base64, as MLflow's servers do."""
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if isinstance(value, set | frozenset):
        return list(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _are_records(rows: list[Any], specs: Mapping[str, TensorSpec]) -> bool:
    return bool(rows) and all(
        isinstance(row, Mapping) and row.keys() == specs.keys() for row in rows
    )


def _is_list_of_arrays(result: Any) -> bool:
    return (
        isinstance(result, list)
        and bool(result)
        and all(isinstance(item, np.ndarray) and item.ndim for item in result)
    )

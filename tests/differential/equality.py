"""Equality: when the answer of a daemon is the one that MLflow gave.

Numbers may differ by the tolerance of their datatype, since a batch adds up in another order than
one request does; text, integers and booleans may not differ at all. JSON is read, strictly.
"""

import datetime as dt
import decimal
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from headrace.datatypes import datatype_of
from headrace.signature import TensorSpec

Array = npt.NDArray[Any]
# One way to read an answer: its outputs, each by its name, or None where it has none.
Reading = list[tuple[str | None, Any]]

# Datatype -> by how much numbers may differ, as a part of the number itself, and as a part of the
# largest number that the output has for this request: what was added up may nearly cancel out.
TOLERANCES: Final[Mapping[str, tuple[float, float]]] = {
    "FP64": (1e-9, 1e-12),
    "FP32": (1e-4, 1e-5),
    "FP16": (1e-2, 1e-3),
    "BF16": (2e-2, 1e-2),
}
# What JSON has no number for, as text.
_NON_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Comparison:
    """How answers of one model are compared.

    Attributes:
        specs: What the metadata says of its outputs.
        shapes: Whether only shapes and types count, since the model answers by chance.
        computes: The datatype it computes in, where that is coarser than those of its outputs.
    """

    specs: Mapping[str, TensorSpec] = field(default_factory=dict)
    shapes: bool = False
    computes: str = ""

    def difference(self, answer: Any, served: Mapping[str, Array]) -> str:
        """How *served*, outputs by name, differs from what `predict` gave; empty: not at all."""
        if wrong := _not_as_declared(served, self.specs):
            return wrong
        found = ""
        for reading in _readings(answer):
            unlike = self._unlike(reading, served)
            if not unlike:
                return ""
            # The first reading is the plainest: its difference tells most.
            found = found or unlike
        return found or f"MLflow's answer is a {type(answer).__name__}, which has no outputs"

    def _unlike(self, reading: Reading, served: Mapping[str, Array]) -> str:
        names = [name for name, _ in reading]
        if len(reading) != len(served):
            return f"outputs {list(served)}, MLflow has {names}"
        if all(name in served for name in names):
            pairs = [(name, values, served[name]) for name, values in reading if name is not None]
        elif set(names) == {None} or names == [str(at) for at in range(len(names))]:
            pairs = [
                (name, values, array)
                for (_, values), (name, array) in zip(reading, served.items(), strict=True)
            ]
        elif len(reading) == 1:
            # The only output has the signature's name for it.
            pairs = [(next(iter(served)), reading[0][1], next(iter(served.values())))]
        else:
            return f"outputs {list(served)}, MLflow has {names}"
        for name, values, array in pairs:
            unlike = self._unlike_column(values, array, self.specs.get(name))
            if unlike:
                return f"output {name!r}: {unlike}"
        return ""

    def _unlike_column(self, values: Any, array: Array, spec: TensorSpec | None) -> str:
        if hasattr(values, "detach"):
            values = values.detach().cpu().numpy()
        if hasattr(values, "toarray"):
            values = values.toarray()
        if isinstance(values, pd.Series):
            is_plain = isinstance(values.dtype, np.dtype)
            values = values.to_numpy() if is_plain else values.astype(object).tolist()
        if isinstance(values, np.ma.MaskedArray):
            values = values.tolist()
        if isinstance(values, np.generic) or (isinstance(values, np.ndarray) and not values.ndim):
            values = values.item()
        if values is None and array.ndim:
            # Nothing for all rows is nothing for each.
            values = [None] * len(array)
        if not isinstance(values, list | np.ndarray):
            values = [values]
        if isinstance(values, list) and array.ndim == 0:
            array = array.reshape(1)
        is_moment = spec is not None and spec.kind == "datetime"
        if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
            # Instants that are all missing are NaN in a column that pandas made.
            if array.dtype.kind != "O" and not (is_moment and np.isnan(values).all()):
                return self._unlike_numbers(values, array)
            values = list(values)
        if isinstance(values, np.ndarray) and values.dtype.kind == "O" and values.ndim == 1:
            # Of lists, perhaps, which may be served as rows of a matrix.
            values = list(values)
        if isinstance(values, np.ndarray):
            if values.shape != array.shape:
                return f"shape {list(array.shape)}, MLflow's is {list(values.shape)}"
            values, array = list(values.ravel()), array.ravel()
        if len(values) != len(array):
            return f"{len(array)} rows, MLflow has {len(values)}"
        if self.shapes:
            return ""
        for row, (value, got) in enumerate(zip(values, array, strict=True)):
            if not self._is_same_cell(value, got, spec):
                return f"row {row} is {shown(got)}, MLflow's is {shown(value)}"
        return ""

    def _unlike_numbers(self, values: Array, array: Array) -> str:
        if values.shape != array.shape:
            return f"shape {list(array.shape)}, MLflow's is {list(values.shape)}"
        if array.dtype.kind == "f" and values.dtype.kind == "f":
            # A number is as near as the coarser of both can say it.
            coarser = min(values.dtype, array.dtype, key=lambda dtype: dtype.itemsize)
            relative, of_largest = TOLERANCES[self.computes or datatype_of(coarser).name]
            wanted, got = values.astype(float), array.astype(float)
            largest = float(np.max(np.abs(wanted), initial=0.0, where=np.isfinite(wanted)))
            with np.errstate(all="ignore"):
                same = np.isclose(got, wanted, relative, of_largest * largest, equal_nan=True)
        else:
            same = array == values
        if self.shapes or bool(np.all(same)):
            return ""
        at = tuple(int(index) for index in np.argwhere(~same)[0])
        return f"{array[at]!r} at {list(at)}, MLflow's is {values[at]!r}"

    def _is_same_cell(self, value: Any, got: Any, spec: TensorSpec | None) -> bool:
        """Whether one value of a list or of a column of objects is what was served."""
        kind = "" if spec is None else spec.kind
        if isinstance(got, bytes):
            return self._is_same_text(value, got, kind)
        if isinstance(got, np.ndarray):
            return not self._unlike_column(value, got, spec) if got.ndim else False
        if _is_missing(value):
            return bool(np.isnan(got)) if np.asarray(got).dtype.kind == "f" else _is_no_instant(got)
        if isinstance(value, dt.date | np.datetime64):
            return kind == "datetime" and int(got) == _nanoseconds(value)
        if isinstance(value, bool | int | float | np.number | np.bool_):
            return not self._unlike_numbers(np.asarray(value), np.asarray(got))
        return False

    def _is_same_text(self, value: Any, got: bytes, kind: str) -> bool:
        if isinstance(value, str | bytes) and kind != "json":
            return got == (value.encode() if isinstance(value, str) else value)
        try:
            read = json.loads(got, parse_constant=_refuse)
        except ValueError:
            return False
        return self._is_same_json(value, read)

    def _is_same_json(self, value: Any, read: Any) -> bool:
        if isinstance(value, pd.DataFrame):
            value = value.to_dict(orient="list")
        if isinstance(value, np.datetime64):
            value = pd.Timestamp(value)
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        if hasattr(value, "model_dump"):
            value = value.model_dump()
        if isinstance(value, Mapping):
            return (
                isinstance(read, dict)
                and {str(key) for key in value} == read.keys()
                and all(self._is_same_json(item, read[str(key)]) for key, item in value.items())
            )
        if isinstance(value, list | tuple):
            return self._are_same_json(value, read)
        if isinstance(value, set | frozenset):
            return isinstance(read, list) and self._are_same_json(sorted(value), sorted(read))
        if isinstance(value, bool) or isinstance(read, bool):
            return value is read
        if isinstance(value, decimal.Decimal):
            return str(value) == str(read)
        if isinstance(value, int) and isinstance(read, int):
            return value == read
        if _is_missing(value):
            return read is None or read == "NaN"
        if isinstance(value, int | float):
            if isinstance(read, str):
                read = _NON_FINITE.get(read)
            elif read is None and not math.isfinite(value):
                return True
            if isinstance(read, bool) or not isinstance(read, int | float):
                return False
            return not self._unlike_numbers(np.asarray(float(value)), np.asarray(float(read)))
        if isinstance(value, dt.date):
            return isinstance(read, str) and pd.Timestamp(read) == pd.Timestamp(value)
        if isinstance(value, dt.timedelta):
            return isinstance(read, str) and pd.Timedelta(read) == value
        if isinstance(value, bytes):
            return isinstance(read, str) and read.encode() == value
        return isinstance(value, str) and value == read

    def _are_same_json(self, values: Iterable[Any], read: Any) -> bool:
        values = list(values)
        return (
            isinstance(read, list)
            and len(read) == len(values)
            and all(starmap(self._is_same_json, zip(values, read, strict=True)))
        )


def fingerprint(served: Mapping[str, Array]) -> tuple[Any, ...]:
    """Something that is equal for equal answers, to the last bit."""
    return tuple(
        (
            name,
            array.dtype.str,
            array.shape,
            tuple(array.ravel().tolist()) if array.dtype.kind == "O" else array.tobytes(),
        )
        for name, array in served.items()
    )


def shown(value: Any, chars_max: int = 300) -> str:
    """An answer on one line."""
    if isinstance(value, pd.DataFrame):
        value = value.to_dict(orient="list")
    elif isinstance(value, pd.Series):
        value = value.tolist()
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key!r}: {shown(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, np.ndarray):
        text = f"{value.dtype.name}{list(value.shape)} {value.tolist()}"
    else:
        text = repr(value)
    return text if len(text) <= chars_max else f"{text[:chars_max]} ..."


# What the metadata says of every answer.


def _not_as_declared(served: Mapping[str, Array], specs: Mapping[str, TensorSpec]) -> str:
    if not specs:
        return ""
    if served.keys() != specs.keys():
        return f"outputs {list(served)}, but the metadata has {list(specs)}"
    for name, array in served.items():
        spec = specs[name]
        datatype = datatype_of(array.dtype).name
        if datatype != spec.datatype:
            return f"output {name!r} is {datatype}, but {spec.datatype} in the metadata"
        if not _fits(array.shape, spec.shape):
            return (
                f"output {name!r} has shape {list(array.shape)}, but {list(spec.shape)} in the "
                "metadata"
            )
    return ""


def _fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    return len(shape) == len(declared) and all(
        wanted in (-1, size) for size, wanted in zip(shape, declared, strict=True)
    )


# How an answer may be read.


def _readings(answer: Any) -> Iterator[Reading]:
    """The ways in which outputs may be made of an answer, the plainest first."""
    if hasattr(answer, "toarray"):  # A sparse matrix.
        answer = answer.toarray()
    if hasattr(answer, "model_dump"):  # A pydantic model.
        answer = answer.model_dump()
    if isinstance(answer, Iterator):
        answer = list(answer)
    if isinstance(answer, pd.DataFrame):
        yield [(str(name), answer.iloc[:, at]) for at, name in enumerate(answer.columns)]
        if _is_plain_table(answer):
            yield [(None, answer.to_numpy())]
    elif isinstance(answer, pd.Series | pd.Index):
        yield [(None, pd.Series(answer))]
    elif isinstance(answer, np.ndarray):
        yield [(None, answer)]
        if answer.ndim == 2:
            yield [(None, answer[:, at]) for at in range(answer.shape[1])]
    elif isinstance(answer, tuple):
        yield [(None, item) for item in answer]
    elif isinstance(answer, list):
        yield from _readings_of_list(answer)
    elif isinstance(answer, Mapping):
        yield from _readings_of_dict(answer)
    elif answer is None or isinstance(answer, str | bytes | int | float | np.generic):
        yield [(None, [answer])]


def _readings_of_list(answer: list[Any]) -> Iterator[Reading]:
    yield [(None, answer)]
    if answer and all(isinstance(item, Mapping) for item in answer):
        if all(item.keys() == answer[0].keys() for item in answer):
            yield [(str(name), [item[name] for item in answer]) for name in answer[0]]
    elif answer and all(isinstance(item, np.ndarray) and item.ndim for item in answer):
        yield [(None, item) for item in answer]


def _readings_of_dict(answer: Mapping[Any, Any]) -> Iterator[Reading]:
    yield [(str(name), _column(item)) for name, item in answer.items()]
    yield [(name, _column(item)) for name, item in _leaves(answer, "")]
    if len(answer) == 1:
        yield from _readings(next(iter(answer.values())))
    yield [(None, [answer])]


def _leaves(nested: Mapping[Any, Any], path: str) -> Iterator[tuple[str, Any]]:
    """What a nested dict holds, by dotted names."""
    for name, item in nested.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{path}{name}.")
        else:
            yield f"{path}{name}", item


def _column(item: Any) -> Any:
    if hasattr(item, "detach"):  # A tensor of torch.
        item = item.detach().cpu().numpy()
    is_column = isinstance(item, list | pd.Series | np.ndarray)
    return item if is_column else [item]


def _is_plain_table(frame: pd.DataFrame) -> bool:
    return len(set(frame.dtypes)) == 1 and list(frame.columns) == list(range(frame.shape[1]))


# Single values.


def _nanoseconds(value: Any) -> int | None:
    """Since 1970; None where 64 bits do not hold them."""
    try:
        found: int = pd.Timestamp(value).as_unit("ns").value
    except pd.errors.OutOfBoundsDatetime:
        return None
    return found


def _is_no_instant(got: Any) -> bool:
    return np.asarray(got).dtype == np.int64 and int(got) == np.iinfo(np.int64).min


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _is_missing(value: Any) -> bool:
    return (
        value is None
        or value is pd.NA
        or value is pd.NaT
        or (isinstance(value, float | np.floating) and math.isnan(value))
        or (isinstance(value, np.datetime64) and bool(np.isnat(value)))
    )

"""Conforming: a model's answers in the datatypes that its outputs were settled to have.

A datatype depends neither on the values of an answer nor on the rows beside it. At load `settle`
decides it, by what is declared and by what the model was seen to answer; from then on `conform`
brings every answer into it. A row that cannot be carried so is refused by itself, and its
neighbours keep theirs.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Final, NamedTuple

import numpy as np

from headrace.datatypes import DATATYPES, EXACT_INTEGER_MAX
from headrace.jsontext import spelled
from headrace.signature import TensorSpec

from .base import NO_PARAMS, Array, LoadError, Params, Tensors
from .raw import is_null, is_utf8, nested, objects, raw_array, regular, rows_of, scalar
from .settling import settle
from .words import json_of

__all__ = ["Conformed", "Form", "OutputsUnlike", "conform", "settle"]

_INSTANT: Final = np.dtype("datetime64[ns]")
_OBJECT: Final = np.dtype(object)
# A sentence shows no more of a number.
_SHOWN_CHARS_MAX: Final = 40
_FAR_INSTANT: Final = "an instant beyond 64 bits of nanoseconds (1677 to 2262)"
_TEXTS: Final = frozenset({str, bytes})


class OutputsUnlike(Exception):
    """The model's answer is not one that could be sent, whatever its rows."""


class Conformed(NamedTuple):
    """An answer in the datatypes that it must have.

    Attributes:
        tensors: The outputs; in a refused row they mean nothing.
        refused: By row, why it cannot be carried: the output, what was expected, and what came.
    """

    tensors: Tensors
    refused: Mapping[int, str]


class _Unfit(Exception):
    """A value that its output cannot carry; the message says what came."""


def conform(outputs: Tensors, specs: Mapping[str, TensorSpec]) -> Conformed:
    """*outputs*, as an adapter finished them, in the datatypes of *specs*.

    None is NaN among floats, NaT among instants and null in JSON; no other datatype has a null.

    Raises:
        OutputsUnlike: An output is unknown, or one is missing that is not optional; or its rows
            do not make one array.
    """
    if outputs.keys() != specs.keys():
        _check_names(outputs, specs)
    tensors: Tensors = {}
    refused: dict[int, str] = {}
    for name, array in outputs.items():
        spec = specs[name]
        dtype = _INSTANT if spec.kind == "datetime" else DATATYPES[spec.datatype].dtype
        # The usual case: a framework's array that is what it must be.
        if array.dtype == dtype and dtype is not _OBJECT and type(array) is np.ndarray:
            tensors[name] = array
        else:
            tensors[name] = _Output(spec, dtype, refused).conformed(raw_array(array))
    return Conformed(tensors, refused)


class Form:
    """The outputs of one model, into which its answers are brought."""

    def __init__(self, outputs: Sequence[TensorSpec], defaults: Params = NO_PARAMS) -> None:
        """Bring answers into the datatypes of *outputs*.

        Args:
            outputs: As they were settled, or else declared; empty where nothing is known of them.
            defaults: The parameters that a model runs with which is given none.
        """
        self._specs = {spec.name: spec for spec in outputs}
        self._defaults = defaults

    @property
    def is_known(self) -> bool:
        """Whether anything is known of the outputs."""
        return bool(self._specs)

    def learn(self, answers: Sequence[tuple[int, Tensors]]) -> tuple[TensorSpec, ...]:
        """Settle outputs of which nothing was known by *answers* to so many rows each."""
        outputs = settle((), answers)
        self._specs = {spec.name: spec for spec in outputs}
        return outputs

    def conform(
        self, outputs: Tensors, params: Params = NO_PARAMS, wanted: Sequence[str] = ()
    ) -> Conformed:
        """*outputs*, an answer to *params*, of which only the *wanted* ones are here, if any are.

        Raises:
            OutputsUnlike: They are not the model's; but for other parameters than its own it may
                have others.
        """
        specs = self._specs
        if not specs:
            return _conform_alone(outputs)
        if wanted:
            specs = {name: specs[name] for name in wanted if name in specs}
        if outputs.keys() == specs.keys() or not params or params == self._defaults:
            return conform(outputs, specs)
        known = {name: array for name, array in outputs.items() if name in specs}
        others = _conform_alone({name: outputs[name] for name in outputs if name not in specs})
        found = conform(known, {name: specs[name] for name in known})
        tensors = found.tensors | others.tensors
        return Conformed(
            {name: tensors[name] for name in outputs}, {**others.refused, **found.refused}
        )


def _conform_alone(outputs: Tensors) -> Conformed:
    """*outputs* of which nothing was seen at load, by what this one answer holds."""
    try:
        specs = settle((), [(0, outputs)])
    except LoadError as error:
        raise OutputsUnlike(str(error)) from error
    return conform(outputs, {spec.name: spec for spec in specs})


def _check_names(outputs: Tensors, specs: Mapping[str, TensorSpec]) -> None:
    for name in outputs:
        if name not in specs:
            raise OutputsUnlike(f"unknown output {name!r}: expected {list(specs)}")
    for name, spec in specs.items():
        if name not in outputs and not spec.optional:
            raise OutputsUnlike(f"no output {name!r}: expected {list(specs)}, got {list(outputs)}")


class _Output:
    """One output of one answer on its way into its datatype."""

    def __init__(self, spec: TensorSpec, dtype: np.dtype[Any], refused: dict[int, str]) -> None:
        self._spec = spec
        self._dtype = dtype
        self._refused = refused

    def conformed(self, array: Array) -> Array:
        """*array* in the output's datatype; the rows that have no place in it are refused."""
        if self._spec.kind == "json":
            return self._json(array)
        if array.dtype.kind in "biuf" and self._dtype.kind in "biuf":
            return self._numbers(array)
        if array.dtype.kind == "M" == self._dtype.kind:
            return self._instants(array)
        # The axes within a row, which are further lists where the rows are Python's own.
        inner = self._spec.shape[1:]
        if inner and array.ndim == 1:
            array = self._stacked(array.tolist(), inner)
            if array.dtype.kind in "biuf" and self._dtype.kind in "biuf":
                return self._numbers(array)
        return self._elements(array)

    def _refuse(self, row: int, got: str, expected: str = "") -> None:
        spec = self._spec
        if not expected:
            is_plain = spec.kind == "tensor"
            expected = spec.datatype if is_plain else f"{spec.kind} ({spec.datatype})"
        self._refused.setdefault(row, f"output {spec.name!r}: expected {expected}, got {got}")

    def _json(self, array: Array) -> Array:
        texts = []
        for row, item in enumerate(rows_of(array)):
            try:
                texts.append(json_of(item))
            except Exception as error:  # noqa: BLE001 - a model's own values may raise anything.
                is_deep = isinstance(error, RecursionError)
                got = "a value that is nested too deeply" if is_deep else str(error)
                self._refuse(row, got or type(error).__name__, "JSON")
                texts.append("null")
        return objects(texts).reshape(array.shape[:1])

    # numpy's own types, looked at as a whole.

    def _numbers(self, array: Array) -> Array:
        bad = _lossy(array, self._dtype)
        if bad is not None and bad.any():
            self._refuse_at(bad, array)
            array = np.where(bad, np.zeros((), array.dtype), array)
        with np.errstate(over="ignore"):
            return array.astype(self._dtype)

    def _instants(self, array: Array) -> Array:
        converted = array.astype(_INSTANT)
        # numpy wraps around without a word.
        lost = (converted.astype(array.dtype) != array) & ~np.isnat(array)
        if lost.any():
            self._refuse_at(lost, array, _FAR_INSTANT)
        return converted

    def _refuse_at(self, bad: Array, array: Array, got: str = "") -> None:
        """Refuse the rows in which elements of *array* are *bad*."""
        array = np.atleast_1d(array)
        for index in np.argwhere(np.atleast_1d(bad)).tolist():
            self._refuse(index[0], got or _told(array[tuple(index)]))

    # Python's own values, looked at one by one.

    def _stacked(self, rows: Sequence[Any], inner: tuple[int, ...]) -> Array:
        """Rows that are lists or arrays themselves as one array, whose elements are yet to be read.

        Raises:
            OutputsUnlike: Their sizes differ, where any would do.
        """
        table = regular(rows)
        if table is not None and _fits(table.shape[1:], inner):
            return table
        made: list[Array | None] = []
        for row, item in enumerate(rows):
            array = nested(item)
            if array is not None and _fits(array.shape, inner):
                made.append(array)
                continue
            made.append(None)
            got = _told(item) if array is None or not array.ndim else f"shape {list(array.shape)}"
            self._refuse(row, got, f"shape {list(inner)}")
        shapes = {array.shape for array in made if array is not None}
        if len(shapes) > 1:
            raise OutputsUnlike(
                f"output {self._spec.name!r} has rows of several shapes: {sorted(shapes)}"
            )
        shape = shapes.pop() if shapes else tuple(max(size, 0) for size in inner)
        stacked = np.empty((len(rows), *shape), object)
        for row, array in enumerate(made):
            stacked[row] = self._blank() if array is None else array
        return stacked

    def _elements(self, array: Array) -> Array:
        """Each element of *array* as the datatype has it."""
        items = rows_of(array.ravel())
        found = self._at_once(items)
        if found is None:
            found = self._one_by_one(
                items, len(items) // max(array.shape[0], 1) if array.ndim else 1
            )
        return found.reshape(array.shape)

    def _at_once(self, items: Sequence[Any]) -> Array | None:
        """The elements where their own types tell that they are right; else None."""
        kinds = set(map(type, items))
        if self._dtype is _OBJECT:
            is_right = kinds <= (_TEXTS if self._spec.kind != "binary" else {bytes})
            # What is not ASCII might have no UTF-8, or be none.
            is_free = kinds == {bytes} and self._spec.kind != "string"
            is_right = is_right and (is_free or all(item.isascii() for item in items))
            return objects(items) if is_right else None
        if kinds <= {float, NoneType} and self._dtype == np.float64:
            items = [np.nan if item is None else item for item in items]
            return np.fromiter(items, self._dtype, len(items))
        if (kinds, self._dtype) in _AT_ONCE:
            try:
                return np.fromiter(items, self._dtype, len(items))
            except OverflowError:
                pass
        return None

    def _one_by_one(self, items: Sequence[Any], per_row: int) -> Array:
        kind = self._dtype.kind
        values: list[Any] = []
        for index, item in enumerate(items):
            try:
                if kind == "O":
                    values.append(_text(item, self._spec.kind))
                elif kind == "M":
                    values.append(_instant(item))
                else:
                    values.append(_number(item, self._dtype))
            except _Unfit as unfit:
                self._refuse(index // per_row, str(unfit))
                values.append(self._blank())
        return objects(values) if kind == "O" else np.array(values, self._dtype)

    def _blank(self) -> Any:
        """What stands in a row that is refused, and that no one is sent."""
        if self._dtype.kind == "O":
            return b"" if self._spec.kind == "binary" else ""
        return np.zeros((), self._dtype)[()]


_AT_ONCE: Final = [
    ({int}, np.dtype(np.int64)),
    ({bool}, np.dtype(np.bool_)),
]


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        want in (-1, size) for want, size in zip(wanted, shape, strict=True)
    )


def _lossy(array: Any, target: np.dtype[Any]) -> Any:
    """Which numbers of *array* are none of *target*; None where its own type says that all are."""
    source = array.dtype
    kinds = source.kind + target.kind
    is_wide = kinds in {"if", "uf"} and source.itemsize == 8
    if np.can_cast(source, target, "safe") and not is_wide:
        return None
    if target.kind == "b":
        return (array != 0) & (array != 1)
    if kinds in {"if", "uf"}:
        limit = _exact_max(target)
        return (array > limit) | (array < -limit) if source.kind == "i" else array > limit
    with np.errstate(all="ignore"):
        cast = array.astype(target)
        if source.kind == "f" and target.kind in "iu":
            is_whole = np.isfinite(array) & (np.trunc(array) == array)
            is_whole &= np.abs(array.astype(np.float64)) <= EXACT_INTEGER_MAX
            return ~is_whole | (cast.astype(source) != array)
        lost = cast.astype(source) != array
        if target.kind == "f":
            return lost & ~np.isnan(array)
        return lost | ((cast < 0) != (array < 0))


def _exact_max(dtype: np.dtype[Any]) -> int:
    """Up to which every integer is a float of its own."""
    return 1 << (int(np.finfo(dtype).nmant) + 1)


def _number(value: Any, dtype: np.dtype[Any]) -> Any:
    value = scalar(value)
    if is_null(value):
        if dtype.kind == "f":
            return np.nan
        raise _Unfit("null")
    if not isinstance(value, bool | int | float | np.bool_ | np.integer | np.floating):
        raise _Unfit(_told(value))
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, np.generic):  # A float that is longer than Python's.
        number = float(number)
        if number != value and value == value:  # noqa: PLR0124 - only NaN is not itself.
            raise _Unfit(_told(value))
    if isinstance(number, float) and dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = dtype.type(number)
        # Held against it as Python's float: numpy would round that first.
        if float(cast) == number or np.isnan(number):
            return cast
    elif dtype.kind == "f":
        if abs(number) <= _exact_max(dtype):
            return float(number)
    elif dtype.kind == "b":
        if number in {0, 1}:
            return bool(number)
    else:
        is_exact = not isinstance(number, float) or (
            number.is_integer() and abs(number) <= EXACT_INTEGER_MAX
        )
        bounds = np.iinfo(dtype.str)
        if is_exact and bounds.min <= number <= bounds.max:
            return int(number)
    raise _Unfit(_told(number))


def _text(value: Any, kind: str) -> Any:
    """Text or bytes, of which a string is the one or the other in UTF-8, and binary is bytes."""
    if isinstance(value, str) and kind != "binary":
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Unfit("text that has no UTF-8") from None
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        if kind == "string" and not is_utf8(data):
            raise _Unfit("bytes that are no UTF-8")
        return data
    # NaN is how pandas says null among texts.
    is_nan = isinstance(value, float | np.floating) and np.isnan(value)
    raise _Unfit("null" if is_nan else _told(value))


def _instant(value: Any) -> Any:
    """An instant in nanoseconds; in UTC where it has a time zone."""
    value = scalar(value)
    if is_null(value) or (isinstance(value, float) and np.isnan(value)):
        return np.datetime64("NaT", "ns")
    if hasattr(value, "to_datetime64"):  # A pandas Timestamp: a datetime with nanoseconds.
        moment = value.to_datetime64()
    elif isinstance(value, dt.datetime) and (ahead := value.utcoffset()) is not None:
        moment = np.datetime64(value.replace(tzinfo=None) - ahead)
    elif isinstance(value, dt.date):
        moment = np.datetime64(value)
    elif isinstance(value, np.datetime64):
        moment = value
    else:
        raise _Unfit(_told(value))
    found = moment.astype(_INSTANT)
    if found.astype(moment.dtype) != moment and not np.isnat(moment):
        raise _Unfit(_FAR_INSTANT)
    return found


def _told(value: Any) -> str:
    """What *value* is, in a sentence to the one whose row it is; numbers are shown."""
    if is_null(value):
        return "null"
    if isinstance(value, float | np.floating):
        return f"{spelled(float(value))}"
    if isinstance(value, bool | np.bool_ | int | np.number):
        return f"{value}"[:_SHOWN_CHARS_MAX]
    if isinstance(value, str):
        return "text"
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple | np.ndarray):
        return "an array"
    if isinstance(value, dt.date | np.datetime64):
        return "an instant"
    return f"a value of type {type(value).__name__}"

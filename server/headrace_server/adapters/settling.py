"""Settling: the datatype of each output of a model, from what is declared and what was seen.

The declared datatype holds where anything that was seen is of it, or becomes it without loss. What
was seen decides where nothing does, where it is wider (a declared float, and a model that answers
float64), and where nothing is declared.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from headrace.datatypes import BYTES, DATATYPES, datatype_of
from headrace.signature import TensorSpec

from .base import Array, LoadError
from .raw import is_null, is_utf8, nested, raw_array, regular, rows_of, scalar
from .words import json_of

# What is seen in an output beside numbers.
_TEXT: Final = "text"
_BYTES: Final = "bytes"
_INSTANT: Final = "instant"
_JSON: Final = "json"

_FLOAT: Final = np.dtype(np.float64)
_INTEGER: Final = np.dtype(np.int64)


@dataclass(slots=True)
class _Seen:
    """All that was seen in one output.

    Attributes:
        kinds: What was no number.
        dtypes: numpy's types of numbers; Python's own integers have none.
        nan_dtypes: numpy's types of floats that were all NaN.
        integers: Of these the least and the greatest.
        is_whole: Whether all floats were whole numbers, as integers are that pandas made floats of.
        is_utf8: Whether all bytes were text in UTF-8, as some frameworks have their texts.
        has_null: Whether a value was missing.
        has_nan: Whether one was NaN, which is a null among values that are no floats.
        sizes: Of rows that were lists or arrays of their own, the shapes.
        shapes: The rows of each answer, and the shape of the output in it.
    """

    kinds: set[str] = field(default_factory=set)
    dtypes: set[np.dtype[Any]] = field(default_factory=set)
    nan_dtypes: set[np.dtype[Any]] = field(default_factory=set)
    integers: tuple[int, int] | None = None
    is_whole: bool = True
    is_utf8: bool = True
    has_null: bool = False
    has_nan: bool = False
    sizes: set[tuple[int, ...]] = field(default_factory=set)
    shapes: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    @property
    def has_integers(self) -> bool:
        return self.integers is not None or any(dtype.kind in "iu" for dtype in self.dtypes)

    @property
    def has_floats(self) -> bool:
        return any(dtype.kind == "f" for dtype in self.dtypes)

    @property
    def lacks_values(self) -> bool:
        """Whether a value was missing that no float stood for."""
        return self.has_null or (self.has_nan and not self.has_floats)

    @property
    def is_untold(self) -> bool:
        """Whether nothing tells a type."""
        return not self.kinds and not self.dtypes and self.integers is None

    def look(self, rows: int, array: Array) -> None:
        """Take in the output in the answer to so many *rows*.

        Raises:
            ValueError: No datatype carries its numpy type.
        """
        if array.dtype.kind != "O":
            shape = array.shape
            self._look_at_all(array)
        elif array.ndim > 1:
            shape = array.shape
            for value in array.ravel().tolist():
                self._look_at(value)
        else:
            shape = self._look_at_rows(rows_of(array), array.shape)
        self.shapes.append((rows, shape))

    def _look_at_all(self, array: Array) -> None:
        """An array of one of numpy's own types."""
        kind = array.dtype.kind
        datatype_of(array.dtype)
        if kind in "USM":
            self.kinds.add({"U": _TEXT, "S": _BYTES, "M": _INSTANT}[kind])
            self.is_utf8 &= kind != "S" or all(map(is_utf8, array.ravel().tolist()))
            return
        dtype = array.dtype.newbyteorder("=")
        if kind == "f":
            is_nan = np.isnan(array)
            self.has_nan |= bool(is_nan.any())
            self.is_whole &= bool((is_nan | (np.trunc(array) == array)).all())
            if array.size and is_nan.all():
                # pandas has NaN for what is missing of any type.
                self.nan_dtypes.add(dtype)
                return
        self.dtypes.add(dtype)

    def _look_at_rows(self, items: Sequence[Any], shape: tuple[int, ...]) -> tuple[int, ...]:
        """Python's own rows; the shape that they make together."""
        given = [item for item in items if not is_null(item)]
        arrays = [nested(item) for item in given]
        if not any(array is not None for array in arrays):
            for item in items:
                self._look_at(item)
            return shape
        self.has_null |= len(given) < len(items)
        table = regular(given)
        if table is not None and table.ndim > 1:
            self._look_at_all(table)
            self.sizes.add(table.shape[1:])
            return (*shape, *table.shape[1:])
        seen = _Seen()
        inner = {None if array is None else array.shape for array in arrays}
        if len(inner) == 1 and None not in inner:
            for array in arrays:
                for value in () if array is None else array.ravel().tolist():
                    seen._look_at(value)
        is_number = bool(seen.dtypes) or seen.integers is not None
        if seen.is_untold or seen.kinds - {_TEXT} or (seen.kinds and is_number):
            self.kinds.add(_JSON)
            return shape
        self._take_in(seen)
        size = inner.pop() or ()
        self.sizes.add(size)
        return (*shape, *size)

    def _look_at(self, value: Any) -> None:
        """One value of Python's own, or of numpy's."""
        value = scalar(value)
        if is_null(value):
            self.has_null = True
        elif isinstance(value, np.bool_ | np.integer | np.floating):
            self._look_at_all(np.asarray(value))
        elif isinstance(value, bool):
            self.dtypes.add(np.dtype(np.bool_))
        elif isinstance(value, int):
            least, most = self.integers or (value, value)
            self.integers = min(least, value), max(most, value)
        elif isinstance(value, float):
            if value != value:  # noqa: PLR0124 - only NaN is not itself.
                self.has_nan = True
            else:
                self.dtypes.add(_FLOAT)
                self.is_whole &= value.is_integer()
        elif isinstance(value, str):
            self.kinds.add(_TEXT)
        elif isinstance(value, bytes | bytearray | memoryview):
            self.kinds.add(_BYTES)
            self.is_utf8 &= is_utf8(bytes(value))
        elif isinstance(value, dt.date | np.datetime64):
            self.kinds.add(_INSTANT)
        else:
            self.kinds.add(_JSON)

    def _take_in(self, other: "_Seen") -> None:
        self.kinds |= other.kinds
        self.dtypes |= other.dtypes
        self.nan_dtypes |= other.nan_dtypes
        self.is_whole &= other.is_whole
        self.is_utf8 &= other.is_utf8
        self.has_null |= other.has_null
        self.has_nan |= other.has_nan
        if other.integers is not None:
            least, most = self.integers or other.integers
            self.integers = min(least, other.integers[0]), max(most, other.integers[1])


def settle(
    declared: Sequence[TensorSpec],
    answers: Sequence[tuple[int, Mapping[str, Array]]],
    *,
    is_inner_free: bool = False,
) -> tuple[TensorSpec, ...]:
    """The outputs that a model has, by its *answers*.

    An output that some answers lack is optional. Where nothing is declared, the type is that of all
    values: integers beside floats are floats, and so are integers beside nulls; what is of several
    kinds, or has no type of its own, is JSON.

    Args:
        declared: Its outputs as its signature has them; empty for none.
        answers: What it was seen to answer, as its adapter finished it, each to so many rows.
        is_inner_free: Whether sizes beyond the first axis may come from inputs that are free there.

    Raises:
        LoadError: An output holds what neither a datatype nor JSON carries.
    """
    by_name = {spec.name: spec for spec in declared}
    arrays: dict[str, list[tuple[int, Array]]] = {}
    for rows, answer in answers:
        for name, array in answer.items():
            arrays.setdefault(name, []).append((rows, raw_array(array)))
    settled = []
    for name, found in arrays.items():
        spec = _settled(name, by_name.get(name), found, is_inner_free=is_inner_free)
        is_always = len(found) == len(answers)
        settled.append(spec if is_always else replace(spec, optional=True))
    return tuple(settled)


def _settled(
    name: str,
    declared: TensorSpec | None,
    found: Sequence[tuple[int, Array]],
    *,
    is_inner_free: bool,
) -> TensorSpec:
    seen = _Seen()
    for rows, array in found:
        try:
            seen.look(rows, array)
        except ValueError as error:
            raise LoadError(f"output {name!r} cannot be sent: {error}") from error
    kind, datatype = _deduced(seen) if declared is None else _declared_or_deduced(declared, seen)
    shape = _common_shape(seen.shapes, is_inner_free=is_inner_free)
    if kind == "json" or shape is None:
        kind, datatype = "json", BYTES.name
        _check_json(name, (array for _, array in found))
        firsts = [(rows, array.shape[:1]) for rows, array in found]
        shape = _common_shape(firsts, is_inner_free=False)
        if shape is None:
            shape = (-1,)
    is_declared = declared is not None and (declared.kind, declared.datatype) == (kind, datatype)
    if declared is not None and is_declared and _covers(declared.shape, shape):
        return declared
    # Of columns there is one value a row.
    if len(shape) != 1 and kind != "datetime":
        kind = "json" if kind == "json" else "tensor"
    is_optional = declared is not None and is_declared and declared.optional
    return TensorSpec(name, datatype, shape, kind, is_optional)


def _declared_or_deduced(declared: TensorSpec, seen: _Seen) -> tuple[str, str]:
    """Kind and datatype of an output that is *declared*."""
    has_null = declared.kind in {"json", "datetime"} or declared.datatype in {
        "FP16",
        "FP32",
        "FP64",
    }
    if declared.optional and seen.lacks_values and not has_null:
        # It may lack values by its own declaration, and does: of these only JSON has a null.
        return "json", BYTES.name
    if declared.kind == "json" or seen.is_untold or _fits(declared, seen):
        return declared.kind, declared.datatype
    return _deduced(seen)


def _fits(declared: TensorSpec, seen: _Seen) -> bool:
    """Whether some of what was seen is of the *declared* type, and nothing of a wider one."""
    if declared.datatype == BYTES.name:
        wanted = {"string": {_TEXT}, "binary": {_BYTES}}.get(declared.kind, {_TEXT, _BYTES})
        if seen.is_utf8:
            wanted = wanted | {_BYTES}
        return bool(seen.kinds & wanted)
    if declared.kind == "datetime":
        return _INSTANT in seen.kinds
    target = DATATYPES[declared.datatype].dtype
    family = {"f": "f", "b": "b"}.get(target.kind, "iu")
    own = {dtype for dtype in seen.dtypes if dtype.kind in family}
    if any(not np.can_cast(dtype, target, "safe") for dtype in own):
        return False
    if own or (seen.integers is not None and target.kind != "b"):
        return True
    if target.kind == "f":
        integers = {dtype for dtype in seen.dtypes if dtype.kind in "iu"}
        return any(np.can_cast(dtype, target, "safe") for dtype in integers)
    # pandas makes floats of integers beside a null.
    return target.kind in "iu" and seen.has_floats and seen.is_whole and seen.has_nan


def _deduced(seen: _Seen) -> tuple[str, str]:
    """Kind and datatype by what was *seen* alone."""
    is_number = bool(seen.dtypes) or seen.integers is not None
    if seen.is_untold and seen.has_nan:
        return "tensor", datatype_of(np.result_type(*(seen.nan_dtypes or {_FLOAT}))).name
    if len(seen.sizes) > 1:
        return "json", BYTES.name
    if is_number and not seen.kinds:
        dtype = _number_type(seen)
        if dtype is not None:
            return "tensor", datatype_of(dtype).name
    elif not is_number and seen.kinds == {_INSTANT}:
        return "datetime", "INT64"
    elif not (is_number or seen.lacks_values or seen.sizes):
        # Any text, unless it is bytes alone.
        if seen.kinds == {_BYTES}:
            return "binary", BYTES.name
        if seen.kinds and seen.kinds <= {_TEXT, _BYTES}:
            return "tensor", BYTES.name
    return "json", BYTES.name


def _number_type(seen: _Seen) -> np.dtype[Any] | None:
    """The type of numbers alone; None where there is none."""
    dtypes = set(seen.dtypes)
    if seen.integers is not None:
        least, most = seen.integers
        if least < -(2**63) or most >= 2**64 or (least < 0 and most >= 2**63):
            return None
        dtypes.add(np.dtype(np.uint64) if most >= 2**63 else _INTEGER)
    if any(dtype.kind == "b" for dtype in dtypes):
        is_plain = len(dtypes) == 1 and not seen.lacks_values
        return np.dtype(np.bool_) if is_plain else None
    dtype = np.result_type(*dtypes)
    return _FLOAT if dtype.kind in "iu" and seen.lacks_values else dtype


def _common_shape(
    shapes: Sequence[tuple[int, tuple[int, ...]]], *, is_inner_free: bool
) -> tuple[int, ...] | None:
    """The shape that an output has in all answers, open along the axes where it differs.

    Where it does not follow the rows its sizes tell nothing of other answers.

    None where some rows are values and others are arrays of them.
    """
    follows = all(shape[:1] == (rows,) for rows, shape in shapes)
    ranks = {len(shape) for _, shape in shapes}
    if len(ranks) > 1:
        return None if follows else (-1,) * max(ranks)
    if follows and is_inner_free:
        return (-1,) * ranks.pop()
    sizes = zip(*(shape for _, shape in shapes), strict=True)
    common = tuple(size[0] if len(set(size)) == 1 else -1 for size in sizes)
    return (-1, *common[1:]) if follows else (-1,) * len(common)


def _covers(declared: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(declared) == len(shape) and all(
        size in (-1, actual) or actual == -1 for size, actual in zip(declared, shape, strict=True)
    )


def _check_json(name: str, arrays: Iterable[Array]) -> None:
    """Whether JSON has words for all that was seen.

    Raises:
        LoadError: It has not.
    """
    for array in arrays:
        for item in rows_of(array):
            try:
                json_of(item)
            except (TypeError, ValueError, RecursionError) as error:
                got = str(error) if not isinstance(error, RecursionError) else "endless nesting"
                raise LoadError(
                    f"output {name!r} cannot be sent: it holds {got}, for which there is neither a "
                    "datatype nor JSON"
                ) from error

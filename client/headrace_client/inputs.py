"""Inputs: a caller's data to the named tensors that a model's metadata asks for.

Data may be an array, columns by name, rows, or a pandas DataFrame. Values are cast to the declared
datatype as numpy's "same_kind" casting allows, and between integers of all kinds; a value that does
not fit is refused, never cut. Knows no protobuf and no gRPC, and never imports pandas.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.datatypes import BYTES, DATATYPES, EXACT_INTEGER_MAX, Datatype, datatype_of
from headrace.elements import Buffer, TensorError
from headrace.nulls import MASK_DATATYPE, has_own_null, mask_name, masks_of
from headrace.signature import TensorSpec
from headrace.tensors import encode

from .cells import instants, json_cells
from .errors import InputMismatch
from .nulls import NullFound, null_row, split, with_none
from .types import Array, ModelMetadata

# What `Form.fill` takes. A DataFrame is like an array to the type checker.
Data: TypeAlias = npt.ArrayLike | Mapping[str, Any] | Sequence[Any]

_SHOWN_NAMES_MAX = 8
_SHOWN_BITS_MAX = 128
_COLUMN: Final = (-1,)
_CONVERTED_KINDS: Final = frozenset({"datetime", "json"})


class Tensors(NamedTuple):
    """Named tensors ready to send; four sequences of equal length.

    Attributes:
        names: Their names.
        datatypes: Names of their datatypes.
        shapes: Their shapes.
        raws: Their bytes on the wire; views of the caller's arrays where those already lie right.
    """

    names: tuple[str, ...]
    datatypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    raws: Sequence[Buffer]


class Form:
    """The inputs of a model, to be filled with data. Safe from any thread.

    Attributes:
        metadata: The model whose inputs these are.
    """

    def __init__(self, metadata: ModelMetadata) -> None:
        self.metadata = metadata
        self._specs = metadata.inputs
        self._names = tuple(spec.name for spec in self._specs)
        self._datatypes = tuple(spec.datatype for spec in self._specs)
        self._known = frozenset(self._names)
        self._optional = frozenset(spec.name for spec in self._specs if spec.optional)
        # Columns whose missing values need a mask.
        self._maskable = frozenset(
            spec.name for spec in masks_of(self._specs).values() if not has_own_null(spec)
        )
        self._shares_rows = _shares_rows(metadata)
        self._has_json_only = len(self._specs) == 1 and self._specs[0].kind == "json"
        self._is_table = bool(self._specs) and all(spec.shape == _COLUMN for spec in self._specs)
        # The one datatype of a table whose columns can be cast in one go, as a matrix.
        self._common: Datatype | None = None
        if self._is_table and len(set(self._datatypes)) == 1 and self._datatypes[0] != BYTES.name:
            self._common = DATATYPES[self._datatypes[0]]

    def fill(self, data: Data) -> Tensors:
        """The tensors that *data* makes.

        Args:
            data: An array: the only input, or [rows, columns] of a model whose inputs are columns,
                in their order. A mapping of names to arrays, lists or, for one row, values. A
                sequence of mappings, one per row. A pandas DataFrame with a column per input.
                Optional inputs may be missing. What travels as JSON may be lists and dicts. None,
                NaN, NaT, pandas' NA and what a masked array hides are values that are missing.

        Raises:
            InputMismatch: A name is missing or unknown, a shape does not fit, columns differ in
                their rows, or values cannot become the declared datatype.
            TypeError: *data* is none of these.
        """
        if isinstance(data, np.ndarray):
            return self._from_array(data)
        if isinstance(data, Mapping):
            return self._from_columns(data)
        # Who holds a DataFrame has imported pandas; while that runs, the name may be missing.
        if isinstance(data, getattr(sys.modules.get("pandas"), "DataFrame", ())):
            return self._from_frame(data)
        if self._has_json_only and isinstance(data, list | tuple) and not self._are_rows(data):
            return self._from_one(data)
        if isinstance(data, Sequence) and data and isinstance(data[0], Mapping):
            return self._from_columns(_columns_of(data, self._optional))
        if hasattr(data, "__array__") or (
            isinstance(data, Sequence) and not isinstance(data, str | bytes)
        ):
            return self._from_array(_array_of(data, ""))
        raise TypeError(
            "expected an array, a mapping, a sequence of mappings or a DataFrame, "
            f"got {type(data).__name__}"
        )

    def _from_array(self, array: Array) -> Tensors:
        count = len(self._specs)
        if count == 1:
            return self._from_one(array)
        if not self._is_table:
            names = _shown(self._names) if count else "a model without a signature"
            raise InputMismatch(
                input="", expected=f"arrays by name for {names}", got="an array without a name"
            )
        if array.ndim != 2 or array.shape[1] != count:
            raise InputMismatch(
                input="",
                expected=f"shape [-1, {count}], a column for each of {_shown(self._names)}",
                got=str(list(array.shape)),
            )
        if (
            self._common is not None
            and array.dtype.kind != "O"
            and not isinstance(array, np.ma.MaskedArray)
        ):
            try:
                return self._from_matrix(array, self._common)
            except InputMismatch:
                # Column by column the message names the one to blame.
                pass
        columns = [*array.T]
        try:
            return self._tensors(list(map(self._fitted, self._specs, columns)))
        except NullFound as found:
            return self._nullable(dict(zip(self._names, columns, strict=True)), found)

    def _from_one(self, values: Any) -> Tensors:
        """The tensors of the only input."""
        (spec,) = self._specs
        try:
            return self._tensors([self._fitted(spec, values)])
        except NullFound as found:
            return self._nullable({spec.name: values}, found)

    def _from_matrix(self, array: Array, datatype: Datatype) -> Tensors:
        """All columns cast in one go into one block, and each in one piece of it."""
        block = encode(_cast("", array, datatype).T, datatype)
        rows, count = array.shape
        size = rows * datatype.itemsize
        return Tensors(
            self._names,
            self._datatypes,
            ((rows,),) * count,
            [block[at * size : (at + 1) * size] for at in range(count)],
        )

    def _from_frame(self, frame: Any) -> Tensors:
        if len(self._specs) == 1 and not self._is_table:
            return self._from_array(frame.to_numpy())
        return self._from_columns({str(name): _column_of(column) for name, column in frame.items()})

    def _from_columns(self, data: Mapping[str, Any]) -> Tensors:
        if not self._specs:
            return tensors_of(data)
        if self._optional:
            return self._from_some_columns(data)
        if data.keys() != self._known:
            raise self._wrong_names(data)
        try:
            return self._tensors([self._fitted(spec, data[spec.name]) for spec in self._specs])
        except NullFound as found:
            return self._nullable(data, found)

    def _from_some_columns(self, data: Mapping[str, Any]) -> Tensors:
        """All inputs but the optional ones that are not given."""
        if not (self._known - self._optional) <= data.keys() <= self._known:
            raise self._wrong_names(data)
        if any(values is None for values in data.values()):
            return self._nullable(data)
        specs = [spec for spec in self._specs if spec.name in data]
        if not specs:
            raise InputMismatch(input="", expected="a value of at least one input", got="none")
        try:
            return self._tensors([self._fitted(spec, data[spec.name]) for spec in specs], specs)
        except NullFound as found:
            return self._nullable(data, found)

    def _nullable(self, data: Mapping[str, Any], found: NullFound | None = None) -> Tensors:
        """The tensors of columns that lack values in some rows, with their masks.

        Args:
            data: The columns; None stands for one without any value.
            found: What made it look like that; raised where that column takes no nulls.
        """
        if found is not None and found.input not in self._maskable:
            raise found
        whole = [name for name, values in data.items() if values is None]
        if whole:
            rows = self._rows_of(data)
            data = {**data, **{name: [None] * rows for name in whole}}
        specs, arrays, masks = [], [], {}
        for spec in self._specs:
            if spec.name not in data:
                continue
            values = data[spec.name]
            parts = split(spec, values) if spec.name in self._maskable else None
            if parts is not None:
                masks[spec.name] = parts.mask
                values = parts.values
            if values is not None:
                specs.append(spec)
                arrays.append(self._fitted(spec, values))
        tensors = self._tensors(arrays, specs) if arrays else Tensors((), (), (), ())
        rows = (*tensors.shapes, *(mask.shape for mask in masks.values()))[0][0]
        for name, mask in masks.items():
            if len(mask) != rows:
                raise InputMismatch(
                    input=name, expected=f"{rows} rows as in the others", got=_rows(mask.shape)
                )
        return Tensors(
            (*tensors.names, *map(mask_name, masks)),
            (*tensors.datatypes, *[MASK_DATATYPE] * len(masks)),
            (*tensors.shapes, *(mask.shape for mask in masks.values())),
            [*tensors.raws, *(mask.tobytes() for mask in masks.values())],
        )

    def _rows_of(self, data: Mapping[str, Any]) -> int:
        """How many rows *data* has, as its first column with values tells."""
        for spec in self._specs:
            values = data.get(spec.name)
            if values is not None:
                parts = split(spec, values) if spec.name in self._maskable else None
                return len(self._fitted(spec, values) if parts is None else parts.mask)
        return 1

    def _are_rows(self, data: Sequence[Any]) -> bool:
        """Whether *data* has the only input by its name, rather than being that input."""
        return all(isinstance(row, Mapping) and row.keys() == self._known for row in data)

    def _fitted(self, spec: TensorSpec, values: Any) -> Array:
        """The values of one input in its datatype and shape."""
        datatype = DATATYPES[spec.datatype]
        # The usual case first: a column that lies as it must.
        if (
            type(values) is np.ndarray
            and values.ndim == 1
            and values.dtype == datatype.dtype
            and spec.shape == _COLUMN
            and spec.kind not in _CONVERTED_KINDS
        ):
            return values
        if isinstance(values, np.ma.MaskedArray):
            values = self._shown_values(spec, values)
        if spec.kind in _CONVERTED_KINDS:
            is_json = spec.kind == "json"
            values = json_cells(spec, values) if is_json else instants(spec.name, values)
        array = values if isinstance(values, np.ndarray) else _array_of(values, spec.name, datatype)
        try:
            array = _cast(spec.name, array, datatype)
        except InputMismatch as error:
            if spec.name in self._maskable and split(spec, values) is not None:
                raise NullFound(input=error.input, expected=error.expected, got=error.got) from None
            large = _large_integers(spec.name, values, datatype)
            if large is None:
                raise
            array = large
        expected, shape = spec.shape, array.shape
        if expected == _COLUMN:
            # One value is a column of one row; a server takes [n, 1] as it takes [n].
            if not shape:
                return array.reshape(1)
            if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
                return array
        elif len(shape) == len(expected) and all(
            want in (-1, size) for want, size in zip(expected, shape, strict=True)
        ):
            return array
        raise InputMismatch(
            input=spec.name, expected=f"shape {list(expected)}", got=str(list(shape))
        )

    def _shown_values(self, spec: TensorSpec, values: "np.ma.MaskedArray[Any, Any]") -> Array:
        """The values of a masked array without those that it hides."""
        if not np.ma.is_masked(values):
            return values.data
        if spec.shape == _COLUMN:
            return with_none(values)
        raise InputMismatch(
            input=spec.name, expected="a value in every place", got="an array that masks some"
        )

    def _tensors(
        self, arrays: Sequence[Array], specs: Sequence[TensorSpec] | None = None
    ) -> Tensors:
        """The tensors of all inputs, or of those that *specs* names."""
        names, datatypes = self._names, self._datatypes
        if specs is not None and len(specs) < len(names):
            names = tuple(spec.name for spec in specs)
            datatypes = tuple(spec.datatype for spec in specs)
        shapes = tuple([array.shape for array in arrays])
        rows = shapes[0][:1]
        # As most are: all of one shape.
        if self._shares_rows and shapes.count(shapes[0]) < len(shapes):
            for name, shape in zip(names, shapes, strict=True):
                if shape[:1] != rows:
                    raise InputMismatch(
                        input=name,
                        expected=f"{_rows(rows)} as in {names[0]!r}",
                        got=_rows(shape[:1]),
                    )
        raws = [
            _encode(name, array, DATATYPES[datatype])
            for name, array, datatype in zip(names, arrays, datatypes, strict=True)
        ]
        return Tensors(names, datatypes, shapes, raws)

    def _wrong_names(self, data: Mapping[str, Any]) -> InputMismatch:
        given = [str(name) for name in data]
        required = [name for name in self._names if name not in self._optional]
        missing = next((name for name in required if name not in data), None)
        if missing is not None:
            return InputMismatch(
                input=missing, expected=f"inputs {_shown(self._names)}", got=_shown(given)
            )
        unknown = next(name for name in given if name not in self._known)
        return InputMismatch(
            input=unknown, expected=f"only {_shown(self._names)}", got=_shown(given)
        )


def tensors_of(named: Mapping[str, Any]) -> Tensors:
    """Named arrays as they are: each of the datatype that carries its numpy type.

    Raises:
        InputMismatch: There is none, or no datatype carries one.
    """
    if not named:
        raise InputMismatch(input="", expected="at least one input", got="none")
    datatypes: list[str] = []
    shapes: list[tuple[int, ...]] = []
    raws: list[Buffer] = []
    for name, values in named.items():
        array = values if isinstance(values, np.ndarray) else _array_of(values, name)
        if isinstance(array, np.ma.MaskedArray):
            raise InputMismatch(input=name, expected="a plain array", got="one with a mask")
        try:
            datatype = datatype_of(array.dtype)
        except ValueError:
            raise InputMismatch(
                input=name, expected="a numpy type that a datatype carries", got=array.dtype.name
            ) from None
        array = _cast(name, array, datatype)
        datatypes.append(datatype.name)
        shapes.append(array.shape)
        raws.append(_encode(name, array, datatype))
    return Tensors(tuple(named), tuple(datatypes), tuple(shapes), raws)


def _shares_rows(metadata: ModelMetadata) -> bool:
    """Whether all inputs have one number of rows: the columns of a table, as far as that is told.

    Tensors are sent as they are: what the first axis of each means is the model's affair.
    """
    told = metadata.inputs if metadata.signature is None else metadata.signature.inputs
    if any(spec.is_column for spec in told):
        return True
    is_told = metadata.signature is not None
    return not is_told and all(spec.shape == _COLUMN for spec in told)


def _column_of(column: Any) -> Array:
    """The values of a pandas Series; what is missing is masked where numpy has no word for it."""
    if column.dtype.kind == "M":
        # Also of a time zone: instants, in UTC.
        values: Array = column.to_numpy("datetime64[ns]")
    elif isinstance(column.dtype, np.dtype):
        values = column.to_numpy()
    else:
        values, nulls = column.astype(object).to_numpy(), column.isna().to_numpy(bool)
        if nulls.any():
            values = np.ma.MaskedArray(values, nulls)
    return values


def _columns_of(rows: Sequence[Any], optional: frozenset[str]) -> dict[str, list[Any]]:
    """Rows to columns; every row must have the names of the first, but for *optional* ones."""
    names = rows[0].keys()
    if optional:
        names |= {name for row in rows for name in optional if name in row}
    for index, row in enumerate(rows):
        if row.keys() != names and not (row.keys() ^ names) <= optional:
            name = next(iter(row.keys() ^ names))
            raise InputMismatch(
                input=str(name),
                expected="the same names in every row",
                got=f"row {index} {'without' if name in names else 'with'} it",
            )
    if optional:
        return {name: [row.get(name) for row in rows] for name in names}
    return {name: [row[name] for row in rows] for name in names}


def _array_of(values: Any, name: str, datatype: Datatype | None = None) -> Array:
    """An array of what is not one yet."""
    try:
        array = np.asarray(values, object if datatype is BYTES else None)
    except ValueError:
        raise InputMismatch(
            input=name, expected="values of one shape", got="nested lists of several lengths"
        ) from None
    # numpy's own types for text cut zeros from the end.
    return np.asarray(values, object) if array.dtype.kind in "SU" else array


def _cast(name: str, array: Array, datatype: Datatype) -> Array:
    """The array with the datatype's numpy type; BYTES stay what they are."""
    source, target = array.dtype, datatype.dtype
    if datatype is BYTES:
        # T is numpy's own variable-width string.
        if source.kind not in "OSUT":
            raise _wrong_type(name, datatype, source.name)
        return array
    if source == target:
        return array
    if array.size == 0:
        # Nothing does not tell its type.
        return array.astype(target)
    if source.kind == "O":
        array = _inferred(name, array, datatype)
        source = array.dtype
    if source.kind == "M" and datatype.name == "INT64":
        return array.astype("datetime64[ns]").view(np.int64)
    if source.kind in "iu" and target.kind in "iu":
        if not np.can_cast(source, target):
            bounds = np.iinfo(target.str)
            _check_range(name, array, int(bounds.min), int(bounds.max), datatype)
    elif not np.can_cast(source, target, "same_kind"):
        raise _wrong_type(name, datatype, "text" if source.kind in "SUT" else source.name)
    elif source.kind in "iu" and source.itemsize == 8 and target == np.float64:
        # The server refuses these as well: see headrace.datatypes.needs_exact_check.
        _check_range(name, array, -EXACT_INTEGER_MAX, EXACT_INTEGER_MAX, datatype)
    try:
        with np.errstate(over="raise"):
            return array.astype(target)
    except FloatingPointError:
        raise InputMismatch(
            input=name, expected=f"{datatype.name} values", got=f"{source.name} beyond their range"
        ) from None


def _inferred(name: str, array: Array, datatype: Datatype) -> Array:
    """An array of objects with the numpy type of its values; None is NaN where there is NaN.

    So is pandas' NA, but NaT is not: MLflow takes none for a number either.
    """
    values = array.ravel().tolist()
    if datatype.dtype.kind == "f":
        values = [
            math.nan if value is None or type(value).__name__ == "NAType" else value
            for value in values
        ]
    inferred = np.asarray(values)
    if inferred.dtype.kind == "O" or inferred.shape != (array.size,):
        odd = next((value for value in values if not isinstance(value, int | float)), values[0])
        got = type(odd).__name__
        if odd is None:
            got = f"no value in row {null_row(values)}: {datatype.name} has no null"
        raise _wrong_type(name, datatype, got)
    return inferred.reshape(array.shape)


def _check_range(name: str, array: Array, low: int, high: int, datatype: Datatype) -> None:
    least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        raise InputMismatch(
            input=name,
            expected=f"{datatype.name} from {low} to {high}",
            got=f"{array.dtype.name} from {least} to {most}",
        )


def _large_integers(name: str, values: Any, datatype: Datatype) -> Array | None:
    """Python's own integers of which numpy makes floats or objects, since one is large.

    Raises:
        InputMismatch: One is beyond the datatype.
    """
    items = np.asarray(values, object)
    integers = [item for item in items.ravel().tolist() if type(item) is int]
    if datatype is BYTES or not any(not -(2**63) <= item < 2**63 for item in integers):
        return None
    if datatype.dtype.kind in "iu" and len(integers) == items.size:
        bounds = np.iinfo(datatype.dtype.str)
        if bounds.min <= min(integers) and max(integers) <= bounds.max:
            return items.astype(datatype.dtype)
    largest = max(integers, key=abs)
    bits = largest.bit_length()
    raise InputMismatch(
        input=name,
        expected=f"{datatype.name} values",
        got=str(largest) if bits <= _SHOWN_BITS_MAX else f"an integer of {bits} bits",
    )


def _encode(name: str, array: Array, datatype: Datatype) -> Buffer:
    try:
        return encode(array, datatype)
    except TensorError:
        items = array.ravel().tolist()
        if (row := null_row(items)) is not None:
            raise NullFound(
                input=name, expected="BYTES (str or bytes)", got=f"no value in row {row}"
            ) from None
        # What else cannot be written is half of a surrogate pair.
        got = next(
            (type(item).__name__ for item in items if not isinstance(item, str | bytes)),
            "text that has no UTF-8",
        )
        raise InputMismatch(input=name, expected="BYTES (str or bytes)", got=got) from None


def _wrong_type(name: str, datatype: Datatype, got: str) -> InputMismatch:
    return InputMismatch(input=name, expected=datatype.name, got=got)


def _rows(size: tuple[int, ...]) -> str:
    return f"{size[0]} rows" if size else "no rows"


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN_NAMES_MAX]))
    more = len(names) - _SHOWN_NAMES_MAX
    return f"[{shown}, and {more} more]" if more > 0 else f"[{shown}]"

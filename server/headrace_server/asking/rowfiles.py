"""Rowfiles: files of rows as chunks of columns, one request's worth each.

CSV, JSON, JSON lines, Parquet and numpy arrays, by the metadata of the model they are for. The file
of a model that does not answer row by row is one chunk. A value that is missing is NaN in a float,
NaT in an instant, null in JSON, and masked in other columns that may lack some; elsewhere it is
refused. What a person can mend is a UsageError.
"""

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import IO, Any, BinaryIO, Final, TextIO, TypeAlias

import numpy as np
import numpy.typing as npt
from rich.console import Console

from headrace.nulls import has_own_null, is_nullable
from headrace.signature import TensorSpec
from headrace_client import ModelMetadata

from ..errors import UsageError
from .parquet import read_columns

# Rows and bytes of one request: enough to fill a batch, little enough to keep several in flight.
_REQUEST_ROWS_MAX: Final = 256
_REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024

_COLUMN: Final = (-1,)
# What servers say of models whose rows are not known to be answered each by itself.
_WHOLE: Final = frozenset({"whole", "unproven"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# What a signature calls inputs whose values travel as JSON in BYTES.
_JSON_KINDS: Final = frozenset({"json", "array", "object", "map"})
_TRUTHS: Final = {"true": True, "1": True, "false": False, "0": False}

# One row by column, and one request's worth of rows: columns of equal length.
Record: TypeAlias = Mapping[str, Any]
Chunk: TypeAlias = Mapping[str, Sequence[Any] | npt.NDArray[Any]]


@contextmanager
def opened(source: str, *, is_text: bool) -> Iterator[IO[Any]]:
    """The file *source*, or standard input for "-".

    Raises:
        UsageError: It cannot be read.
    """
    # Excel begins its CSV files with a byte order mark.
    how: dict[str, Any] = {"encoding": "utf-8-sig", "newline": ""} if is_text else {}
    if source == "-":
        if is_text:
            assert isinstance(sys.stdin, io.TextIOWrapper), "standard input is a stream of bytes"
            sys.stdin.reconfigure(**how)
        yield sys.stdin if is_text else sys.stdin.buffer
        return
    try:
        stream = open(source, "r" if is_text else "rb", **how)  # noqa: SIM115 - closed below.
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}") from None
    with stream:
        yield stream


def _read_csv(stream: TextIO, metadata: ModelMetadata) -> Iterator[Chunk]:
    if not metadata.inputs:
        raise UsageError(
            f"model {metadata.name!r} publishes no inputs, so what CSV columns hold is unknown: "
            "use json"
        )
    lines = csv.reader(stream)
    header = next(lines, None)
    if not header:
        raise UsageError("the CSV file is empty: its first line must name the columns")
    only = metadata.inputs[0]
    if len(metadata.inputs) == 1 and len(only.shape) == 2 and only.name not in header:
        records = _matrix_records(lines, header, only)
    else:
        records = _column_records(lines, header, metadata)
    return _gathered(records, metadata)


def _column_records(
    lines: Iterator[list[str]], header: list[str], metadata: ModelMetadata
) -> Iterator[Record]:
    """Rows of a CSV file whose columns are the model's inputs."""
    for spec in metadata.inputs:
        if spec.shape != _COLUMN:
            raise UsageError(
                f"input {spec.name!r} has shape {list(spec.shape)}, which no CSV column holds: "
                "use json or npy"
            )
    _check_names(header, metadata)
    columns = [
        (spec.name, header.index(spec.name), _parser(spec))
        for spec in metadata.inputs
        if spec.name in header
    ]
    for number, cells in _numbered(lines, header):
        yield {name: _parsed(parse, cells[index], name, number) for name, index, parse in columns}


def _matrix_records(
    lines: Iterator[list[str]], header: list[str], spec: TensorSpec
) -> Iterator[Record]:
    """Rows of a CSV file that are, column by column, the rows of the model's only input."""
    parse = _parser(spec)
    for number, cells in _numbered(lines, header):
        yield {
            spec.name: [
                _parsed(parse, cell, name, number) for name, cell in zip(header, cells, strict=True)
            ]
        }


def _numbered(lines: Iterator[list[str]], header: list[str]) -> Iterator[tuple[int, list[str]]]:
    try:
        for number, cells in enumerate(lines, start=1):
            if cells and len(cells) != len(header):
                raise UsageError(
                    f"row {number} has {len(cells)} cells, but the first line names {len(header)}"
                )
            if cells:
                yield number, cells
    except csv.Error as error:
        raise UsageError(f"the file is not CSV: {error}") from None


def _parser(spec: TensorSpec) -> Callable[[str], Any]:
    """What reads a cell of an input's datatype; it raises ValueError or KeyError.

    An empty cell is a value that is missing, but for text that is not optional, where it is empty
    text.
    """
    if spec.datatype == "BYTES":
        is_text = not spec.optional and spec.kind != "json"
        return str if is_text else lambda cell: cell or None
    parse = _number_parser(spec)
    if "INT" in spec.datatype and spec.kind != "datetime":
        return parse
    null = math.nan if spec.datatype.startswith(("FP", "BF")) else None
    if null is None and not is_nullable(spec):
        return parse
    return lambda cell: parse(cell) if cell.strip() else null


def _number_parser(spec: TensorSpec) -> Callable[[str], Any]:
    if spec.datatype == "BOOL":
        return lambda cell: _TRUTHS[cell.strip().lower()]
    if spec.datatype == "INT64":
        return _integer_or_instant
    return int if "INT" in spec.datatype else float


def _integer_or_instant(cell: str) -> int:
    """An integer, or an instant as nanoseconds since 1970; in UTC unless it says otherwise."""
    try:
        return int(cell)
    except ValueError:
        return _instant(cell)


def _instant(text: str) -> int:
    instant = datetime.fromisoformat(text.strip())
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return (instant - _EPOCH) // timedelta(microseconds=1) * 1000


def _parsed(parse: Callable[[str], Any], cell: str, name: str, number: int) -> Any:
    try:
        return parse(cell)
    except (ValueError, KeyError):
        what = f"cannot read {cell!r}" if cell.strip() else "the cell is empty, and must not be"
        raise UsageError(f"row {number}, column {name!r}: {what}") from None


def _read_json(stream: TextIO, metadata: ModelMetadata) -> Iterator[Chunk]:
    try:
        found = json.load(stream)
    except json.JSONDecodeError as error:
        raise UsageError(f"the file is not JSON: {error}") from None
    match found:
        case [dict(), *_]:
            names = {name: None for record in found if isinstance(record, dict) for name in record}
            return _records_of(enumerate(found, start=1), metadata, list(names))
        case dict() if found and all(
            isinstance(column, list) or _is_scalar(name, metadata) for name, column in found.items()
        ):
            return _sliced(_filled(found, metadata), metadata)
    raise UsageError(
        'the JSON is neither records ([{"a": 1}, {"a": 2}]) nor columns ({"a": [1, 2]})'
    )


def _read_jsonl(stream: TextIO, metadata: ModelMetadata) -> Iterator[Chunk]:
    def records() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    raise UsageError(f"row {number} is not JSON: {error}") from None

    return _records_of(records(), metadata)


def _records_of(
    records: Iterator[tuple[int, Any]], metadata: ModelMetadata, known: Sequence[str] = ()
) -> Iterator[Chunk]:
    """Chunks of records that JSON may have made of anything.

    Args:
        records: Each with the number of its row.
        metadata: The model they are for.
        known: The names that there are in any of them; empty where the first one must have all.
    """

    def picked() -> Iterator[Record]:
        names: list[str] = []
        optional: set[str] = set()
        fills: dict[str, _Fill] = {}
        late: set[str] = set()
        for number, record in records:
            if not isinstance(record, dict):
                raise UsageError(f"row {number} is not an object of names and values")
            if not names:
                names = _check_names(known or list(record), metadata)
                specs = {name: _spec_of(name, metadata) for name in names}
                optional = {name for name, spec in specs.items() if spec and spec.optional}
                fills = {name: _fill_of(name, spec) for name, spec in specs.items()}
                late = {spec.name for spec in metadata.inputs}.difference(names)
            if late and (name := next((one for one in record if one in late), "")):
                raise UsageError(
                    f"row {number} has {name!r}, which the first row has not: give it there too, "
                    "as null where it is missing"
                )
            for name in names:
                if name not in record and name not in optional:
                    raise UsageError(f"row {number} has no {name!r}")
            yield {name: fills[name](record.get(name), number) for name in names}

    return _gathered(picked(), metadata)


def _read_npy(stream: BinaryIO, metadata: ModelMetadata) -> Iterator[Chunk]:
    if not metadata.inputs:
        raise UsageError(
            f"model {metadata.name!r} publishes no inputs, so an array has no name: use json"
        )
    try:
        # Standard input cannot seek.
        array = np.load(io.BytesIO(stream.read()), allow_pickle=False)
    except ValueError as error:
        raise UsageError(f"the file is not a numpy array: {error}") from None
    names = [spec.name for spec in metadata.inputs]
    if array.ndim == 0:
        raise UsageError("the array has no rows")
    if len(names) == 1:
        return _sliced({names[0]: array}, metadata)
    if array.ndim != 2 or array.shape[1] != len(names):
        raise UsageError(
            f"the array has shape {list(array.shape)}, but model {metadata.name!r} has "
            f"{len(names)} inputs: expected a column for each"
        )
    return _sliced(dict(zip(names, array.T, strict=True)), metadata)


def _read_parquet(stream: BinaryIO, metadata: ModelMetadata) -> Iterator[Chunk]:
    columns = read_columns(stream)
    specs = metadata.inputs
    if len(specs) == 1 and len(specs[0].shape) == 2 and specs[0].name not in columns:
        # As with CSV: column by column the rows of the model's only input.
        filled = [_filled_column(name, column, specs[0]) for name, column in columns.items()]
        return _sliced({specs[0].name: np.stack(filled, axis=1)} if filled else {}, metadata)
    return _sliced(_filled(columns, metadata), metadata)


# Values that JSON and Parquet leave open: nulls, instants as text, and JSON within BYTES.

# From a value and the number of its row to what is sent.
_Fill: TypeAlias = Callable[[Any, int], Any]


def _filled(columns: Chunk, metadata: ModelMetadata) -> Chunk:
    """Whole columns with every value as it is sent; what the model does not take is left alone."""
    taken = {spec.name for spec in metadata.inputs} or columns.keys()
    return {
        name: _filled_column(name, column, _spec_of(name, metadata)) if name in taken else column
        for name, column in columns.items()
    }


def _filled_column(
    name: str, column: Sequence[Any] | npt.NDArray[Any], spec: TensorSpec | None
) -> Sequence[Any] | npt.NDArray[Any]:
    if isinstance(column, np.ndarray):
        return column
    fill = _fill_of(name, spec)
    if not isinstance(column, list):  # The one value of an input without rows.
        return np.asarray(fill(column, 1))
    return [fill(value, number) for number, value in enumerate(column, start=1)]


def _fill_of(name: str, spec: TensorSpec | None) -> _Fill:
    """What makes the values of column *name*, which is for the input *spec*, ready to be sent."""
    datatype = "" if spec is None else spec.datatype
    is_instant = spec is not None and spec.kind.startswith("datetime")
    is_json = spec is not None and spec.kind in _JSON_KINDS
    is_open = spec is not None and is_nullable(spec)

    def fill(value: Any, number: int) -> Any:
        if is_json:
            # Text of a list or an object is taken for it; any other value goes as it is.
            return json.dumps(value, default=str) if isinstance(value, list | dict) else value
        if value is None:
            if datatype.startswith(("FP", "BF")):
                return math.nan
            if is_open:
                return None
            what = f"{datatype} has no null" if datatype else "the model does not say what it takes"
            raise UsageError(f"row {number}, column {name!r}: the value is null, and {what}")
        if is_instant and isinstance(value, str):
            return _parsed(_instant, value, name, number)
        return value

    return fill


def _spec_of(name: str, metadata: ModelMetadata) -> TensorSpec | None:
    """The input of that name; None where the model publishes none, or does not take it."""
    return next((spec for spec in metadata.inputs if spec.name == name), None)


def _check_names(given: Sequence[str], metadata: ModelMetadata) -> list[str]:
    """The names to send: the model's inputs, or all where it publishes none. Notes the rest."""
    wanted = [spec.name for spec in metadata.inputs]
    if not wanted:
        return list(given)
    missing = [s.name for s in metadata.inputs if s.name not in given and not s.optional]
    if missing or not set(wanted) & set(given):
        missing = missing or wanted
        raise UsageError(
            f"the file has no column {missing[0]!r}: model {metadata.name!r} takes "
            f"{', '.join(wanted)}"
        )
    extra = [name for name in given if name not in wanted]
    if extra:
        Console(stderr=True, highlight=False, markup=False).print(
            f"note: the model does not take {', '.join(extra)}"
        )
    return [name for name in wanted if name in given]


def _gathered(records: Iterator[Record], metadata: ModelMetadata) -> Iterator[Chunk]:
    """Records to chunks."""
    first = next(records, None)
    if not first:
        raise UsageError("the file has no rows")
    rows_max = None if is_whole(metadata) else _rows_max(metadata, first)
    records = chain([first], records)
    while batch := list(islice(records, rows_max)):
        yield {name: _column([record[name] for record in batch], name, metadata) for name in first}


def _sliced(columns: Chunk, metadata: ModelMetadata) -> Iterator[Chunk]:
    """Whole columns to chunks."""
    names = _check_names(list(columns), metadata)
    if is_whole(metadata):
        yield {name: columns[name] for name in names}
        return
    lengths = {len(columns[name]) for name in names}
    if len(lengths) != 1:
        raise UsageError(f"the columns have different numbers of rows: {sorted(lengths)}")
    (rows,) = lengths
    if rows == 0:
        raise UsageError("the file has no rows")
    rows_max = _rows_max(metadata, {name: columns[name][0] for name in names})
    for start in range(0, rows, rows_max):
        yield {
            name: _column(columns[name][start : start + rows_max], name, metadata) for name in names
        }


def _column(
    values: Sequence[Any] | npt.NDArray[Any], name: str, metadata: ModelMetadata
) -> Sequence[Any] | npt.NDArray[Any]:
    """A column of a chunk; one that lacks values is masked, and so of its type without any too."""
    spec = _spec_of(name, metadata)
    if isinstance(values, np.ndarray) or spec is None or has_own_null(spec) or None not in values:
        return values
    items = np.fromiter(values, object, len(values))
    return np.ma.MaskedArray(items, [value is None for value in values])


def is_whole(metadata: ModelMetadata) -> bool:
    """Whether a file for the model is one request: its rows would be answered otherwise apart.

    So it is where not all inputs count rows, or where the server says that the model does not
    answer row by row, or that this is not known.
    """
    firsts = {spec.shape[:1] for spec in metadata.inputs}
    if len(firsts) > 1 or () in firsts:
        return True
    return firsts <= {_COLUMN} and metadata.batching in _WHOLE


def _is_scalar(name: str, metadata: ModelMetadata) -> bool:
    spec = _spec_of(name, metadata)
    return spec is not None and not spec.shape


def _rows_max(metadata: ModelMetadata, row: Record) -> int:
    """How many rows like *row* make a request."""
    for spec in metadata.inputs:
        # A model that was frozen at one number of rows takes no other.
        if spec.shape and spec.shape[0] > 0:
            return spec.shape[0]
    # Texts of other rows may be longer: the limit on messages leaves room for that.
    nbytes = sum(map(_nbytes, row.values()))
    return max(1, min(_REQUEST_ROWS_MAX, _REQUEST_BYTES_MAX // max(1, nbytes)))


def _nbytes(value: Any) -> int:
    """About how long a value is on its way."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, list):
        return sum(map(_nbytes, value))
    return len(value) + 4 if isinstance(value, str) else 8


def row_count(chunk: Chunk) -> int:
    """Rows of a chunk."""
    return max((len(column) for column in chunk.values() if np.ndim(column) != 0), default=1)


# Formats whose streams hold bytes; all others hold text.
BINARY: Final = frozenset({"npy", "parquet"})

# By format; each reads a stream.
READERS: Final[dict[str, Callable[[Any, ModelMetadata], Iterator[Chunk]]]] = {
    "csv": _read_csv,
    "json": _read_json,
    "jsonl": _read_jsonl,
    "npy": _read_npy,
    "parquet": _read_parquet,
}

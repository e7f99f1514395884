"""Predict: the rows of a file through a served model; what `headrace predict` does.

Reads CSV, JSON, JSON lines or a numpy array, asks the server in chunks with several requests in
flight, and prints a table, CSV or JSON. Needs the bare install alone. What a person can mend is a
UsageError.
"""

import csv
import io
import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import IO, Any, BinaryIO, Final, TextIO, TypeAlias

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.signature import TensorSpec
from headrace_client import Client, HeadraceClientError, ModelMetadata, Prediction

from .errors import UsageError

# Rows and bytes of one request: enough to fill a batch, little enough to keep several in flight.
_REQUEST_ROWS_MAX: Final = 256
_REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024
_IN_FLIGHT_MAX: Final = 8

_TABLE_ROWS_MAX: Final = 20
_CELL_CHARS_MAX: Final = 32
_CELL_ELEMENTS_MAX: Final = 4
# What a table adds to each column: a space on both sides and a line.
_COLUMN_CHARS: Final = 3

_COLUMN: Final = (-1,)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TRUTHS: Final = {"true": True, "1": True, "false": False, "0": False}

# One row by column, and one request's worth of rows: columns of equal length.
_Record: TypeAlias = Mapping[str, Any]
_Chunk: TypeAlias = Mapping[str, Sequence[Any] | npt.NDArray[Any]]


def predict(
    model: str,
    source: str,
    *,
    version: str = "",
    server: str = "127.0.0.1:8001",
    output: str = "table",
    input_format: str = "",
    out: TextIO | None = None,
) -> None:
    """Ask *model* for its answer to every row of a file, and print the answers.

    CSV and JSON output hold the model's outputs alone, a line or record per row of the file, in its
    order. A table shows the first rows beside their inputs, and asks for little more than these.

    Args:
        model: The name it is served by.
        source: A file, or "-" for standard input.
        version: A number, "@" and an alias, or empty for the version the name is served by.
        server: Where the server is, "host:port".
        output: "table", "csv" or "json".
        input_format: "csv", "json", "jsonl" or "npy"; empty for what the file's name ends in.
        out: Where to print; standard output by default. Notes go to standard error.

    Raises:
        UsageError: The file cannot be read or does not fit the model, or the server refuses it.
    """
    show = _PRINTERS.get(output)
    if show is None:
        raise UsageError(f"cannot print {output!r}: expected one of {', '.join(_PRINTERS)}")
    form = input_format or source.rpartition(".")[2].lower()
    read = _READERS.get(form)
    if read is None:
        raise UsageError(
            f"cannot tell the format of {source}: say which of {', '.join(_READERS)} it is"
        )
    try:
        client = Client(server)
    except ValueError as error:
        raise UsageError(str(error)) from None
    try:
        with client, _opened(source, is_text=form != "npy") as stream:
            metadata = client.metadata(model, version)
            chunks = read(stream, metadata)
            show(_Asker(client, metadata.name, version), chunks, out or sys.stdout)
    except HeadraceClientError as error:
        raise UsageError(f"{model} at {server}: {error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {source}: it is not UTF-8 text") from error


class _Asker:
    """Chunks of rows in, answers out, in order."""

    def __init__(self, client: Client, model: str, version: str) -> None:
        self._client = client
        self._model = model
        self._version = version

    def ask(self, chunk: _Chunk) -> Prediction:
        """The answer to one chunk."""
        return _checked(
            self._client.predict(self._model, chunk, version=self._version), _rows(chunk)
        )

    def ask_all(self, chunks: Iterator[_Chunk]) -> Iterator[Prediction]:
        """The answers to all chunks, with a few requests in flight."""
        waiting = deque(
            (self._submit(chunk), _rows(chunk)) for chunk in islice(chunks, _IN_FLIGHT_MAX)
        )
        while waiting:
            future, rows = waiting.popleft()
            prediction = future.result()
            for chunk in islice(chunks, 1):
                waiting.append((self._submit(chunk), _rows(chunk)))
            yield _checked(prediction, rows)

    def _submit(self, chunk: _Chunk) -> Any:
        return self._client.submit(self._model, chunk, version=self._version)


def _checked(prediction: Prediction, rows: int) -> Prediction:
    for name, array in prediction.items():
        if array.shape[:1] != (rows,):
            raise UsageError(
                f"output {name!r} has shape {list(array.shape)} for {rows} rows: it is no answer "
                "row by row"
            )
    return prediction


# Reading: a stream and the model's metadata to chunks.


@contextmanager
def _opened(source: str, *, is_text: bool) -> Iterator[IO[Any]]:
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


def _read_csv(stream: TextIO, metadata: ModelMetadata) -> Iterator[_Chunk]:
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
) -> Iterator[_Record]:
    """Rows of a CSV file whose columns are the model's inputs."""
    for spec in metadata.inputs:
        if spec.shape != _COLUMN:
            raise UsageError(
                f"input {spec.name!r} has shape {list(spec.shape)}, which no CSV column holds: "
                "use json or npy"
            )
    _check_names(header, metadata)
    columns = [(spec.name, header.index(spec.name), _parser(spec)) for spec in metadata.inputs]
    for number, cells in _numbered(lines, header):
        yield {name: _parsed(parse, cells[index], name, number) for name, index, parse in columns}


def _matrix_records(
    lines: Iterator[list[str]], header: list[str], spec: TensorSpec
) -> Iterator[_Record]:
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
    """What reads a cell of an input's datatype; it raises ValueError or KeyError."""
    if spec.datatype == "BYTES":
        return str
    if spec.datatype == "BOOL":
        return lambda cell: _TRUTHS[cell.strip().lower()]
    if spec.datatype == "INT64":
        return _integer_or_instant
    if "INT" in spec.datatype:
        return int
    return lambda cell: float(cell) if cell.strip() else math.nan


def _integer_or_instant(cell: str) -> int:
    """An integer, or an instant as nanoseconds since 1970; in UTC unless it says otherwise."""
    try:
        return int(cell)
    except ValueError:
        instant = datetime.fromisoformat(cell.strip())
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return (instant - _EPOCH) // timedelta(microseconds=1) * 1000


def _parsed(parse: Callable[[str], Any], cell: str, name: str, number: int) -> Any:
    try:
        return parse(cell)
    except (ValueError, KeyError):
        raise UsageError(f"row {number}, column {name!r}: cannot read {cell!r}") from None


def _read_json(stream: TextIO, metadata: ModelMetadata) -> Iterator[_Chunk]:
    try:
        found = json.load(stream)
    except json.JSONDecodeError as error:
        raise UsageError(f"the file is not JSON: {error}") from None
    match found:
        case [dict(), *_]:
            return _records_of(enumerate(found, start=1), metadata)
        case dict() if found and all(isinstance(column, list) for column in found.values()):
            return _sliced(found, metadata)
    raise UsageError(
        'the JSON is neither records ([{"a": 1}, {"a": 2}]) nor columns ({"a": [1, 2]})'
    )


def _read_jsonl(stream: TextIO, metadata: ModelMetadata) -> Iterator[_Chunk]:
    def records() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    raise UsageError(f"row {number} is not JSON: {error}") from None

    return _records_of(records(), metadata)


def _records_of(records: Iterator[tuple[int, Any]], metadata: ModelMetadata) -> Iterator[_Chunk]:
    """Chunks of records that JSON may have made of anything."""

    def picked() -> Iterator[_Record]:
        names: list[str] = []
        for number, record in records:
            if not isinstance(record, dict):
                raise UsageError(f"row {number} is not an object of names and values")
            names = names or _check_names(list(record), metadata)
            try:
                yield {name: record[name] for name in names}
            except KeyError as error:
                raise UsageError(f"row {number} has no {error}") from None

    return _gathered(picked(), metadata)


def _read_npy(stream: BinaryIO, metadata: ModelMetadata) -> Iterator[_Chunk]:
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


def _check_names(given: Sequence[str], metadata: ModelMetadata) -> list[str]:
    """The names to send: the model's inputs, or all where it publishes none. Notes the rest."""
    wanted = [spec.name for spec in metadata.inputs]
    if not wanted:
        return list(given)
    missing = [name for name in wanted if name not in given]
    if missing:
        raise UsageError(
            f"the file has no column {missing[0]!r}: model {metadata.name!r} takes "
            f"{', '.join(wanted)}"
        )
    extra = [name for name in given if name not in wanted]
    if extra:
        Console(stderr=True, highlight=False, markup=False).print(
            f"note: the model does not take {', '.join(extra)}"
        )
    return wanted


def _gathered(records: Iterator[_Record], metadata: ModelMetadata) -> Iterator[_Chunk]:
    """Records to chunks."""
    first = next(records, None)
    if not first:
        raise UsageError("the file has no rows")
    rows_max = _rows_max(metadata, first)
    records = chain([first], records)
    while batch := list(islice(records, rows_max)):
        yield {name: [record[name] for record in batch] for name in first}


def _sliced(columns: _Chunk, metadata: ModelMetadata) -> Iterator[_Chunk]:
    """Whole columns to chunks."""
    names = _check_names(list(columns), metadata)
    lengths = {len(columns[name]) for name in names}
    if len(lengths) != 1:
        raise UsageError(f"the columns have different numbers of rows: {sorted(lengths)}")
    (rows,) = lengths
    if rows == 0:
        raise UsageError("the file has no rows")
    rows_max = _rows_max(metadata, {name: columns[name][0] for name in names})
    for start in range(0, rows, rows_max):
        yield {name: columns[name][start : start + rows_max] for name in names}


def _rows_max(metadata: ModelMetadata, row: _Record) -> int:
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


def _rows(chunk: _Chunk) -> int:
    return len(next(iter(chunk.values())))


# Printing.


def _print_table(asker: _Asker, chunks: Iterator[_Chunk], out: TextIO) -> None:
    inputs: dict[str, list[str]] = {}
    outputs: dict[str, list[str]] = {}
    rows = 0
    for chunk in chunks:
        if rows < _TABLE_ROWS_MAX:
            prediction = asker.ask(chunk)
            for columns, arrays in ((inputs, chunk), (outputs, prediction)):
                for name, values in arrays.items():
                    columns.setdefault(name, []).extend(
                        map(_cell, values[: _TABLE_ROWS_MAX - rows])
                    )
        rows += _rows(chunk)
    console = Console(file=out, highlight=False, markup=False)
    room = console.width - 1 - sum(_width(*column) for column in outputs.items())
    shown: dict[str, list[str]] = {}
    for name, cells in inputs.items():
        room -= _width(name, cells)
        if room < 0:
            break
        shown[name] = cells
    table = Table()
    for name in shown:
        table.add_column(Text(name), justify="right", style="dim")
    for name in outputs:
        table.add_column(Text(name), justify="right")
    for row in zip(*shown.values(), *outputs.values(), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)
    if len(shown) < len(inputs):
        console.print(f"{len(inputs) - len(shown)} of {len(inputs)} input columns are not shown")
    if rows > _TABLE_ROWS_MAX:
        console.print(f"... and {rows - _TABLE_ROWS_MAX:,} more rows")


def _width(name: str, cells: Sequence[str]) -> int:
    return max(len(name), *map(len, cells)) + _COLUMN_CHARS


def _cell(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, list | np.ndarray):
        elements = np.asarray(value).ravel()
        more = " ..." if elements.size > _CELL_ELEMENTS_MAX else ""
        return f"[{' '.join(map(_cell, elements[:_CELL_ELEMENTS_MAX]))}{more}]"
    if isinstance(value, bytes):
        value = _decoded(value)
    text = f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)
    return text if len(text) <= _CELL_CHARS_MAX else f"{text[: _CELL_CHARS_MAX - 3]}..."


def _print_csv(asker: _Asker, chunks: Iterator[_Chunk], out: TextIO) -> None:
    writer = csv.writer(out, lineterminator="\n")
    for index, prediction in enumerate(asker.ask_all(chunks)):
        columns = dict(chain.from_iterable(map(_flat, prediction.items())))
        if index == 0:
            writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _flat(output: tuple[str, npt.NDArray[Any]]) -> Iterator[tuple[str, list[Any]]]:
    """An output as CSV columns: one, or one per element of a row."""
    name, array = output
    if array.ndim == 1:
        yield name, _plain(array)
        return
    for at in np.ndindex(array.shape[1:]):
        yield f"{name}[{','.join(map(str, at))}]", _plain(array[:, *at])


def _print_json(asker: _Asker, chunks: Iterator[_Chunk], out: TextIO) -> None:
    separator = "[\n"
    for prediction in asker.ask_all(chunks):
        columns = {name: _plain(array) for name, array in prediction.items()}
        for row in zip(*columns.values(), strict=True):
            record = dict(zip(columns, row, strict=True))
            out.write(f"{separator}{json.dumps(record, ensure_ascii=False)}")
            separator = ",\n"
    out.write("\n]\n")


def _plain(value: Any) -> Any:
    """What JSON and CSV can hold: lists, text, numbers; None for what is no number."""
    if isinstance(value, np.ndarray):
        return [_plain(element) for element in value]
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, np.floating):
        # The shortest digits of its own width: 0.1, not 0.10000000149011612.
        return float(str(value)) if np.isfinite(value) else None
    return value.item()


def _decoded(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


_READERS: Final[dict[str, Callable[[Any, ModelMetadata], Iterator[_Chunk]]]] = {
    "csv": _read_csv,
    "json": _read_json,
    "jsonl": _read_jsonl,
    "npy": _read_npy,
}
_PRINTERS: Final[dict[str, Callable[[_Asker, Iterator[_Chunk], TextIO], None]]] = {
    "table": _print_table,
    "csv": _print_csv,
    "json": _print_json,
}

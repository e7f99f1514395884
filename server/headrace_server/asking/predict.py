"""Predict: the rows of a file through a served model; what `headrace predict` does.

Asks the server in chunks with several requests in flight, and prints a table, CSV or JSON. Needs
the bare install alone. What a person can mend is a UsageError.
"""

import csv
import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final, TextIO

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.jsontext import spell
from headrace_client import Client, HeadraceClientError, ModelMetadata, Prediction, Timings

from ..errors import UsageError
from .connecting import Connection
from .rowfiles import BINARY, READERS, Chunk, is_whole, opened, row_count

_LOCAL: Final = Connection()

# Requests in flight at the same time.
_IN_FLIGHT_MAX: Final = 8

_TABLE_ROWS_MAX: Final = 20
_CELL_CHARS_MAX: Final = 32
_CELL_ELEMENTS_MAX: Final = 4
# What a table adds to each column: a space on both sides and a line.
_COLUMN_CHARS: Final = 3


def predict(
    model: str,
    source: str,
    *,
    version: str = "",
    connection: Connection = _LOCAL,
    output: str = "table",
    input_format: str = "",
    timings: bool = False,
    out: TextIO | None = None,
) -> None:
    """Ask *model* for its answer to every row of a file, and print the answers.

    CSV and JSON output hold the model's outputs alone, a line or record per row of the file, in its
    order. A table shows the first rows beside their inputs, and asks for little more than these. A
    model that does not answer row by row is asked once, with the whole file, and what is printed
    has as many rows as its answer.

    Args:
        model: The name it is served by.
        source: A file, or "-" for standard input.
        version: A number, "@" and an alias, or empty for the version the name is served by.
        connection: Where the server is, and how to speak to it.
        output: "table", "csv" or "json".
        input_format: "csv", "json", "jsonl", "npy" or "parquet"; empty for what the file's name
            ends in.
        timings: Whether to say on standard error where the time of the requests went.
        out: Where to print; standard output by default. Notes go to standard error.

    Raises:
        UsageError: The file cannot be read or does not fit the model, or the server refuses it.
    """
    show = _PRINTERS.get(output)
    if show is None:
        raise UsageError(f"cannot print {output!r}: expected one of {', '.join(_PRINTERS)}")
    form = input_format or source.rpartition(".")[2].lower()
    read = READERS.get(form)
    if read is None:
        raise UsageError(
            f"cannot tell the format of {source}: say with --format which of "
            f"{', '.join(READERS)} it is"
        )
    try:
        stream_of = opened(source, is_text=form not in BINARY)
        with connection.client() as client, stream_of as stream:
            metadata = client.metadata(model, version)
            chunks = read(stream, metadata)
            asker = _Asker(client, metadata, version, timings=timings)
            show(asker, chunks, out or sys.stdout)
    except HeadraceClientError as error:
        raise UsageError(f"{model} at {connection.server}: {error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {source}: it is not UTF-8 text") from error
    if timings:
        _print_timings(asker.timings)


class _Asker:
    """Chunks of rows in, answers out, in order.

    Attributes:
        is_whole: Whether the file is one chunk, whose answer may have any number of rows.
        timings: Those of all answers so far, where they were asked for and the server tells them.
    """

    def __init__(
        self, client: Client, metadata: ModelMetadata, version: str, *, timings: bool
    ) -> None:
        self.timings: list[Timings] = []
        self.is_whole = is_whole(metadata)
        self._client = client
        self._model = metadata.name
        self._version = version
        self._is_timed = timings

    def ask(self, chunk: Chunk) -> Prediction:
        """The answer to one chunk."""
        prediction = self._client.predict(
            self._model, chunk, version=self._version, timings=self._is_timed
        )
        return self._checked(prediction, row_count(chunk))

    def ask_all(self, chunks: Iterator[Chunk]) -> Iterator[Prediction]:
        """The answers to all chunks, with a few requests in flight."""
        waiting = deque(
            (self._submit(chunk), row_count(chunk)) for chunk in islice(chunks, _IN_FLIGHT_MAX)
        )
        while waiting:
            future, rows = waiting.popleft()
            prediction = future.result()
            for chunk in islice(chunks, 1):
                waiting.append((self._submit(chunk), row_count(chunk)))
            yield self._checked(prediction, rows)

    def _submit(self, chunk: Chunk) -> Any:
        return self._client.submit(
            self._model, chunk, version=self._version, timings=self._is_timed
        )

    def _checked(self, prediction: Prediction, rows: int) -> Prediction:
        for name, array in prediction.items():
            if array.shape[:1] != (rows,) and not self.is_whole:
                raise UsageError(
                    f"output {name!r} has shape {list(array.shape)} for {rows} rows: it is no "
                    "answer row by row"
                )
        if prediction.timings is not None:
            self.timings.append(prediction.timings)
        return prediction


def _print_table(asker: _Asker, chunks: Iterator[Chunk], out: TextIO) -> None:
    inputs: dict[str, list[str]] = {}
    outputs: dict[str, list[str]] = {}
    rows = 0
    for chunk in chunks:
        if rows < _TABLE_ROWS_MAX:
            prediction = asker.ask(chunk)
            count = _rows_of(prediction)
            is_beside = all(np.shape(column)[:1] == (count,) for column in chunk.values())
            shown_inputs = chunk if is_beside else {}
            for columns, arrays in ((inputs, shown_inputs), (outputs, prediction)):
                for name, values in arrays.items():
                    columns.setdefault(name, []).extend(
                        map(_cell, values[: _TABLE_ROWS_MAX - rows])
                    )
            rows += count
        else:
            rows += row_count(chunk)
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


def _rows_of(prediction: Prediction) -> int:
    """The rows that all outputs have.

    Raises:
        UsageError: Their numbers differ.
    """
    rows = _common_rows(prediction)
    if rows is None:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in prediction.items())
        raise UsageError(f"the outputs have no common rows ({shapes}): use --output json")
    return rows


def _common_rows(prediction: Prediction) -> int | None:
    firsts = {array.shape[:1] for array in prediction.values()}
    return next(iter(firsts.pop()), None) if len(firsts) == 1 else None


def _width(name: str, cells: Sequence[str]) -> int:
    return max(len(name), *map(len, cells)) + _COLUMN_CHARS


def _cell(value: Any) -> str:
    """A value as a table shows it; one that is missing is nothing."""
    if value is None or value is np.ma.masked:
        return ""
    if isinstance(value, list | np.ndarray):
        elements = np.asarray(value).ravel()
        more = " ..." if elements.size > _CELL_ELEMENTS_MAX else ""
        return f"[{' '.join(map(_cell, elements[:_CELL_ELEMENTS_MAX]))}{more}]"
    if isinstance(value, bytes):
        value = _decoded(value)
    text = f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)
    return text if len(text) <= _CELL_CHARS_MAX else f"{text[: _CELL_CHARS_MAX - 3]}..."


def _print_csv(asker: _Asker, chunks: Iterator[Chunk], out: TextIO) -> None:
    writer = csv.writer(out, lineterminator="\n")
    for index, prediction in enumerate(asker.ask_all(chunks)):
        _rows_of(prediction)
        columns = dict(chain.from_iterable(map(_flat, prediction.items())))
        if index == 0:
            writer.writerow(columns)
        writer.writerows(map(_cell_of, row) for row in zip(*columns.values(), strict=True))


def _flat(output: tuple[str, npt.NDArray[Any]]) -> Iterator[tuple[str, list[Any]]]:
    """An output as CSV columns: one, or one per element of a row."""
    name, array = output
    if array.ndim == 1:
        yield name, _plain(array)
        return
    for at in np.ndindex(array.shape[1:]):
        yield f"{name}[{','.join(map(str, at))}]", _plain(array[:, *at])


def _print_json(asker: _Asker, chunks: Iterator[Chunk], out: TextIO) -> None:
    separator = "[\n"
    for prediction in asker.ask_all(chunks):
        columns = {name: _plain(array) for name, array in prediction.items()}
        # Outputs without common rows are one record.
        rows: Iterable[Iterable[Any]] = [columns.values()]
        if _common_rows(prediction) is not None:
            rows = zip(*columns.values(), strict=True)
        for row in rows:
            record = dict(zip(columns, row, strict=True))
            # NaN and infinities are text, as in all JSON of ours.
            out.write(f"{separator}{json.dumps(spell(record), ensure_ascii=False)}")
            separator = ",\n"
    out.write("\n]\n")


def _print_timings(told: Sequence[Timings]) -> None:
    """The mean and the most of each step over all requests."""
    console = Console(stderr=True, highlight=False, markup=False)
    if not told:
        console.print("note: the server tells no timings")
        return
    table = Table()
    table.add_column("step")
    table.add_column("mean ms", justify="right")
    table.add_column("most ms", justify="right")
    for step in max((timings.steps_ns for timings in told), key=len):
        _add_times(table, step, [timings.steps_ns.get(step, 0) for timings in told])
    _add_times(table, "total", [timings.total_ns for timings in told])
    console.print(table)
    rows = sum(timings.batch_rows for timings in told) / len(told)
    console.print(f"requests: {len(told):,}, rows of their batches: {rows:,.1f} in the mean")


def _add_times(table: Table, step: str, ns: Sequence[int]) -> None:
    table.add_row(step, f"{sum(ns) / len(ns) / 1e6:.3f}", f"{max(ns) / 1e6:.3f}")


def _plain(value: Any) -> Any:
    """What JSON and CSV can hold: lists, text, numbers."""
    if isinstance(value, np.ndarray) and value.ndim:
        return [_plain(element) for element in value]
    if isinstance(value, np.ndarray):
        value = value[()]
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, np.floating):
        # The shortest digits of its own width: 0.1, not 0.10000000149011612.
        return float(str(value))
    return value.item()


def _cell_of(value: Any) -> Any:
    """A value as CSV has it, where NaN is an empty cell."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _decoded(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


_PRINTERS: Final[dict[str, Callable[[_Asker, Iterator[Chunk], TextIO], None]]] = {
    "table": _print_table,
    "csv": _print_csv,
    "json": _print_json,
}

"""Proof: whether a model answers each row as if it were alone, shown on rows that can tell.

A model *batches* if the answer to a row depends neither on the rows beside it, nor on its place
among them, nor on their number. Any other model is *whole*: each of its requests is a call of its
own. Rows that all have the same answer, or that the model does not take, can tell nothing: such a
model is *unproven*, and whole until rows of real requests have proven it (worker/evidence.py).
"""

import enum
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from headrace.signature import Signature, TensorSpec

from .base import Tensors, cause
from .comparing import Tolerance
from .conforming import OutputsUnlike, conform, settle
from .memory import is_out_of_memory
from .variety import edge_rows, together, varied_rows

Run = Callable[[Tensors], Tensors]

# Rows that are run together, and how many are run alone at most to find that many that tell.
_ROWS_MIN = 3
_ROWS_MAX = 6
_TRIED_MAX = 32
# Batches of more rows than vector units, chunks and usual batches have: prime numbers.
_MANY_ROWS = (37, 257, 1031)
_MANY_BYTES_MAX = 16 << 20
# Rows of a trial with real requests; by these a model is proven for no more.
TRAFFIC_ROWS = 64
# What is tried beyond the least takes so long at most (seconds).
_EXTRA_S = 2.0


class Verdict(enum.Enum):
    """Whether requests to a model share batches."""

    BATCHED = "batched"
    WHOLE = "whole"
    # Whole, until traffic has shown what it is.
    UNPROVEN = "unproven"


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, and one sentence on what it was concluded from."""

    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """A row and what the model answers to it alone."""

    tensors: Tensors
    answer: Tensors


class _Refuted(Exception):
    """The model does not batch; the message says how that was seen."""


class _Frozen(_Refuted):
    """It runs a row alone, but fails at several."""


class Prover:
    """Runs one model on rows of its own making.

    Attributes:
        is_frozen_at_one: Whether it runs one row, but no two together.
        rows_proven: With how many rows at once it was run.
        answers: What it answered to so many rows, as its adapter finished it.
    """

    def __init__(
        self,
        run: Run,
        signature: Signature | None,
        *,
        rows_max: int = 0,
        is_careful: bool = False,
        precision: str = "fp32",
    ) -> None:
        """Nothing has run yet.

        Args:
            run: Asks the model.
            signature: What rows must fit; None where only an example tells.
            rows_max: The most rows that it may be asked with; 0 for any number.
            is_careful: Whether whole numbers at the edge could cost more than an exception.
            precision: In what the model computes.
        """
        self.is_frozen_at_one = False
        self.rows_proven = 1
        self.answers: list[tuple[int, Tensors]] = []
        self._specs: Mapping[str, TensorSpec] = {}
        self._run = run
        self._signature = signature
        self._rows_max = rows_max or _MANY_ROWS[-1]
        self._is_careful = is_careful
        self._tolerance = Tolerance(precision)
        self._extra_until = 0.0
        self._row_s = 0.0
        self._tried = 0

    def prove(self, example: Tensors | None, inner: int) -> Finding:
        """Whether the model batches, by rows of *example* or made up with inner axes of *inner*."""
        self._extra_until = time.monotonic() + _EXTRA_S
        try:
            rows, trouble = self._rows_alone(varied_rows(self._signature, example, inner))
            if self._rows_max == 1:
                return Finding(Verdict.UNPROVEN, "rows_allowed lets no two rows run together")
            if len(rows) < _ROWS_MIN:
                # Two rows can refute, though not prove.
                if len(rows) > 1:
                    self._compare(rows)
                return Finding(Verdict.UNPROVEN, trouble)
            self._compare(rows)
            self._compare_further(rows)
            constant = self._constant(rows)
        except _Refuted as refuted:
            self.is_frozen_at_one = isinstance(refuted, _Frozen)
            return Finding(Verdict.WHOLE, str(refuted))
        if constant:
            why = f"output {constant!r} was the same for all {self._tried} rows that were tried"
            return Finding(Verdict.UNPROVEN, why)
        return Finding(Verdict.BATCHED, f"{len(rows)} rows answered alike alone and together")

    def _rows_alone(self, candidates: Iterator[Tensors]) -> tuple[list[_Row], str]:
        """Rows with their answers, some of which differ in every output where any do.

        Beside them why there are no more.
        """
        rows: list[_Row] = []
        taken: list[Tensors] = []
        trouble = ""
        began = time.monotonic()
        for tensors in islice(candidates, _TRIED_MAX):
            is_late = time.monotonic() > self._extra_until
            if len(rows) >= _ROWS_MIN and (is_late or not self._constant(rows)):
                break
            try:
                answer = self._run(tensors)
            except Exception as error:  # noqa: BLE001 - made-up rows need not suit a model.
                trouble = trouble or f"the model fails on rows made up from others ({cause(error)})"
                continue
            self._check_rows(answer, 1)
            if rows and (other := list(rows[0].answer)) != list(answer):
                raise _Refuted(f"one row gives the outputs {other}, another {list(answer)}")
            self.answers.append((1, answer))
            taken.append(tensors)
            self._settle()
            typed = [self._typed(answer) for _, answer in self.answers]
            self._tolerance.learn(typed[-1])
            rows = list(map(_Row, taken, typed))
        self._tried = len(rows)
        self._row_s = (time.monotonic() - began) / max(len(rows), 1)
        if rows:
            self._check_repeats(rows[0])
        return self._telling(rows), trouble or "there are not three rows that differ"

    def _check_repeats(self, row: _Row) -> None:
        try:
            why = self._tolerance.difference(row.answer, self._typed(self._run(row.tensors)))
        except Exception as error:
            raise _Refuted(f"a row fails the second time ({cause(error)})") from error
        if why:
            raise _Refuted(f"the answer to one row differs from one time to the next: {why}")

    def _telling(self, rows: Sequence[_Row]) -> list[_Row]:
        """A few of *rows*, among which each output differs that differs among all."""
        kept = list(rows[:_ROWS_MIN])
        for row in rows[_ROWS_MIN:]:
            if len(kept) == _ROWS_MAX:
                break
            if any(
                self._constant(kept, name) and not self._constant([*kept, row], name)
                for name in row.answer
            ):
                kept.append(row)
        return kept

    def _constant(self, rows: Sequence[_Row], output: str = "") -> str:
        """An output that is the same for all *rows*: *output*, or any; empty if there is none."""
        for name in (output,) if output else rows[0].answer:
            first = _only(rows[0], name)
            if not any(self._tolerance.difference(first, _only(row, name)) for row in rows[1:]):
                return name
        return ""

    def _compare(self, rows: Sequence[_Row]) -> None:
        """Run *rows* together in several orders and numbers."""
        for order in (rows, rows[::-1]):
            self._run_in_chunks(order)
        for order in (rows[1::-1], [*rows[1:], rows[0]], [rows[-1], rows[0], rows[0]]):
            if not self._has_time():
                return
            self._run_in_chunks(order)

    def _compare_further(self, rows: Sequence[_Row]) -> None:
        """Many rows at once; rows at the edge; rows whose optional inputs are left out."""
        self._compare_many(rows)
        edges = edge_rows(rows[0].tensors, self._signature, is_careful=self._is_careful)
        for name, tensors in edges:
            if not self._has_time():
                return
            self._compare_edge(name, rows, tensors)
        specs = self._signature.inputs if self._signature is not None else ()
        required = {spec.name for spec in specs if not spec.optional}
        if required and len(required) < len(specs) and self._has_time():
            self._compare_without_optional(rows, required)

    def _compare_many(self, rows: Sequence[_Row]) -> None:
        """The same rows over and over, in batches of ever more rows."""
        row_bytes = max(sum(array.nbytes for array in row.tensors.values()) for row in rows)
        row_s = self._row_s
        for many in _MANY_ROWS:
            count = min(many, self._rows_max)
            is_small = count * row_bytes <= _MANY_BYTES_MAX
            if count <= self.rows_proven or not is_small or not self._has_time(count * row_s):
                return
            began = time.monotonic()
            self._run_together([rows[at % len(rows)] for at in range(count)])
            row_s = (time.monotonic() - began) / count

    def _compare_edge(self, name: str, rows: Sequence[_Row], tensors: Tensors) -> None:
        """A row with *name* between two others: each answered, or refused, as if alone."""
        try:
            answer = self._run(tensors)
        except Exception:  # noqa: BLE001 - it is refused alone.
            mates = [rows[0].tensors, tensors, rows[1].tensors][: self._rows_max]
            try:
                self._run(together(mates))
            except Exception:  # noqa: BLE001 - and so it is beside others.
                return
            raise _Refuted(f"a row with {name} is refused alone, but not beside others") from None
        self._check_rows(answer, 1)
        if list(answer) != list(rows[0].answer):
            raise _Refuted(f"a row with {name} gives the outputs {list(answer)}")
        self._run_in_chunks([rows[0], _Row(tensors, self._typed(answer)), rows[1]])

    def _compare_without_optional(self, rows: Sequence[_Row], required: set[str]) -> None:
        shorter = []
        for row in rows[:_ROWS_MIN]:
            tensors = {name: array for name, array in row.tensors.items() if name in required}
            try:
                answer = self._run(tensors)
            except Exception:  # noqa: BLE001 - then no such request is answered either.
                return
            self._check_rows(answer, 1)
            shorter.append(_Row(tensors, self._typed(answer)))
        self._run_in_chunks(shorter)

    def _run_in_chunks(self, rows: Sequence[_Row]) -> None:
        """Run *rows* together, as many at once as the model may be asked with."""
        for at in range(0, len(rows), self._rows_max):
            self._run_together(rows[at : at + self._rows_max])

    def _run_together(self, rows: Sequence[_Row]) -> None:
        """Run *rows* in one call and hold each answer against the one that it had alone.

        Raises:
            _Refuted: They differ, or the call fails.
        """
        count = len(rows)
        if count < 2:
            return
        try:
            tensors = together([row.tensors for row in rows])
        except ValueError:  # Inner axes of different sizes: such rows never share a batch.
            return
        try:
            answer = self._run(tensors)
        except Exception as error:
            if is_out_of_memory(error):
                return
            raise _Frozen(f"the model runs 1 row but not {count} ({cause(error)})") from error
        self._check_rows(answer, count)
        if list(answer) != list(rows[0].answer):
            raise _Refuted(
                f"1 row gives the outputs {list(rows[0].answer)}, {count} rows {list(answer)}"
            )
        self.rows_proven = max(self.rows_proven, count)
        if count <= _ROWS_MAX:
            self.answers.append((count, answer))
        answer = self._typed(answer)
        for at, row in enumerate(rows):
            mine = {name: array[at : at + 1] for name, array in answer.items()}
            if why := self._tolerance.difference(row.answer, mine):
                self._check_repeats(row)
                raise _Refuted(f"rows differ with their neighbours: {why}")

    def _check_rows(self, answer: Tensors, rows: int) -> None:
        for name, array in answer.items():
            if array.shape[:1] != (rows,):
                shape = list(array.shape)
                raise _Refuted(f"output {name!r} has shape {shape} for {rows} row(s)")

    def _settle(self) -> None:
        """Settle the types of the outputs by all that was answered so far."""
        declared = () if self._signature is None else self._signature.outputs
        self._specs = {spec.name: spec for spec in settle(declared, self.answers)}

    def _typed(self, answer: Tensors) -> Tensors:
        try:
            return conform(answer, self._specs).tensors
        except OutputsUnlike as error:
            raise _Refuted(str(error)) from error

    def _has_time(self, seconds: float = 0.0) -> bool:
        return time.monotonic() + seconds < self._extra_until


def _only(row: _Row, name: str) -> Tensors:
    return {name: row.answer[name]}

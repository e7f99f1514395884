"""Quickways: whether a quicker way of asking a model than MLflow's own answers as that does.

It is taken on no trust. Rows that differ in every input, from close by to far, and rows at the
edges are asked in MLflow's way and in the other; both must answer alike, or both refuse. Where all
of these rows have one answer nothing is shown, and MLflow's way stays.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import numpy as np

from headrace.signature import Signature

from .base import Array, Tensors
from .samples import example_rows, synthetic_rows
from .variety import edge_rows, together, varied_rows

Ask = Callable[[Tensors], Tensors]
# Rows, and MLflow's answer to them; None where it refuses them.
_Told = tuple[Tensors, Tensors | None]

# Rows that are asked together; the last made-up numbers among these are some 10^5 wide.
ROWS: Final = 96
# Rows that are tried alone where together they fail, or where a model takes no other number.
_ALONE_MAX: Final = 12
# A model that takes longer for the usual rows (seconds) gains too little to be tried at length.
SLOW_S: Final = 1.0
# How far apart two answers may lie for the order of a sum; a way that only looks alike is further
# off in some row. FP64 is exact enough for nothing else.
_TOLERANCES: Final = {2: 1e-2, 4: 1e-5, 8: 1e-6}
# What integers become where their size could matter, up to what FP32 and FP64 cannot hold.
_LARGE_INTEGERS: Final = (2**24 + 1, -(2**24) - 1, 2**31 - 1, 2**53 + 1, -(2**53) - 1, 2**63 - 1)
_FLAGS: Final = np.array([False, True])


class Yardstick:
    """MLflow's own answers to rows that tell ways of asking apart."""

    def __init__(
        self,
        own: Ask,
        signature: Signature,
        example: Tensors | None = None,
        *,
        inner: int = 1,
        rows: int = ROWS,
        choices: Mapping[str, Array] | None = None,
        is_careful: bool = False,
        tolerance: float = 0.0,
        slow_s: float = SLOW_S,
    ) -> None:
        """Ask for the usual rows; the others wait for the first quick way.

        Args:
            own: MLflow's way of asking.
            signature: What rows must fit.
            example: The model's input example.
            inner: The size of every further axis that may be of any size, in rows that are made up.
            rows: How many rows are asked together.
            choices: By input the values that the model knows, where these are few.
            is_careful: Whether whole numbers at the edge could cost more than an exception.
            tolerance: How far apart two floats may lie, relative to their size, at the least.
            slow_s: A model that takes longer for the usual rows is left alone.
        """
        self._own = own
        self._signature = signature
        # Flags too, each by itself.
        flags = (spec.name for spec in signature.inputs if spec.datatype == "BOOL")
        self._choices = {**dict.fromkeys(flags, _FLAGS), **(choices or {})}
        self._is_careful = is_careful
        self._tolerance = tolerance
        self._slow_s = slow_s
        self._is_slow = False
        self._usual = self._usual_rows(example, inner, rows)
        self._told: list[_Told] | None = None
        self._is_telling = False

    @property
    def rows(self) -> Tensors | None:
        """Rows that the model answers in MLflow's way; None where there are none."""
        return self._usual[0][0] if self._usual else None

    def allows(self, quick: Ask) -> bool:
        """Whether *quick* is shown to answer as MLflow's way does."""
        if not self._usual or self._is_slow:
            return False
        if self._told is None:
            self._told = self._tell()
        return self._is_telling and all(
            self._is_same(_asked(quick, rows), expected) for rows, expected in self._told
        )

    def _usual_rows(self, example: Tensors | None, inner: int, count: int) -> list[_Told]:
        """Rows that differ, all that the model takes; together where it takes any number."""
        candidates = varied_rows(self._signature, self._completed(example, inner), inner)
        singles = [self._chosen(row, at) for at, row in enumerate(islice(candidates, count))]
        # The first call of some compiles.
        first, is_slow = self._timed(singles[0])
        if first is not None and is_slow:
            first, self._is_slow = self._timed(singles[0])
            if self._is_slow:
                return [(singles[0], first)]
        if self._signature.is_batchable:
            with suppress(ValueError):  # Inner axes of an example's rows may differ.
                rows = together(singles)
                if example is None:
                    rows = _apart(rows)
                answer, self._is_slow = self._timed(rows)
                if answer is not None:
                    return [(rows, answer)]
        told = ((row, _asked(self._own, row)) for row in singles[:_ALONE_MAX])
        taken: list[_Told] = [(row, answer) for row, answer in told if answer is not None]
        if taken and self._signature.is_batchable:
            with suppress(ValueError):
                rows = together([row for row, _ in taken])
                return [(rows, _asked(self._own, rows))]
        return taken

    def _timed(self, rows: Tensors) -> tuple[Tensors | None, bool]:
        """MLflow's answer to *rows*, and whether it was slow."""
        began = time.monotonic()
        answer = _asked(self._own, rows)
        return answer, time.monotonic() - began > self._slow_s

    def _completed(self, example: Tensors | None, inner: int) -> Tensors | None:
        """*example* with made-up columns for those that it leaves out."""
        if example is None:
            return None
        count = _count(example)
        given = example_rows(example, self._signature, count)
        return {**synthetic_rows(self._signature, count, inner), **given}

    def _chosen(self, rows: Tensors, start: int = 0) -> Tensors:
        """*rows* with values that the model knows, where these are few."""
        chosen = dict(rows)
        for index, (name, values) in enumerate(self._choices.items()):
            # One after the other in the first input, by chance beside it.
            at = (start + np.arange(rows[name].size).reshape(rows[name].shape)) % len(values)
            if index:
                at = np.random.default_rng((start, index)).integers(0, len(values), at.shape)
            chosen[name] = values[at].astype(rows[name].dtype)
        return chosen

    def _tell(self) -> list[_Told]:
        """The usual rows, and what models treat apart, each with MLflow's answer."""
        told = list(self._usual)
        row = told[0][0]
        if self._signature.is_batchable:
            at = min(1, _count(row) - 1)
            row = {name: array[at : at + 1] for name, array in row.items()}
            told.append((row, _asked(self._own, row)))
        edges = list(self._edges(row))
        told += self._each([edge for edge in edges if _is_finite(edge)])
        # That a missing number has a missing answer does not tell ways apart.
        self._is_telling = _are_telling([answer for _, answer in told if answer is not None])
        return told + self._each([edge for edge in edges if not _is_finite(edge)])

    def _each(self, rows: list[Tensors]) -> list[_Told]:
        if self._signature.is_batchable:
            return self._halved(rows)
        return [(one, _asked(self._own, one)) for one in rows]

    def _halved(self, rows: list[Tensors]) -> list[_Told]:
        """Answers to *rows*, as many at once as the model takes: one that it refuses is alone."""
        if not rows:
            return []
        joined = together(rows)
        answer = _asked(self._own, joined)
        if answer is not None or len(rows) == 1:
            return [(joined, answer)]
        half = len(rows) // 2
        return self._halved(rows[:half]) + self._halved(rows[half:])

    def _edges(self, row: Tensors) -> Iterator[Tensors]:
        """What is at the edges, in all inputs of *row* and in some."""
        edges = edge_rows(row, self._signature, is_careful=self._is_careful)
        changed = [edge for _, edge in edges]
        changed.append({name: _negative_infinite(array) for name, array in row.items()})
        if not self._is_careful:
            changed += [
                {name: _sized(array, value) for name, array in row.items()}
                for value in _LARGE_INTEGERS
            ]
        names = list(row)
        for edge in changed:
            for some in (names, names[::2], names[1::2]):
                if found := {name: edge[name] for name in some if edge[name] is not row[name]}:
                    yield {**row, **found}

    def _is_same(self, given: Tensors | None, expected: Tensors | None) -> bool:
        """Whether two answers agree in names, dtypes, shapes and, but for rounding, in values."""
        if given is None or expected is None:
            return given is expected
        return given.keys() == expected.keys() and all(
            _is_same_array(array, expected[name], self._tolerance) for name, array in given.items()
        )


def _apart(rows: Tensors) -> Tensors:
    """*rows* whose inputs are moved against each other: made-up integers are alike in all."""
    return {name: np.roll(array, at, axis=0) for at, (name, array) in enumerate(rows.items())}


def _count(rows: Tensors) -> int:
    return max((len(array) for array in rows.values() if array.ndim), default=1)


def _asked(ask: Ask, rows: Tensors) -> Tensors | None:
    """The answer to *rows*; None where they are refused."""
    try:
        with np.errstate(all="ignore"):
            return ask(rows)
    except Exception:  # noqa: BLE001 - a model may raise anything.
        return None


def _is_finite(rows: Tensors) -> bool:
    floats = [array for array in rows.values() if array.dtype.kind == "f"]
    return all(bool(np.isfinite(array).all()) for array in floats)


def _is_same_array(given: Array, expected: Array, tolerance: float) -> bool:
    if (given.dtype, given.shape) != (expected.dtype, expected.shape):
        return False
    if given.dtype.kind != "f":
        return bool(np.array_equal(given, expected))
    relative = max(tolerance, _TOLERANCES.get(given.dtype.itemsize, 1e-6))
    return np.allclose(given, expected, rtol=relative, atol=relative / 100, equal_nan=True)


def _are_telling(answers: list[Tensors]) -> bool:
    """Whether each output has other values for some rows than for others."""
    if not answers:
        return False
    return all(
        _differs([answer[name] for answer in answers if name in answer]) for name in answers[0]
    )


def _differs(arrays: list[Array]) -> bool:
    rows = [row for array in arrays for row in (array if array.ndim else array[np.newaxis])]
    return any(not _is_equal(rows[0], row) for row in rows[1:])


def _is_equal(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    is_float = one.dtype.kind == other.dtype.kind == "f"
    return bool(np.array_equal(one, other, equal_nan=is_float))


def _negative_infinite(array: Array) -> Array:
    return np.full_like(array, -np.inf) if array.dtype.kind == "f" else array


def _sized(array: Array, value: int) -> Array:
    """*array* with *value* for its integers, where they can hold it."""
    if array.dtype.kind not in "iu":
        return array
    bounds = np.iinfo(array.dtype.str)
    return np.full_like(array, value) if bounds.min <= value <= bounds.max else array

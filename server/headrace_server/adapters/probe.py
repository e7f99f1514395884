"""Probe: what a loaded model really does with one row and with two.

A signature may promise any number of rows while the model behind it was frozen at one, or declare
no outputs, or other outputs than its method returns. The worker runs the model once or twice after
loading and reports what it saw; only what was seen to follow the rows is served in batches.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from headrace.signature import Signature, TensorSpec

from .base import Adapter, Array, LoadError, Tensors, cause, spec_of
from .samples import example_rows, synthetic_rows
from .warmup import ANY, Allowed, predict_padded

# Sizes tried for inner axes of any size, in turn: 1 suits most models, convolutions want more.
INNER_SIZES = (1, 2, 8, 32)

_Run = Callable[[Tensors], Tensors]

# Two answers to equal rows may differ by the order of a sum, in half precision too.
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found.

    Attributes:
        batchable: Whether requests may share a call.
        splits: Whether the rows of one request may run in several calls: of a model that batches,
            and of one that is frozen at a single row.
        why: One sentence: what that was concluded from.
        outputs: The outputs as seen; empty where the model was not run with success.
        signature: The effective signature, its outputs corrected by what was seen; None where the
            model's inputs are unknown.
        seconds: How long probing took.
        sample: Rows that the model ran; None where it was not run with success.
    """

    batchable: bool
    splits: bool
    why: str
    outputs: tuple[TensorSpec, ...]
    signature: Signature | None
    seconds: float
    sample: Tensors | None = None


def probe(adapter: Adapter, example: Tensors | None = None, allowed: Allowed = ANY) -> Probe:
    """Run *adapter* on one row and on two, of *example* or else made up.

    It is never run with a size that is not *allowed*: rows that lack are copies of the last.

    Raises:
        LoadError: The model fails on its own input example, or returns what no datatype carries.
    """
    began = time.monotonic()
    signature = adapter.signature
    if example is not None and allowed.lengths:
        example = allowed.stretched(example, signature, allowed.lengths[0])
    run = partial(predict_padded, adapter, sizes=allowed.rows) if allowed.rows else adapter.predict
    found = _look(adapter, run, signature, example, allowed.lengths or INNER_SIZES)
    if signature is not None and found.outputs:
        signature = replace(signature, outputs=_corrected(signature.outputs, found.outputs))
    return replace(found, signature=signature, seconds=time.monotonic() - began)


def _look(
    adapter: Adapter,
    run: _Run,
    signature: Signature | None,
    example: Tensors | None,
    inner_sizes: Sequence[int],
) -> Probe:
    """What is found by *run*."""

    def found(*, splits: bool, batches: bool, why: str) -> Probe:
        return Probe(batches, splits, why, outputs, signature, 0.0, sample)

    outputs: tuple[TensorSpec, ...] = ()
    sample: Tensors | None = None
    has_inputs = signature is not None and bool(signature.inputs)
    if example is not None:
        row, answer = _run_example(run, signature, example)
    elif signature is None or not has_inputs:
        why = "not run: the model has neither a signature nor an input example"
        return found(splits=False, batches=False, why=why)
    else:
        try:
            row, answer = _run_synthetic(run, signature, inner_sizes)
        except Exception as error:  # noqa: BLE001 - made-up rows need not suit a model.
            why = f"not known: the model fails on a made-up row ({cause(error)})"
            is_presumed = signature.is_batchable and adapter.is_presumed_batchable
            return found(splits=is_presumed, batches=is_presumed, why=why)
    sample = row
    is_inner_free = signature is not None and any(-1 in s.shape[1:] for s in signature.inputs)
    outputs = _seen(answer, _rows(row), is_inner_free)
    if signature is not None and not signature.is_batchable:
        return found(splits=False, batches=False, why="the signature fixes the number of rows")
    if _rows(row) != 1:
        why = "the model runs its input example, but not one row of it"
        return found(splits=False, batches=False, why=why)
    try:
        two = example_rows(row if example is None else example, signature, 2)
        answer_to_two = run(two)
    except Exception as error:  # noqa: BLE001 - a model frozen at one row may raise anything.
        has_rows = all(array.shape[:1] == (1,) for array in answer.values())
        why = f"the model runs 1 row but not 2 ({cause(error)})"
        return found(splits=has_rows, batches=False, why=why)
    batches, why = _compare(answer, answer_to_two)
    if batches and (mixing := _differing(answer, answer_to_two)):
        batches, why = _judge_difference(adapter, run, row, answer, mixing)
    return found(splits=batches, batches=batches, why=why)


def _run_example(
    run: _Run, signature: Signature | None, example: Tensors
) -> tuple[Tensors, Tensors]:
    """The example's first row and the answer to it, or all of it where one row alone fails."""
    error: Exception | None = None
    for rows in sorted({1, _rows(example)}):
        try:
            sample = example_rows(example, signature, rows)
            return sample, run(sample)
        except Exception as raised:  # noqa: BLE001 - a model may raise anything.
            error = error or raised
    assert error is not None
    raise LoadError(f"the model fails on its own input example: {cause(error)}") from error


def _run_synthetic(
    run: _Run, signature: Signature, inner_sizes: Sequence[int]
) -> tuple[Tensors, Tensors]:
    """A made-up row that the model takes, and the answer to it; else the first error is raised."""
    error: Exception | None = None
    for inner in inner_sizes:
        sample = synthetic_rows(signature, 1, inner)
        try:
            return sample, run(sample)
        except Exception as raised:  # noqa: BLE001 - a model may raise anything.
            error = error or raised
    assert error is not None
    raise error


def _rows(tensors: Tensors) -> int:
    return next((len(array) for array in tensors.values() if array.ndim), 1)


def _compare(one: Tensors, two: Tensors) -> tuple[bool, str]:
    """Whether the answers to one row and to the same row twice have a row per row."""
    for rows, answer in ((1, one), (2, two)):
        for name, array in answer.items():
            if array.shape[:1] != (rows,):
                shape = list(array.shape)
                return False, f"output {name!r} has shape {shape} for {rows} row(s)"
    if one.keys() != two.keys():
        return False, f"1 row gives the outputs {list(one)}, 2 rows {list(two)}"
    return True, "the model ran 1 and 2 rows"


def _differing(one: Tensors, two: Tensors) -> str:
    """An output that is another for a row alone than for that row beside a second; or nothing."""
    return next((name for name in one if not _is_close(one[name][:1], two[name][:1])), "")


def _judge_difference(
    adapter: Adapter, run: _Run, row: Tensors, answer: Tensors, name: str
) -> tuple[bool, str]:
    """Whether a model batches whose *answer* to *row* differs beside another row in output *name*.

    A framework's model does: its own computing differs a little. Anyone's code does where it also
    differs from one time to the next: that is chance, not the other row.
    """
    if adapter.is_presumed_batchable:
        return True, f"output {name!r} of a row differs beside another row: not deterministic?"
    if _differing(answer, run(row)):
        return True, f"output {name!r} of a row differs each time: not deterministic"
    return False, f"output {name!r} of a row depends on the row beside it"


def _is_close(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    return np.allclose(one, other, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE, equal_nan=True)


def _seen(answer: Tensors, rows: int, is_inner_free: bool) -> tuple[TensorSpec, ...]:
    """The specs of *answer*. Sizes that may come from the sample's own inner axes are left open."""
    specs = []
    for name, array in answer.items():
        try:
            spec = spec_of(name, array)
        except ValueError as error:
            raise LoadError(f"output {name!r} cannot be sent: {error}") from error
        if array.shape[:1] != (rows,):
            spec = replace(spec, shape=array.shape)
        elif is_inner_free:
            spec = replace(spec, shape=(-1,) * array.ndim)
        specs.append(spec)
    return tuple(specs)


def _corrected(
    declared: tuple[TensorSpec, ...], seen: tuple[TensorSpec, ...]
) -> tuple[TensorSpec, ...]:
    """The outputs as *seen*, each as *declared* where that says the same or leaves more open."""
    by_name = {spec.name: spec for spec in declared}
    return tuple(
        known if (known := by_name.get(spec.name)) and _covers(known, spec) else spec
        for spec in seen
    )


def _covers(declared: TensorSpec, seen: TensorSpec) -> bool:
    return (
        declared.datatype == seen.datatype
        and len(declared.shape) == len(seen.shape)
        and all(
            size in (-1, actual) or actual == -1
            for size, actual in zip(declared.shape, seen.shape, strict=True)
        )
    )

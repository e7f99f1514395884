"""Probe: what a loaded model really answers, and whether requests may share its calls.

A signature may promise any number of rows while the model behind it was frozen at one, or declare
no outputs, or other outputs than its method returns. The worker runs the model after loading and
reports what it saw. Whether the model batches is proven on rows (proof.py), or not presumed.
"""

import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np

from headrace.signature import Signature, TensorSpec

from .base import Adapter, LoadError, Tensors, cause
from .conforming import settle
from .proof import TRAFFIC_ROWS, Finding, Prover, Run, Verdict
from .samples import example_rows, synthetic_rows
from .variety import varied_rows
from .warmup import ANY, Allowed, predict_padded

# Sizes tried for inner axes of any size, in turn: 1 suits most models, convolutions want more.
INNER_SIZES = (1, 2, 8, 32)
# As many as a request has, and more.
ROWS_UNBOUND = 2**31 - 1
# Rows other than zeros that are tried where the model takes none of these.
_VARIED_TRIED = 6


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of a model beside its files.

    Attributes:
        batched: The operator's word on whether it batches; None where he leaves it to the proof.
        is_deterministic: Whether its answers can be compared.
        known: What the traffic of an earlier load has shown; None where it has not.
        precision: In what it computes, as the setting of that name.
    """

    batched: bool | None = None
    is_deterministic: bool = True
    known: Finding | None = None
    precision: str = "fp32"


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found.

    Attributes:
        finding: Whether requests may share a call, and why.
        rows_max: 1 for a model that runs no more than a row at a time; else 0.
        rows_proven: Up to so many rows a request may be cut over several calls.
        outputs: The outputs as they were settled; empty where the model was not run with success.
        signature: The effective signature, with these; None where the model's inputs are unknown.
        seconds: How long probing took.
        sample: Rows that the model ran; None where it was not run with success.
    """

    finding: Finding
    rows_max: int
    rows_proven: int
    outputs: tuple[TensorSpec, ...]
    signature: Signature | None
    seconds: float
    sample: Tensors | None = None


def probe(
    adapter: Adapter,
    example: Tensors | None = None,
    allowed: Allowed = ANY,
    said: Said = Said(),
) -> Probe:
    """Run *adapter* on rows of *example* or else made-up ones, alone and together.

    It is never run with a size that is not *allowed*: missing rows are copies of the last.

    Raises:
        LoadError: The model fails on its own input example, or returns what no datatype carries.
    """
    began = time.monotonic()
    signature = adapter.signature
    if example is not None and allowed.lengths:
        example = allowed.stretched(example, signature, allowed.lengths[0])
    run: Run = adapter.predict
    if allowed.rows:
        run = partial(predict_padded, adapter, sizes=allowed.rows)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Rows at the edge would have the model warn of what no caller has sent.
        warnings.simplefilter("ignore")
        found = _look(adapter, run, signature, example, allowed, said)
    if signature is not None and found.outputs:
        signature = replace(signature, outputs=found.outputs)
    return replace(found, signature=signature, seconds=time.monotonic() - began)


def _look(
    adapter: Adapter,
    run: Run,
    signature: Signature | None,
    example: Tensors | None,
    allowed: Allowed,
    said: Said,
) -> Probe:
    """What is found by *run*."""
    outputs: tuple[TensorSpec, ...] = ()
    sample: Tensors | None = None
    inner = 1

    def found(verdict: Verdict, why: str, rows_max: int = 0, rows_proven: int = 1) -> Probe:
        finding = _ruled(Finding(verdict, why), said)
        if said.batched or allowed.rows:
            # By the operator's word, or since the model runs no more at once.
            rows_proven = ROWS_UNBOUND
        elif verdict is not Verdict.BATCHED:
            rows_proven = TRAFFIC_ROWS
        return Probe(finding, rows_max, rows_proven, outputs, signature, 0.0, sample)

    if example is not None:
        sample, answer = _run_example(run, signature, example)
    elif signature is None or not signature.inputs:
        return found(
            Verdict.UNPROVEN, "not run: the model has neither a signature nor an input example"
        )
    else:
        try:
            sample, answer, inner = _run_synthetic(run, signature, allowed.lengths or INNER_SIZES)
        except Exception as error:  # noqa: BLE001 - made-up rows need not suit a model.
            is_open = signature.is_batchable
            return found(
                Verdict.UNPROVEN if is_open else Verdict.WHOLE,
                f"not known: the model fails on a made-up row ({cause(error)})",
            )
    declared = () if signature is None else signature.outputs
    is_inner_free = signature is not None and any(-1 in s.shape[1:] for s in signature.inputs)
    seen = [(_rows(sample), answer)]
    outputs = settle(declared, seen, is_inner_free=is_inner_free)
    if signature is not None and not signature.is_batchable:
        return found(Verdict.WHOLE, "the signature fixes the number of rows")
    if _rows(sample) != 1 or not all(array.ndim for array in sample.values()):
        outputs = _loosened(outputs, declared)
        return found(Verdict.WHOLE, "the model runs its input example, but not one row of it")
    prover = Prover(
        run,
        signature,
        rows_max=allowed.rows[-1] if allowed.rows else 0,
        is_careful=adapter.device.name != "cpu",
        precision=said.precision,
    )
    proven = prover.prove(example, inner)
    outputs = settle(declared, seen + prover.answers, is_inner_free=is_inner_free)
    has_any_rows = proven.verdict is Verdict.WHOLE and not prover.is_frozen_at_one
    if has_any_rows and not _is_closed(signature):
        outputs = _loosened(outputs, declared)
    return found(
        proven.verdict, proven.why, int(prover.is_frozen_at_one), rows_proven=prover.rows_proven
    )


def _is_closed(signature: Signature | None) -> bool:
    """Whether the signature says all sizes of all inputs."""
    return signature is not None and all(-1 not in spec.shape for spec in signature.inputs)


def _loosened(
    outputs: Sequence[TensorSpec], declared: Sequence[TensorSpec]
) -> tuple[TensorSpec, ...]:
    """*outputs* of a model whose answers follow no rows: of any sizes, unless they are declared."""
    known = {spec.name: spec.shape for spec in declared}
    return tuple(
        spec if known.get(spec.name) == spec.shape else replace(spec, shape=(-1,) * len(spec.shape))
        for spec in outputs
    )


def _ruled(finding: Finding, said: Said) -> Finding:
    """*finding*, unless the operator or earlier traffic has said otherwise."""
    if said.batched is not None:
        contradiction = "" if finding.verdict is not Verdict.WHOLE else f", though {finding.why}"
        word = "true" if said.batched else "false"
        verdict = Verdict.BATCHED if said.batched else Verdict.WHOLE
        return Finding(verdict, f"batched = {word}{contradiction if said.batched else ''}")
    if finding.verdict is Verdict.WHOLE:
        return finding
    if not said.is_deterministic:
        return Finding(Verdict.WHOLE, "deterministic = false: its answers cannot be compared")
    return said.known or finding


def _run_example(
    run: Run, signature: Signature | None, example: Tensors
) -> tuple[Tensors, Tensors]:
    """The example's first row and the answer to it, or all of it where one row alone fails."""
    error: Exception | None = None
    # All of it as it is: its inputs may have different numbers of rows.
    for rows in (1, 0) if _rows(example) == 1 else (1, _rows(example), 0):
        try:
            sample = example_rows(example, signature, rows)
            return sample, run(sample)
        except Exception as raised:  # noqa: BLE001 - a model may raise anything.
            error = error or raised
    assert error is not None
    raise LoadError(f"the model fails on its own input example: {cause(error)}") from error


def _run_synthetic(
    run: Run, signature: Signature, inner_sizes: Sequence[int]
) -> tuple[Tensors, Tensors, int]:
    """A made-up row that the model takes, the answer to it, and the size of its inner axes.

    Where it takes none, the first error is raised.
    """
    error: Exception | None = None
    for inner in inner_sizes:
        sample = synthetic_rows(signature, 1, inner)
        try:
            return sample, run(sample), inner
        except Exception as raised:  # noqa: BLE001 - a model may raise anything.
            error = error or raised
    assert error is not None
    # Zeros and empty texts are a case of their own for some.
    for sample in islice(varied_rows(signature, None, inner_sizes[0]), _VARIED_TRIED):
        with suppress(Exception):
            return sample, run(sample), inner_sizes[0]
    raise error


def _rows(tensors: Tensors) -> int:
    return next((len(array) for array in tensors.values() if array.ndim), 1)

"""Warm-up: a model is run with every allowed size, and with no other."""

import numpy as np
import pytest

from doubles import FunctionAdapter
from headrace.signature import Signature, TensorSpec
from headrace_server.adapters import LoadError
from headrace_server.adapters.probe import probe
from headrace_server.adapters.proof import Verdict
from headrace_server.adapters.warmup import Allowed, warm_up
from models import Tensors

RAGGED = Signature((TensorSpec("x", "FP32", (-1, -1)),))


def compiled(*shapes: tuple[int, int]) -> FunctionAdapter:
    """A model that runs tensors of these shapes only; it keeps those that it ran."""

    def double(tensors: Tensors) -> Tensors:
        shape = tensors["x"].shape
        if shape not in shapes:
            raise RuntimeError(f"not compiled for {shape}")
        return {"y": tensors["x"] * 2}

    return FunctionAdapter(double, RAGGED)


@pytest.mark.parametrize("example", [None, {"x": np.ones((1, 3), np.float32)}])
def test_a_compiled_model_is_tried_and_warmed_up_with_what_it_allows(
    example: Tensors | None,
) -> None:
    allowed = Allowed(rows=(4, 8), lengths=(16, 32))
    adapter = compiled((4, 16), (4, 32), (8, 16), (8, 32))

    found = probe(adapter, example, allowed)
    assert found.finding.verdict is Verdict.BATCHED, found.finding
    assert found.sample is not None
    adapter.calls.clear()

    assert warm_up(adapter, found.sample, found.signature, allowed)[0] >= 0
    assert adapter.calls == [8, 8, 4, 4]


def test_a_size_that_the_model_does_not_run_fails_its_load() -> None:
    allowed = Allowed(rows=(4, 8))
    adapter = compiled((4, 1))
    found = probe(adapter, None, allowed)
    assert found.sample is not None

    with pytest.raises(LoadError) as told:
        warm_up(adapter, found.sample, found.signature, allowed)

    assert str(told.value) == (
        "the model fails with 8 rows, an allowed size: RuntimeError: not compiled for (8, 1)"
    )


def test_a_model_frozen_at_an_allowed_number_of_rows_batches() -> None:
    """Its batch axis is fixed; what it is asked for is padded to that."""
    found = probe(compiled((8, 1)), None, Allowed(rows=(8,)))
    assert found.finding.verdict is Verdict.BATCHED
    with pytest.raises(LoadError, match="not compiled for"):
        probe(compiled((8, 1)), {"x": np.ones((1, 1), np.float32)})


def test_an_output_of_one_size_at_every_length_is_none_of_the_ragged_ones() -> None:
    """Else an answer as wide as a bucket would be cut to its request's length."""

    def pooled(tensors: Tensors) -> Tensors:
        x = tensors["x"]
        return {"same": x * 2, "pooled": np.repeat(x.sum(1, keepdims=True), 16, 1)}

    allowed = Allowed(lengths=(16, 32))
    adapter = FunctionAdapter(pooled, RAGGED)
    found = probe(adapter, None, allowed)
    assert found.sample is not None

    _, signature = warm_up(adapter, found.sample, found.signature, allowed)

    assert signature is not None
    assert {spec.name: spec.shape for spec in signature.outputs} == {
        "same": (-1, -1),
        "pooled": (-1, 16),
    }


def test_a_model_of_a_fixed_number_of_rows_is_warmed_up_with_these() -> None:
    allowed = Allowed(lengths=(16, 32))
    adapter = compiled((3, 16), (3, 32))
    found = probe(adapter, {"x": np.ones((3, 5), np.float32)}, allowed)
    assert found.finding.verdict is Verdict.WHOLE
    assert found.sample is not None
    adapter.calls.clear()

    warm_up(adapter, found.sample, found.signature, allowed)

    assert adapter.calls == [3, 3]

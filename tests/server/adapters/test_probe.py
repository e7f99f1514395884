"""What the probe concludes from how a model answers one row and two."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from doubles import FunctionAdapter
from headrace.signature import Signature, TensorSpec
from headrace_server.adapters import LoadError
from headrace_server.adapters.probe import probe
from models import Tensors

MATRIX = Signature((TensorSpec("x", "FP32", (-1, 4)),))
EXAMPLE: Tensors = {"x": np.ones((3, 4), np.float32)}


def doubled(tensors: Tensors) -> Any:
    return (tensors["x"] * 2).astype(np.float32)


def only_rows(count: int) -> Callable[[Tensors], Any]:
    def answer(tensors: Tensors) -> Any:
        if len(tensors["x"]) != count:
            raise AssertionError(f"Guard failed: x.size()[0] == {count}")
        return doubled(tensors)

    return answer


@pytest.mark.parametrize("example", [None, EXAMPLE])
def test_a_model_that_follows_the_rows_is_batchable(example: Tensors | None) -> None:
    adapter = FunctionAdapter(doubled, MATRIX)

    found = probe(adapter, example)

    assert (found.batchable, found.why) == (True, "the model ran 1 and 2 rows")
    assert found.outputs == (TensorSpec("output-0", "FP32", (-1, 4)),)
    assert found.signature == Signature(MATRIX.inputs, found.outputs)
    assert found.seconds >= 0
    assert adapter.calls == [1, 2]


def test_a_model_frozen_at_one_row_is_not_batchable() -> None:
    found = probe(FunctionAdapter(only_rows(1), MATRIX))

    assert not found.batchable
    assert found.why == (
        "the model runs 1 row but not 2 (AssertionError: Guard failed: x.size()[0] == 1)"
    )
    assert found.outputs == (TensorSpec("output-0", "FP32", (-1, 4)),)


def test_a_model_frozen_at_the_rows_of_its_example_is_not_batchable() -> None:
    found = probe(FunctionAdapter(only_rows(3), MATRIX), EXAMPLE)

    assert not found.batchable
    assert found.why == "the model runs its input example, but not one row of it"
    assert found.outputs == (TensorSpec("output-0", "FP32", (-1, 4)),)


def test_a_model_that_fails_on_its_own_example_is_not_loaded() -> None:
    adapter = FunctionAdapter(only_rows(100), MATRIX)

    with pytest.raises(LoadError) as raised:
        probe(adapter, EXAMPLE)

    assert str(raised.value) == (
        "the model fails on its own input example: AssertionError: Guard failed: x.size()[0] == 100"
    )


def test_a_model_that_fails_on_made_up_rows_is_taken_by_its_signature() -> None:
    found = probe(FunctionAdapter(only_rows(100), MATRIX))

    assert found.batchable
    assert found.why.startswith("not known: the model fails on a made-up row (AssertionError")
    assert found.outputs == ()
    assert found.signature == MATRIX


def test_a_model_of_unknown_inputs_is_not_batchable() -> None:
    adapter = FunctionAdapter(doubled, None)

    found = probe(adapter)

    assert (found.batchable, found.signature, adapter.calls) == (False, None, [])
    assert found.why == "not run: the model has neither a signature nor an input example"


def test_an_example_suffices_where_there_is_no_signature() -> None:
    found = probe(FunctionAdapter(doubled, None), EXAMPLE)

    assert found.batchable
    assert found.signature is None
    assert found.outputs == (TensorSpec("output-0", "FP32", (-1, 4)),)


@pytest.mark.parametrize(
    ("function", "shape", "why"),
    [
        (lambda t: t["x"].sum(), (), "output 'output-0' has shape [] for 1 row(s)"),
        (lambda _: np.zeros(7), (7,), "output 'output-0' has shape [7] for 1 row(s)"),
        (lambda t: t["x"].sum(0, keepdims=True), (-1, 4), "output 'output-0' has shape [1, 4] "),
    ],
)
def test_outputs_that_do_not_follow_the_rows_forbid_batches(
    function: Callable[[Tensors], Any], shape: tuple[int, ...], why: str
) -> None:
    found = probe(FunctionAdapter(function, MATRIX))

    assert not found.batchable
    assert found.why.startswith(why)
    assert found.outputs[0].shape == shape


def test_outputs_that_come_and_go_forbid_batches() -> None:
    found = probe(FunctionAdapter(lambda t: {f"of-{len(t['x'])}": t["x"]}, MATRIX))

    assert not found.batchable
    assert found.why == "1 row gives the outputs ['of-1'], 2 rows ['of-2']"


@pytest.mark.parametrize("kind", ["f", "O"])
def test_a_row_that_answers_differently_beside_another_is_told_but_batched(kind: str) -> None:
    def answer(tensors: Tensors) -> Any:
        rows = len(tensors["x"])
        return np.full(rows, float(rows)) if kind == "f" else np.full(rows, str(rows), object)

    found = probe(FunctionAdapter(answer, MATRIX))

    assert found.batchable
    assert found.why == (
        "output 'output-0' of a row differs beside another row: not deterministic?"
    )


def test_an_inner_axis_that_differs_beside_another_row_is_told_too() -> None:
    found = probe(FunctionAdapter(lambda t: np.zeros((len(t["x"]), len(t["x"]))), MATRIX))

    assert found.batchable
    assert "differs beside another row" in found.why


def test_rounding_and_nan_are_no_difference() -> None:
    def answer(tensors: Tensors) -> Any:
        rows = len(tensors["x"])
        return np.column_stack([np.full(rows, 1.0 + rows * 1e-7), np.full(rows, np.nan)])

    assert probe(FunctionAdapter(answer, MATRIX)).why == "the model ran 1 and 2 rows"


def test_a_signature_that_fixes_the_rows_forbids_batches() -> None:
    fixed = Signature((TensorSpec("x", "FP32", (1, 4)),))
    adapter = FunctionAdapter(doubled, fixed)

    found = probe(adapter)

    assert (found.batchable, found.why) == (False, "the signature fixes the number of rows")
    assert adapter.calls == [1]


def test_inner_axes_of_any_size_are_tried_until_the_model_takes_one() -> None:
    def convolution(tensors: Tensors) -> Any:
        width = tensors["x"].shape[1]
        if width < 5:
            raise RuntimeError("kernel size can't be greater than actual input size")
        return np.zeros((len(tensors["x"]), width - 4))

    found = probe(FunctionAdapter(convolution, Signature((TensorSpec("x", "FP32", (-1, -1)),))))

    assert found.batchable
    # How wide the output is came from how wide the sample was.
    assert found.outputs == (TensorSpec("output-0", "FP64", (-1, -1)),)


@pytest.mark.parametrize(
    ("declared", "seen", "expected"),
    [
        (TensorSpec("y", "FP32", (-1, -1)), np.float32, TensorSpec("y", "FP32", (-1, -1))),
        (TensorSpec("y", "FP64", (-1, 4)), np.float32, TensorSpec("y", "FP32", (-1, 4))),
        (TensorSpec("y", "FP32", (-1,)), np.float32, TensorSpec("y", "FP32", (-1, 4))),
        (TensorSpec("y", "FP32", (-1, 3)), np.float32, TensorSpec("y", "FP32", (-1, 4))),
        (TensorSpec("other", "FP32", (-1, 4)), np.float32, TensorSpec("y", "FP32", (-1, 4))),
    ],
)
def test_declared_outputs_are_corrected_by_what_came(
    declared: TensorSpec, seen: type[np.generic], expected: TensorSpec
) -> None:
    signature = Signature(MATRIX.inputs, (declared,))

    found = probe(FunctionAdapter(lambda t: {"y": np.zeros((len(t["x"]), 4), seen)}, signature))

    assert found.signature is not None
    assert found.signature.outputs == (expected,)


def test_an_output_that_no_datatype_carries_is_not_loaded() -> None:
    adapter = FunctionAdapter(lambda t: t["x"].astype(np.complex64), MATRIX)

    with pytest.raises(LoadError, match=r"^output 'output-0' cannot be sent: numpy type complex64"):
        probe(adapter)


def test_tensors_without_rows_are_probed_as_they_are() -> None:
    scalar = Signature((TensorSpec("x", "FP32", ()),))

    found = probe(FunctionAdapter(doubled, scalar), {"x": np.array(3, np.float32)})

    assert not found.batchable
    assert found.outputs == (TensorSpec("output-0", "FP32", ()),)

"""What the probe concludes from how a model answers rows alone and together."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from doubles import FunctionAdapter
from headrace.signature import Signature, TensorSpec
from headrace_server.adapters import LoadError
from headrace_server.adapters.probe import Probe, Said, probe
from headrace_server.adapters.proof import Finding, Verdict
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


COLUMN = Signature((TensorSpec("x", "FP64", (-1,), "double"),))
TEXT = Signature((TensorSpec("x", "BYTES", (-1,), "string"),))


def concluded(function: Callable[[Tensors], Any], signature: Signature = COLUMN) -> Finding:
    return probe(FunctionAdapter(function, signature)).finding


def verdict(found: Probe) -> Verdict:
    return found.finding.verdict


@pytest.mark.parametrize("example", [None, EXAMPLE])
def test_a_model_that_follows_the_rows_batches(example: Tensors | None) -> None:
    adapter = FunctionAdapter(doubled, MATRIX)

    found = probe(adapter, example)

    assert found.finding == Finding(Verdict.BATCHED, "3 rows answered alike alone and together")
    assert found.outputs == (TensorSpec("output-0", "FP32", (-1, 4)),)
    assert found.signature == Signature(MATRIX.inputs, found.outputs)
    assert found.seconds >= 0


# Models that do not work row by row, each with what is said of it.
MIXING: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "less the mean": (lambda t: t["x"] - t["x"].mean(), "rows differ with their neighbours: "),
    "running sum": (lambda t: np.cumsum(t["x"]), "rows differ with their neighbours: "),
    "rank": (lambda t: np.argsort(np.argsort(t["x"])), "rows differ with their neighbours: "),
    "sorted": (lambda t: np.sort(t["x"]), "rows differ with their neighbours: "),
    "after the first": (lambda t: t["x"] - t["x"][0], "rows differ with their neighbours: "),
    "number of rows": (lambda t: t["x"] * len(t["x"]), "rows differ with their neighbours: "),
    "far down": (
        lambda t: t["x"] + np.arange(len(t["x"])) // 32,
        "rows differ with their neighbours: ",
    ),
    "far below": (
        lambda t: t["x"] + np.arange(len(t["x"])) // 1000,
        "rows differ with their neighbours: ",
    ),
    "share of all": (lambda t: t["x"] / (1 + t["x"].sum()), "rows differ with their neighbours: "),
    "not below zero": (
        lambda t: t["x"][t["x"] >= 0],
        "output 'output-0' has shape [0] for 1 row(s)",
    ),
    "above zero": (lambda t: t["x"][t["x"] > 0], "output 'output-0' has shape [0] for 1 row(s)"),
    "not missing": (
        lambda t: t["x"][~np.isnan(t["x"])],
        "output 'output-0' has shape [0] for 1 row(s)",
    ),
    "filled by neighbours": (
        lambda t: np.where(np.isnan(t["x"]), t["x"][~np.isnan(t["x"])].sum(), t["x"]),
        "rows differ with their neighbours: ",
    ),
    "without the largest": (
        lambda t: np.where(t["x"] > 1e5, t["x"] - t["x"].min(), t["x"]),
        "rows differ with their neighbours: ",
    ),
    "refusing all but some": (
        lambda t: t["x"] if np.isfinite(t["x"]).any() else 1 / 0,
        "a row with missing values is refused alone, but not beside others",
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_model_whose_rows_depend_on_each_other_is_whole(name: str) -> None:
    function, why = MIXING[name]

    found = concluded(function)

    assert found.verdict is Verdict.WHOLE
    assert found.why.startswith(why), found.why


@pytest.mark.parametrize("name", MIXING)
def test_one_row_for_an_example_hides_nothing(name: str) -> None:
    function, _ = MIXING[name]

    found = probe(FunctionAdapter(function, COLUMN), {"x": np.ones(1)})

    assert verdict(found) is Verdict.WHOLE


def test_a_sequence_whose_first_axis_is_time_is_whole() -> None:
    def recurrent(tensors: Tensors) -> Any:
        state, states = np.zeros(4), []
        for step in tensors["x"]:
            state = np.tanh(step + 0.5 * state)
            states.append(state)
        return np.asarray(states, np.float32)

    assert concluded(recurrent, MATRIX).verdict is Verdict.WHOLE


def test_answers_that_are_all_the_same_prove_nothing() -> None:
    found = concluded(lambda t: np.zeros(len(t["x"])))

    assert found == Finding(
        Verdict.UNPROVEN, "output 'output-0' was the same for all 32 rows that were tried"
    )


def test_texts_that_the_model_does_not_know_prove_nothing() -> None:
    def known(tensors: Tensors) -> Any:
        return np.array([{"red": 1.0, "blue": 2.0}.get(text, 0.0) for text in tensors["x"]])

    assert concluded(known, TEXT).verdict is Verdict.UNPROVEN
    example: Tensors = {"x": np.array(["red", "blue", "red", "green"], object)}
    assert verdict(probe(FunctionAdapter(known, TEXT), example)) is Verdict.BATCHED


def test_rows_that_answer_alike_close_by_are_tried_farther_apart() -> None:
    found = concluded(lambda t: (t["x"] > 3.0).astype(np.int64))

    assert found.verdict is Verdict.BATCHED


def test_an_answer_that_differs_each_time_cannot_be_compared() -> None:
    chance = np.random.default_rng(0)

    found = concluded(lambda t: chance.random(len(t["x"])))

    assert found.verdict is Verdict.WHOLE
    assert found.why.startswith("the answer to one row differs from one time to the next: ")


def test_a_model_frozen_at_one_row_is_whole() -> None:
    found = probe(FunctionAdapter(only_rows(1), MATRIX))

    assert found.finding == Finding(
        Verdict.WHOLE,
        "the model runs 1 row but not 3 (AssertionError: Guard failed: x.size()[0] == 1)",
    )
    assert found.outputs == (TensorSpec("output-0", "FP32", (-1, 4)),)


def test_the_operator_has_a_model_frozen_at_one_row_run_row_by_row() -> None:
    found = probe(FunctionAdapter(only_rows(1), MATRIX), said=Said(batched=True))

    assert verdict(found) is Verdict.BATCHED
    assert found.rows_max == 1


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            Said(batched=True),
            (Verdict.BATCHED, "batched = true, though rows differ with their neighbours: "),
        ),
        (Said(batched=False), (Verdict.WHOLE, "batched = false")),
        (Said(), (Verdict.WHOLE, "rows differ with their neighbours: ")),
        (
            Said(known=Finding(Verdict.BATCHED, "8 requests answered alike")),
            (Verdict.WHOLE, "rows differ with their neighbours: "),
        ),
    ],
)
def test_the_operators_word_wins_over_what_was_seen(
    said: Said, expected: tuple[Verdict, str]
) -> None:
    found = probe(FunctionAdapter(MIXING["less the mean"][0], COLUMN), said=said).finding

    assert (found.verdict, found.why[: len(expected[1])]) == expected


def test_what_traffic_has_shown_counts_where_made_up_rows_tell_nothing() -> None:
    known = Finding(Verdict.BATCHED, "8 requests answered alike alone and together")
    adapter = FunctionAdapter(lambda t: np.zeros(len(t["x"])), COLUMN)

    assert probe(adapter, said=Said(known=known)).finding == known


def test_a_contradiction_that_traffic_has_shown_outlives_the_proof() -> None:
    known = Finding(Verdict.WHOLE, "rows differ with their neighbours: 'y', 1 against 2")

    assert probe(FunctionAdapter(doubled, MATRIX), said=Said(known=known)).finding == known


def test_what_is_not_deterministic_cannot_be_compared() -> None:
    found = probe(FunctionAdapter(doubled, MATRIX), said=Said(is_deterministic=False)).finding

    assert found == Finding(Verdict.WHOLE, "deterministic = false: its answers cannot be compared")


def test_a_model_frozen_at_the_rows_of_its_example_is_whole() -> None:
    found = probe(FunctionAdapter(only_rows(3), MATRIX), EXAMPLE)

    assert found.finding == Finding(
        Verdict.WHOLE, "the model runs its input example, but not one row of it"
    )
    assert found.outputs == (TensorSpec("output-0", "FP32", (-1, -1)),)


def test_an_example_whose_inputs_differ_in_rows_is_taken_as_it_is() -> None:
    product = Signature((TensorSpec("x", "FP64", (-1, 2)), TensorSpec("b", "FP64", (-1, -1))))
    example: Tensors = {"x": np.ones((3, 2)), "b": np.ones((2, 4))}

    def answer(tensors: Tensors) -> Any:
        return np.matmul(*tensors.values())

    found = probe(FunctionAdapter(answer, product), example)

    assert verdict(found) is not Verdict.BATCHED
    assert found.outputs == (TensorSpec("output-0", "FP64", (-1, -1)),)


def test_a_model_is_proven_for_as_many_rows_as_it_ran() -> None:
    assert probe(FunctionAdapter(doubled, MATRIX)).rows_proven == 1031
    wide = Signature((TensorSpec("x", "FP32", (-1, 60_000)),))
    assert probe(FunctionAdapter(doubled, wide)).rows_proven == 37
    constant = probe(FunctionAdapter(lambda t: np.zeros(len(t["x"])), COLUMN))
    assert constant.rows_proven == 64
    by_word = probe(FunctionAdapter(doubled, MATRIX), said=Said(batched=True))
    assert by_word.rows_proven == 2**31 - 1


def test_a_model_that_fails_on_its_own_example_is_not_loaded() -> None:
    adapter = FunctionAdapter(only_rows(100), MATRIX)

    with pytest.raises(LoadError) as raised:
        probe(adapter, EXAMPLE)

    assert str(raised.value) == (
        "the model fails on its own input example: AssertionError: Guard failed: x.size()[0] == 100"
    )


def test_a_model_that_fails_on_made_up_rows_is_unproven() -> None:
    found = probe(FunctionAdapter(only_rows(100), MATRIX))

    assert verdict(found) is Verdict.UNPROVEN
    assert found.finding.why.startswith(
        "not known: the model fails on a made-up row (AssertionError"
    )
    assert found.outputs == ()
    assert found.signature == MATRIX


def test_a_model_that_fails_on_zeros_is_tried_with_other_rows() -> None:
    def picky(tensors: Tensors) -> Any:
        if not tensors["x"].all():
            raise ZeroDivisionError
        return 1 / tensors["x"]

    assert concluded(picky).verdict is Verdict.BATCHED


def test_a_model_of_unknown_inputs_is_unproven() -> None:
    adapter = FunctionAdapter(doubled, None)

    found = probe(adapter)

    assert (verdict(found), found.signature, adapter.calls) == (Verdict.UNPROVEN, None, [])
    assert found.finding.why == "not run: the model has neither a signature nor an input example"


def test_an_example_suffices_where_there_is_no_signature() -> None:
    found = probe(FunctionAdapter(doubled, None), EXAMPLE)

    assert verdict(found) is Verdict.BATCHED
    assert found.signature is None
    assert found.outputs == (TensorSpec("output-0", "FP32", (-1, 4)),)


@pytest.mark.parametrize(
    ("function", "shape", "why"),
    [
        (lambda t: t["x"].sum(), (), "output 'output-0' has shape [] for 1 row(s)"),
        (lambda _: np.zeros(7), (-1,), "output 'output-0' has shape [7] for 1 row(s)"),
        (lambda t: t["x"].sum(0, keepdims=True), (-1, -1), "output 'output-0' has shape [1, 4] "),
    ],
)
def test_outputs_that_do_not_follow_the_rows_forbid_batches(
    function: Callable[[Tensors], Any], shape: tuple[int, ...], why: str
) -> None:
    found = probe(FunctionAdapter(function, MATRIX))

    assert verdict(found) is Verdict.WHOLE
    assert found.finding.why.startswith(why)
    assert found.outputs[0].shape == shape


def test_outputs_that_come_and_go_forbid_batches() -> None:
    found = concluded(lambda t: {f"of-{len(t['x'])}": t["x"]})

    assert found == Finding(Verdict.WHOLE, "1 row gives the outputs ['of-1'], 3 rows ['of-3']")


def test_an_inner_axis_that_differs_beside_another_row_forbids_batches() -> None:
    found = concluded(lambda t: np.zeros((len(t["x"]), len(t["x"]))))

    assert found.verdict is Verdict.WHOLE
    assert found.why.endswith("'output-0' has shape [1, 3] instead of [1, 1]")


def test_rounding_and_nan_are_no_difference() -> None:
    def answer(tensors: Tensors) -> Any:
        x = tensors["x"]
        return np.column_stack([x * (1 + len(x) * 1e-9), np.full(len(x), np.nan)])

    assert concluded(answer).verdict is Verdict.BATCHED


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", Verdict.WHOLE), ("bf16", Verdict.BATCHED)]
)
def test_a_lower_precision_rounds_more(precision: str, expected: Verdict) -> None:
    def answer(tensors: Tensors) -> Any:
        x = tensors["x"]
        return (x * (1 + min(len(x), 9) * 1e-3)).astype(np.float32)

    adapter = FunctionAdapter(answer, MATRIX)

    assert verdict(probe(adapter, said=Said(precision=precision))) is expected


def test_a_signature_that_fixes_the_rows_forbids_batches() -> None:
    fixed = Signature((TensorSpec("x", "FP32", (1, 4)),))
    adapter = FunctionAdapter(doubled, fixed)

    found = probe(adapter)

    assert found.finding == Finding(Verdict.WHOLE, "the signature fixes the number of rows")
    assert adapter.calls == [1]


def test_inner_axes_of_any_size_are_tried_until_the_model_takes_one() -> None:
    def convolution(tensors: Tensors) -> Any:
        width = tensors["x"].shape[1]
        if width < 5:
            raise RuntimeError("kernel size can't be greater than actual input size")
        return tensors["x"][:, 4:].astype(np.float64)

    found = probe(FunctionAdapter(convolution, Signature((TensorSpec("x", "FP32", (-1, -1)),))))

    assert verdict(found) is Verdict.BATCHED
    # How wide the output is came from how wide the sample was.
    assert found.outputs == (TensorSpec("output-0", "FP64", (-1, -1)),)


@pytest.mark.parametrize(
    ("declared", "seen", "expected"),
    [
        (TensorSpec("y", "FP32", (-1, -1)), np.float32, TensorSpec("y", "FP32", (-1, -1))),
        (TensorSpec("y", "FP64", (-1, 4)), np.float32, TensorSpec("y", "FP64", (-1, 4))),
        (TensorSpec("y", "FP32", (-1, 4)), np.float64, TensorSpec("y", "FP64", (-1, 4))),
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

    assert verdict(found) is Verdict.WHOLE
    assert found.outputs == (TensorSpec("output-0", "FP32", ()),)

"""When a quicker way of asking a model is shown to answer as MLflow's own does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from headrace.signature import Signature, TensorSpec
from headrace_server.adapters.quickways import Yardstick
from models import Tensors


def columns(*kinds: str) -> Signature:
    datatypes = {
        "double": "FP64",
        "float": "FP32",
        "long": "INT64",
        "string": "BYTES",
        "boolean": "BOOL",
    }
    return Signature(
        tuple(
            TensorSpec(name, datatypes[kind], (-1,), kind)
            for name, kind in zip("abcdef", kinds, strict=False)
        )
    )


def total(rows: Tensors) -> Tensors:
    return {"y": rows["a"] + 2.0 * rows["b"]}


def constant(rows: Tensors) -> Tensors:
    return {"y": np.zeros(len(rows["a"]))}


def refuses_missing(rows: Tensors) -> Tensors:
    if np.isnan(rows["a"]).any():
        raise ValueError("missing")
    return total(rows)


def swapped(rows: Tensors) -> Tensors:
    return total({"a": rows["b"], "b": rows["a"]})


def changed(where: Callable[[Any], Any]) -> Callable[[Tensors], Tensors]:
    """Answers otherwise for the rows in which *where* holds of column a."""

    def ask(rows: Tensors) -> Tensors:
        return {"y": np.where(where(rows["a"]), 1.5, total(rows)["y"])}

    return ask


def test_a_way_that_answers_alike_is_allowed() -> None:
    assert Yardstick(total, columns("double", "double")).allows(total)


@pytest.mark.parametrize(
    "quick",
    [
        pytest.param(swapped, id="columns mixed up"),
        pytest.param(changed(lambda a: a < -100), id="numbers below zero"),
        pytest.param(changed(lambda a: a > 5000), id="large numbers"),
        pytest.param(changed(np.isnan), id="missing numbers"),
        pytest.param(changed(lambda a: a == np.inf), id="infinity"),
        pytest.param(changed(lambda a: a == -np.inf), id="infinity below zero"),
        pytest.param(changed(lambda a: a == 0), id="zero"),
        pytest.param(lambda rows: {"z": total(rows)["y"]}, id="another name"),
        pytest.param(lambda rows: {"y": total(rows)["y"].astype("f4")}, id="another dtype"),
        pytest.param(lambda rows: {"y": total(rows)["y"][:, np.newaxis]}, id="another shape"),
    ],
)
def test_a_way_that_answers_some_row_otherwise_is_not(quick: Any) -> None:
    assert not Yardstick(total, columns("double", "double")).allows(quick)


def test_a_way_must_refuse_what_mlflow_refuses_and_nothing_else() -> None:
    strict = Yardstick(refuses_missing, columns("double", "double"))
    lenient = Yardstick(total, columns("double", "double"))

    assert strict.allows(refuses_missing)
    assert not strict.allows(total)
    assert not lenient.allows(refuses_missing)


def test_a_model_that_answers_all_rows_alike_shows_nothing() -> None:
    assert not Yardstick(constant, columns("double", "double")).allows(constant)


def test_missing_numbers_that_stay_so_show_nothing() -> None:
    def nothing(rows: Tensors) -> Tensors:
        return {"y": 0.0 * rows["a"]}

    assert not Yardstick(nothing, columns("double", "double")).allows(nothing)


def test_each_output_must_have_differed() -> None:
    def both(rows: Tensors) -> Tensors:
        return {**total(rows), "z": np.full(len(rows["a"]), np.nan)}

    assert not Yardstick(both, columns("double", "double")).allows(both)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_way_through_floats_that_lose_integers_is_not_allowed(dtype: str) -> None:
    def last_digit(rows: Tensors) -> Tensors:
        return {"y": rows["a"] % 10 + rows["b"] % 7}

    def lossy(rows: Tensors) -> Tensors:
        return last_digit({k: v.astype(dtype).astype("int64") for k, v in rows.items()})

    assert not Yardstick(last_digit, columns("long", "long")).allows(lossy)


def test_rows_of_the_example_are_varied_too() -> None:
    def above(rows: Tensors) -> Tensors:
        if (rows["a"] < 100).any():
            raise ValueError("too small")
        return total(rows)

    signature = columns("double", "double")
    example: Tensors = {"a": np.array([101.0]), "b": np.array([5.0])}

    assert Yardstick(above, signature, example).allows(above)
    assert not Yardstick(above, signature, example).allows(swapped)
    assert Yardstick(above, signature).rows is None


def test_columns_that_the_example_leaves_out_are_made_up() -> None:
    example: Tensors = {"b": np.array([5.0, 6.0])}

    assert Yardstick(total, columns("double", "double"), example).allows(total)


def test_nothing_is_allowed_where_mlflow_answers_no_row() -> None:
    def fails(rows: Tensors) -> Tensors:
        raise ValueError("never")

    yardstick = Yardstick(fails, columns("double"))

    assert yardstick.rows is None
    assert not yardstick.allows(fails)


def test_values_that_the_model_knows_stand_for_texts() -> None:
    known = {"red": 1.0, "blue": 2.0}

    def ask(rows: Tensors) -> Tensors:
        return {"y": np.array([known[text] for text in rows["a"]])}

    def wrong(rows: Tensors) -> Tensors:
        return {"y": np.array([1.0 if known[text] else 0.0 for text in rows["a"]])}

    choices = {"a": np.array(["red", "blue"], object)}
    yardstick = Yardstick(ask, columns("string"), choices=choices)

    assert yardstick.allows(ask)
    assert not yardstick.allows(wrong)
    assert not Yardstick(ask, columns("string")).allows(ask)


def test_integers_vary_each_by_itself() -> None:
    def small(rows: Tensors) -> Tensors:
        return {"y": np.clip(rows["a"], 0, 90) + 100 * np.clip(rows["b"], 0, 90)}

    def swapped_where_small(rows: Tensors) -> Tensors:
        is_small = (rows["a"] < 100) & (rows["b"] < 100)
        other = small({"a": rows["b"], "b": rows["a"]})["y"]
        return {"y": np.where(is_small, other, small(rows)["y"])}

    assert Yardstick(small, columns("long", "long")).allows(small)
    assert not Yardstick(small, columns("long", "long")).allows(swapped_where_small)


def test_flags_vary_each_by_itself() -> None:
    def ask(rows: Tensors) -> Tensors:
        return {"y": rows["a"] + 2.0 * rows["b"]}

    def swapped_flags(rows: Tensors) -> Tensors:
        return ask({"a": rows["b"], "b": rows["a"]})

    signature = columns("boolean", "boolean")
    yardstick = Yardstick(ask, signature)

    assert yardstick.rows is not None
    assert set(ask(yardstick.rows)["y"].tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert yardstick.allows(ask)
    assert not yardstick.allows(swapped_flags)


def test_a_signature_of_a_fixed_number_of_rows_is_asked_with_that_number() -> None:
    signature = Signature((TensorSpec("x", "FP64", (2, 3)),))
    seen = set()

    def ask(rows: Tensors) -> Tensors:
        seen.add(rows["x"].shape)
        return {"y": rows["x"] * 2}

    assert Yardstick(ask, signature).allows(ask)
    assert seen == {(2, 3)}


def test_a_model_of_a_single_row_is_asked_with_several_in_turn() -> None:
    signature = Signature((TensorSpec("x", "FP64", (1,)),))

    def ask(rows: Tensors) -> Tensors:
        return {"y": rows["x"] * 2}

    def one(rows: Tensors) -> Tensors:
        return {"y": np.ones(1)}

    assert Yardstick(ask, signature).allows(ask)
    assert not Yardstick(ask, signature).allows(one)
    assert not Yardstick(one, signature).allows(one)


def test_a_slow_model_is_not_tried_at_length() -> None:
    asked = []

    def ask(rows: Tensors) -> Tensors:
        asked.append(len(rows["a"]))
        return total(rows)

    yardstick = Yardstick(ask, columns("double", "double"), slow_s=-1.0)

    assert not yardstick.allows(ask)
    assert yardstick.rows is not None
    assert asked == [1, 1]


def test_careful_rows_hold_no_integer_beyond_those_of_usual_rows() -> None:
    seen: list[int] = []

    def ask(rows: Tensors) -> Tensors:
        seen.extend(rows["a"].tolist())
        return {"y": rows["a"]}

    assert Yardstick(ask, columns("long"), is_careful=True).allows(ask)
    assert min(seen) >= 0
    assert max(seen) < 1000

"""Rows to try a model with."""

import numpy as np
import pytest

from headrace.signature import Signature, TensorSpec
from headrace_server.adapters.samples import example_rows, synthetic_rows

SIGNATURE = Signature(
    (
        TensorSpec("price", "FP64", (-1,), "double"),
        TensorSpec("name", "BYTES", (-1,), "string"),
        TensorSpec("blob", "BYTES", (-1,), "binary"),
        TensorSpec("seen_at", "INT64", (-1,), "datetime", optional=True),
        TensorSpec("image", "FP32", (-1, 3, -1)),
    )
)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_synthetic_rows_are_empty_values_that_fit_the_signature(rows: int) -> None:
    sample = synthetic_rows(SIGNATURE, rows, inner=8)

    assert {name: array.shape for name, array in sample.items()} == {
        "price": (rows,),
        "name": (rows,),
        "blob": (rows,),
        "seen_at": (rows,),
        "image": (rows, 3, 8),
    }
    assert [array.dtype.name for array in sample.values()] == [
        "float64",
        "object",
        "object",
        "int64",
        "float32",
    ]
    assert sample["name"][0] == ""
    assert sample["blob"][0] == b""


def test_a_signature_that_fixes_the_rows_gets_that_many() -> None:
    fixed = Signature((TensorSpec("x", "FP32", (4, 2)), TensorSpec("scale", "FP32", ())))

    assert [array.shape for array in synthetic_rows(fixed, 1).values()] == [(4, 2), ()]


def test_example_rows_start_over_where_the_example_ends() -> None:
    rows = example_rows({"x": np.array([[1.0], [2.0]])}, None, 5)

    assert rows["x"].ravel().tolist() == [1.0, 2.0, 1.0, 2.0, 1.0]


def test_example_rows_come_as_a_callers_rows_would() -> None:
    example = {
        "image": np.zeros((2, 3, 1)),
        "name": np.array(["a", "b"]),
        "price": np.array([[1], [2]]),
        "seen_at": np.array(["2020-01-01T00:00:00", "2020-01-02T00:00:00"], "datetime64[s]"),
        "unknown": np.zeros(2),
    }

    rows = example_rows(example, SIGNATURE, 1)

    assert list(rows) == ["price", "name", "seen_at", "image"]
    assert rows["price"].dtype == np.float64
    assert rows["price"].shape == (1,)
    assert rows["name"].dtype == object
    assert rows["seen_at"].tolist() == [1_577_836_800_000_000_000]
    assert rows["image"].dtype == np.float32


def test_a_tensor_without_rows_stays_as_it_is() -> None:
    rows = example_rows({"x": np.zeros((1, 2)), "scale": np.array(3.0)}, None, 4)

    assert rows["x"].shape == (4, 2)
    assert rows["scale"].shape == ()


def test_the_one_tensor_of_an_example_is_the_one_input_whatever_its_name() -> None:
    """MLflow gives an array no name, and a graph that was logged without a signature has one."""
    graph = Signature((TensorSpec("x", "FP32", (-1, 2)),))

    rows = example_rows({"input-0": np.array([[1.0, 2.0]])}, graph, 2)

    assert {name: array.tolist() for name, array in rows.items()} == {"x": [[1.0, 2.0]] * 2}
    assert rows["x"].dtype == np.float32

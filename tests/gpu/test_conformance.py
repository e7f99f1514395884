"""Conformance: on a GPU a model answers what it answers on the CPU, within rounding."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import models
from headrace_server.adapters import adapter_of
from headrace_server.devices import open_device
from networks import GpuHouse, begin, doubling, end

# Those of tests/models.py whose flavors compute on a GPU.
ACCELERATED = [name for name in models.NAMES if name.startswith(("torch_", "onnx_", "two_"))]

# Sums are made in another order, and convolutions may round to TF32, 10 bits of mantissa.
RELATIVE, ABSOLUTE = 1e-2, 1e-3


def assert_close(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """Numbers within the tolerance, anything else equal."""
    assert found.dtype == expected.dtype
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, RELATIVE, ABSOLUTE)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ACCELERATED)
def test_a_model_answers_as_on_the_cpu(name: str, device: str) -> None:
    model = models.model(name)
    adapter_type = adapter_of(model.flavor)
    rows = model.rows(5 if model.is_batchable else 1)
    here = adapter_type(model.artifact, open_device("cpu"))
    there = adapter_type(model.artifact, open_device(device))

    expected, found = here.predict(rows), there.predict(rows)
    again = there.predict(rows)

    assert list(found) == list(expected)
    for output, array in expected.items():
        assert_close(found[output], array)
        assert_close(again[output], array)
    here.close()
    there.close()


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_any_number_of_rows_comes_back_in_order(rows: int, device: str) -> None:
    model = models.model("torch_pt2")
    adapter = adapter_of(model.flavor)(model.artifact, open_device(device))
    tensors = model.rows(rows)

    together = adapter.predict(tensors)
    alone = [adapter.predict({n: a[i : i + 1] for n, a in tensors.items()}) for i in range(rows)]

    for output, array in together.items():
        assert_close(array, np.concatenate([one[output] for one in alone]))
    adapter.close()


def test_batches_in_flight_at_once_keep_their_own_answers(device: str) -> None:
    """As a worker runs them: the next one is staged and launched before the last is finished."""
    model = models.model("torch_pt2")
    adapter = adapter_of(model.flavor)(model.artifact, open_device(device))
    batches = [
        {name: array + number for name, array in model.rows(8).items()} for number in range(16)
    ]
    expected = [adapter.predict(batch) for batch in batches]

    found, begun = [], begin(adapter, batches[0])
    for batch in batches[1:]:
        following = begin(adapter, batch)
        found.append(end(adapter, begun))
        begun = following
    found.append(end(adapter, begun))

    for one, other in zip(found, expected, strict=True):
        for output, array in other.items():
            assert_close(one[output], array)
    adapter.close()


@pytest.mark.slow
def test_a_model_is_served_on_the_device_it_is_set_to(
    houses: Callable[..., GpuHouse], device: str
) -> None:
    house = houses()
    house.networks.put("net", doubling())

    house.load("net", "net")

    assert house.repository.find("net").device == device
    assert [house.ask("net", float(i), 0.5) for i in range(20)] == [
        (2.0 * i, 1.0) for i in range(20)
    ]

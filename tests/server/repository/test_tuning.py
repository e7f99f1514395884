"""How a model computes, by the operator's settings, from the settings to the worker."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from headrace_server.errors import UsageError
from headrace_server.settings import read_settings
from headrace_server.settings.values import is_taggable
from house import House


def zero() -> object:
    """A model that a worker can unpickle without our tests."""

    class Zero:
        def predict(self, x: npt.NDArray[np.float64]) -> Any:
            return x * 0.0

    return Zero()


TUNING = ("precision", "compile", "channels_last", "cuda_graphs", "providers")


@pytest.mark.slow
def test_a_setting_that_a_flavor_does_not_know_is_told_in_the_index(tmp_path: Path) -> None:
    house = House(tmp_path, precision="bf16", cuda_graphs=True)
    try:
        house.shelf.put("a", "1", zero())
        house.load("a", "a")
        note = house.repository.find("a").note
    finally:
        house.close()

    assert note == "cuda_graphs does not apply to sklearn; precision does not apply to sklearn"


@pytest.mark.parametrize("key", TUNING)
def test_the_operator_alone_says_how_a_model_computes(key: str) -> None:
    assert not is_taggable(key)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('precision = "fp8"', "fp32, tf32, bf16 or fp16"),
        ('compile = "fast"', "default, reduce-overhead or max-autotune, or nothing"),
        ('providers = ["cuda", "cuda"]', "a list of tensorrt and cuda"),
        ("providers = []", "a list of tensorrt and cuda"),
        ('providers = ["cpu"]', "a list of tensorrt and cuda"),
    ],
)
def test_a_value_out_of_range_is_answered_with_the_range(
    tmp_path: Path, said: str, expected: str
) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(f"[models.m]\n{said}\n")

    with pytest.raises(UsageError, match=f"expected {expected}$"):
        read_settings(config=str(file), environ={})

"""The bound on torch's GPU memory during a trial; by a double of torch, since there is no GPU."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from headrace_server.worker.gpumemory import bound_growth


class FakeCuda:
    """torch.cuda of a GPU with 1000 bytes, of which torch holds 100."""

    def __init__(self) -> None:
        self.bounds: list[tuple[float, int]] = []

    def get_device_properties(self, device: int) -> Any:
        return SimpleNamespace(total_memory=1000)

    def memory_reserved(self, device: int) -> int:
        return 100

    def set_per_process_memory_fraction(self, fraction: float, device: int) -> None:
        self.bounds.append((fraction, device))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=fake))
    return fake


def test_torch_may_grow_by_as_much_as_is_said(cuda: FakeCuda) -> None:
    bound_growth("cuda:2", 300)

    assert cuda.bounds == [(0.4, 2)]


@pytest.mark.parametrize("bytes_max", [0, 901, 10**6])
def test_without_a_bound_or_with_one_beyond_the_memory_all_may_be_taken(
    cuda: FakeCuda, bytes_max: int
) -> None:
    bound_growth("cuda:0", bytes_max)

    assert cuda.bounds == [(1.0, 0)]


def test_the_cpu_is_not_bounded(cuda: FakeCuda) -> None:
    bound_growth("cpu", 300)

    assert cuda.bounds == []


def test_a_worker_without_torch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")

    bound_growth("cuda:0", 300)

    assert "torch" not in sys.modules


@pytest.mark.parametrize("name", [n for n in vars(FakeCuda) if not n.startswith("_")])
def test_the_double_has_the_calls_of_torch(name: str) -> None:
    assert callable(getattr(torch.cuda, name))

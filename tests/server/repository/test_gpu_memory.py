"""GPU memory: a load is refused before it starts, by readings of a double of the driver.

What computes are real workers, on the CPU.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_nvml import FakeCard, FakeNvml
from headrace_server.errors import LoadFailed
from headrace_server.gpus.nvml import find_gpus
from headrace_server.instances.bookings import Bookings
from headrace_server.metrics import Metrics
from headrace_server.repository.librarian import Fetched
from headrace_server.repository.model import State
from house import House
from puppet import save_scaled

pytestmark = pytest.mark.slow

MIB = 1 << 20


class Graphs:
    """A librarian that has one ONNX graph, whatever it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._graph = save_scaled(folder)

    def fetch(self, source: str, progress: object = None) -> Fetched:
        return Fetched(str(self._graph), source, "onnx", {"data": "model.onnx"}, {}, None, None)


@pytest.fixture
def houses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[House, Metrics]]]:
    closers: list[Callable[[], None]] = []

    def build(card: FakeCard, **how: Any) -> tuple[House, Metrics]:
        gpus = find_gpus({}, FakeNvml([card]).module)
        house = House(tmp_path, bookings=Bookings(gpus, 0.9), **how)
        house.shelf.put("graph", "1", b"")
        house.shelf.fetch = Graphs(tmp_path / "graph").fetch  # type: ignore[method-assign]
        closers.extend((gpus.close, house.close))
        return house, Metrics(house.repository, house.pool, gpus)

    yield build
    for close in reversed(closers):
        close()


def test_a_model_whose_files_exceed_what_is_free_is_refused_before_anything_starts(
    houses: Callable[..., tuple[House, Metrics]],
) -> None:
    house, _ = houses(FakeCard("GPU-1", total=100, used=90), device="cuda:0")

    with pytest.raises(LoadFailed, match=r"cuda:0 has too little memory: it needs"):
        house.load("a", "graph")

    assert house.pool.workers == []
    (model,) = house.repository.models
    assert model.state is State.FAILED
    assert "memory_fraction = 0.9" in model.reason


def test_where_the_choice_is_free_and_the_framework_finds_no_gpu_the_cpu_does(
    houses: Callable[..., tuple[House, Metrics]],
) -> None:
    card = FakeCard("GPU-1", total=10 * MIB, used=MIB)
    house, _ = houses(card, device="auto")

    house.load("a", "graph")

    (model,) = house.repository.models
    assert (model.device, model.booking) == ("cpu", None)


def test_a_named_gpu_that_the_framework_does_not_find_is_an_error(
    houses: Callable[..., tuple[House, Metrics]],
) -> None:
    house, _ = houses(FakeCard("GPU-1"), device="cuda:0")

    with pytest.raises(LoadFailed, match="no cuda:0: torch"):
        house.load("a", "graph")


def test_metrics_tell_of_gpus_and_of_the_memory_of_models(
    houses: Callable[..., tuple[House, Metrics]],
) -> None:
    house, metrics = houses(FakeCard("GPU-1", total=10 * MIB, used=MIB), device="auto")
    house.load("a", "graph")

    samples = [sample for family in metrics.collect() for sample in family.samples]
    gpu = {s.name: s.value for s in samples if s.labels == {"gpu": "cuda:0", "uuid": "GPU-1"}}
    assert gpu == {
        "headrace_gpu_memory_used_bytes": MIB,
        "headrace_gpu_memory_free_bytes": 9 * MIB,
        "headrace_gpu_busy_ratio": 0.4,
        "headrace_gpu_power_watts": 61.5,
        "headrace_gpu_temperature_celsius": 55.0,
    }
    (memory,) = (s for s in samples if s.name == "headrace_model_memory_bytes")
    assert memory.labels == {"model": "a", "version": "1"}
    assert memory.value > 0
    assert "headrace_model_gpu_memory_bytes" not in {s.name for s in samples}

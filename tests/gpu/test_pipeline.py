"""Pipeline: copies and computation at once, CUDA graphs, page-locked memory."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from headrace_server.adapters import Adapter, adapter_of
from headrace_server.arena import Arena, ArenaView
from headrace_server.devices import open_device
from networks import GpuHouse, artifact_of, begin, doubling, end, save_network, wide

# A batch of 32 MiB takes a millisecond and more to copy, either way.
ROWS, WIDTH = 2048, 4096
BATCHES = 30
# What batches in flight at once may take of the time that they take one after another.
OVERLAP_MAX = 0.9

Batch = dict[str, npt.NDArray[Any]]


def one_after_another(adapter: Adapter, batches: list[Batch]) -> list[Batch]:
    return [end(adapter, begin(adapter, batch)) for batch in batches]


def one_ahead(adapter: Adapter, batches: list[Batch]) -> list[Batch]:
    """As a worker does: the next batch is staged and launched before the last is finished."""
    answers, begun = [], begin(adapter, batches[0])
    for batch in batches[1:]:
        following = begin(adapter, batch)
        answers.append(end(adapter, begun))
        begun = following
    return [*answers, end(adapter, begun)]


def seconds(run: Callable[[Adapter, list[Batch]], object], adapter: Adapter, batch: Batch) -> float:
    """The best of three, of BATCHES batches."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        run(adapter, [batch] * BATCHES)
        took.append(time.perf_counter() - began)
    return min(took)


def test_the_next_batch_is_copied_while_one_computes(tmp_path: Path, device: str) -> None:
    is_rehearsal = device == "cpu"
    rows, width = (8, 16) if is_rehearsal else (ROWS, WIDTH)
    batch: Batch = {"x": np.ones((rows, width), np.float32)}
    layers, adapter = 0, None
    # As many layers as take about as long as the copies: there overlap shows most.
    for layers in (1, 2, 4, 8, 16, 32):
        folder = save_network(wide(width, layers), tmp_path / str(layers))
        adapter = adapter_of("pytorch")(artifact_of(folder, width), open_device(device))
        one_after_another(adapter, [batch] * 3)
        if is_rehearsal or _computes_longer(adapter, batch):
            break
        adapter.close()
    assert adapter is not None

    apart, ahead = seconds(one_after_another, adapter, batch), seconds(one_ahead, adapter, batch)

    expected = one_after_another(adapter, [batch])[0]
    for answer in one_ahead(adapter, [batch] * 3):
        np.testing.assert_array_equal(answer["y"], expected["y"])
    adapter.close()
    if is_rehearsal:
        pytest.skip("rehearsed: a CPU has nothing to copy to")
    assert ahead <= OVERLAP_MAX * apart, f"{layers} layers: {ahead:.3f} s ahead, {apart:.3f} apart"


def _computes_longer(adapter: Adapter, batch: Batch) -> bool:
    """Whether computing takes as long as copying the rows in."""
    rows = torch.from_numpy(batch["x"]).pin_memory()
    there = rows.to(adapter.device.name)

    def took(call: Callable[[], object]) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    copy_s = min(took(lambda: rows.to(adapter.device.name, non_blocking=True)) for _ in range(5))
    compute_s = min(took(lambda: adapter.launch({"x": there})) for _ in range(5))
    return compute_s >= copy_s


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_many_batches_in_flight_are_answered_each_with_its_own(
    houses: Callable[..., GpuHouse], slots: int
) -> None:
    house = houses(rows_max=4, slots=slots)
    house.networks.put("net", doubling())
    house.load("net", "net")
    model = house.repository.find("net")

    requests = [house.request(model, float(number), -float(number)) for number in range(400)]
    model.scheduler.submit(requests)
    ends = [house.reply.wait_for(request) for request in requests]

    answers = [np.frombuffer(end["y"]).tolist() for end in ends if isinstance(end, dict)]
    assert answers == [[2.0 * number, -2.0 * number] for number in range(400)]


@pytest.mark.slow
def test_a_model_with_graphs_answers_as_one_without(houses: Callable[..., GpuHouse]) -> None:
    house = houses(rows_allowed=(1, 4, 8), slots=2, cuda_graphs=True)
    house.networks.put("net", doubling())
    house.load("net", "net")
    model = house.repository.find("net")

    for count in (1, 2, 4, 5, 8, 20):
        requests = [house.request(model, float(number), 0.5) for number in range(count)]
        model.scheduler.submit(requests)
        ends = [house.reply.wait_for(request) for request in requests]
        answers = [np.frombuffer(end["y"]).tolist() for end in ends if isinstance(end, dict)]
        assert answers == [[2.0 * number, 1.0] for number in range(count)]


def test_the_memory_that_daemon_and_worker_share_can_be_page_locked(gpu: str) -> None:
    """What copies at full speed rest on: CUDA takes memory of a memfd as it takes any other."""
    nbytes = 32 << 20
    arena = Arena(nbytes)
    view = ArenaView(os.dup(arena.fd), arena.nbytes)
    tensor = torch.frombuffer(view.memory, dtype=torch.uint8)
    tensor.fill_(7)
    cuda: Any = torch.cuda
    cudart = cuda.cudart()

    assert int(cudart.cudaHostRegister(tensor.data_ptr(), nbytes, 1)) == 0
    try:
        assert tensor.is_pinned()
        there = torch.empty(nbytes, dtype=torch.uint8, device=gpu)
        there.copy_(tensor, non_blocking=True)
        torch.cuda.synchronize()
        assert int(there[0]) == int(there[-1]) == 7
    finally:
        assert int(cudart.cudaHostUnregister(tensor.data_ptr())) == 0
        arena.close()


def test_cuda_numbers_gpus_as_the_driver_does(gpu: str, gpus: Any) -> None:
    """What metrics and placement rest on, where CUDA_VISIBLE_DEVICES is set as where it is not."""
    if not gpus.all:
        pytest.skip("the driver is not asked: NVML or its library is missing")

    assert len(gpus.all) == torch.cuda.device_count()
    for index, one in enumerate(gpus.all):
        properties = torch.cuda.get_device_properties(index)
        # As the driver writes it: GPU-xxxxxxxx-xxxx-...
        uuid = str(getattr(properties, "uuid", one.uuid.partition("-")[2]))
        assert one.uuid.startswith("MIG-") or one.uuid == f"GPU-{uuid}"
        assert one.uuid.startswith("MIG-") or one.memory_bytes >= properties.total_memory

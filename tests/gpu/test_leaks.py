"""Leaks: a model that is loaded and unloaded a thousand times leaves nothing behind."""

import os
from collections.abc import Callable

import psutil
import pytest

from headrace_server.gpus.nvml import Gpus
from networks import GpuHouse, doubling

pytestmark = pytest.mark.slow

LOADS = int(os.environ.get("GPU_TESTS_LOADS", "1000"))
# Each holds so much: a leak of one in fifty shows.
MEGABYTES = 16
GROWN_BYTES_MAX = 192 << 20
HELD_MEGABYTES = 256


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_memory_of_the_gpu_and_of_its_worker_is_flat_over_many_loads(
    houses: Callable[..., GpuHouse], device: str, gpus: Gpus
) -> None:
    if device != "cpu" and not gpus.all:
        pytest.skip("the driver is not asked: NVML or its library is missing")
    house = houses()
    # It stays, and with it the worker.
    house.networks.put("stays", doubling())
    house.networks.put("comes", doubling(MEGABYTES))
    house.load("stays", "stays")
    (worker,) = house.pool.workers

    held = []
    for number in range(max(LOADS, 2)):
        house.load("comes", "comes")
        assert house.ask("comes", float(number), 1.0) == (2.0 * number, 2.0)
        house.unload("comes")
        used = {reading.gpu.device: reading.used_bytes for reading in gpus.read()}
        held.append((used.get(device, 0), psutil.Process(worker.pid).memory_info().rss))

    # Caches of the framework fill first.
    settled, last = held[len(held) // 10], held[-1]
    assert last[0] - settled[0] <= GROWN_BYTES_MAX, "memory of the GPU"
    assert last[1] - settled[1] <= GROWN_BYTES_MAX, "memory of the worker"
    assert house.ask("stays", 1.0, 2.0) == (2.0, 4.0)


def test_memory_of_a_model_that_is_unloaded_goes_back_to_the_gpu(
    houses: Callable[..., GpuHouse], gpu: str, gpus: Gpus
) -> None:
    """Else the next model is refused for want of memory that nobody uses."""
    if not gpus.all:
        pytest.skip("the driver is not asked: NVML or its library is missing")
    house = houses()
    house.networks.put("stays", doubling())
    house.networks.put("goes", doubling(HELD_MEGABYTES))
    house.load("stays", "stays")
    house.load("goes", "goes")
    full = {reading.gpu.device: reading.used_bytes for reading in gpus.read()}

    house.unload("goes")

    left = {reading.gpu.device: reading.used_bytes for reading in gpus.read()}
    assert left[gpu] <= full[gpu] - (HELD_MEGABYTES << 20) // 2

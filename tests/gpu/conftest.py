"""Fixtures of the tests on a GPU. Without one they skip, with the reason.

`GPU_TESTS_DEVICE=cpu` rehearses them: the same lines run on the CPU as far as they can, so that
their code is known to execute; what only a GPU can show skips then. `GPU_TESTS_DEVICE=cuda:1` takes
another GPU, `GPU_TESTS_LOADS=50` shortens the longest one.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace_server.devices import DeviceUnavailable, open_device
from headrace_server.gpus.nvml import Gpus, find_gpus
from networks import GpuHouse

# As in the workers: CUDA counts GPUs as the driver does. It looks here once, at its start.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


@pytest.fixture(scope="session")
def device() -> str:
    """The device under test: "cuda:0", or what GPU_TESTS_DEVICE says."""
    name = os.environ.get("GPU_TESTS_DEVICE", "cuda:0")
    pytest.importorskip("torch", reason="torch is not installed")
    try:
        open_device(name)
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    return name


@pytest.fixture
def gpu(device: str) -> str:
    """The device, where it is a GPU."""
    if device == "cpu":
        pytest.skip("only a GPU can show this")
    return device


@pytest.fixture
def gpus() -> Iterator[Gpus]:
    """What the driver tells of the GPUs here."""
    found = find_gpus()
    yield found
    found.close()


@pytest.fixture
def houses(tmp_path: Path, device: str, gpus: Gpus) -> Iterator[Callable[..., GpuHouse]]:
    """Builds houses with settings of their own; all close with the test."""
    built: list[GpuHouse] = []

    def build(**how: Any) -> GpuHouse:
        built.append(GpuHouse(tmp_path, gpus, **{"device": device, **how}))
        return built[-1]

    yield build
    for house in built:
        house.close()

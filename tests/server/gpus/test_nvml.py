"""What the driver says of GPUs, by a double of NVML, and by the real library without a driver."""

import ctypes
import inspect
import time

import pynvml
import pytest
from structlog.testing import capture_logs

import fake_nvml
from fake_nvml import FakeCard, FakeNvml
from headrace_server.gpus.nvml import Gpus, find_gpus

L4, L4_TOO = FakeCard("GPU-1"), FakeCard("GPU-2", used=5 << 30)
A100 = FakeCard(
    "GPU-3",
    "NVIDIA A100",
    slices={
        2: FakeCard("MIG-a", "NVIDIA A100 MIG 3g.20gb", total=20 << 30),
        4: FakeCard("MIG-b", "NVIDIA A100 MIG 1g.5gb", total=5 << 30),
    },
)


def found(nvml: FakeNvml, **environ: str) -> Gpus:
    gpus = find_gpus(environ, nvml.module)
    gpus.close()
    return gpus


def test_every_gpu_has_the_number_that_cuda_gives_it() -> None:
    nvml = FakeNvml([L4, L4_TOO])

    assert [(gpu.device, gpu.uuid) for gpu in found(nvml).all] == [
        ("cuda:0", "GPU-1"),
        ("cuda:1", "GPU-2"),
    ]
    chosen = found(nvml, CUDA_VISIBLE_DEVICES="1")
    assert [(gpu.device, gpu.uuid) for gpu in chosen.all] == [("cuda:0", "GPU-2")]


def test_a_slice_counts_as_a_gpu_with_the_memory_of_the_slice() -> None:
    (gpu,) = found(FakeNvml([L4, A100]), CUDA_VISIBLE_DEVICES="MIG-b").all

    assert (gpu.device, gpu.uuid, gpu.memory_bytes) == ("cuda:0", "MIG-b", 5 << 30)


def test_a_reading_tells_memory_work_power_and_heat() -> None:
    gpus = find_gpus({}, FakeNvml([L4]).module)

    (reading,) = gpus.read()
    gpus.close()

    assert reading.gpu is gpus.all[0]
    assert (reading.used_bytes, reading.free_bytes) == (1 << 30, 23 << 30)
    assert (reading.busy, reading.watts, reading.celsius) == (0.4, 61.5, 55.0)


def test_what_the_driver_does_not_tell_of_a_slice_is_none() -> None:
    gpus = find_gpus({"CUDA_VISIBLE_DEVICES": "MIG-a"}, FakeNvml([A100]).module)

    (reading,) = gpus.read()
    gpus.close()

    assert reading.free_bytes == 19 << 30
    assert (reading.busy, reading.watts, reading.celsius) == (None, None, None)


def test_a_driver_that_does_not_answer_is_not_waited_for_and_told_of_once() -> None:
    nvml = FakeNvml([L4])
    (gpu,) = found(nvml).all
    nvml.answers.clear()
    gpus = Gpus(nvml.module, [(gpu, L4)], read_s_max=0.05)

    began = time.monotonic()
    with capture_logs() as lines:
        readings = [gpus.read(), gpus.read()]
    took_s = time.monotonic() - began
    nvml.answers.set()
    while not gpus.read():
        assert time.monotonic() - began < 60, "it never recovers"
    gpus.close()

    assert readings == [[], []]
    assert took_s < 10
    assert [line["event"] for line in lines] == ["gpus_not_read"]


def test_unlike_gpus_that_cuda_numbers_by_speed_are_not_mistaken_for_one_another() -> None:
    fastest = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}

    with capture_logs() as lines:
        assert found(FakeNvml([L4, A100]), **fastest).all == ()
    assert lines[0]["event"] == "gpu_numbers_unknown"
    assert len(found(FakeNvml([L4, L4_TOO]), **fastest).all) == 2


def test_a_driver_that_fails_means_no_gpus_and_one_line_of_why() -> None:
    with capture_logs() as lines:
        gpus = find_gpus({}, FakeNvml([L4], broken="Driver/library version mismatch").module)

    assert (gpus.all, gpus.read()) == ((), [])
    assert [(line["event"], line["why"]) for line in lines] == [
        ("no_gpus", "Driver/library version mismatch")
    ]


def test_without_the_library_there_are_no_gpus_and_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)

    with capture_logs() as lines:
        assert find_gpus({}).all == ()

    assert 'pip install "headrace[gpu]"' in lines[0]["why"]


def has_driver() -> bool:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="a driver is here")
def test_the_real_library_without_a_driver_means_no_gpus() -> None:
    with capture_logs() as lines:
        assert find_gpus({}).all == ()

    assert [(line["event"], line["why"]) for line in lines] == [
        ("no_gpus", "NVML Shared Library Not Found")
    ]


@pytest.mark.skipif(not has_driver(), reason="no NVIDIA driver here")
def test_the_real_library_tells_of_the_gpus_here() -> None:
    gpus = find_gpus({})
    readings = gpus.read()
    gpus.close()

    assert [reading.gpu for reading in readings] == list(gpus.all)
    assert all(reading.free_bytes <= reading.gpu.memory_bytes for reading in readings)


@pytest.mark.parametrize(
    "name", [name for name in dir(FakeNvml) if name.startswith("nvmlDevice") or name == "nvmlInit"]
)
def test_the_double_has_the_calls_of_the_real_library(name: str) -> None:
    real = inspect.signature(getattr(pynvml, name)).parameters.values()
    ours = list(inspect.signature(getattr(FakeNvml, name)).parameters)[1:]

    assert len(ours) >= len([p for p in real if p.default is p.empty])
    assert len(ours) <= len(real)


def test_the_double_has_the_errors_and_constants_of_the_real_library() -> None:
    assert FakeNvml.NVML_TEMPERATURE_GPU == pynvml.NVML_TEMPERATURE_GPU
    for error in (fake_nvml.NVMLError_NotFound, fake_nvml.NVMLError_NotSupported):
        assert issubclass(getattr(pynvml, error.__name__), pynvml.NVMLError)

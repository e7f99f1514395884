"""The CPU device: memory shared with torch, and back."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from headrace_server.devices import DeviceUnavailable, open_device
from headrace_server.devices.cpu import dense

DEVICE = open_device("cpu", threads=3)


def test_it_says_what_it_is() -> None:
    assert (DEVICE.name, DEVICE.is_asynchronous, DEVICE.threads) == ("cpu", False, 3)


@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "int8",
        "int16",
        "int32",
        "int64",
        "float16",
        "float32",
        "float64",
    ],
)
def test_a_tensor_shares_the_arrays_memory_there_and_back(dtype: str) -> None:
    host = np.arange(6).reshape(2, 3).astype(dtype)

    staged = DEVICE.stage(host)
    back = DEVICE.finish(staged)

    assert staged.data_ptr() == back.ctypes.data == host.ctypes.data
    assert back.dtype == host.dtype
    assert back.tolist() == host.tolist()


def test_read_only_memory_is_shared_without_a_warning() -> None:
    host = np.frombuffer(np.arange(6.0).tobytes()).reshape(2, 3)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            staged = DEVICE.stage(host)
    finally:
        torch.set_warn_always(False)

    assert staged.data_ptr() == host.ctypes.data
    assert staged.tolist() == host.tolist()


def test_a_tensor_keeps_read_only_memory_alive() -> None:
    staged = DEVICE.stage(np.frombuffer(np.arange(50_000.0).tobytes()))
    # Memory that was freed would be handed out again here.
    others = [np.zeros(50_000) for _ in range(8)]

    assert len(others) == 8
    assert staged.sum().item() == sum(range(50_000))


@pytest.mark.parametrize(
    "host",
    [
        np.arange(12.0)[::-1],
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12.0)[::2],
        np.broadcast_to(np.arange(3.0), (4, 3)),
        np.frombuffer(b"x" + np.arange(3.0).tobytes(), offset=1),
        np.empty((0, 3)),
    ],
    ids=["reversed", "transposed", "strided", "broadcast", "misaligned", "empty"],
)
def test_memory_in_any_order_is_read_right(host: np.ndarray[tuple[int, ...], np.dtype]) -> None:
    staged = DEVICE.stage(host)

    assert staged.is_contiguous()
    assert staged.tolist() == host.tolist()


def test_dense_memory_is_not_copied() -> None:
    host = np.arange(4.0).reshape(2, 2)

    assert dense(host) is host
    assert dense(host.T).flags.c_contiguous


def test_strings_have_no_tensor() -> None:
    with pytest.raises(TypeError):
        DEVICE.stage(np.array(["a"], object))


def test_bfloat16_and_gradients_come_back_as_plain_numbers() -> None:
    tensor = torch.tensor([0.5, 2.0], requires_grad=True)

    half = DEVICE.finish(tensor.bfloat16())

    assert half.dtype == np.float32
    assert half.tolist() == DEVICE.finish(tensor).tolist() == [0.5, 2.0]


@pytest.mark.parametrize("name", ["", "gpu", "cpu:0", "cuda:x", "cuda:-1", "tpu:0"])
def test_an_unknown_device_is_named(name: str) -> None:
    with pytest.raises(DeviceUnavailable, match=f"^unknown device {name!r}: expected cpu, cuda"):
        open_device(name)


def test_opening_the_cpu_imports_no_torch() -> None:
    script = (
        "import sys\n"
        "from headrace_server.devices import open_device\n"
        "open_device('cpu')\n"
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

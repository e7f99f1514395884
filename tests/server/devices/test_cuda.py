"""The CUDA device: refused in words where there is none; the CPU's own suite where there is."""

import sys

import numpy as np
import pytest
import torch

from headrace_server.devices import DeviceUnavailable, open_device

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
def test_a_machine_without_cuda_says_so(name: str) -> None:
    with pytest.raises(DeviceUnavailable, match=r"^no cuda:\d: torch .* finds no CUDA device on"):
        open_device(name)


def test_without_torch_the_framework_is_left_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime brings its own CUDA provider, and its adapter checks that it started."""
    for module in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)

    device = open_device("cuda:1")

    assert (device.name, device.is_asynchronous, device.threads) == ("cuda:1", True, 1)


@needs_gpu
def test_an_index_beyond_the_last_gpu_is_refused() -> None:
    with pytest.raises(DeviceUnavailable, match=r"^no cuda:99: this machine has \d+ CUDA device"):
        open_device("cuda:99")


@needs_gpu
def test_values_come_back_from_the_gpu() -> None:
    device = open_device("cuda")
    host = np.arange(6, dtype=np.float32).reshape(2, 3)

    staged = device.stage(host)

    assert staged.device.type == "cuda"
    assert device.finish(staged * 2).tolist() == (host * 2).tolist()
    assert device.finish(staged.bfloat16()).dtype == np.float32

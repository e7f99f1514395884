"""CUDA: one NVIDIA GPU, by way of torch. The driver's lines here have not been run on a GPU.

What they are called for, and in which order, is the pipeline's, which is tested without one.
"""

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..childlog import log
from .base import DeviceUnavailable
from .cpu import CpuDevice
from .driver import Driver
from .host import HostDriver
from .pages import LockedPages
from .pipeline import Pipeline

Array = npt.NDArray[np.generic]

# cudaHostRegisterPortable: locked for the contexts of all GPUs.
_PORTABLE = 1


class CudaDevice(Pipeline):
    """The GPU numbered *index*, in CUDA's own order, for one instance.

    The pages of *arena* that copies need are locked.

    Raises:
        DeviceUnavailable: torch is here, but without CUDA or without that GPU. Where torch is not
            installed nothing is checked: other frameworks look for the GPU themselves, and copy by
            themselves.
    """

    def __init__(self, index: int, arena: memoryview | None = None) -> None:
        name = f"cuda:{index}"
        super().__init__(name, _driver(name, index, arena))


def _driver(name: str, index: int, arena: memoryview | None) -> Driver:
    try:
        import torch
    except ModuleNotFoundError:
        return HostDriver()
    if not torch.cuda.is_available():
        raise DeviceUnavailable(
            f"no {name}: torch {torch.__version__} finds no CUDA device on this machine"
        )
    if index >= (count := torch.cuda.device_count()):
        raise DeviceUnavailable(f"no {name}: this machine has {count} CUDA device(s)")
    return CudaDriver(name, arena)


class CudaDriver:
    """See `Driver`."""

    def __init__(self, name: str, arena: memoryview | None) -> None:
        self._name = name
        self._cpu = CpuDevice(1)
        begin = 0 if arena is None else np.frombuffer(arena, np.uint8).ctypes.data
        self._pages = _pages(begin, 0 if arena is None else len(arena))

    def stream(self, name: str) -> Any:  # noqa: ARG002 - torch's have none.
        """See `Driver`."""
        import torch

        cuda: Any = torch.cuda
        return cuda.Stream(self._name)

    def handle(self, stream: Any) -> int:
        """See `Driver`."""
        handle: int = stream.cuda_stream
        return handle

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """See `Driver`."""
        import torch

        context: AbstractContextManager[Any] = torch.cuda.stream(stream)
        return context

    def copy_in(self, stream: Any, host: Array) -> Any:
        """See `Driver`."""
        import torch

        source = self._cpu.stage(host)
        with torch.cuda.stream(stream):
            tensor = torch.empty(source.shape, dtype=source.dtype, device=self._name)
            self._copy(tensor, source, host)
        return tensor

    def copy_out(self, stream: Any, result: Any, host: Array) -> None:
        """See `Driver`."""
        import torch

        with torch.cuda.stream(stream):
            self._copy(self._cpu.stage(host), result, host)

    def host_form(self, result: Any) -> tuple[Any, np.dtype[Any], tuple[int, ...]]:
        """See `Driver`; bfloat16 becomes float32."""
        import torch

        tensor = result.detach()
        if tensor.dtype is torch.bfloat16:
            tensor = tensor.float()
        return tensor.contiguous(), _numpy_dtype(tensor.dtype), tuple(tensor.shape)

    def host_memory(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """See `Driver`: from torch's cache of page-locked memory."""
        import torch

        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        memory = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        array: Array = memory.numpy().view(dtype).reshape(shape)
        return array

    def synchronize(self) -> None:
        """See `Driver`."""
        import torch

        torch.cuda.synchronize(self._name)

    def _copy(self, target: Any, source: Any, host: Array) -> None:
        """Copy without waiting, in pieces that lie in one locked range of *host* each."""
        cuts = self._pages.cuts(host.ctypes.data, host.nbytes)
        if not cuts:
            target.copy_(source, non_blocking=True)
            return
        target, source = _octets(target), _octets(source)
        for begin, stop in zip((0, *cuts), (*cuts, host.nbytes), strict=True):
            target[begin:stop].copy_(source[begin:stop], non_blocking=True)


def _octets(tensor: Any) -> Any:
    import torch

    return tensor.reshape(-1).view(torch.uint8)


@cache
def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    import torch

    return torch.empty(0, dtype=dtype).numpy().dtype


@cache
def _pages(begin: int, nbytes: int) -> LockedPages:
    """Those of the process' arena: CUDA knows them by address, whoever asks."""
    return LockedPages(range(begin, begin + nbytes), _lock)


def _lock(address: int, nbytes: int) -> None:
    import torch

    cuda: Any = torch.cuda
    code = int(cuda.cudart().cudaHostRegister(address, nbytes, _PORTABLE))
    if code:
        log("warning", "pages_not_locked", bytes=nbytes, why=f"cudaHostRegister returned {code}")

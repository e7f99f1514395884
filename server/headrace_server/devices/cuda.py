"""CUDA: one NVIDIA GPU, by way of torch. This file has not been run on a GPU.

Copies go through torch's current stream and pageable memory; the result is waited for when it is
copied back.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from .base import DeviceUnavailable
from .cpu import CpuDevice

Array = npt.NDArray[np.generic]


class CudaDevice:
    """The GPU numbered *index*, in CUDA's own order.

    Raises:
        DeviceUnavailable: torch is here, but without CUDA or without that GPU. Where torch is not
            installed nothing is checked: other frameworks look for the GPU themselves.
    """

    is_asynchronous = True
    threads = 1

    def __init__(self, index: int) -> None:
        self.name = f"cuda:{index}"
        self._host = CpuDevice(self.threads)
        try:
            import torch
        except ModuleNotFoundError:
            return
        if not torch.cuda.is_available():
            raise DeviceUnavailable(
                f"no {self.name}: torch {torch.__version__} finds no CUDA device on this machine"
            )
        if index >= (count := torch.cuda.device_count()):
            raise DeviceUnavailable(f"no {self.name}: this machine has {count} CUDA device(s)")

    def stage(self, host: Array) -> Any:
        """A copy of *host* on the GPU; *host* is free again when this returns."""
        return self._host.stage(host).to(self.name)

    def finish(self, result: Any) -> Array:
        """Wait for *result* and copy it to the host; bfloat16 becomes float32."""
        return self._host.finish(result.cpu())

"""CPU: the host's own memory and cores; staging and finishing are free, launching computes.

torch is imported when the first tensor is staged, so that a worker without torch models never
holds it.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

_AT_ONCE: AbstractContextManager[None] = nullcontext()


@dataclass(frozen=True, slots=True)
class CpuDevice:
    """The host, with *threads* threads for one call.

    Attributes:
        threads: How many threads one call may use.
        name: Always "cpu".
        is_asynchronous: Always False: `launch` returns when the result is there.
        stream_handle: Always None.
    """

    threads: int
    name: str = field(default="cpu", init=False)
    is_asynchronous: bool = field(default=False, init=False)
    stream_handle: None = field(default=None, init=False)

    def begin(self, side: memoryview | None = None) -> None:
        """See `Device`: there is nothing to remember of a batch."""

    def stage(self, host: Array) -> Any:
        """A torch tensor over the memory of *host*, or over a copy where torch cannot take that.

        Raises:
            TypeError: torch has no such element type (strings, objects, datetimes).
        """
        import torch

        host = dense(host)
        if not host.flags.writeable:
            host = np.asarray(_Writable(host))
        return torch.from_numpy(host)

    def computing(self) -> AbstractContextManager[None]:
        """See `Device`."""
        return _AT_ONCE

    def fetch(self, result: Any) -> Any:
        """*result* itself: it is at home."""
        return result

    def finish(self, result: Any) -> Array:
        """The memory of *result* as an array; bfloat16, which numpy lacks, becomes float32."""
        import torch

        tensor = result.detach()
        if tensor.dtype is torch.bfloat16:
            tensor = tensor.float()
        array: Array = tensor.numpy()
        return array

    def end(self, batch: None) -> None:
        """See `Device`."""

    def is_lost(self) -> bool:
        """Never: a host that is lost runs no worker."""
        return False


def dense(array: Array) -> Array:
    """*array* itself where it is aligned, row-major and without gaps, else a copy that is.

    Frameworks read memory as if it were all three: torch refuses negative strides, and onnxruntime
    takes what it is given without a word.
    """
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else array.copy()


class _Writable:
    """The memory of a read-only array, declared writable; it lives as long as the array made of it.

    torch has no read-only tensors and warns of one; a warning filter would be global to the process
    and be looked at in every call.
    """

    def __init__(self, array: Array) -> None:
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
        self._array = array

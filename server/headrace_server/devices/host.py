"""Host driver: a driver whose device is the host itself, and for which everything is done at once.

For accelerators whose frameworks copy by themselves, and for tests of what is torch's own.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from .cpu import CpuDevice

Array = npt.NDArray[np.generic]


class Instant:
    """A stream, and each of its events: nothing is ever waited for."""

    def record_event(self) -> "Instant":
        """See `Stream`."""
        return self

    def wait_event(self, event: Any) -> None:
        """See `Stream`."""

    def synchronize(self) -> None:
        """See `Event`."""


class HostDriver:
    """See `Driver`. torch is imported when the first tensor is staged."""

    def __init__(self) -> None:
        self._cpu = CpuDevice(1)

    def stream(self, name: str) -> Instant:  # noqa: ARG002 - all are alike.
        """See `Driver`."""
        return Instant()

    def handle(self, stream: Instant) -> int | None:  # noqa: ARG002
        """See `Driver`."""
        return None

    def on(self, stream: Instant) -> AbstractContextManager[Any]:  # noqa: ARG002
        """See `Driver`."""
        return nullcontext()

    def copy_in(self, stream: Instant, host: Array) -> Any:  # noqa: ARG002
        """See `Driver`."""
        return self._cpu.stage(host).clone()

    def copy_out(self, stream: Instant, result: Any, host: Array) -> None:  # noqa: ARG002
        """See `Driver`."""
        np.copyto(host, self._cpu.finish(result))

    def host_form(self, result: Any) -> tuple[Any, np.dtype[Any], tuple[int, ...]]:
        """See `Driver`."""
        array = self._cpu.finish(result)
        return result, array.dtype, array.shape

    def host_memory(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """See `Driver`."""
        return np.empty(shape, dtype)

    def synchronize(self) -> None:
        """See `Driver`."""

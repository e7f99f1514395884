"""Device: where a batch is computed, as little of it as an adapter needs to know.

An adapter splits its call into `stage` (host to device), `launch` (compute) and `finish` (device to
host). On the CPU staging and finishing are free and launching computes; on an accelerator `launch`
may return before the result is there, so that the next batch can be staged meanwhile.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


class DeviceUnavailable(RuntimeError):
    """The machine, or the framework that was asked, has no such device."""


class Device(Protocol):
    """One place to compute."""

    @property
    def name(self) -> str:
        """As settings and metadata say it: "cpu" or "cuda:0"."""

    @property
    def is_asynchronous(self) -> bool:
        """Whether `launch` may return before the result is there."""

    @property
    def threads(self) -> int:
        """How many threads one call may use on the host."""

    def stage(self, host: Array) -> Any:
        """A torch tensor on this device that holds *host*; *host* must stay as it is until launch.

        On the CPU the tensor shares the memory of *host*.
        """

    def finish(self, result: Any) -> Array:
        """The values of a torch tensor as a host array, after waiting for them."""

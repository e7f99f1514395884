"""Device: where a batch is computed, as little of it as an adapter needs to know.

An adapter splits its call into `stage` (host to device), `launch` (compute) and `finish` (device to
host). On the CPU staging and finishing are free and launching computes; on an accelerator `launch`
may return before the result is there, so that the next batch can be staged meanwhile.

Who drives an adapter tells its device where each batch begins and ends:

    batch = device.begin(side)
    staged = adapter.stage(tensors)
    with device.computing():
        launched = adapter.launch(staged)
    launched = adapter.fetch(launched)
    ...                             # the next batch may begin here
    outputs = adapter.finish(launched)
    device.end(batch)
"""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


class DeviceUnavailable(RuntimeError):
    """The machine, or the framework that was asked, has no such device."""


class Device(Protocol):
    """One place to compute, for one instance: one thread at a time calls it.

    Batches end in the order in which they began, but one that failed may end at once.
    """

    @property
    def name(self) -> str:
        """As settings and metadata say it: "cpu" or "cuda:0"."""

    @property
    def is_asynchronous(self) -> bool:
        """Whether `launch` may return before the result is there."""

    @property
    def threads(self) -> int:
        """How many threads one call may use on the host."""

    @property
    def stream_handle(self) -> int | None:
        """CUDA's own handle of the stream that computes; None where there is none to share."""

    def begin(self, side: memoryview | None = None) -> Any:
        """A batch begins: what is staged and fetched from now on is its own.

        Args:
            side: Writable memory that results are brought home to as far as they fit, one behind
                the other.

        Returns:
            The batch, for `end`.
        """

    def stage(self, host: Array) -> Any:
        """A torch tensor on this device that holds *host*; *host* must stay as it is until `end`.

        On the CPU the tensor shares the memory of *host*.
        """

    def computing(self) -> AbstractContextManager[Any]:
        """What is computed inside comes after all that was staged."""

    def fetch(self, result: Any) -> Any:
        """Begin to bring a torch tensor home; for `finish`."""

    def finish(self, result: Any) -> Array:
        """The values of a torch tensor, or of what `fetch` returned, after waiting for them."""

    def end(self, batch: Any) -> None:
        """Nothing of *batch* is at work any more when this returns; its host memory is free."""

    def is_lost(self) -> bool:
        """Whether the device fails at everything since an error: only a new process helps."""

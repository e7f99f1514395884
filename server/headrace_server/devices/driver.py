"""Driver: the few calls by which an accelerator is told what to do, and in what order.

Streams, events and copies mean what they mean in CUDA: what is enqueued on one stream runs in its
order, streams run beside each other, and only events make one wait for another.
"""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


class Event(Protocol):
    """An instant of a stream: all that was enqueued before it is done."""

    def synchronize(self) -> None:
        """Wait for it on the host."""


class Stream(Protocol):
    """A queue of the device."""

    def record_event(self) -> Event:
        """The instant at which all that was enqueued so far is done."""

    def wait_event(self, event: Any) -> None:
        """What is enqueued from now on waits for *event*; the host does not."""


class Driver(Protocol):
    """One accelerator, for one thread."""

    def stream(self, name: str) -> Stream:
        """A stream of its own."""

    def handle(self, stream: Any) -> int | None:
        """The stream as CUDA's own functions take it; None where they do not."""

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """What is computed and allocated inside goes to *stream*."""

    def copy_in(self, stream: Any, host: Array) -> Any:
        """Enqueue a copy of *host* to fresh memory of the device, which belongs to *stream*.

        *host* must be row-major and stay as it is until the copy is done. Device memory that is let
        go may be had by the next that asks on *stream*, whatever other streams do with it.
        """

    def copy_out(self, stream: Any, result: Any, host: Array) -> None:
        """Enqueue a copy of *result* to *host*, which is as `host_form` says."""

    def host_form(self, result: Any) -> tuple[Any, np.dtype[Any], tuple[int, ...]]:
        """*result* as it can be copied out (row-major, in a type that numpy has), dtype and shape.

        What must be changed for that is computed on the current stream.
        """

    def host_memory(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory of the host that copies reach well."""

    def synchronize(self) -> None:
        """Wait until the device has nothing to do.

        Raises:
            Exception: The device is lost.
        """

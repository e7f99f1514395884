"""Pipeline: one instance's three streams of an accelerator, and who waits for whom.

    copy-in    |in 1 |in 2 |     |in 3 |
    compute          |run 1      |run 2      |run 3
    copy-out                     |out 1|     |out 2|

The rules, which tests/server/devices/test_pipeline.py breaks one by one on a simulated accelerator:

1. What computes waits for what was staged: an event on copy-in that compute waits for.
2. A copy home waits for what computes: an event on compute that copy-out waits for.
3. The host reads what was brought home after an event on copy-out, and that of its own batch.
4. What a batch holds on the device is let go when it ends, after its last event: allocators hand
   memory out again as soon as nobody holds it, to the stream that it was allocated on.
5. A slot is answered, and so written again, after 3; that of a batch that failed after `end`, which
   waits for what was begun.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arena import aligned
from .cpu import dense
from .driver import Driver, Event

Array = npt.NDArray[np.generic]


@dataclass(slots=True, eq=False)
class Batch:
    """A batch on its way.

    Attributes:
        side: Where its results go on the host.
        room: Where in *side* the next one goes.
        held: What must live until the batch ends, on the device and on the host.
        last: The last event of its own; None where nothing was recorded yet.
    """

    side: memoryview | None
    room: int = 0
    held: list[Any] = field(default_factory=list)
    last: Event | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Fetched:
    """A result on its way home.

    Attributes:
        host: Where it arrives.
        arrived: When it is there.
    """

    host: Array
    arrived: Event


class Pipeline:
    """An accelerator by way of *driver*; see `Device`."""

    is_asynchronous = True

    def __init__(self, name: str, driver: Driver, threads: int = 1) -> None:
        self.name = name
        self.threads = threads
        self.driver = driver
        self.copy_in = driver.stream("copy-in")
        self.compute = driver.stream("compute")
        self.copy_out = driver.stream("copy-out")
        self.stream_handle = driver.handle(self.compute)
        self._batch = Batch(None)
        self._is_settled = False

    def begin(self, side: memoryview | None = None) -> Batch:
        """See `Device`."""
        if not self._is_settled:
            # The model was loaded on a stream that ours do not wait for.
            self.driver.synchronize()
            self._is_settled = True
        self._batch = Batch(side)
        return self._batch

    def stage(self, host: Array) -> Any:
        """See `Device`."""
        host = dense(host)
        tensor = self.driver.copy_in(self.copy_in, host)
        self._batch.held += (host, tensor)
        return tensor

    @contextmanager
    def computing(self) -> Iterator[None]:
        """See `Device`."""
        staged = self.copy_in.record_event()
        self.compute.wait_event(staged)
        try:
            with self.driver.on(self.compute):
                yield
        finally:
            self._batch.last = self.compute.record_event()

    def fetch(self, result: Any) -> Fetched:
        """See `Device`."""
        batch = self._batch
        with self.driver.on(self.compute):
            source, dtype, shape = self.driver.host_form(result)
        host = self._room(batch, shape, dtype)
        self.copy_out.wait_event(self.compute.record_event())
        self.driver.copy_out(self.copy_out, source, host)
        batch.held += (result, source, host)
        batch.last = self.copy_out.record_event()
        return Fetched(host, batch.last)

    def finish(self, result: Any) -> Array:
        """See `Device`.

        A tensor that was not fetched waits for all that was launched, the next batch included.
        """
        if not isinstance(result, Fetched):
            result = self._fetch_apart(result)
        result.arrived.synchronize()
        host: Array = result.host
        return host

    def end(self, batch: Batch) -> None:
        """See `Device`."""
        # Of a batch that failed early there may be copies in only.
        last = batch.last or self.copy_in.record_event()
        last.synchronize()
        batch.held.clear()

    def is_lost(self) -> bool:
        """See `Device`."""
        try:
            self.driver.synchronize()
        except Exception:  # noqa: BLE001 - each framework has its own.
            return True
        return False

    def _fetch_apart(self, result: Any) -> Fetched:
        """Fetch *result*, whichever batch it is of, into memory of its own."""
        newest = self._batch
        self._batch = Batch(None)
        try:
            fetched = self.fetch(result)
            # Until it has arrived, what it came from is held by that batch.
            fetched.arrived.synchronize()
        finally:
            self._batch = newest
        return fetched

    def _room(self, batch: Batch, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory of the host for one result: the batch's side while there is room."""
        count = int(np.prod(shape, dtype=np.int64))
        end = batch.room + count * dtype.itemsize
        if batch.side is None or end > len(batch.side):
            return self.driver.host_memory(shape, dtype)
        host: Array = np.frombuffer(batch.side, dtype, count, batch.room).reshape(shape)
        batch.room = aligned(end)
        return host

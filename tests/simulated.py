"""A simulated accelerator: streams, events and an allocator that mean what they mean in CUDA.

Three things are looked at, each by its own means.

Order: every stream and the host carry a vector clock, every memory who wrote and read it last. An
access that no event puts behind the one before is a race, in whatever order things happened.
Values: what is enqueued runs late, in a random legal order, and destroys its target before it is
written. So what is read too early is seen to be wrong, too.
Time: each stream works through its queue in a time of its own, and the host waits for events.
"""

import random
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Clock = dict[str, int]

HOST = "host"
POISON = 0xA5


def _merge(into: Clock, other: Clock) -> None:
    for who, count in other.items():
        into[who] = max(into.get(who, 0), count)


@dataclass(eq=False)
class Memory:
    """A piece of memory, of the device or of the host, and who touched it last."""

    name: str
    octets: npt.NDArray[np.uint8]
    written: tuple[str, int] | None = None
    read: dict[str, int] = field(default_factory=dict)

    def touch(self, who: str, clock: Clock, *, writes: bool) -> list[str]:
        """Remember that *who* touches it; returns whom it may meet there."""
        races = []
        if self.written is not None and self.written[1] > clock.get(self.written[0], 0):
            races.append(f"{who} touches {self.name}, which {self.written[0]} may still write")
        if writes:
            races += [
                f"{who} writes {self.name}, which {reader} may still read"
                for reader, at in self.read.items()
                if at > clock.get(reader, 0)
            ]
            self.written, self.read = (who, clock.get(who, 0)), {}
        else:
            self.read[who] = clock.get(who, 0)
        return races


class Tensor:
    """An array on the device. Its memory goes back to its stream's pool with it, at once."""

    def __init__(
        self, memory: Memory, shape: tuple[int, ...], dtype: Any, pool: list[Memory]
    ) -> None:
        self.memory = memory
        self.shape = shape
        self.dtype = np.dtype(dtype)
        weakref.finalize(self, pool.append, memory)

    @property
    def values(self) -> Array:
        count = int(np.prod(self.shape)) * self.dtype.itemsize
        array: Array = self.memory.octets[:count].view(self.dtype).reshape(self.shape)
        return array


@dataclass(eq=False)
class SimulatedEvent:
    """See `Event`."""

    accelerator: "Accelerator"
    stream: "SimulatedStream"
    clock: Clock
    time: float
    is_past: bool = False

    def synchronize(self) -> None:
        if self.accelerator.fault == f"no wait for {self.stream.name}":
            return
        self.accelerator.run_until(lambda: self.is_past)
        _merge(self.accelerator.host_clock, self.clock)
        self.accelerator.now = max(self.accelerator.now, self.time)


@dataclass(eq=False)
class SimulatedStream:
    """See `Stream`."""

    accelerator: "Accelerator"
    name: str
    clock: Clock = field(default_factory=dict)
    free_at: float = 0.0
    # What is to be done, in its order, each behind an event or not.
    queue: deque[tuple[SimulatedEvent | None, Callable[[], None]]] = field(default_factory=deque)

    def record_event(self) -> SimulatedEvent:
        """An instant of this stream, or, by a planted fault, of another."""
        stream = self
        if self.accelerator.fault == f"event of {self.name} elsewhere":
            others = self.accelerator.streams
            stream = next(other for other in others if other is not self)
        event = SimulatedEvent(self.accelerator, stream, dict(stream.clock), stream.free_at)

        def pass_by() -> None:
            event.is_past = True

        stream.queue.append((None, pass_by))
        self.accelerator.jolt()
        return event

    def wait_event(self, event: SimulatedEvent) -> None:
        if self.accelerator.fault == f"{self.name} does not wait":
            return
        _merge(self.clock, event.clock)
        self.free_at = max(self.free_at, event.time)
        self.queue.append((event, lambda: None))
        self.accelerator.jolt()


class Accelerator:
    """A simulated driver, with at most one planted fault; see `Driver`.

    Attributes:
        now: The host's time (seconds, simulated).
        costs: How long a copy in, a kernel and a copy out take.
        fault: What it does wrong; empty for nothing.
        host_clock: What the host knows to be done.
        races: Accesses that nothing puts in an order, in words.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        fault: str = "",
        costs: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        self.now = 0.0
        self.fault = fault
        self.host_clock: Clock = {HOST: 1}
        self.streams: list[SimulatedStream] = []
        self.races: list[str] = []
        self.is_broken = False
        self.costs = costs
        self._random = random.Random(seed)
        self._pools: defaultdict[str, list[Memory]] = defaultdict(list)
        self._current: SimulatedStream | None = None
        self._hosts: list[tuple[int, int, Memory]] = []
        self._made = 0

    # The driver.

    def stream(self, name: str) -> SimulatedStream:
        self.streams.append(SimulatedStream(self, name))
        return self.streams[-1]

    def handle(self, stream: SimulatedStream) -> None:
        return None

    @contextmanager
    def on(self, stream: SimulatedStream) -> Iterator[None]:
        before, self._current = self._current, stream
        try:
            yield
        finally:
            self._current = before

    def copy_in(self, stream: SimulatedStream, host: Array) -> Tensor:
        self.check()
        tensor = self.allocate(stream, host.shape, host.dtype)
        cost, target = self.costs[0], tensor.values
        self._enqueue(stream, cost, self.host(host), tensor.memory, host, target, lambda x: x)
        return tensor

    def copy_out(self, stream: SimulatedStream, result: Tensor, host: Array) -> None:
        self.check()
        if self.fault == "copy-out elsewhere":
            stream = self.streams[0]
        cost, source = self.costs[2], result.values
        self._enqueue(stream, cost, result.memory, self.host(host), source, host, lambda x: x)

    def host_form(self, result: Tensor) -> tuple[Tensor, np.dtype[Any], tuple[int, ...]]:
        return result, result.dtype, result.shape

    def host_memory(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        array: Array = np.empty(shape, dtype)
        return array

    def synchronize(self) -> None:
        self.check()
        self.run_until(lambda: not any(stream.queue for stream in self.streams))
        for stream in self.streams:
            _merge(self.host_clock, stream.clock)
            self.now = max(self.now, stream.free_at)

    # What models and tests do with it.

    def check(self) -> None:
        if self.is_broken:
            raise RuntimeError("an illegal memory access was encountered")

    def kernel(self, function: Callable[[Array], Array], source: Tensor) -> Tensor:
        """Compute *function*, which keeps the shape, of *source* on the current stream."""
        self.check()
        stream = self._current
        assert stream is not None, "a kernel was launched on no stream"
        target = self.allocate(stream, source.shape, source.dtype)
        cost, into = self.costs[1], target.values
        self._enqueue(stream, cost, source.memory, target.memory, source.values, into, function)
        return target

    def know(self, memory: Array, name: str) -> None:
        """Look at *memory* of the host as one piece called *name*."""
        octets = memory.view(np.uint8).reshape(-1)
        begin = octets.ctypes.data
        self._hosts.append((begin, begin + len(octets), Memory(name, octets)))

    def host_touches(self, memory: Array, *, writes: bool) -> None:
        """The host reads or writes *memory* now."""
        self.host_clock[HOST] += 1
        self.races += self.host(memory).touch(HOST, self.host_clock, writes=writes)

    def host(self, array: Array) -> Memory:
        address = array.ctypes.data
        for begin, end, memory in self._hosts:
            if begin <= address < end:
                return memory
        return Memory("host memory", np.empty(0, np.uint8))

    def allocate(self, stream: SimulatedStream, shape: tuple[int, ...], dtype: Any) -> Tensor:
        """Memory that *stream* used before, where nobody holds it any more, else fresh one."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pool = self._pools[stream.name]
        index = next((i for i, free in enumerate(pool) if len(free.octets) >= nbytes), None)
        if index is None:
            self._made += 1
            memory = Memory(f"device memory {self._made}", np.full(nbytes, POISON, np.uint8))
        else:
            memory = pool.pop(index)
        return Tensor(memory, shape, dtype, pool)

    # How it works.

    def _enqueue(
        self,
        stream: SimulatedStream,
        cost: float,
        reads: Memory,
        writes: Memory,
        source: Array,
        target: Array,
        function: Callable[[Array], Array],
    ) -> None:
        """Enqueue target = function(source). The queue holds no tensor, as a device's does not."""
        _merge(stream.clock, self.host_clock)
        stream.clock[stream.name] = stream.clock.get(stream.name, 0) + 1
        self.races += reads.touch(stream.name, stream.clock, writes=False)
        self.races += writes.touch(stream.name, stream.clock, writes=True)
        stream.free_at = max(stream.free_at, self.now) + cost

        def destroy() -> None:
            target.view(np.uint8)[...] = POISON

        def work() -> None:
            np.copyto(target, function(source))

        stream.queue += ((None, destroy), (None, work))
        self.jolt()

    def jolt(self) -> None:
        """The device does some of what it has to, or nothing."""
        for _ in range(self._random.choice((0, 0, 0, 1, 2, 5))):
            if not self._step():
                return

    def run_until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            assert self._step(), "the device waits for what never comes"

    def _step(self) -> bool:
        ready = [
            s for s in self.streams if s.queue and (not s.queue[0][0] or s.queue[0][0].is_past)
        ]
        if not ready:
            return False
        _, work = self._random.choice(ready).queue.popleft()
        work()
        return True

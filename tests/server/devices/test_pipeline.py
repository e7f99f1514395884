"""The pipeline on a simulated accelerator, driven by the loop that serves: no wait is missing.

Each of many runs is another interleaving of what the device does late and when batches come. Waits
are taken away one by one, to see that it would be noticed.
"""

import queue
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from headrace.datatypes import DATATYPES
from headrace.signature import Signature, TensorSpec
from headrace_server.adapters import Adapter, Artifact
from headrace_server.adapters.base import NO_PARAMS, Params, Tensors
from headrace_server.adapters.conforming import Form
from headrace_server.batchframes import DoneFrame, RunFrame, TensorRef
from headrace_server.childlog import VARIABLE
from headrace_server.devices.pipeline import Batch, Pipeline
from headrace_server.frames import FrameSocket, Kind
from headrace_server.worker.serving import DeviceLost, Serving
from simulated import Accelerator, Array, Tensor

ROWS, WIDTH = 4, 8
SIDE = ROWS * WIDTH * 4
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, WIDTH)),))
INTERLEAVINGS = 2000

FAULTS = [
    "compute does not wait",
    "copy-out does not wait",
    "no wait for copy-out",
    "event of copy-in elsewhere",
    "event of compute elsewhere",
    "event of copy-out elsewhere",
    "copy-out elsewhere",
]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of batches fail here on purpose."""
    monkeypatch.setenv(VARIABLE, "json,critical")


class Doubler(Adapter):
    """A model that doubles what it gets, on the accelerator; rows that begin with -1 it refuses."""

    def __init__(self, device: Pipeline, accelerator: Accelerator) -> None:
        super().__init__(Artifact(Path(), {}, {}, SIGNATURE), device)
        self.accelerator = accelerator
        self.refuses = False

    def stage(self, tensors: Tensors) -> dict[str, Tensor]:
        self.refuses = bool(tensors["x"][0, 0] < 0)
        return {name: self.device.stage(array) for name, array in tensors.items()}

    def launch(self, staged: Any, params: Params = NO_PARAMS) -> Any:
        doubled = self.accelerator.kernel(lambda x: x * 2, staged["x"])
        if self.refuses:
            raise ValueError("no")
        return {"y": doubled}

    def fetch(self, launched: Any) -> Any:
        return {name: self.device.fetch(tensor) for name, tensor in launched.items()}

    def finish(self, launched: Any) -> Tensors:
        return {name: self.device.finish(tensor) for name, tensor in launched.items()}


class Unfetched(Doubler):
    """One whose results are brought home only when they are asked for."""

    def fetch(self, launched: Any) -> Any:
        return launched


class Daemon:
    """The other side of the loop: it fills slots, answers' readers read them, and fills them again.

    It is the loop's inbox and its socket, so that one thread drives all: each seed is one run.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        *,
        batches: int,
        slots: int = 2,
        refused: frozenset[int] = frozenset(),
        side: int = SIDE,
        impatience: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.accelerator = accelerator
        self.refused = refused
        self.batches = batches
        self.side = side
        self.memory = np.zeros(slots * 2 * SIDE, np.uint8)
        self.answers: dict[int, Array] = {}
        self.failed: set[int] = set()
        self._random = random.Random(seed)
        self._impatience = impatience
        self._free = list(range(slots))
        self._slot_of: dict[int, int] = {}
        self._next = 0
        for slot in range(slots):
            accelerator.know(self._part(slot, 0), f"the input side of slot {slot}")
            accelerator.know(self._part(slot, SIDE), f"the output side of slot {slot}")

    def _part(self, slot: int, offset: int) -> Array:
        begin = slot * 2 * SIDE + offset
        return self.memory[begin : begin + SIDE]

    def rows(self, batch: int) -> Array:
        x = np.full((ROWS, WIDTH), batch + 1, np.float32)
        return -x if batch in self.refused else x

    def get(self, block: bool = True, timeout: float | None = None) -> tuple[RunFrame, int] | None:
        """The next batch; now and then later than it could be, if others are at work."""
        ended = len(self.answers) + len(self.failed)
        if self._next == self.batches:
            if ended == self.batches:
                return None
            assert not block, "nothing is left to wait for"
            raise queue.Empty
        if not self._free or (not block and self._random.random() < self._impatience):
            assert not block, "all slots are taken, and nothing runs"
            raise queue.Empty
        batch, slot = self._next, self._free.pop(self._random.randrange(len(self._free)))
        self._next += 1
        self._slot_of[batch] = slot
        inputs = self._part(slot, 0)
        self.accelerator.host_touches(inputs, writes=True)
        inputs.view(np.float32)[:] = self.rows(batch).ravel()
        place = slot * 2 * SIDE
        ref = TensorRef("x", DATATYPES["FP32"].code, (ROWS, WIDTH), place, SIDE)
        return RunFrame(batch, 0, ROWS, (ref,), (), place + SIDE, self.side, b""), 0

    def send(self, kind: Kind, body: bytes, fds: tuple[int, ...] = ()) -> None:
        assert kind is Kind.DONE
        done = DoneFrame.unpack(body)
        slot = self._slot_of.pop(done.batch)
        (ref,) = done.outputs
        outputs = self._part(slot, SIDE)
        self.accelerator.host_touches(outputs, writes=False)
        octets = self.memory[ref.offset : ref.offset + ref.nbytes]
        self.answers[done.batch] = octets.view(np.float32).reshape(ref.shape).copy()
        # It is anyone's now.
        self.accelerator.host_touches(outputs, writes=True)
        outputs[:] = 0
        self._free.append(slot)

    def send_json(self, kind: Kind, body: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        assert kind is Kind.RUN_FAILED
        self.failed.add(body["batch"])
        self._free.append(self._slot_of.pop(body["batch"]))


def serve(
    accelerator: Accelerator,
    daemon: Daemon,
    *,
    pipeline: type[Pipeline] = Pipeline,
    adapter: type[Doubler] = Doubler,
) -> None:
    device = pipeline("simulated", accelerator)
    Serving(
        adapter(device, accelerator),
        cast("FrameSocket", daemon),
        memoryview(cast("Any", daemon.memory)),
        number=1,
        name="doubler",
        signature=SIGNATURE,
        form=Form(()),
    ).run(daemon)


def assert_answered(daemon: Daemon) -> None:
    assert daemon.accelerator.races == []
    assert daemon.failed == daemon.refused
    assert daemon.answers.keys() == set(range(daemon.batches)) - daemon.refused
    for batch, answer in daemon.answers.items():
        np.testing.assert_array_equal(answer, 2 * daemon.rows(batch))


def test_every_answer_is_right_in_thousands_of_interleavings() -> None:
    for seed in range(INTERLEAVINGS):
        accelerator = Accelerator(seed)
        daemon = Daemon(accelerator, batches=6, slots=1 + seed % 3, impatience=0.3, seed=seed)
        serve(accelerator, daemon, adapter=(Doubler, Unfetched)[seed % 2])
        assert_answered(daemon)


def test_batches_that_fail_leave_their_slot_and_their_neighbours_unharmed() -> None:
    for seed in range(500):
        accelerator = Accelerator(seed)
        refused = frozenset(random.Random(seed).sample(range(8), 3))
        daemon = Daemon(accelerator, batches=8, refused=refused, impatience=0.3, seed=seed)
        serve(accelerator, daemon)
        assert_answered(daemon)


def has_noticed(seed: int, *, fault: str = "", pipeline: type[Pipeline] = Pipeline) -> bool:
    """Whether a race is seen in a run with a fault."""
    accelerator = Accelerator(seed, fault=fault)
    daemon = Daemon(accelerator, batches=8, refused=frozenset({3}), seed=seed)
    serve(accelerator, daemon, pipeline=pipeline)
    return bool(accelerator.races)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_missing_wait_is_noticed_in_every_run(fault: str) -> None:
    assert [seed for seed in range(100) if not has_noticed(seed, fault=fault)] == []


class LetsGoEarly(Pipeline):
    """What a batch holds on the device is let go as soon as it was launched."""

    @contextmanager
    def computing(self) -> Iterator[None]:
        with super().computing():
            yield
        self._batch.held.clear()


class EndsAtOnce(Pipeline):
    """A batch that failed is over without a look at what it had begun."""

    def is_lost(self) -> bool:
        return False

    def end(self, batch: Batch) -> None:
        batch.held.clear()


@pytest.mark.parametrize("pipeline", [LetsGoEarly, EndsAtOnce])
def test_memory_that_is_reused_early_is_noticed_in_every_run(pipeline: type[Pipeline]) -> None:
    assert [seed for seed in range(100) if not has_noticed(seed, pipeline=pipeline)] == []


def test_values_alone_would_show_a_missing_wait_too() -> None:
    """The second check: what was read too early is another number, or poison."""
    wrong = 0
    for seed in range(100):
        accelerator = Accelerator(seed, fault="no wait for copy-out")
        daemon = Daemon(accelerator, batches=8, seed=seed)
        serve(accelerator, daemon)
        wrong += any(
            not np.array_equal(answer, 2 * daemon.rows(batch))
            for batch, answer in daemon.answers.items()
        )

    assert wrong >= 90


@pytest.mark.parametrize(
    "costs", [(1.0, 2.0, 1.0), (0.5, 4.0, 0.5), (2.0, 1.0, 2.0), (1.0, 1.0, 0.0), (0.1, 1.0, 0.1)]
)
def test_copies_hide_behind_computing_or_computing_behind_copies(
    costs: tuple[float, float, float],
) -> None:
    """With the two slots of the default."""
    batches = 60
    accelerator = Accelerator(costs=costs)
    daemon = Daemon(accelerator, batches=batches)
    serve(accelerator, daemon)

    copy, compute = costs[0] + costs[2], costs[1]
    assert_answered(daemon)
    assert accelerator.now <= 1.1 * batches * max(copy, compute)
    assert accelerator.now < 0.9 * batches * (copy + compute)


def test_results_arrive_where_the_daemon_reads_them() -> None:
    accelerator = Accelerator()
    side = memoryview(bytearray(256))
    device = Pipeline("simulated", accelerator)
    batch = device.begin(side)
    staged = device.stage(np.arange(5, dtype=np.float32))
    with device.computing():
        first, second = (accelerator.kernel(lambda x: x + 1, staged) for _ in range(2))
    fetched = [device.fetch(first), device.fetch(second)]
    homes = [device.finish(one) for one in fetched]
    device.end(batch)

    assert np.frombuffer(side, np.float32, 5).tolist() == [1, 2, 3, 4, 5]
    assert np.frombuffer(side, np.float32, 5, 64).tolist() == [1, 2, 3, 4, 5]
    assert all(np.shares_memory(home, np.frombuffer(side, np.uint8)) for home in homes)


def test_a_result_too_large_for_its_side_arrives_elsewhere() -> None:
    accelerator = Accelerator()
    side = memoryview(bytearray(16))
    device = Pipeline("simulated", accelerator)
    batch = device.begin(side)
    staged = device.stage(np.arange(5, dtype=np.float32))
    with device.computing():
        result = accelerator.kernel(lambda x: x + 1, staged)
    home = device.finish(device.fetch(result))
    device.end(batch)

    assert home.tolist() == [1, 2, 3, 4, 5]
    assert bytes(side) == bytes(16)


def test_a_device_that_is_lost_ends_the_loop() -> None:
    accelerator = Accelerator()
    daemon = Daemon(accelerator, batches=4)

    class Breaker(Doubler):
        def launch(self, staged: Any, params: Params = NO_PARAMS) -> Any:
            accelerator.is_broken = len(daemon.answers) > 0
            return super().launch(staged, params)

    with pytest.raises(DeviceLost, match=r"^simulated fails at everything$"):
        serve(accelerator, daemon, adapter=Breaker)

    assert daemon.failed == set()

"""Instances in real worker processes: what they answer, and what becomes of them when they end."""

import contextlib
import ctypes
import gc
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest

from doubles import FakeInstances, FakeSlot, RecordingReply, rows_of
from headrace.datatypes import DATATYPES
from headrace.signature import Signature, TensorSpec
from headrace_server.completions import Completions
from headrace_server.errors import (
    Draining,
    HeadraceError,
    InstanceLost,
    InvalidRequest,
    ModelFailed,
    RequestEndsWorkers,
    ResourceExhausted,
)
from headrace_server.instances.group import InstanceGroup, Slot
from headrace_server.instances.pool import WorkerPool
from headrace_server.instances.process import Spawner
from headrace_server.instances.supervisor import SETTLED_S
from headrace_server.repository.librarian import Fetched, Librarian, Resolved
from headrace_server.repository.model import ModelVersion, State
from headrace_server.repository.repository import Repository
from headrace_server.repository.tried import Tried
from headrace_server.repository.wanted import Wanted
from headrace_server.settings import ModelSettings
from headrace_server.types import Batch, BatchKey, InputLayout, Outcome, Part, Request
from strategies import chained

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0

# What the first number of a row has the model do.
ECHO = 1.0
RAISE = 901.0
EXIT = 902.0  # Ends the process.
STOP = 903.0  # Calls sys.exit.
HANG = 904.0  # Says so, and never returns; from the second time on it just answers.
SWELL = 905.0  # Answers with far more than it was asked.
TURN = 906.0  # Answers in the other byte order.
SHRINK = 907.0  # Answers with a row less.
HOLD = 908.0  # Says so, and never lets another thread of its process run again.
FREEZE = 909.0  # Never returns, whenever it is asked.
GARBLE = 910.0  # Sends half a frame over its worker's socket, and never returns.
GROW = 911.0  # Asks for more memory than there is, where it is given more than three rows.

SWOLLEN_BYTES = 1 << 20

SIGNATURE = Signature((TensorSpec("x", "FP64", (-1, 2)),), (TensorSpec("y", "FP64", (-1, 2)),))


def scripted(directory: Path) -> object:
    """A model that does what its rows say; defined in a function, so that its pickle holds it."""

    class Scripted:
        def predict(self, x: npt.NDArray[np.float64]) -> Any:
            order = float(x[:, 0].max())
            if order == 901.0:
                raise ValueError(f"no such city: {x[0, 1]}")
            if order == 902.0:
                os._exit(3)
            if order == 903.0:
                sys.exit("the model has had enough")
            if order == 904.0:
                self.hang_once()
            if order == 908.0:
                self.tell()
                # Unlike CDLL this keeps the interpreter's lock during the call.
                ctypes.PyDLL(None).pause()
            if order == 909.0:
                threading.Event().wait()
            if order == 910.0:
                self.garble()
            if order == 911.0 and len(x) > 3:
                np.empty((len(x), 1 << 45))
            if order == 905.0:
                return np.zeros((len(x), 1 << 17))
            if order == 906.0:
                return x.astype(">f8")
            return x[1:] if order == 907.0 else x

        def hang_once(self) -> None:
            marker = directory / "hung"
            if not marker.exists():
                marker.touch()
                self.tell()
                threading.Event().wait()

        def garble(self) -> None:
            """The head of a DONE frame, and a body that breaks off."""
            for name in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    socket.socket(fileno=os.dup(int(name))).send(bytes([13, 0, 1, 2, 3]))
            threading.Event().wait()

        def tell(self) -> None:
            # Opening waits until the test reads.
            with open(directory / "fifo", "wb"):
                pass

    return Scripted()


def changing(directory: Path) -> object:
    """A model whose answers are int64, and float64 once there is a file *directory* / "later"."""

    class Changing:
        def predict(self, x: npt.NDArray[np.float64]) -> Any:
            is_later = (directory / "later").exists()
            return np.trunc(x[:, 0]).astype("f8" if is_later else "i8")

    return Changing()


def echo() -> object:
    """A model that returns its input."""

    class Echo:
        def predict(self, x: object) -> object:
            return x

    return Echo()


class ExitsAtLoad:
    """A model whose pickle ends the process that opens it."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return os._exit, (4,)


class Shelf:
    """A librarian that finds models in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._signatures: dict[str, Signature] = {}

    def put(self, name: str, model: object, signature: Signature) -> None:
        (self.directory / name).mkdir()
        self._signatures[name] = signature
        data = pickle.dumps(model) if isinstance(model, ExitsAtLoad) else cloudpickle.dumps(model)
        (self.directory / name / "model.pkl").write_bytes(data)

    def fetch(self, source: str, progress: object = None) -> Fetched:
        config = {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}
        pyfunc = {"predict_fn": "predict"}
        path, signature = str(self.directory / source), self._signatures[source]
        return Fetched(path, "", "sklearn", config, pyfunc, signature, None)


class Plant:
    """The daemon's lower half, with models but without transports."""

    def __init__(
        self,
        directory: Path,
        *,
        arena_bytes_max: int = 64 << 20,
        settled_s: float = SETTLED_S,
        **how: Any,
    ) -> None:
        self.directory = directory
        self.reply = RecordingReply()
        self.shelf = Shelf(directory)
        self.spawner = Spawner()
        self.completions = Completions()
        self.completions.start()
        self.pool = WorkerPool(
            self.spawner,
            self.completions,
            arena_bytes_max=arena_bytes_max,
            cpu_workers_max=1,
            settled_s=settled_s,
        )
        self.repository = Repository(
            cast("Librarian", self.shelf),
            self.pool,
            self.completions,
            settings_of=lambda *_: ModelSettings(**{"trial": False, **how}),
            device="cpu",
            tried=Tried(str(directory / "tried")),
        )
        self._changed = threading.Condition()
        self.repository.watch(self._on_change)

    def load(
        self, name: str, model: object | None = None, signature: Signature = SIGNATURE
    ) -> ModelVersion:
        """Serve *model*, or the scripted one, as *name*."""
        if not (self.directory / "fifo").exists():
            os.mkfifo(self.directory / "fifo")
        self.shelf.put(name, model or scripted(self.directory), signature)
        wanted = Wanted(name, name, Resolved(name, "1", name, ""))
        announced = self.repository.announce(wanted)
        assert announced is not None, "a name is loaded once"
        self.repository.load(announced, name)
        return announced

    def request(self, model: ModelVersion, *rows: float) -> Request:
        """One row for each of *rows*: what the model is to do, and a number."""
        layout = InputLayout("x", DATATYPES["FP64"], (2,), 16)
        key = model.batch_key((layout,), (), is_whole=False)
        data = b"".join(struct.pack("<2d", order, at) for at, order in enumerate(rows))
        return Request(key, len(rows), [data], self.reply, None, len(data))

    def ask(self, model: ModelVersion, *rows: float) -> dict[str, bytes] | HeadraceError:
        """Submit one request and wait for its end."""
        one = self.request(model, *rows)
        model.scheduler.submit([one])
        return self.reply.wait_for(one)

    def hang(self, model: ModelVersion) -> Request:
        """A request that keeps its worker busy when this returns."""
        one = self.request(model, HANG)
        model.scheduler.submit([one])
        self.wait_hung()
        return one

    def wait_hung(self) -> None:
        with open(self.directory / "fifo", "rb") as fifo:
            fifo.read()

    def wait_ready(self, model: ModelVersion) -> None:
        self.wait_for(lambda: model.is_ready)

    def wait_down(self, model: ModelVersion) -> None:
        self.wait_for(lambda: not model.is_ready)

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(is_so, timeout=PATIENCE_S)

    @contextlib.contextmanager
    def held_back(self, model: ModelVersion) -> Iterator[None]:
        """The worker stands still, so that all of its slots fill."""
        os.kill(self.pid(), signal.SIGSTOP)
        yield
        os.kill(self.pid(), signal.SIGCONT)

    def pid(self) -> int:
        (worker,) = self.pool.workers
        assert worker.pid is not None
        return worker.pid

    def close(self) -> None:
        self.repository.close(0.0)
        self.pool.close()
        self.completions.close()
        self.spawner.close()

    def _on_change(self) -> None:
        with self._changed:
            self._changed.notify_all()


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    made = Plant(tmp_path)
    yield made
    made.close()


@contextlib.contextmanager
def planted(directory: Path, **how: Any) -> Iterator[Plant]:
    made = Plant(directory, **how)
    try:
        yield made
    finally:
        made.close()


def wait_for_end(pidfd: int) -> None:
    """Wait until the process behind *pidfd* has ended, whoever its parent is."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    assert poller.poll(PATIENCE_S * 1000), "the process lives on"
    os.close(pidfd)


def echoed(request: Request) -> dict[str, bytes]:
    return {"y": bytes(request.tensors[0])}


# What every kind of instances does: the double's conformance.


class Rig(Protocol):
    """Instances of a model that returns its input, with two slots, and a hand on their worker."""

    instances: "FakeInstances | InstanceGroup"
    lock: threading.Lock
    key: BatchKey

    def deliver(self) -> None:
        """Have what runs come back, where that does not happen by itself."""

    def fail(self) -> tuple[float, Callable[[], None]]:
        """A row that makes the model raise, and what has it come back."""

    def start_stuck(self, start: Callable[[float], None]) -> None:
        """Call *start* with a row on which the model stays until its worker is lost."""

    def lose(self) -> None:
        """End the worker; returns when that was noticed."""

    def lose_unnoticed(self) -> Callable[[], None]:
        """End the worker, without anyone noticing until what is returned is called."""

    def revive(self) -> None:
        """Returns when there is a worker again."""

    def close(self) -> None: ...


class FakeRig:
    def __init__(self, directory: Path) -> None:
        self.instances = FakeInstances(2, are_apart=False)
        self.lock = threading.Lock()
        self.key = BatchKey((InputLayout("y", DATATYPES["FP64"], (2,), 16),))

    def deliver(self) -> None:
        self.instances.land()

    def fail(self) -> tuple[float, Callable[[], None]]:
        error = ModelFailed("ValueError", "no such city", "abc")
        return RAISE, lambda: cast("None", self.instances.crash(error))

    def start_stuck(self, start: Callable[[float], None]) -> None:
        start(HANG)

    def lose(self) -> None:
        self.instances.lose(self._apply)

    def lose_unnoticed(self) -> Callable[[], None]:
        self.instances.refusals.append(InstanceLost("the worker is gone"))
        return self.lose

    def revive(self) -> None:
        self._apply(self.instances.mark_up)

    def close(self) -> None:
        pass

    def _apply(self, change: Callable[[], None]) -> None:
        with self.lock:
            change()


class ProcessRig:
    def __init__(self, directory: Path) -> None:
        self.plant = Plant(directory, slots=2)
        model = self.plant.load("scripted")
        assert model.group is not None, model.reason
        self.instances = model.group
        self.key = self.plant.request(model, ECHO).key
        self.lock = threading.Lock()
        self._changes = threading.Semaphore(0)
        (self._instance,) = self.instances.instances
        # In place of the model's scheduler, which has nothing to do.
        self._instance.loaded.on_change = self._on_change

    def deliver(self) -> None:
        pass

    def fail(self) -> tuple[float, Callable[[], None]]:
        return RAISE, self.deliver

    def start_stuck(self, start: Callable[[float], None]) -> None:
        start(HANG)
        self.plant.wait_hung()

    def lose(self) -> None:
        os.kill(self.plant.pid(), signal.SIGKILL)
        assert self._changes.acquire(timeout=PATIENCE_S)

    def lose_unnoticed(self) -> Callable[[], None]:
        is_held, notices = threading.Event(), threading.Event()
        bell = os.eventfd(1)

        def hold() -> None:
            is_held.set()
            assert notices.wait(PATIENCE_S)
            self.plant.completions.unwatch(bell)
            os.close(bell)

        self.plant.completions.watch(bell, hold)
        assert is_held.wait(PATIENCE_S)
        pidfd = os.pidfd_open(self.plant.pid())
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        wait_for_end(pidfd)

        def notice() -> None:
            notices.set()
            assert self._changes.acquire(timeout=PATIENCE_S)

        return notice

    def revive(self) -> None:
        assert self._changes.acquire(timeout=PATIENCE_S)

    def close(self) -> None:
        self.plant.close()

    def _on_change(self, _loaded: Any) -> None:
        with self.lock:
            self.instances.mark(self._instance)
        self._changes.release()


@pytest.fixture(params=[FakeRig, ProcessRig])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made: Rig = request.param(tmp_path)
    yield made
    made.close()


class Runs:
    """Batches on a rig, and what became of them."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.instances: Any = rig.instances
        self.outcomes: list[tuple[Batch, Outcome]] = []
        self._heard = threading.Semaphore(0)

    def take(self, *, stages: bool = True) -> "FakeSlot | Slot | None":
        with self.rig.lock:
            slot: FakeSlot | Slot | None = self.instances.take_nowait(stages=stages)
            return slot

    def release(self, slot: "FakeSlot | Slot | None") -> None:
        with self.rig.lock:
            self.instances.release(slot)

    def batch(self, *rows: list[float]) -> Batch:
        """A batch of whole requests."""
        parts = []
        for each in rows:
            data = b"".join(struct.pack("<2d", order, at) for at, order in enumerate(each))
            one = Request(self.rig.key, len(each), [data], RecordingReply(), None)
            parts.append(Part(one, 0, len(each)))
        return Batch(self.rig.key, parts, sum(map(len, rows)), 0.0)

    def start(self, batch: Batch, slot: "FakeSlot | Slot | None") -> None:
        self.instances.execute(batch, slot, self._on_outcome)

    def wait(self) -> Outcome:
        assert self._heard.acquire(timeout=PATIENCE_S), "no outcome"
        return self.outcomes[-1][1]

    def _on_outcome(self, batch: Batch, slot: object, outcome: Outcome) -> None:
        self.outcomes.append((batch, outcome))
        self._heard.release()


@pytest.fixture
def runs(rig: Rig) -> Runs:
    return Runs(rig)


def test_instances_give_as_many_slots_as_they_have_and_take_them_back(runs: Runs) -> None:
    slots = [runs.take(), runs.take()]
    assert None not in slots
    assert runs.take() is None

    runs.release(slots[0])

    assert runs.take() is slots[0]
    assert runs.take() is None


def test_instances_are_busy_with_one_batch_for_whoever_does_not_stage(runs: Runs) -> None:
    first = runs.take(stages=False)
    assert first is not None
    assert runs.take(stages=False) is None

    second = runs.take()
    runs.release(first)
    assert second is not None
    assert runs.take(stages=False) is None

    runs.release(second)
    assert runs.take(stages=False) is not None


def test_instances_answer_the_rows_of_every_part_in_their_order(rig: Rig, runs: Runs) -> None:
    whole = runs.batch([1.0, 2.0], [3.0])
    large = runs.batch([4.0, 5.0, 6.0, 7.0]).parts[0].request
    batch = Batch(rig.key, [Part(large, 1, 3), *whole.parts], 5, 0.0, is_split=True)

    runs.start(batch, runs.take())
    rig.deliver()
    outputs = runs.wait().outputs

    assert outputs is not None
    assert outputs.rows == 5
    (tensor,) = outputs.tensors
    assert (tensor.name, tensor.datatype.name, tensor.shape) == ("y", "FP64", (5, 2))
    expected = [
        *rows_of(large, 0, 1, 3),
        *rows_of(whole.parts[0].request, 0, 0, 2),
        *rows_of(whole.parts[1].request, 0, 0, 1),
    ]
    assert bytes(tensor.data) == b"".join(expected)
    assert [bytes(tensor.rows(at, at + 1, 5)) for at in range(5)] == expected


def test_instances_report_a_model_that_raises_and_go_on(rig: Rig, runs: Runs) -> None:
    row, deliver = rig.fail()
    slot = runs.take()
    runs.start(runs.batch([row]), slot)
    deliver()
    outcome = runs.wait()
    assert isinstance(outcome.error, ModelFailed)
    assert outcome.outputs is None
    runs.release(slot)

    runs.start(runs.batch([ECHO]), runs.take())
    rig.deliver()

    assert runs.wait().outputs is not None


def test_instances_tell_once_of_what_they_lost_and_keep_its_slots_until_they_are_back(
    rig: Rig, runs: Runs
) -> None:
    slots = [runs.take(), runs.take()]
    rig.start_stuck(lambda row: runs.start(runs.batch([row]), slots[0]))

    rig.lose()
    outcome = runs.wait()

    assert isinstance(outcome.error, InstanceLost)
    for slot in slots:
        runs.release(slot)
    rig.revive()
    assert {runs.take(), runs.take()} == set(slots)
    assert len(runs.outcomes) == 1


def test_instances_without_a_worker_refuse_a_batch_and_tell_no_one_later(
    rig: Rig, runs: Runs
) -> None:
    slot = runs.take()
    rig.lose()

    with pytest.raises(InstanceLost):
        runs.start(runs.batch([ECHO]), slot)
    with rig.lock:
        runs.instances.put_back(slot)
    assert runs.take() is None

    rig.revive()
    assert len({runs.take(), runs.take()} - {None}) == 2
    assert runs.outcomes == []


def test_instances_do_not_offer_a_slot_again_on_which_a_batch_could_not_be_sent(
    rig: Rig, runs: Runs
) -> None:
    """The next batch would fare the same, until the end of the worker is noticed."""
    slot, other = runs.take(), runs.take()
    notice = rig.lose_unnoticed()

    with pytest.raises(InstanceLost):
        runs.start(runs.batch([ECHO]), slot)
    with rig.lock:
        runs.instances.put_back(slot)
    assert runs.take() is None

    notice()
    rig.revive()
    assert runs.take() is slot
    runs.release(other)
    assert runs.take() is other
    assert runs.outcomes == []


def test_instances_refuse_a_batch_on_a_slot_of_a_worker_that_was_replaced(
    rig: Rig, runs: Runs
) -> None:
    """Whoever took the slot was slow: by now the next worker's batches may lie in the arena."""
    slot = runs.take()
    rig.lose()
    rig.revive()
    others = {runs.take(), runs.take()}
    assert slot not in others

    with pytest.raises(InstanceLost):
        runs.start(runs.batch([ECHO]), slot)
    with rig.lock:
        runs.instances.put_back(slot)

    assert runs.take() is slot
    assert runs.outcomes == []


# Workers that end.


def test_a_killed_worker_is_replaced_and_its_batch_runs_once_more(plant: Plant) -> None:
    model = plant.load("scripted")
    pid = plant.pid()
    stuck = plant.hang(model)

    os.kill(pid, signal.SIGKILL)

    assert plant.reply.wait_for(stuck) == echoed(stuck)
    assert plant.pid() != pid
    assert model.scheduler.instrument.retried == 1


def test_a_batch_that_ends_two_workers_tells_its_caller_and_the_next_is_served(
    plant: Plant,
) -> None:
    model = plant.load("scripted")

    told = plant.ask(model, EXIT)

    assert isinstance(told, RequestEndsWorkers)
    assert "was run 2 times, alone" in told.message
    one = plant.request(model, ECHO)
    model.scheduler.submit([one])
    assert plant.reply.wait_for(one) == echoed(one)


def test_a_batch_that_hangs_once_is_run_again_in_another_process(tmp_path: Path) -> None:
    with planted(tmp_path, exec_ms_max=300) as plant:
        model = plant.load("scripted")
        pid = plant.pid()

        stuck = plant.hang(model)

        assert plant.reply.wait_for(stuck) == echoed(stuck)
        assert plant.pid() != pid


def test_a_request_that_always_hangs_is_told_and_the_next_is_served(tmp_path: Path) -> None:
    with planted(tmp_path, exec_ms_max=300) as plant:
        model = plant.load("scripted")

        told = plant.ask(model, FREEZE)

        assert isinstance(told, RequestEndsWorkers)
        assert "did not end within exec_ms_max = 300" in told.message
        one = plant.request(model, ECHO)
        model.scheduler.submit([one])
        assert plant.reply.wait_for(one) == echoed(one)


def test_a_stopped_worker_is_replaced_once_its_batch_has_taken_too_long(tmp_path: Path) -> None:
    with planted(tmp_path, exec_ms_max=300) as plant:
        model = plant.load("scripted")
        os.kill(plant.pid(), signal.SIGSTOP)

        one = plant.request(model, ECHO)
        model.scheduler.submit([one])

        assert plant.reply.wait_for(one) == echoed(one)


def test_what_waits_behind_a_batch_that_ends_its_worker_is_answered(plant: Plant) -> None:
    """However often: only what an instance was at work on counts as a possible cause."""
    model = plant.load("scripted")
    with plant.held_back(model):
        guilty = [plant.request(model, EXIT, *[ECHO] * (model.settings.rows_max - 1))]
        behind = plant.request(model, ECHO)
        model.scheduler.submit([*guilty, behind])

    assert plant.reply.wait_for(behind) == echoed(behind)
    assert isinstance(plant.reply.wait_for(guilty[0]), RequestEndsWorkers)


def test_half_a_frame_ends_the_process_that_sent_it(plant: Plant) -> None:
    model = plant.load("scripted")

    told = plant.ask(model, GARBLE)

    assert isinstance(told, RequestEndsWorkers)
    one = plant.request(model, ECHO)
    model.scheduler.submit([one])
    assert plant.reply.wait_for(one) == echoed(one)


def test_a_worker_that_ends_again_and_again_is_in_a_crash_loop_until_it_has_settled(
    tmp_path: Path,
) -> None:
    with planted(tmp_path, settled_s=2.5) as plant:
        model = plant.load("scripted")
        for _ in range(2):
            os.kill(plant.pid(), signal.SIGKILL)
            plant.wait_down(model)
            plant.wait_ready(model)
        assert model.trouble == ""

        os.kill(plant.pid(), signal.SIGKILL)
        plant.wait_down(model)
        plant.wait_for(lambda: model.trouble.startswith("crash_loop: "))
        assert "ended 3 times in a row, at last with exit code -9" in model.trouble
        assert model.shown_state == "UNAVAILABLE"
        # It runs what comes all the same, once its process is up again.
        assert plant.ask(model, ECHO) != {}
        assert not model.is_ready

        plant.wait_ready(model)
        assert model.trouble == ""
        assert model.shown_state == "READY"


def test_a_worker_that_follows_answers_in_the_types_that_the_first_one_settled(
    plant: Plant,
) -> None:
    model = plant.load("changing", changing(plant.directory), Signature(SIGNATURE.inputs))
    assert model.signature is not None
    (output,) = model.signature.outputs
    assert output.datatype == "INT64"
    (plant.directory / "later").touch()

    os.kill(plant.pid(), signal.SIGKILL)
    plant.wait_down(model)
    plant.wait_ready(model)

    # 2.0 as float64 is another number as int64.
    assert plant.ask(model, 2.0) == {output.name: struct.pack("<q", 2)}
    assert isinstance(plant.ask(model, float("nan")), ModelFailed)


def test_an_idle_worker_that_is_killed_costs_no_request(plant: Plant) -> None:
    """Whether its end has been noticed when the request comes or not."""
    model = plant.load("scripted")

    os.kill(plant.pid(), signal.SIGKILL)
    one = plant.request(model, ECHO)
    model.scheduler.submit([one])

    assert plant.reply.wait_for(one) == echoed(one)


def test_a_model_that_ends_its_worker_at_load_takes_no_other_with_it(plant: Plant) -> None:
    model = plant.load("scripted")

    bad = plant.load("bad", ExitsAtLoad())

    assert bad.state is State.FAILED
    assert "ended while it loaded" in bad.reason
    plant.wait_ready(model)
    one = plant.request(model, ECHO)
    model.scheduler.submit([one])
    assert plant.reply.wait_for(one) == echoed(one)


def test_a_model_that_calls_exit_fails_its_batch_and_stays(plant: Plant) -> None:
    model = plant.load("scripted")
    pid = plant.pid()

    error = plant.ask(model, STOP)

    assert isinstance(error, ModelFailed)
    assert "SystemExit" in str(error)
    assert not isinstance(plant.ask(model, ECHO), HeadraceError)
    assert plant.pid() == pid


def test_a_model_that_does_not_load_fails_with_the_reason(plant: Plant) -> None:
    model = plant.load("scripted")

    bad = plant.load("bad", lambda: None)

    assert bad.state is State.FAILED
    assert "'predict'" in bad.reason
    assert not isinstance(plant.ask(model, ECHO), HeadraceError)


def test_a_model_that_does_not_load_again_fails_and_tells_those_who_wait(plant: Plant) -> None:
    model = plant.load("scripted")
    stays = plant.load("stays", echo())
    stuck = plant.hang(model)
    (plant.directory / "scripted" / "model.pkl").unlink()

    os.kill(plant.pid(), signal.SIGKILL)

    assert isinstance(plant.reply.wait_for(stuck), Draining)
    plant.wait_ready(stays)
    assert model.state is State.FAILED
    assert "model.pkl" in model.reason
    assert not isinstance(plant.ask(stays, ECHO), HeadraceError)


def test_a_model_with_a_worker_of_its_own_takes_no_other_with_it(tmp_path: Path) -> None:
    with planted(tmp_path, worker="own") as plant:
        one, other = plant.load("one", echo()), plant.load("other", echo())
        victim, survivor = plant.pool.workers
        pid, kept = victim.pid, survivor.pid
        assert pid is not None

        os.kill(pid, signal.SIGKILL)

        assert not isinstance(plant.ask(one, ECHO), HeadraceError)
        assert not isinstance(plant.ask(other, ECHO), HeadraceError)
        assert victim.pid != pid
        assert survivor.pid == kept


# Models that fail, and outputs of all kinds.


def test_an_output_that_the_model_turns_out_not_to_have_is_the_callers_fault(
    plant: Plant,
) -> None:
    model = plant.load("scripted")
    layout = InputLayout("x", DATATYPES["FP64"], (2,), 16)
    key = model.batch_key((layout,), ("z",), is_whole=False)
    one = Request(key, 1, [bytes(16)], plant.reply, None, 16)

    model.scheduler.submit([one])

    assert isinstance(plant.reply.wait_for(one), InvalidRequest)


def test_a_model_that_raises_is_quoted_with_an_error_id_and_goes_on(plant: Plant) -> None:
    model = plant.load("scripted")

    error = plant.ask(model, RAISE)

    assert isinstance(error, ModelFailed)
    assert str(error).startswith("ValueError: no such city: 0.0 (error id ")
    assert not isinstance(plant.ask(model, ECHO), HeadraceError)


def test_an_answer_of_fewer_rows_than_the_batch_has_each_request_run_whole(plant: Plant) -> None:
    model = plant.load("scripted")
    assert model.batching.verdict == "batched"
    with plant.held_back(model):
        busy = plant.request(model, ECHO)
        first, shrinking, last = (
            plant.request(model, *rows) for rows in ([ECHO], [SHRINK, ECHO], [ECHO, ECHO])
        )
        model.scheduler.submit([busy])
        model.scheduler.submit([first, shrinking, last])

    assert plant.reply.wait_for(first) == echoed(first)
    assert plant.reply.wait_for(last) == echoed(last)
    assert plant.reply.wait_for(shrinking) == {"y": bytes(shrinking.tensors[0])[16:]}
    assert model.batching.verdict == "whole"
    assert model.batching.why.startswith("output 'y' has shape [")


def test_a_request_that_was_cut_and_answered_with_fewer_rows_fails(plant: Plant) -> None:
    """Nobody knows which of its rows are missing; asked once more, it runs whole."""
    model = plant.load("scripted")

    error = plant.ask(model, SHRINK, *[ECHO] * 200)

    assert isinstance(error, ModelFailed)
    again = plant.request(model, SHRINK, *[ECHO] * 200)
    model.scheduler.submit([again])
    assert plant.reply.wait_for(again) == {"y": bytes(again.tensors[0])[16:]}


def test_the_row_that_a_model_fails_on_costs_its_batch_mates_nothing(plant: Plant) -> None:
    model = plant.load("scripted")
    with plant.held_back(model):
        busy = plant.request(model, ECHO)
        innocent = [plant.request(model, ECHO) for _ in range(20)]
        guilty = plant.request(model, RAISE)
        model.scheduler.submit([busy])
        model.scheduler.submit([*innocent[:7], guilty, *innocent[7:]])

    assert "no such city" in str(plant.reply.wait_for(guilty))
    assert [plant.reply.wait_for(one) for one in innocent] == [echoed(one) for one in innocent]
    assert model.scheduler.instrument.taken_apart >= 1


def test_the_row_that_ends_workers_costs_its_batch_mates_nothing(plant: Plant) -> None:
    model = plant.load("scripted")
    with plant.held_back(model):
        busy = plant.request(model, ECHO)
        innocent = [plant.request(model, ECHO) for _ in range(20)]
        guilty = plant.request(model, EXIT)
        model.scheduler.submit([busy])
        model.scheduler.submit([*innocent[:7], guilty, *innocent[7:]])

    assert isinstance(plant.reply.wait_for(guilty), RequestEndsWorkers)
    assert [plant.reply.wait_for(one) for one in innocent] == [echoed(one) for one in innocent]


def test_a_batch_that_exceeds_the_memory_runs_in_smaller_ones(plant: Plant) -> None:
    model = plant.load("scripted")
    large = plant.request(model, *[GROW] * 20)

    model.scheduler.submit([large])

    assert plant.reply.wait_for(large) == echoed(large)
    assert model.scheduler.rows_cap == 3


def test_an_answer_in_the_other_byte_order_is_turned_around(plant: Plant) -> None:
    model = plant.load("scripted")
    one = plant.request(model, TURN)

    model.scheduler.submit([one])

    assert plant.reply.wait_for(one) == echoed(one)


@pytest.mark.parametrize(("inner", "text"), [(0, b""), (1, b"a"), (2, b"ab")])
def test_texts_are_cut_and_joined_by_rows_however_many_each_row_has(
    tmp_path: Path, inner: int, text: bytes
) -> None:
    wide = (TensorSpec("x", "BYTES", (-1, -1)),), (TensorSpec("y", "BYTES", (-1, -1)),)
    with planted(tmp_path, rows_max=4) as plant:
        model = plant.load("echo", echo(), Signature(*wide))
        layout = InputLayout("x", DATATYPES["BYTES"], (inner,), 0)
        key = model.batch_key((layout,), (), is_whole=False)
        data = chained([text * n for n in range(9 * inner)])
        one = Request(key, 9, [data], plant.reply, None, len(data))

        model.scheduler.submit([one])

        assert plant.reply.wait_for(one) == {"y": data}


def test_outputs_that_exceed_their_slot_come_in_a_memfd_and_the_slot_grows(
    tmp_path: Path,
) -> None:
    with planted(tmp_path, slots=1) as plant:
        model = plant.load("scripted")
        numbers = model.scheduler.instrument

        for overflows in (1, 1, 1):
            answer = plant.ask(model, SWELL)
            assert answer == {"y": bytes(SWOLLEN_BYTES)}
            assert numbers.overflows <= overflows
        assert numbers.overflows == 1


def test_outputs_that_exceed_the_arena_still_come(tmp_path: Path) -> None:
    """Room for them cannot be had, so they always travel in a memfd; the model is served on."""
    with planted(tmp_path, arena_bytes_max=SWOLLEN_BYTES // 2) as plant:
        model = plant.load("scripted")

        for _ in range(3):
            assert plant.ask(model, SWELL) == {"y": bytes(SWOLLEN_BYTES)}
        one = plant.request(model, ECHO)
        model.scheduler.submit([one])
        assert plant.reply.wait_for(one) == echoed(one)


def test_outputs_come_though_their_side_of_the_slot_could_not_be_had(plant: Plant) -> None:
    """Where other slots have taken the arena, they travel in a memfd."""
    model = plant.load("scripted")
    (worker,) = plant.pool.workers
    pages = worker.arena.nbytes // mmap.PAGESIZE
    worker.take_region((pages - 1) * mmap.PAGESIZE)
    one = plant.request(model, ECHO)

    model.scheduler.submit([one])

    assert plant.reply.wait_for(one) == echoed(one)
    assert model.scheduler.instrument.overflows == 1


def test_a_batch_that_exceeds_the_arena_is_refused_and_the_next_is_served(tmp_path: Path) -> None:
    rows_max = 1 << 20
    with planted(
        tmp_path, arena_bytes_max=1 << 20, rows_max=rows_max, queue_rows_max=rows_max
    ) as plant:
        model = plant.load("scripted")

        error = plant.ask(model, *[ECHO] * 100_000)

        assert isinstance(error, ResourceExhausted)
        assert "arena is full" in str(error)
        one = plant.request(model, *[ECHO] * 10)
        model.scheduler.submit([one])
        assert plant.reply.wait_for(one) == echoed(one)


def test_a_batch_may_fill_most_of_the_arena(tmp_path: Path) -> None:
    rows_max = 1 << 20
    with planted(
        tmp_path, arena_bytes_max=8 << 20, rows_max=rows_max, queue_rows_max=rows_max, slots=1
    ) as plant:
        model = plant.load("scripted")
        one = plant.request(model, *[ECHO] * 400_000)

        model.scheduler.submit([one])

        assert plant.reply.wait_for(one) == echoed(one)


# The end.


@pytest.mark.parametrize("is_busy", [False, True])
def test_closing_leaves_no_process_and_no_memory(tmp_path: Path, is_busy: bool) -> None:
    plant = Plant(tmp_path)
    model = plant.load("scripted")
    pidfd = os.pidfd_open(plant.pid())
    if is_busy:
        plant.hang(model)

    plant.close()

    wait_for_end(pidfd)
    del plant, model
    gc.collect()
    held = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if entry.is_symlink()]
    assert not [target for target in held if target.startswith("/memfd:headrace")]


PARENT = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
import structlog
from test_worker_process import Plant

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
plant = Plant(Path(sys.argv[1]))
model = plant.load("scripted")
if sys.stdin.readline().strip() == "busy":
    model.scheduler.submit([plant.request(model, 908.0)])
print(plant.pid(), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_killed_parent_leaves_no_worker(tmp_path: Path, is_busy: bool) -> None:
    """Not even one that is deep in a call and cannot see that its socket has ended."""
    here = Path(__file__)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), str(here.parent), str(here.parents[2])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        print("busy" if is_busy else "idle", file=parent.stdin, flush=True)
        worker = os.pidfd_open(int(parent.stdout.readline()))
        if is_busy:
            with open(tmp_path / "fifo", "rb") as fifo:
                fifo.read()

        parent.kill()
        wait_for_end(worker)

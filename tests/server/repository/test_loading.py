"""Models that come and go in real worker processes: nothing of what went stays behind."""

import gc
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from headrace_server.errors import (
    Draining,
    HeadraceError,
    LoadFailed,
    ModelUnavailable,
)
from headrace_server.repository.model import ModelVersion, State
from headrace_server.settings import ModelSettings
from house import PATIENCE_S, House

pytestmark = pytest.mark.slow

HELD_BYTES = 64 << 20


def adder(number: float) -> object:
    """A model that adds; defined in a function, so that its pickle holds the class."""

    class Adder:
        def predict(self, x: npt.NDArray[np.float64]) -> Any:
            return x + number

    return Adder()


def heavy(*, is_cyclic: bool) -> object:
    """A model that holds much memory, perhaps in a cycle that only the collector can undo."""

    class Heavy:
        def predict(self, x: npt.NDArray[np.float64]) -> Any:
            if not hasattr(self, "held"):
                self.held = np.ones(64 << 20, np.uint8)
                if is_cyclic:
                    self.own = self
            return x

    return Heavy()


def waiting(gate: Path) -> object:
    """A model that waits for someone to open a FIFO where its rows begin with a 1."""

    class Waiting:
        def predict(self, x: npt.NDArray[np.float64]) -> Any:
            if x[0, 0] == 1.0:
                with open(gate, "rb") as fifo:
                    fifo.read()
            return x

    return Waiting()


def meeting(place: Path, count: int) -> object:
    """A model that tells its process, once *count* instances of it compute at once."""

    class Meeting:
        def predict(self, x: npt.NDArray[np.float64]) -> Any:
            if x[0, 0] == 1.0:
                (place / f"{os.getpid()}-{threading.get_ident()}").touch()
                while len(os.listdir(place)) < count:
                    time.sleep(0.001)
            return np.full_like(x, os.getpid())

    return Meeting()


@pytest.fixture
def houses(tmp_path: Path) -> Iterator[Callable[..., House]]:
    built: list[House] = []

    def build(**how: Any) -> House:
        built.append(House(tmp_path, **how))
        return built[-1]

    yield build
    for house in built:
        house.close()


@pytest.fixture
def house(houses: Callable[..., House]) -> House:
    return houses()


def states(house: House) -> list[tuple[str, State]]:
    return [(model.version, model.state) for model in house.repository.models]


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether *condition* comes true of itself, where nothing tells when."""
    until = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < until:
        pass
    return condition()


def test_what_was_loaded_and_unloaded_ten_times_leaves_no_memory_and_no_thread(
    house: House,
) -> None:
    house.shelf.put("keep", "1", adder(1.0))
    house.shelf.put("come-and-go", "1", adder(2.0))
    house.load("keep", "keep")
    assert house.ask("keep", 1.0, 2.0) == (2.0, 3.0)
    (worker,) = house.pool.workers
    process = house.process()

    def held() -> tuple[int, int, int, int]:
        timed = len(house.completions._followers)
        return worker.arena.used_bytes, process.num_threads(), worker.instance_count, timed

    before = held()
    for _ in range(10):
        house.load("other", "come-and-go")
        assert house.ask("other", 1.0, 2.0) == (3.0, 4.0)
        assert held() > before
        house.unload("other")

    # The thread that told that the model is gone is the last to go.
    assert eventually(lambda: held() == before), (held(), before)
    assert house.ask("keep", 1.0, 2.0) == (2.0, 3.0)
    gc.collect()
    kept = [one for one in gc.get_objects() if type(one) is ModelVersion]
    # The last one is in the index as unloaded.
    assert len([one for one in kept if one.name == "other"]) == 1


@pytest.mark.parametrize("is_cyclic", [False, True])
def test_an_unloaded_models_memory_goes_back_to_the_system(house: House, is_cyclic: bool) -> None:
    house.shelf.put("heavy", "1", heavy(is_cyclic=is_cyclic))
    house.shelf.put("light", "1", adder(1.0))
    house.load("light", "light")
    house.load("heavy", "heavy")
    house.ask("heavy", 1.0, 2.0)
    full = house.process().memory_info().rss

    house.unload("heavy")

    assert house.process().memory_info().rss < full - HELD_BYTES * 3 // 4


def test_instances_on_several_devices_run_from_one_queue(
    houses: Callable[..., House], tmp_path: Path
) -> None:
    """scikit-learn computes on the CPU in whatever worker it is put."""
    place = tmp_path / "place"
    place.mkdir()
    house = houses(device="cuda:0,cuda:1", instances=2, slots=1, rows_max=1)
    house.shelf.put("a", "1", meeting(place, 4))
    house.load("a", "a")

    requests = [house.submit("a", 1.0, 0.0) for _ in range(4)]
    answers = [house.reply.wait_for(request) for request in requests]

    workers = house.pool.workers
    assert [worker.name[:6] for worker in workers] == ["cuda:0", "cuda:1"]
    assert [worker.instance_count for worker in workers] == [2, 2]
    pids = [struct.unpack("<2d", cast("Any", answer)["y"])[0] for answer in answers]
    assert sorted(pids) == sorted(2 * [float(cast("int", worker.pid)) for worker in workers])


def test_a_model_with_a_worker_of_its_own_takes_it_along(houses: Callable[..., House]) -> None:
    house = houses(worker="own")
    house.shelf.put("a", "1", adder(1.0))
    house.load("a", "a")
    process = house.process()

    house.unload("a")

    assert house.pool.workers == []
    assert not process.is_running()
    house.load("a")
    assert house.ask("a", 1.0, 2.0) == (2.0, 3.0)


def test_a_version_is_swapped_in_a_worker_of_its_own(houses: Callable[..., House]) -> None:
    house = houses(worker="own")
    house.shelf.put("a", "1", adder(1.0))
    house.load("a", "a")
    house.shelf.put("a", "2", adder(2.0))

    house.load("a")

    assert house.ask("a", 1.0, 2.0) == (3.0, 4.0)
    # The old one goes in the same turn, after whoever asked was told.
    house.repository.begin_load("a").result(PATIENCE_S)
    assert states(house) == [("2", State.READY)]
    assert len(house.pool.workers) == 1


def test_a_request_planned_before_a_swap_is_answered_after_it(house: House) -> None:
    """A transport plans a burst first and hands it over then; the name may move in between."""
    house.shelf.put("a", "1", adder(1.0))
    house.load("a", "a")
    old = house.repository.find("a")
    planned_for = old.scheduler
    house.shelf.put("a", "2", adder(2.0))

    house.load("a")
    with pytest.raises(Draining, match="version 1 is being unloaded"):
        _ = old.scheduler
    late = house.request(old, 1.0, 2.0)
    planned_for.submit([late])

    answer = house.reply.wait_for(late)
    assert not isinstance(answer, HeadraceError), answer
    assert struct.unpack("<2d", answer["y"]) == (2.0, 3.0)
    assert house.ask("a", 1.0, 2.0) == (3.0, 4.0)


def test_what_a_batch_that_outlives_the_drain_holds_comes_back_when_it_ends(
    houses: Callable[..., House], tmp_path: Path
) -> None:
    house = houses(drain_s=0.0)
    os.mkfifo(tmp_path / "gate")
    house.shelf.put("slow", "1", waiting(tmp_path / "gate"))
    house.load("slow", "slow")
    stuck = house.submit("slow", 1.0, 2.0)
    # Open for writing only once the model reads.
    with (tmp_path / "gate").open("wb"):
        (worker,) = house.pool.workers
        unloading = house.repository.begin_unload("slow")
        assert isinstance(house.reply.wait_for(stuck), Draining)
        assert worker.arena.used_bytes > 0

    unloading.result(PATIENCE_S)

    assert eventually(lambda: worker.arena.used_bytes == 0)
    assert house.reply.ends[stuck] == [house.reply.end_of(stuck)]


@pytest.mark.long
def test_an_unload_ends_though_its_worker_does(house: House, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    house.shelf.put("slow", "1", waiting(tmp_path / "gate"))
    house.load("slow", "slow")
    stuck = house.submit("slow", 1.0, 2.0)
    with (tmp_path / "gate").open("wb"):
        unloading = house.repository.begin_unload("slow")
        house.process().send_signal(signal.SIGKILL)

        # Without an instance that comes back the batch is not run again.
        unloading.result(PATIENCE_S)

    house.reply.end_of(stuck)
    assert states(house) == [("1", State.UNLOADED)]


def test_a_model_that_its_new_worker_could_not_load_is_loaded_anew(house: House) -> None:
    house.shelf.put("a", "1", adder(1.0))
    house.load("a", "a")
    model = house.repository.find("a")
    source = Path(house.shelf.resolve("a").source)
    pickled = (source / "model.pkl").read_bytes()
    (source / "model.pkl").unlink()
    house.process().send_signal(signal.SIGKILL)
    with house.changed:
        assert house.changed.wait_for(lambda: model.state is State.FAILED, PATIENCE_S)
    with pytest.raises(ModelUnavailable, match="failed to load"):
        house.submit("a", 1.0, 2.0)
    with pytest.raises(LoadFailed, match="version 1 failed to load"):
        house.load("a")
    (source / "model.pkl").write_bytes(pickled)

    house.load("a")

    assert house.ask("a", 1.0, 2.0) == (2.0, 3.0)
    assert states(house) == [("1", State.READY)]


def test_a_load_that_fails_leaves_nothing_and_the_next_one_takes_its_place(house: House) -> None:
    house.shelf.put("a", "1", adder(1.0))
    house.load("a", "a")
    (worker,) = house.pool.workers
    threads = house.process().num_threads()
    for version in ("2", "3"):
        house.shelf.put("a", version, b"no pickle")
        with pytest.raises(LoadFailed, match=f"version {version} failed to load"):
            house.load("a")
        assert states(house) == [("1", State.READY), (version, State.FAILED)]
        assert house.repository.find("a").version == "1"

    house.shelf.put("a", "4", adder(4.0))
    house.load("a")

    assert house.ask("a", 1.0, 2.0) == (5.0, 6.0)
    house.unload("a")
    assert states(house) == [("4", State.UNLOADED)]
    assert worker.instance_count == 0
    assert eventually(lambda: house.process().num_threads() == threads - 1)


def test_a_changed_setting_is_a_reason_to_load_anew(houses: Callable[..., House]) -> None:
    how: dict[str, Any] = {"rows_max": 8}
    house = houses()
    house.repository._settings_of = lambda *_: ModelSettings(**how)
    house.shelf.put("a", "1", adder(1.0))
    house.load("a", "a")
    first = house.repository.find("a")
    house.load("a")
    assert house.repository.find("a") is first

    how["rows_max"] = 16
    house.load("a")

    assert house.repository.find("a").settings.rows_max == 16


def test_a_load_while_the_server_ends_is_refused(house: House) -> None:
    house.shelf.put("a", "1", adder(1.0))
    house.repository.close(0.0)

    with pytest.raises(Draining):
        house.load("a", "a")

"""Models whose registry does not answer: they are tried again, and arrive by themselves."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from headrace_server.completions import Completions
from headrace_server.errors import (
    HeadraceError,
    LoadFailed,
    ModelLoading,
    ModelUnavailable,
    RegistryDenied,
    RegistryUnavailable,
)
from headrace_server.repository.librarian import Fetched, Resolved
from headrace_server.repository.model import ModelVersion, State
from headrace_server.repository.pauses import pause_after, when
from headrace_server.repository.retries import Retries
from headrace_server.repository.wanted import Wanted
from headrace_server.settings import ModelSettings
from house import PATIENCE_S, House, Shelf

AWAY = RegistryUnavailable("the registry at http://mlflow:5000 does not answer: HTTP 503")


def adder(number: float) -> object:
    class Adder:
        def predict(self, x: npt.NDArray[np.float64]) -> Any:
            return x + number

    return Adder()


# How long, and when.


def test_pauses_double_from_a_second_to_ten_minutes_and_half_of_each_is_chance() -> None:
    for tries in range(1, 40):
        longest = min(2.0 ** (tries - 1), 600.0)
        found = {pause_after(tries) for _ in range(100)}
        assert all(longest / 2 <= pause_s <= longest for pause_s in found)
        assert len(found) > 90
    assert pause_after(100_000) <= 600.0


def test_an_instant_is_told_as_a_person_counts() -> None:
    assert when(time.monotonic() - 1.0) == "now"
    assert when(time.monotonic() + 100.0).startswith("in 100 s, at ")
    assert when(time.monotonic() + 100.0).endswith(" UTC")


# What is tried when, without a daemon.


class Tries:
    """Retries whose tries end when a test says so."""

    def __init__(self, at_once: int) -> None:
        self.completions = Completions()
        self.completions.start()
        self.begun: list[tuple[str, Future[None]]] = []
        self._changed = threading.Condition()
        self.retries = Retries(self.completions, self._begin, at_once=at_once)

    def _begin(self, model: ModelVersion, source: str) -> Future[None]:
        assert source == f"source of {model.name}"
        future: Future[None] = Future()
        with self._changed:
            self.begun.append((model.name, future))
            self._changed.notify_all()
        return future

    def wait_begun(self, count: int) -> list[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= count, PATIENCE_S)
        return [name for name, _ in self.begun]


@pytest.fixture
def tries() -> Iterator[Tries]:
    made = Tries(at_once=2)
    yield made
    made.retries.close()
    made.completions.close()


def version(name: str) -> ModelVersion:
    return ModelVersion(name, "1", name, "", ModelSettings())


def put_off(tries: Tries, model: ModelVersion) -> float:
    pause_s = tries.retries.put_off(model, f"source of {model.name}")
    assert pause_s is not None
    return pause_s


def test_a_model_is_tried_again_once_its_pause_is_over(tries: Tries) -> None:
    model = version("a")
    began = time.monotonic()

    pause_s = put_off(tries, model)
    assert tries.wait_begun(1) == ["a"]

    assert time.monotonic() - began >= pause_s
    assert model.next_try_at - began == pytest.approx(pause_s, abs=0.1)


def test_pauses_grow_with_each_try_that_fails(tries: Tries) -> None:
    model = version("a")
    found = [put_off(tries, model) for _ in range(6)]

    assert all(2.0 ** (at - 1) <= pause_s <= 2.0**at for at, pause_s in enumerate(found))


def test_no_more_are_tried_at_once_than_may_be(tries: Tries) -> None:
    for name in "abcd":
        put_off(tries, version(name))

    assert len(tries.wait_begun(2)) == 2
    assert tries.retries.wake_at == float("inf"), "nothing is due while as many are under way"
    tries.begun[0][1].set_result(None)
    assert len(tries.wait_begun(3)) == 3


def test_what_is_forgotten_is_not_tried(tries: Tries) -> None:
    models = [version(name) for name in "ab"]
    for model in models:
        put_off(tries, model)
    tries.retries.forget(models[0])

    assert tries.wait_begun(1) == ["b"]
    assert tries.retries.wake_at == float("inf")


def test_one_that_was_fetched_has_the_others_tried_soon(tries: Tries) -> None:
    first, far = version("a"), version("b")
    for _ in range(8):
        put_off(tries, far)
    assert far.next_try_at > time.monotonic() + 60
    tries.retries.note_fetched(first)
    assert far.next_try_at > time.monotonic() + 60, "it never waited"
    put_off(tries, first)

    tries.wait_begun(1)
    tries.retries.note_fetched(first)

    assert far.next_try_at <= time.monotonic() + 1.0
    assert tries.wait_begun(2) == ["a", "b"]


def test_once_closed_nothing_is_tried(tries: Tries) -> None:
    put_off(tries, version("a"))

    tries.retries.close()

    assert tries.retries.wake_at == float("inf")
    assert tries.retries.put_off(version("b"), "b") is None


# In a daemon, with real workers.


class Away(Shelf):
    """A librarian whose registry fails as a test says; a fetch may be held."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.failures: Iterator[HeadraceError | None] = itertools.repeat(None)
        self.fetches = 0
        self.gate = threading.Event()
        self.gate.set()
        self.changed = threading.Condition()

    def fetch(self, source: str, progress: object = None) -> Fetched:
        with self.changed:
            self.fetches += 1
            failure = next(self.failures, None)
            self.changed.notify_all()
        assert self.gate.wait(PATIENCE_S)
        if failure is not None:
            raise failure
        return super().fetch(source, progress)

    def wait_fetches(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.fetches >= count, PATIENCE_S)


@pytest.fixture
def houses(tmp_path: Path) -> Iterator[Callable[..., House]]:
    built: list[House] = []

    def build(**how: Any) -> House:
        house = House(tmp_path, **how)
        house.shelf = Away(tmp_path)
        house.repository._librarian = cast("Any", house.shelf)
        built.append(house)
        return house

    yield build
    for house in built:
        house.shelf.gate.set()  # type: ignore[attr-defined]
        house.close()


@pytest.fixture
def house(houses: Callable[..., House]) -> House:
    return houses()


def shelf_of(house: House) -> Away:
    return cast("Away", house.shelf)


def start(house: House, *names: str) -> list[ModelVersion]:
    """Begin as a daemon does, with these models, and wait until each has been tried once."""
    resolved = {name: house.shelf.resolve(name) for name in names}
    wanted = [Wanted(name, name, Resolved(name, r.version, r.source, "")) for name, r in
              resolved.items()]  # fmt: skip
    models = [cast("ModelVersion", house.repository.announce(one)) for one in wanted]
    house.repository.demand(names)
    loads = [
        house.repository.begin(model, one.resolved.source)
        for model, one in zip(models, wanted, strict=True)
    ]
    for load in loads:
        load.result(PATIENCE_S)
    return models


def wait_for(house: House, condition: Callable[[], bool]) -> None:
    with house.changed:
        assert house.changed.wait_for(condition, PATIENCE_S)


@pytest.mark.slow
def test_a_start_up_model_whose_registry_was_away_arrives_by_itself(house: House) -> None:
    house.shelf.put("a", "1", adder(1.0))
    shelf_of(house).failures = iter([AWAY, AWAY])

    (model,) = start(house, "a")

    assert model.state is State.WAITING
    assert model.shown_state == "UNAVAILABLE"
    assert model.trouble.startswith(f"{AWAY.message}; it is tried again in ")
    with pytest.raises(ModelLoading, match="could not be fetched yet: the registry at http"):
        house.submit("a", 1.0, 2.0)
    wait_for(house, lambda: model.is_ready)
    assert shelf_of(house).fetches == 3
    assert model.trouble == ""
    assert house.ask("a", 1.0, 2.0) == (2.0, 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("failure", [LoadFailed("it is no model"), RegistryDenied("HTTP 401")])
def test_what_never_passes_is_not_tried_again(house: House, failure: HeadraceError) -> None:
    house.shelf.put("a", "1", adder(1.0))
    house.shelf.put("b", "1", adder(1.0))
    shelf_of(house).failures = iter([failure, AWAY])

    failed, _ = start(house, "a")[0], start(house, "b")
    wait_for(house, lambda: house.repository.find("b").is_ready)

    assert shelf_of(house).fetches == 3
    assert failed.state is State.FAILED
    assert failed.trouble == failure.message
    with pytest.raises(ModelUnavailable, match="failed to load"):
        house.submit("a", 1.0, 2.0)


@pytest.mark.slow
def test_a_model_that_comes_and_cannot_be_loaded_is_not_fetched_again(house: House) -> None:
    house.shelf.put("a", "1", b"no pickle")
    shelf_of(house).failures = iter([AWAY])

    (model,) = start(house, "a")
    wait_for(house, lambda: model.state is State.FAILED)

    assert shelf_of(house).fetches == 2
    assert "tried again" not in model.trouble
    assert house.repository._retries._waiting == {}


@pytest.mark.slow
def test_readiness_waits_for_no_model_that_waits_unless_it_is_strict(
    houses: Callable[..., House],
) -> None:
    house = houses()
    for name in "ab":
        house.shelf.put(name, "1", adder(1.0))
    shelf_of(house).failures = iter([None])
    start(house, "a")
    shelf_of(house).failures = itertools.repeat(AWAY)
    (waiting,) = start(house, "b")
    house.repository.demand(("a", "b"))

    def is_ready(*, is_strict: bool) -> bool:
        house.repository._is_strict = is_strict
        return house.repository.is_ready

    assert waiting.shown_state == "UNAVAILABLE"
    assert is_ready(is_strict=False)
    assert not is_ready(is_strict=True)
    # While it is tried again the daemon does not call itself unready.
    shelf_of(house).gate.clear()
    wait_for(house, lambda: waiting.shown_state == "LOADING")
    assert is_ready(is_strict=False)
    shelf_of(house).failures = itertools.repeat(None)
    shelf_of(house).gate.set()
    wait_for(house, lambda: is_ready(is_strict=True))


@pytest.mark.slow
def test_a_load_in_between_counts(house: House) -> None:
    house.shelf.put("a", "1", adder(1.0))
    house.shelf.put("other", "2", adder(2.0))
    shelf_of(house).failures = iter([AWAY])
    (model,) = start(house, "a")

    house.load("a", "other")

    assert house.repository.find("a").version == "2"
    assert house.repository._retries._waiting == {}
    assert model.state is State.WAITING, "it is in no table any more"
    assert house.ask("a", 1.0, 2.0) == (3.0, 4.0)


@pytest.mark.slow
def test_a_load_that_waits_behind_a_try_counts(house: House) -> None:
    house.shelf.put("a", "1", adder(1.0))
    house.shelf.put("other", "2", adder(2.0))
    shelf_of(house).failures = iter([AWAY, AWAY])
    (model,) = start(house, "a")
    shelf_of(house).gate.clear()
    wait_for(house, lambda: model.state is State.LOADING)

    loading = house.repository.begin_load("a", "other")
    shelf_of(house).gate.set()
    loading.result(PATIENCE_S)

    assert house.ask("a", 1.0, 2.0) == (3.0, 4.0)
    assert house.repository._retries._waiting == {}


@pytest.mark.slow
def test_an_unload_in_between_counts(house: House) -> None:
    house.shelf.put("a", "1", adder(1.0))
    shelf_of(house).failures = iter([AWAY])
    (model,) = start(house, "a")

    house.unload("a")

    assert model.state is State.UNLOADED
    assert house.repository._retries._waiting == {}
    house.load("a")
    assert shelf_of(house).fetches == 2


@pytest.mark.slow
def test_a_load_that_fails_for_the_same_cause_goes_on_being_tried(house: House) -> None:
    house.shelf.put("a", "1", adder(1.0))
    shelf_of(house).failures = iter([AWAY])

    with pytest.raises(RegistryUnavailable):
        house.load("a", "a")

    wait_for(house, lambda: house.repository.find("a").is_ready)


@pytest.mark.slow
def test_a_load_beside_what_is_served_fails_once_and_for_all(house: House) -> None:
    """Whoever asked was told so: nothing may change under the name at some later time."""
    house.shelf.put("a", "1", adder(1.0))
    house.load("a", "a")
    house.shelf.put("a", "2", adder(2.0))
    # The first fetch only looks whether the version is another.
    shelf_of(house).failures = iter([AWAY])

    with pytest.raises(RegistryUnavailable):
        house.load("a")

    served, failed = house.repository.models
    assert (served.state, failed.state) == (State.READY, State.FAILED)
    assert house.repository._retries._waiting == {}


@pytest.mark.slow
def test_the_end_of_the_server_waits_for_no_try(house: House) -> None:
    house.shelf.put("a", "1", adder(1.0))
    house.shelf.put("b", "1", adder(1.0))
    shelf_of(house).failures = itertools.repeat(AWAY)
    first, _ = start(house, "a", "b")
    shelf_of(house).gate.clear()
    wait_for(house, lambda: first.state is State.LOADING)
    fetches = shelf_of(house).fetches

    began = time.monotonic()
    house.repository.close(30.0)

    assert time.monotonic() - began < 1.0
    shelf_of(house).gate.set()
    wait_for(house, lambda: first.state is State.FAILED)
    assert shelf_of(house).fetches <= fetches + 1
    assert house.repository._retries._waiting == {}


@pytest.mark.slow
def test_many_that_wait_leave_room_for_a_load_that_is_asked_for(house: House) -> None:
    names = [f"m{number}" for number in range(19)]
    for name in (*names, "urgent"):
        house.shelf.put(name, "1", adder(1.0))
    shelf_of(house).failures = itertools.repeat(AWAY)
    start(house, *names)
    before = shelf_of(house).fetches
    shelf_of(house).gate.clear()
    shelf_of(house).wait_fetches(before + 3)
    threads = [thread for thread in threading.enumerate() if thread.name == "loader"]

    loading = house.repository.begin_load("urgent", "urgent")
    shelf_of(house).wait_fetches(before + 4)

    assert len(threads) == 3
    shelf_of(house).failures = itertools.repeat(None)
    shelf_of(house).gate.set()
    with pytest.raises(RegistryUnavailable):
        loading.result(PATIENCE_S)
    wait_for(house, lambda: all(model.is_ready for model in house.repository.served))

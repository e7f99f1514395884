"""Trial: a model that does harm while it loads harms itself alone."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from headrace_server.errors import LoadFailed
from headrace_server.repository.model import State
from house import House

pytestmark = pytest.mark.slow

MIB = 1 << 20


def adder(number: float, held_bytes: int = 0) -> object:
    """A model that adds; defined in a function, so that its pickle holds the class."""

    class Adder:
        def __init__(self) -> None:
            self.held = np.ones(held_bytes, np.uint8)

        def predict(self, x: npt.NDArray[np.float64]) -> Any:
            return x + number

    return Adder()


class Does:
    """A model whose pickle calls a function when it is opened."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def worker_processes() -> list[psutil.Process]:
    """The workers of this process; other tests may have left it other children."""
    children = psutil.Process().children()
    return [child for child in children if "headrace_server.worker" in child.cmdline()]


@pytest.fixture
def houses(tmp_path: Path) -> Iterator[Callable[..., House]]:
    built: list[House] = []

    def build(**how: Any) -> House:
        built.append(House(tmp_path, **{"trial": True, **how}))
        return built[-1]

    yield build
    for house in built:
        house.close()


@pytest.mark.parametrize(
    ("harm", "settings", "why"),
    [
        (Does(eval, "1 / 0"), {}, "ZeroDivisionError: division by zero"),
        (Does(os._exit, 3), {}, "the worker process ended while it loaded"),
        (Does(os.abort), {}, "the worker process ended while it loaded"),
        (
            Does(eval, "[b'1' * 2**20 for _ in range(4000)]"),
            {"load_bytes_max": 400 * MIB},
            "more memory to load than",
        ),
        (Does(eval, "__import__('threading').Event().wait()"), {"load_s_max": 3.0}, "load_s_max"),
    ],
    ids=["raises", "exits", "aborts", "swallows memory", "hangs"],
)
def test_a_model_that_does_harm_at_load_is_told_and_the_others_notice_nothing(
    houses: Callable[..., House], harm: object, settings: dict[str, Any], why: str
) -> None:
    house = houses(**settings)
    house.shelf.put("kind", "1", adder(1.0))
    house.shelf.put("harm", "1", harm)
    house.load("kind", "kind")
    process = house.process()

    with pytest.raises(LoadFailed, match=why):
        house.load("harm", "harm")

    assert why in house.repository.find("harm").reason
    assert house.ask("kind", 1.0, 2.0) == (2.0, 3.0)
    assert house.process() == process
    assert process.is_running()


def test_the_process_that_a_model_was_tried_in_stays_where_there_is_room(
    houses: Callable[..., House],
) -> None:
    house = houses()
    house.shelf.put("first", "1", adder(1.0, held_bytes=8 * MIB))

    house.load("first", "first")

    (worker,) = house.pool.workers
    assert worker.instance_count == 1
    assert len(worker_processes()) == 1
    assert house.repository.find("first").memory_bytes > 8 * MIB


def test_where_there_is_no_room_the_model_joins_the_others_and_its_trial_ends(
    houses: Callable[..., House],
) -> None:
    house = houses()
    house.shelf.put("first", "1", adder(1.0))
    house.shelf.put("second", "1", adder(2.0))
    house.load("first", "first")
    process = house.process()

    house.load("second", "second")

    assert house.process() == process
    assert worker_processes() == [process]
    assert house.ask("first", 1.0, 1.0) == (2.0, 2.0)
    assert house.ask("second", 1.0, 1.0) == (3.0, 3.0)


def test_several_models_are_tried_in_one_process_after_another(
    houses: Callable[..., House], tmp_path: Path
) -> None:
    house = houses()
    house.shelf.put("first", "1", adder(1.0))
    for name in "abcdef":
        house.shelf.put(name, "1", noting(tmp_path / "pids"))
    house.load("first", "first")

    loads = [house.repository.begin_load(name, name) for name in "abcdef"]
    for load in loads:
        load.result(60)

    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 12
    # At most two are tried at once on two cores, four on more.
    assert 2 <= len(set(pids)) <= 5
    assert worker_processes() == [house.process()]


def test_a_model_that_was_tried_before_is_loaded_at_once_also_by_the_next_daemon(
    houses: Callable[..., House], tmp_path: Path
) -> None:
    house = houses()
    house.shelf.put("first", "1", adder(1.0))
    house.shelf.put("second", "1", noting(tmp_path / "pids"))
    house.load("first", "first")
    house.load("second", "second")
    house.unload("second")
    house.load("second", "second")
    assert len((tmp_path / "pids").read_text().split()) == 3

    again = houses()
    again.shelf = house.shelf
    again.repository._librarian = house.repository._librarian
    again.load("first", "first")
    again.load("second", "second")

    assert len((tmp_path / "pids").read_text().split()) == 4


def test_a_model_that_is_data_is_not_tried(
    houses: Callable[..., House], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = houses()
    house.shelf.put("first", "1", adder(1.0))
    house.shelf.put("second", "1", noting(tmp_path / "pids"))
    fetch = house.shelf.fetch
    monkeypatch.setattr(
        house.shelf, "fetch", lambda source, _=None: replace(fetch(source), is_data=True)
    )
    house.load("first", "first")

    house.load("second", "second")

    assert len((tmp_path / "pids").read_text().split()) == 1


def test_a_model_that_failed_is_tried_again(houses: Callable[..., House], tmp_path: Path) -> None:
    house = houses()
    house.shelf.put("kind", "1", adder(1.0))
    house.load("kind", "kind")
    house.shelf.put("harm", "1", Does(os._exit, 3))
    process = house.process()

    for _ in range(2):
        with pytest.raises(LoadFailed, match="ended while it loaded"):
            house.load("harm", "harm")

    assert house.process() == process


def noting(file: Path) -> object:
    """A model whose pickle notes in which process it is opened."""
    code = (
        f"open({str(file)!r}, 'a').write(str(__import__('os').getpid()) + '\\n') and "
        "type('Zero', (), {'predict': lambda self, x: x})()"
    )
    return Does(eval, code)


def test_a_worker_that_has_become_empty_makes_room(houses: Callable[..., House]) -> None:
    house = houses()
    house.shelf.put("first", "1", adder(1.0))
    house.shelf.put("second", "1", adder(2.0))
    house.load("first", "first")
    house.unload("first")

    house.load("second", "second")

    assert worker_processes() == [house.process()]
    assert house.ask("second", 1.0, 1.0) == (3.0, 3.0)


def test_a_worker_whose_process_was_a_trial_is_replaced_as_any_other(
    houses: Callable[..., House],
) -> None:
    house = houses()
    house.shelf.put("first", "1", adder(1.0))
    house.load("first", "first")
    process = house.process()

    process.kill()
    process.wait(60)

    assert house.ask("first", 1.0, 1.0) == (2.0, 2.0)


def test_a_load_that_hangs_in_a_shared_worker_costs_those_who_wait_behind_it_nothing(
    houses: Callable[..., House],
) -> None:
    house = houses(trial=False, load_s_max=3.0)
    house.shelf.put("kind", "1", adder(1.0))
    house.shelf.put("harm", "1", Does(eval, "__import__('threading').Event().wait()"))
    house.load("kind", "kind")
    harm = house.repository.begin_load("harm", "harm")
    house.shelf.put("behind", "1", adder(3.0))
    behind = house.repository.begin_load("behind", "behind")

    with pytest.raises(LoadFailed, match="load_s_max = 3"):
        harm.result(60)
    behind.result(60)

    assert house.ask("kind", 1.0, 2.0) == (2.0, 3.0)
    assert house.ask("behind", 1.0, 2.0) == (4.0, 5.0)


def test_a_model_that_hangs_when_it_is_loaded_again_is_told(
    houses: Callable[..., House], tmp_path: Path
) -> None:
    house = houses(trial=False, load_s_max=3.0)
    marker = tmp_path / "hang"
    house.shelf.put("kind", "1", adder(1.0))
    house.shelf.put("moody", "1", hanging_where(marker))
    house.load("kind", "kind")
    house.load("moody", "moody")
    moody = house.repository.find("moody")
    marker.touch()

    house.process().kill()

    with house.changed:
        assert house.changed.wait_for(lambda: moody.state is State.FAILED, 60)
    assert "load_s_max = 3" in moody.reason
    assert house.ask("kind", 1.0, 2.0) == (2.0, 3.0)


def hanging_where(marker: Path) -> object:
    """A model whose pickle hangs once there is a file of that name; else it adds nothing."""
    code = (
        f"__import__('threading').Event().wait() if __import__('os').path.exists({str(marker)!r}) "
        "else type('Zero', (), {'predict': lambda self, x: x})()"
    )
    return Does(eval, code)

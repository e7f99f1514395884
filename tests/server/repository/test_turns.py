"""Turns: one after another for one name, side by side for different ones."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from headrace_server.errors import Draining, InternalError, LoadFailed
from headrace_server.repository.turns import Turn, Turns

PATIENCE_S = 30.0
AT_ONCE = 2


class Work:
    """Pieces of work that end when a test says so."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.begun: list[str] = []
        self._changed = threading.Condition()
        self._gates: dict[str, threading.Event] = {}

    def take(self, name: str, label: str) -> Future[None]:
        gate = self._gates[label] = threading.Event()

        def work(_turn: Turn) -> None:
            with self._changed:
                self.begun.append(label)
                self._changed.notify_all()
            assert gate.wait(PATIENCE_S)

        return self.turns.take(name, work)

    def wait_begun(self, *labels: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: set(labels) <= set(self.begun), PATIENCE_S)

    def end(self, label: str) -> None:
        self._gates[label].set()

    def end_all(self) -> None:
        for gate in self._gates.values():
            gate.set()


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work(Turns(AT_ONCE))
    yield made
    made.end_all()


def test_work_for_one_name_comes_in_its_order_and_never_at_the_same_time(work: Work) -> None:
    futures = [work.take("iris", label) for label in "abc"]

    for done, label in enumerate("abc"):
        work.wait_begun(label)
        assert work.begun == list("abc"[: done + 1])
        work.end(label)
        assert futures[done].result(PATIENCE_S) is None


def test_a_name_that_takes_long_holds_up_no_other(work: Work) -> None:
    for label in "abc":
        work.take("slow", label)
    quick = work.take("quick", "q")

    work.wait_begun("a", "q")
    work.end("q")
    quick.result(PATIENCE_S)

    again = work.take("quick", "r")
    work.wait_begun("r")
    work.end("r")
    again.result(PATIENCE_S)
    assert work.begun == ["a", "q", "r"]


def test_no_more_names_than_allowed_are_worked_on_at_once(work: Work) -> None:
    futures = {name: work.take(name, name) for name in "abc"}
    work.wait_begun("a", "b")
    assert "c" not in work.begun

    work.end("b")
    work.wait_begun("c")
    work.end_all()

    for future in futures.values():
        future.result(PATIENCE_S)


def test_work_may_answer_before_it_ends_and_still_keeps_its_name() -> None:
    turns = Turns(AT_ONCE)
    gate, order = threading.Event(), list[str]()

    def first(turn: Turn) -> None:
        turn.answer()
        assert gate.wait(PATIENCE_S)
        order.append("first")

    answered = turns.take("iris", first)
    second = turns.take("iris", lambda _: order.append("second"))
    answered.result(PATIENCE_S)
    assert not second.done()
    gate.set()

    second.result(PATIENCE_S)
    assert order == ["first", "second"]


def _fail(_turn: Turn) -> None:
    raise LoadFailed("there is no model")


def _bug(_turn: Turn) -> None:
    raise KeyError("ours")


def _late_bug(turn: Turn) -> None:
    turn.answer()
    raise KeyError("ours")


@pytest.mark.parametrize(
    ("what", "error"), [(_fail, LoadFailed), (_bug, InternalError), (_late_bug, None)]
)
def test_what_work_raises_is_told_to_whoever_waits_and_the_next_is_done(
    what: Callable[[Turn], None], error: type[Exception] | None
) -> None:
    turns = Turns(AT_ONCE)

    failed, following = turns.take("iris", what), turns.take("iris", lambda _: None)

    assert following.result(PATIENCE_S) is None
    found = failed.exception(PATIENCE_S)
    assert (found is None) if error is None else isinstance(found, error)
    assert "ours" not in str(found)


def test_whoever_waits_cannot_call_work_off(work: Work) -> None:
    future = work.take("iris", "a")

    assert not future.cancel()

    work.end("a")
    future.result(PATIENCE_S)


def test_once_closed_nothing_begins_and_everyone_is_told(work: Work) -> None:
    running, waiting = work.take("iris", "a"), work.take("iris", "b")
    work.wait_begun("a")

    work.turns.close()

    late = work.take("other", "c")
    for future in (running, waiting, late):
        with pytest.raises(Draining):
            future.result(PATIENCE_S)
    work.end_all()
    assert set(work.begun) == {"a"}

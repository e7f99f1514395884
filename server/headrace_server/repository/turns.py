"""Turns: slow work on models, one after another for one name, side by side for different ones.

A thread lives as long as there is work for it, so that nothing needs to be ended.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import structlog

from ..errors import SERVER_ENDS, Draining, HeadraceError
from ..faults import fault

_log = structlog.get_logger("headrace")


@dataclass(slots=True, eq=False)
class Turn:
    """One piece of work, and whoever waits for it.

    Attributes:
        name: The model's.
        work: What is done; it may answer before it ends.
        answered: Done when it has ended or answered; raises what it raised until then.
    """

    name: str
    work: Callable[["Turn"], None]
    answered: Future[None] = field(default_factory=Future)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, error: BaseException | None = None) -> bool:
        """Tell whoever waits that it is done, or why not; whether this was the first answer."""
        with self._lock:
            if self.answered.done():
                return False
            if error is None:
                self.answered.set_result(None)
            else:
                self.answered.set_exception(error)
            return True


class Turns:
    """Work in its order. Safe from any thread; nothing here waits."""

    def __init__(self, at_once: int) -> None:
        """Work on at most *at_once* names side by side."""
        self._at_once = at_once
        self._lock = threading.Lock()
        # Names that are worked on or about to be, and what else is to be done for them.
        self._lines: dict[str, deque[Turn]] = {}
        # The next piece of work of names that are not worked on.
        self._due: deque[Turn] = deque()
        self._running: set[Turn] = set()
        self._threads = 0
        self._is_closed = False

    def take(self, name: str, work: Callable[[Turn], None]) -> Future[None]:
        """Do *work* once it is the turn of *name*; the future is done when it ended or answered.

        What it raises after it has answered is logged.
        """
        turn = Turn(name, work)
        # Whoever waits may give up waiting, but cannot call the work off.
        turn.answered.set_running_or_notify_cancel()
        with self._lock:
            is_refused = self._is_closed
            if is_refused:
                pass
            elif name in self._lines:
                self._lines[name].append(turn)
            else:
                self._lines[name] = deque()
                self._due.append(turn)
                if self._threads < self._at_once:
                    self._threads += 1
                    threading.Thread(target=self._run, name="loader", daemon=True).start()
        if is_refused:
            turn.answer(_ending())
        return turn.answered

    def close(self) -> None:
        """Begin nothing any more; whoever waits is told that the server ends."""
        with self._lock:
            self._is_closed = True
            waiting = [
                *self._running,
                *self._due,
                *(t for line in self._lines.values() for t in line),
            ]
            self._due.clear()
            self._lines.clear()
        for turn in waiting:
            turn.answer(_ending())

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._due:
                    self._threads -= 1
                    return
                turn = self._due.popleft()
                self._running.add(turn)
            _do(turn)
            with self._lock:
                self._running.remove(turn)
                line = self._lines.get(turn.name)
                if line:
                    self._due.append(line.popleft())
                else:
                    self._lines.pop(turn.name, None)


def _do(turn: Turn) -> None:
    error: BaseException | None = None
    try:
        turn.work(turn)
    except HeadraceError as raised:
        error = raised
    except Exception:  # noqa: BLE001 - whoever waits is told, and the thread has more to do.
        error = fault("load_failed", model=turn.name)
    if not turn.answer(error) and error is not None:
        _log.error("load_failed", model=turn.name, why=str(error))


def _ending() -> Draining:
    return Draining(SERVER_ENDS)

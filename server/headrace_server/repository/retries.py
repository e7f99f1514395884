"""Retries: models whose registry did not answer are tried again, after growing pauses.

Nothing here waits: the completions thread tells that an instant has come, and what is tried is
work for the loader threads (turns.py).
"""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from ..completions import Completions
from .model import ModelVersion
from .pauses import pause_after


@dataclass(slots=True)
class _Waiting:
    """What is known of a model that waits.

    Attributes:
        source: Where its files are.
        tries: How many have failed in a row.
        at: When the next one is due (seconds, monotonic clock); infinity while it is under way.
    """

    source: str
    tries: int = 0
    at: float = math.inf


class Retries:
    """Models that wait for their next try. Safe from any thread; see `completions.Timed`."""

    def __init__(
        self,
        completions: Completions,
        begin: Callable[[ModelVersion, str], Future[None]],
        *,
        at_once: int,
    ) -> None:
        """Nothing waits yet.

        Args:
            completions: Tells when an instant has come.
            begin: Has a model tried again; the future is done when that has ended.
            at_once: How many are tried at the same time.
        """
        self._completions = completions
        self._begin = begin
        self._at_once = at_once
        self._lock = threading.Lock()
        self._waiting: dict[ModelVersion, _Waiting] = {}
        self._under_way = 0
        self._is_closed = False
        completions.follow(self)

    @property
    def wake_at(self) -> float:
        """When the next try is due; infinity while none is, or as many are under way as may be."""
        with self._lock:
            if self._is_closed or self._under_way >= self._at_once:
                return math.inf
            return min((one.at for one in self._waiting.values()), default=math.inf)

    def put_off(self, model: ModelVersion, source: str) -> float | None:
        """A try of *model* has failed: plan the next one; in how many seconds it is due.

        None where nothing is tried any more.
        """
        with self._lock:
            if self._is_closed:
                return None
            one = self._waiting.setdefault(model, _Waiting(source))
            one.tries += 1
            pause_s = pause_after(one.tries)
            one.at = model.next_try_at = time.monotonic() + pause_s
        self._completions.expect(self, model.next_try_at)
        return pause_s

    def forget(self, model: ModelVersion) -> None:
        """Try *model* no more."""
        with self._lock:
            self._waiting.pop(model, None)

    def note_fetched(self, model: ModelVersion) -> None:
        """*model* was fetched: where it had waited, the registry is back for the others too."""
        with self._lock:
            if model not in self._waiting:
                return
            soon = time.monotonic() + pause_after(1)
            for other, one in self._waiting.items():
                if soon < one.at < math.inf:
                    one.at = other.next_try_at = soon
        self._completions.expect(self, self.wake_at)

    def close(self) -> None:
        """Try nothing any more."""
        with self._lock:
            self._is_closed = True
            self._waiting.clear()
        self._completions.unfollow(self)

    def on_time(self, now: float) -> None:
        """Begin the tries that are due, the longest due first; see `completions.Timed`."""
        with self._lock:
            due = sorted(
                (one.at, id(model), model, one.source)
                for model, one in self._waiting.items()
                if one.at <= now
            )
            begun = due[: self._at_once - self._under_way]
            for _, _, model, _ in begun:
                self._waiting[model].at = math.inf
            self._under_way += len(begun)
        for _, _, model, source in begun:
            self._begin(model, source).add_done_callback(self._on_end)

    def _on_end(self, _ended: "Future[None]") -> None:
        with self._lock:
            self._under_way -= 1
        self._completions.expect(self, self.wake_at)

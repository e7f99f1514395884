"""Completions: the thread that waits on all sockets of our processes and on the next instant.

Callbacks run on that thread, one after another; they wait for nothing but locks that are held for a
few lines. What they raise is logged and never stops the thread.
"""

import math
import os
import select
import threading
import time
from collections.abc import Callable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Protocol

import structlog

# epoll counts in whole milliseconds; below this many seconds the finer select is used.
_FINE_S = 0.005
# What no longer counts is swept from the heap when it is most of it.
_SWEEP_MIN = 64
# No sleep is longer: epoll's milliseconds are an int, and a caller may name any deadline.
_SLEEP_S_MAX = 3600.0

_log = structlog.get_logger("headrace")


class Timed(Protocol):
    """Something that wants to be told when an instant has come."""

    @property
    def wake_at(self) -> float:
        """The next instant (seconds, monotonic clock); infinity for none."""

    def on_time(self, now: float) -> None:
        """Called once `wake_at` is not later than *now*."""


class Completions:
    """One waiting thread. `watch`, `follow` and `wake` are safe from any thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._event, select.EPOLLIN)
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._writable: dict[int, Callable[[], None]] = {}
        # Guards what follows; held for a few lines.
        self._lock = threading.Lock()
        self._followers: set[Timed] = set()
        # Per follower the instant at which it is looked at; and these in their order, beside some
        # that an earlier one has taken the place of.
        self._planned: dict[Timed, float] = {}
        self._instants: list[tuple[float, int, Timed]] = []
        self._sequence = count()
        self._sleeps_until = math.inf
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="completions", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call *callback* whenever *fd* can be read, or its peer is gone."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def watch_writable(self, fd: int, callback: Callable[[], None]) -> None:
        """Call *callback* too whenever *fd*, which is watched, can be written."""
        self._writable[fd] = callback
        self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)

    def unwatch_writable(self, fd: int) -> None:
        """Stop that."""
        if self._writable.pop(fd, None) is not None:
            self._epoll.modify(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Stop watching; before *fd* is closed."""
        self._writable.pop(fd, None)
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def follow(self, timed: Timed) -> None:
        """Tell *timed* whenever its instant has come; it calls `expect` of every one."""
        with self._lock:
            self._followers.add(timed)
        self.expect(timed, timed.wake_at)

    def unfollow(self, timed: Timed) -> None:
        """Stop telling it."""
        with self._lock:
            self._followers.discard(timed)
            self._planned.pop(timed, None)
            # Far instants must not keep what is gone.
            self._instants = [entry for entry in self._instants if entry[2] is not timed]
            heapify(self._instants)

    def expect(self, timed: Timed, at: float) -> None:
        """Make sure that *timed*, if it follows, is looked at when *at* has come."""
        # Usually an earlier look is planned, after which the next one is by `wake_at`.
        if at >= self._planned.get(timed, math.inf):
            return
        with self._lock:
            if timed not in self._followers or at >= self._planned.get(timed, math.inf):
                return
            self._planned[timed] = at
            heappush(self._instants, (at, next(self._sequence), timed))
            if len(self._instants) > max(_SWEEP_MIN, 2 * len(self._planned)):
                self._instants = [
                    (when, next(self._sequence), one) for one, when in self._planned.items()
                ]
                heapify(self._instants)
        if at < self._sleeps_until:
            self.wake()

    def wake(self) -> None:
        """Have the thread look at all instants anew."""
        os.eventfd_write(self._event, 1)

    def close(self) -> None:
        """End the thread and wait for it."""
        self._is_closing = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join()
        self._epoll.close()
        os.close(self._event)

    def _run(self) -> None:
        while not self._is_closing:
            _guarded(self._turn)

    def _turn(self) -> None:
        """Wait once, and serve what the wait was for."""
        # Until the instants have been looked at, every new one wakes us: none can slip between.
        self._sleeps_until = math.inf
        until = self._next_at()
        self._sleeps_until = until
        for fd, events in self._wait(until):
            if fd == self._event:
                os.eventfd_read(self._event)
                continue
            if events & select.EPOLLOUT and (flush := self._writable.get(fd)) is not None:
                _guarded(flush)
            if events & ~select.EPOLLOUT and (callback := self._callbacks.get(fd)) is not None:
                _guarded(callback)
        # Awake: whoever notes an earlier instant need not wake us.
        self._sleeps_until = -math.inf
        now = time.monotonic()
        for timed in self._due(now):
            if timed.wake_at <= now:
                _guarded(partial(timed.on_time, now))
            self.expect(timed, timed.wake_at)

    def _next_at(self) -> float:
        """When the next follower is to be looked at; infinity for never."""
        with self._lock:
            instants = self._instants
            while instants and self._planned.get(instants[0][2]) != instants[0][0]:
                heappop(instants)
            return instants[0][0] if instants else math.inf

    def _due(self, now: float) -> list[Timed]:
        """The followers to be looked at now; no look at them is planned any more."""
        due: list[Timed] = []
        with self._lock:
            instants = self._instants
            while instants and instants[0][0] <= now:
                at, _, timed = heappop(instants)
                if self._planned.get(timed) == at:
                    del self._planned[timed]
                    due.append(timed)
        return due

    def _wait(self, until: float) -> list[tuple[int, int]]:
        if until == math.inf:
            return self._epoll.poll()
        left_s = min(max(until - time.monotonic(), 0.0), _SLEEP_S_MAX)
        if left_s < _FINE_S:
            select.select([self._epoll.fileno()], [], [], left_s)
            left_s = 0.0
        return self._epoll.poll(left_s)


def _guarded(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:  # noqa: BLE001 - this thread must outlive any single fault.
        _log.exception("completions_callback_failed")

"""Completions: the thread that waits on descriptors and on instants.

Its clock is the real one, so these tests wait for what must happen, never for what must not.
"""

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest
import structlog

from doubles import FakeClock
from headrace_server.completions import Completions, Timed

# Far beyond what any step takes; only a failure waits so long.
PATIENCE_S = 10.0


@pytest.fixture
def completions() -> Iterator[Completions]:
    made = Completions()
    made.start()
    yield made
    made.close()


class Alarm:
    """Wants to be told at instants that are set; remembers when it was told."""

    def __init__(self, at: float = math.inf) -> None:
        self.wake_at = at
        self.told_at: list[float] = []
        self.rings = threading.Semaphore(0)

    def on_time(self, now: float) -> None:
        self.wake_at = math.inf
        self.told_at.append(now)
        self.rings.release()

    def wait(self) -> None:
        assert self.rings.acquire(timeout=PATIENCE_S), "never told"


class Wire:
    """A pair of sockets whose reading end is watched."""

    def __init__(self, completions: Completions) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.heard: list[bytes] = []
        self.hears = threading.Semaphore(0)
        self._completions = completions
        completions.watch(self.ours.fileno(), self._read)

    def say(self, what: bytes) -> None:
        self.theirs.send(what)

    def wait(self) -> None:
        assert self.hears.acquire(timeout=PATIENCE_S), "never heard"

    def close(self) -> None:
        self._completions.unwatch(self.ours.fileno())
        self.ours.close()
        self.theirs.close()

    def _read(self) -> None:
        self.heard.append(self.ours.recv(100))
        self.hears.release()


# Descriptors.


def test_whoever_watches_a_descriptor_is_called_when_it_can_be_read(
    completions: Completions,
) -> None:
    wire = Wire(completions)

    for what in (b"one", b"two"):
        wire.say(what)
        wire.wait()

    assert wire.heard == [b"one", b"two"]
    wire.close()


def test_whoever_watches_a_descriptor_is_called_when_its_peer_goes(
    completions: Completions,
) -> None:
    ours, theirs = socket.socketpair()
    gone = threading.Event()

    def read() -> None:
        assert ours.recv(1) == b""
        completions.unwatch(ours.fileno())
        gone.set()

    completions.watch(ours.fileno(), read)
    theirs.close()

    assert gone.wait(PATIENCE_S)
    ours.close()


def test_what_is_no_longer_watched_calls_no_one(completions: Completions) -> None:
    silent, loud = Wire(completions), Wire(completions)
    completions.unwatch(silent.ours.fileno())

    silent.say(b"x")
    loud.say(b"y")
    loud.wait()

    assert silent.heard == []
    silent.close()
    loud.close()


def test_to_stop_watching_twice_is_fine(completions: Completions) -> None:
    wire = Wire(completions)
    completions.unwatch(wire.ours.fileno())

    wire.close()


def test_whoever_has_something_to_write_is_called_until_it_is_written(
    completions: Completions,
) -> None:
    wire = Wire(completions)
    wire.ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            wire.ours.send(bytes(1 << 16))
    written = threading.Event()

    def write() -> None:
        wire.ours.send(b"more")
        completions.unwatch_writable(wire.ours.fileno())
        written.set()

    completions.watch_writable(wire.ours.fileno(), write)
    wire.say(b"still heard")
    wire.wait()
    assert not written.is_set()
    while not wire.theirs.recv(1 << 16).endswith(b"more"):
        pass

    assert wire.heard == [b"still heard"]
    completions.unwatch_writable(wire.ours.fileno())
    wire.close()


def test_an_instant_beyond_all_years_is_waited_for_like_any_other(
    completions: Completions,
) -> None:
    """epoll counts milliseconds in an int; a caller may name any deadline."""
    with structlog.testing.capture_logs() as complaints:
        completions.follow(Alarm(time.monotonic() + 1e12))
        for _ in range(3):
            soon = Alarm(time.monotonic() + 0.001)
            completions.follow(soon)
            soon.wait()

    assert complaints == []


def test_one_callback_may_stop_another_that_is_due_with_it(completions: Completions) -> None:
    """Both sockets of one process close at once; the first that is seen cleans up after both."""
    called = threading.Semaphore(0)
    pairs = [socket.socketpair() for _ in range(2)]
    hold, held = threading.Event(), threading.Event()

    def on_end() -> None:
        for ours, _ in pairs:
            completions.unwatch(ours.fileno())
        called.release()

    def block() -> None:
        held.set()
        assert hold.wait(PATIENCE_S)
        completions.unwatch(blocker[0].fileno())

    blocker = socket.socketpair()
    completions.watch(blocker[0].fileno(), block)
    blocker[1].close()
    assert held.wait(PATIENCE_S)
    for ours, theirs in pairs:
        completions.watch(ours.fileno(), on_end)
        theirs.close()
    hold.set()
    assert called.acquire(timeout=PATIENCE_S)

    after = Wire(completions)
    after.say(b"x")
    after.wait()

    assert not called.acquire(blocking=False)
    after.close()
    for ours, _ in (*pairs, blocker):
        ours.close()


def test_a_callback_that_raises_does_not_stop_the_others(completions: Completions) -> None:
    ours, theirs = socket.socketpair()

    def fail() -> None:
        ours.recv(1)
        raise KeyError("bug")

    completions.watch(ours.fileno(), fail)
    wire, alarm = Wire(completions), Alarm()
    completions.follow(alarm)

    theirs.send(b"x")
    wire.say(b"y")
    wire.wait()
    alarm.wake_at = time.monotonic()
    completions.expect(alarm, alarm.wake_at)
    alarm.wait()

    wire.close()
    completions.unwatch(ours.fileno())
    ours.close()
    theirs.close()


def test_callbacks_run_on_the_thread_of_that_name(completions: Completions) -> None:
    names: list[str] = []

    class Namer(Alarm):
        def on_time(self, now: float) -> None:
            names.append(threading.current_thread().name)
            super().on_time(now)

    alarm = Namer(time.monotonic())
    completions.follow(alarm)
    alarm.wait()

    assert names == ["completions"]


# Instants: what Completions and FakeClock have in common.


class Teller(Protocol):
    """Who tells followers of their instants."""

    def follow(self, timed: Timed) -> None: ...
    def expect(self, timed: Timed, at: float) -> None: ...


class RealTime:
    """Completions, whose time passes by itself."""

    def __init__(self) -> None:
        self.teller = Completions()
        self.teller.start()
        self.now: Callable[[], float] = time.monotonic
        self.close = self.teller.close

    def wait_for(self, alarm: Alarm, seconds: float) -> None:
        alarm.wait()


class FakeTime:
    """FakeClock, whose time passes when it is told to."""

    def __init__(self) -> None:
        self.teller = FakeClock()
        self.now: Callable[[], float] = self.teller

    def wait_for(self, alarm: Alarm, seconds: float) -> None:
        self.teller.advance(seconds)
        assert alarm.rings.acquire(blocking=False), "never told"

    def close(self) -> None:
        pass


@pytest.fixture(params=[RealTime, FakeTime])
def times(request: pytest.FixtureRequest) -> Iterator[RealTime | FakeTime]:
    made: RealTime | FakeTime = request.param()
    yield made
    made.close()


@pytest.mark.parametrize("after_s", [0.0, 0.0005, 0.006, 0.02])
def test_a_follower_is_told_once_its_instant_has_come_and_not_before(
    times: RealTime | FakeTime, after_s: float
) -> None:
    """Below and above the milliseconds that epoll counts in."""
    at = times.now() + after_s
    alarm = Alarm(at)

    times.teller.follow(alarm)
    times.wait_for(alarm, 1.0)

    assert len(alarm.told_at) == 1
    assert alarm.told_at[0] >= at


def test_an_instant_that_is_noted_later_is_told_of_too(times: RealTime | FakeTime) -> None:
    alarm = Alarm()
    times.teller.follow(alarm)

    for _ in range(3):
        alarm.wake_at = times.now() + 0.001
        times.teller.expect(alarm, alarm.wake_at)
        times.wait_for(alarm, 1.0)

    assert len(alarm.told_at) == 3


def test_every_follower_is_told_of_its_own_instant(times: RealTime | FakeTime) -> None:
    alarms = [Alarm(times.now() + seconds) for seconds in (0.002, 0.001, 0.003)]

    for alarm in alarms:
        times.teller.follow(alarm)
    times.wait_for(alarms[2], 1.0)

    told = [alarm.told_at for alarm in alarms]
    assert [len(at) for at in told] == [1, 1, 1]
    assert told[1] <= told[0] <= told[2]


def test_an_earlier_instant_overtakes_the_one_that_is_waited_for(completions: Completions) -> None:
    far, near = Alarm(time.monotonic() + 3600.0), Alarm()
    completions.follow(far)
    completions.follow(near)

    near.wake_at = time.monotonic() + 0.001
    completions.expect(near, near.wake_at)
    near.wait()

    assert far.told_at == []


@pytest.mark.parametrize(("look", "rings"), [(1, 1), (2, 1), (3, 2)])
def test_an_instant_that_is_noted_while_it_is_looked_at_is_not_missed(
    completions: Completions, look: int, rings: int
) -> None:
    """As it begins to follow, before it is told, or once it was told."""
    rung = threading.Semaphore(0)

    class Racing:
        """At one look at it another thread notes an instant, just behind the looker's back."""

        def __init__(self) -> None:
            self.at = time.monotonic()
            self.looks = 0

        @property
        def wake_at(self) -> float:
            seen = self.at
            self.looks += 1
            if self.looks == look:
                self.at = time.monotonic() + 0.001
                completions.expect(self, self.at)
            return seen

        def on_time(self, now: float) -> None:
            if self.at <= now:
                self.at = math.inf
                rung.release()

    completions.follow(Racing())

    for _ in range(rings):
        assert rung.acquire(timeout=2.0), "slept through it"


def test_who_no_longer_follows_is_not_kept_by_a_far_instant(completions: Completions) -> None:
    alarm = Alarm(time.monotonic() + 3600.0)
    completions.follow(alarm)
    completions.unfollow(alarm)

    assert completions._instants == []


def test_a_far_instant_beside_many_near_ones_takes_no_memory(completions: Completions) -> None:
    """Each near one is looked at, and the far one planned anew behind it."""

    class Both(Alarm):
        def on_time(self, now: float) -> None:
            super().on_time(now)
            self.wake_at = far_at

    far_at = time.monotonic() + 3600.0
    alarm = Both(far_at)
    completions.follow(alarm)

    for _ in range(300):
        alarm.wake_at = time.monotonic()
        completions.expect(alarm, alarm.wake_at)
        alarm.wait()

    assert len(completions._instants) < 200


def test_who_no_longer_follows_is_told_no_more(completions: Completions) -> None:
    gone, stays = Alarm(), Alarm()
    completions.follow(gone)
    completions.follow(stays)
    completions.unfollow(gone)

    gone.wake_at = stays.wake_at = time.monotonic()
    completions.expect(gone, gone.wake_at)
    completions.expect(stays, stays.wake_at)
    stays.wait()

    assert gone.told_at == []


def test_a_follower_that_raises_does_not_stop_the_others(completions: Completions) -> None:
    class Failing(Alarm):
        def on_time(self, now: float) -> None:
            self.wake_at = math.inf
            raise KeyError("bug")

    failing, fine = Failing(time.monotonic()), Alarm(time.monotonic())
    completions.follow(failing)
    completions.follow(fine)

    fine.wait()


# The end.


@pytest.mark.parametrize("is_started", [True, False])
def test_closing_ends_the_thread_and_leaves_no_descriptor(is_started: bool) -> None:
    before = set(os.listdir("/proc/self/fd"))
    completions = Completions()
    if is_started:
        completions.start()

    completions.close()

    assert "completions" not in {thread.name for thread in threading.enumerate()}
    assert set(os.listdir("/proc/self/fd")) == before

"""Flights: who has been at work for too long, and who is suspect when a process ends."""

import math
from collections import deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace_server.instances.flights import Flights

EXEC_S_MAX = {"quick": 1.0, "slow": 10.0}


def make() -> Flights[str, str]:
    return Flights(EXEC_S_MAX.__getitem__)


def test_a_batch_that_has_run_for_as_long_as_its_model_allows_is_overdue() -> None:
    flights = make()

    assert flights.add(1, "slow", "a", 100.0)
    assert flights.wake_at == 110.0
    assert flights.add(2, "quick", "b", 100.5)
    assert flights.wake_at == 101.5

    assert flights.overdue(101.4) is None
    assert flights.overdue(101.5) == "quick"


def test_a_batch_behind_another_is_timed_from_the_end_of_that_one() -> None:
    flights = make()
    flights.add(1, "quick", "a", 100.0)
    flights.add(2, "quick", "b", 100.0)

    flights.take(1, 100.9)

    assert flights.overdue(101.8) is None
    assert flights.overdue(101.9) == "quick"


def test_an_instance_that_came_back_too_late_is_timed_anew() -> None:
    flights = make()
    flights.add(1, "quick", "a", 100.0)
    assert flights.overdue(103.0) == "quick"
    flights.add(2, "quick", "b", 103.0)

    flights.take(1, 103.5)

    assert flights.wake_at == 104.5


def test_an_idle_instance_is_never_overdue() -> None:
    flights = make()
    flights.add(1, "quick", "a", 100.0)
    assert flights.take(1, 100.1) == "a"

    assert flights.overdue(1000.0) is None
    assert flights.wake_at == math.inf


def test_a_batch_that_is_not_known_is_no_flight() -> None:
    assert make().take(7, 1.0) is None


def test_the_oldest_batch_of_each_instance_is_suspect_when_the_process_ends() -> None:
    flights = make()
    for batch, instance in enumerate(["slow", "quick", "slow", "quick"]):
        flights.add(batch, instance, f"{instance}-{batch}", 0.0)
    flights.take(1, 0.1)

    ended = flights.clear(None)

    assert ended == [("slow-0", True), ("slow-2", False), ("quick-3", True)]


def test_where_an_instance_hung_only_what_it_was_at_work_on_is_suspect() -> None:
    flights = make()
    for batch, instance in enumerate(["slow", "quick", "quick"]):
        flights.add(batch, instance, f"{instance}-{batch}", 0.0)

    ended = flights.clear("quick")

    assert ended == [("slow-0", False), ("quick-1", True), ("quick-2", False)]


class AgainstQueues(RuleBasedStateMachine):
    """The same as a queue per instance, looked at as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.flights = make()
        self.now = 0.0
        self.batch = 0
        self.queues: dict[str, deque[int]] = {name: deque() for name in EXEC_S_MAX}
        self.since: dict[str, float] = {}

    @rule(instance=st.sampled_from(sorted(EXEC_S_MAX)))
    def send(self, instance: str) -> None:
        self.batch += 1
        if not self.queues[instance]:
            self.since[instance] = self.now
        self.queues[instance].append(self.batch)
        self.flights.add(self.batch, instance, str(self.batch), self.now)

    @precondition(lambda self: any(self.queues.values()))
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        busy = sorted(name for name, queue in self.queues.items() if queue)
        instance = data.draw(st.sampled_from(busy))
        batch = self.queues[instance].popleft()
        self.since[instance] = self.now
        assert self.flights.take(batch, self.now) == str(batch)

    @rule(seconds=st.sampled_from([0.1, 0.5, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def look(self) -> None:
        late = {
            name
            for name, queue in self.queues.items()
            if queue and self.since[name] + EXEC_S_MAX[name] <= self.now
        }
        found = self.flights.overdue(self.now)
        assert (found in late) if late else (found is None)

    @rule()
    def end(self) -> None:
        oldest = {queue[0] for queue in self.queues.values() if queue}
        everything = sorted(batch for queue in self.queues.values() for batch in queue)
        assert self.flights.clear(None) == [(str(b), b in oldest) for b in everything]
        for queue in self.queues.values():
            queue.clear()

    @invariant()
    def looks_in_time(self) -> None:
        """Whoever becomes overdue later than now does so at `wake_at` at the earliest."""
        ends = [self.since[name] + EXEC_S_MAX[name] for name, queue in self.queues.items() if queue]
        assert all(self.flights.wake_at <= at for at in ends if at > self.now)


TestAgainstQueues = AgainstQueues.TestCase

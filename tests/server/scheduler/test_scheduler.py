"""Scheduler: from requests to answers, between a clock, instances and callers that are doubles."""

import itertools
import math
import threading
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from doubles import FakeClock, FakeInstances, RecordingReply, rows_of
from headrace.datatypes import BYTES, DATATYPES
from headrace_server.errors import (
    DeadlineInfeasible,
    DeadlinePassed,
    Draining,
    HeadraceError,
    InstanceLost,
    InternalError,
    ModelFailed,
    OutOfMemory,
    RequestEndsWorkers,
    ResourceExhausted,
)
from headrace_server.instrument import Instrument
from headrace_server.scheduler.batcher import Batcher, Level, Limits
from headrace_server.scheduler.isolation import EXTRA_RUNS_MIN
from headrace_server.scheduler.policy import AdaptivePolicy, DelayPolicy, GreedyPolicy, Policy
from headrace_server.scheduler.reruns import RETRY_S_MAX
from headrace_server.scheduler.rowcaps import PROBE_S_MIN
from headrace_server.scheduler.scheduler import Scheduler
from headrace_server.scheduler.servicetimes import ServiceTimes
from headrace_server.types import BatchKey, InputLayout, Instants, Request
from strategies import chained

NUMBERS = BatchKey((InputLayout("x", DATATYPES["UINT32"], (), 4),))
TEXTS = BatchKey((InputLayout("text", BYTES, (2,), 0), InputLayout("x", DATATYPES["INT8"], (), 1)))


class House:
    """A scheduler whose surroundings a test plays."""

    def __init__(
        self,
        *,
        slots: int = 1,
        policy: Policy = DelayPolicy(),  # noqa: B008 - a frozen value.
        limits: Limits = Limits(rows_max=4),  # noqa: B008 - a frozen value.
        is_deterministic: bool = True,
        are_apart: bool = True,
        times: ServiceTimes | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.reply = RecordingReply()
        self.instances = FakeInstances(slots, are_apart=are_apart)
        self.instrument = Instrument()
        self.batcher = Batcher(limits, policy, times)
        self.scheduler = Scheduler(
            self.batcher,
            self.instances,
            self.instrument,
            is_deterministic=is_deterministic,
            expect=self.clock.expect,
            clock=self.clock,
        )
        self.clock.follow(self.scheduler)
        self._rows = itertools.count()

    def request(
        self,
        rows: int = 1,
        *,
        key: BatchKey = NUMBERS,
        patience_s: float = math.inf,
        priority: int = 1,
    ) -> Request:
        """A request whose every row is like no other."""
        numbers = [next(self._rows) for _ in range(rows)]
        if key is TEXTS:
            texts = [text for n in numbers for text in (b"%d" % n, b"x" * (n % 5))]
            tensors = [chained(texts), bytes(n % 256 for n in numbers)]
        else:
            tensors = [b"".join(n.to_bytes(4, "little") for n in numbers)]
        now = self.clock.now
        nbytes = sum(map(len, tensors))
        deadline_at = now + patience_s
        return Request(
            key, rows, tensors, self.reply, None, nbytes, b"", now, deadline_at, priority
        )

    def submit(self, *requests: Request) -> None:
        self.scheduler.submit(requests)

    def submitted(self, rows: int = 1, *, patience_s: float = math.inf) -> Request:
        one = self.request(rows, patience_s=patience_s)
        self.submit(one)
        return one

    def running(self) -> list[list[Request]]:
        """The requests of each batch in flight."""
        return [[part.request for part in run.batch.parts] for run in self.instances.running]

    def lose_worker(self) -> None:
        self.instances.lose(self.scheduler.on_instances_change)

    def bring_worker_back(self) -> None:
        self.scheduler.on_instances_change(self.instances.mark_up)

    def assert_answered(self, *requests: Request) -> None:
        for one in requests:
            assert self.reply.end_of(one) == {
                layout.name: b"".join(rows_of(one, index, 0, one.rows))
                for index, layout in enumerate(one.key.inputs)
            }

    def assert_failed(self, error: type[HeadraceError], *requests: Request) -> None:
        for one in requests:
            assert type(self.reply.error_of(one)) is error

    def assert_silent(self, *requests: Request) -> None:
        for one in requests:
            assert self.reply.ends[one] == []


# From requests to batches.


def test_a_request_that_finds_a_free_slot_runs_at_once() -> None:
    house = House()

    one = house.submitted()

    assert house.running() == [[one]]
    house.instances.land()
    house.assert_answered(one)


def test_a_batch_is_made_only_when_a_slot_is_free_for_it() -> None:
    """Late binding: what comes while the slot is busy shares the next batch."""
    house = House()
    first = house.submitted()
    others = [house.submitted() for _ in range(3)]
    assert house.running() == [[first]]

    house.instances.land()

    assert house.running() == [others]
    house.instances.land()
    house.assert_answered(first, *others)


def test_the_requests_of_a_burst_share_a_batch() -> None:
    house = House()
    burst = [house.request() for _ in range(3)]

    house.submit(*burst)

    assert house.running() == [burst]


def test_every_free_slot_takes_a_batch() -> None:
    house = House(slots=2)

    house.submit(*(house.request(3) for _ in range(3)))

    assert [len(batch) for batch in house.running()] == [1, 1]
    assert house.scheduler.queued_rows == 3
    assert house.scheduler.in_flight == 2


def test_only_a_full_batch_goes_behind_one_that_runs() -> None:
    """Another one still grows: it would wait in the instance as well as in the queue."""
    house = House(slots=2, are_apart=False)
    first = house.submitted()
    growing = [house.submitted(), house.submitted()]
    assert house.running() == [[first]]

    growing += [house.submitted(), house.submitted()]
    later = house.submitted()

    assert house.running() == [[first], growing]
    house.instances.land()
    assert house.running() == [growing]
    house.instances.land()
    assert house.running() == [[later]]


def test_batches_leave_oldest_first() -> None:
    house = House()
    house.submitted()
    texts = house.request(key=TEXTS)
    house.submit(texts)
    house.clock.advance(1.0)
    number = house.submitted()

    house.instances.land()

    assert house.running() == [[texts]]
    house.instances.land()
    assert house.running() == [[number]]


def test_a_batch_that_is_not_full_waits_for_the_delay_and_no_longer() -> None:
    house = House(policy=DelayPolicy(2.0))
    one = house.submitted()
    house.clock.advance(1.5)
    two = house.submitted()
    assert house.running() == []

    house.clock.advance(0.5)

    assert house.running() == [[one, two]]


def test_a_batch_that_fills_up_does_not_wait_for_the_delay() -> None:
    house = House(policy=DelayPolicy(2.0))

    requests = [house.submitted(2), house.submitted(2)]

    assert house.running() == [requests]


def test_outputs_that_lie_in_the_slot_are_answered_before_the_slot_is_used_again() -> None:
    house = House()
    first, second = house.submitted(), house.submitted()

    house.instances.land(is_detached=False)

    house.assert_answered(first)
    assert house.running() == [[second]]


def test_a_full_queue_refuses_only_what_does_not_fit() -> None:
    house = House(limits=Limits(rows_max=4, queue_rows_max=5))
    house.submitted()

    burst = [house.request(rows) for rows in (3, 3, 2)]
    house.submit(*burst)

    house.assert_failed(ResourceExhausted, burst[1])
    house.assert_silent(burst[0], burst[2])
    assert house.scheduler.queued_rows == 5


def test_it_says_what_waits_and_what_runs() -> None:
    house = House()
    house.submitted()
    house.submitted(3)

    assert repr(house.scheduler) == (
        "<Scheduler <Batcher [3 rows waiting in 1 lines]>, 1 batches in flight>"
    )
    assert (house.scheduler.queued_rows, house.scheduler.queued_bytes) == (3, 12)


# Deadlines.


def test_a_late_request_is_told_at_its_deadline_though_every_slot_is_busy() -> None:
    house = House()
    busy = house.submitted()
    late, patient = house.submitted(patience_s=3.0), house.submitted(patience_s=9.0)

    house.clock.advance(2.75)
    house.assert_silent(late)
    house.clock.advance(0.25)

    house.assert_failed(DeadlinePassed, late)
    house.assert_silent(busy, patient)
    house.instances.land()
    assert house.running() == [[patient]]


def test_a_request_that_comes_too_late_is_told_at_once() -> None:
    house = House()

    late = house.submitted(patience_s=0.0)

    house.assert_failed(DeadlinePassed, late)
    assert house.instances.dispatched == []


def test_waiting_for_more_never_costs_a_request_its_deadline() -> None:
    house = House(policy=DelayPolicy(10.0))
    slow = house.submitted(4)
    house.clock.advance(1.0)
    house.instances.land()
    house.assert_answered(slow)

    urgent = house.submitted(patience_s=5.0)
    house.clock.advance(4.0)

    assert house.running() == [[urgent]]


def test_the_rest_of_a_split_request_does_not_run_once_it_is_late() -> None:
    house = House()
    large = house.submitted(10, patience_s=3.0)
    house.clock.advance(3.0)

    house.assert_failed(DeadlinePassed, large)
    house.instances.land()

    assert house.running() == []
    house.assert_failed(DeadlinePassed, large)


# Callers that leave.


def test_a_caller_that_leaves_before_the_hand_over_costs_no_run() -> None:
    house = House()
    left, stays = house.request(), house.request()

    house.scheduler.cancel(left)
    house.submit(left, stays)

    assert house.running() == [[stays]]
    assert house.instrument.failed == {"cancelled": 1}


def test_a_caller_that_leaves_while_waiting_costs_no_run() -> None:
    house = House()
    house.submitted()
    left, stays = house.submitted(), house.submitted()

    house.scheduler.cancel(left)
    house.instances.land()

    assert house.running() == [[stays]]
    house.assert_silent(left)


def test_a_caller_that_leaves_during_the_run_does_not_disturb_its_batch_mates() -> None:
    house = House()
    burst = [house.request() for _ in range(3)]
    house.submit(*burst)

    house.scheduler.cancel(burst[1])
    house.instances.land()

    house.assert_silent(burst[1])
    house.assert_answered(burst[0], burst[2])


def test_a_caller_that_leaves_after_the_answer_is_told_nothing_more() -> None:
    house = House()
    one = house.submitted()
    house.instances.land()

    house.scheduler.cancel(one)

    house.assert_answered(one)


def test_leaving_is_counted_once_and_by_its_reason() -> None:
    house = House()
    house.submitted()
    left, late = house.submitted(), house.request(patience_s=1.0)
    house.submit(late)

    house.scheduler.cancel(left)
    house.scheduler.cancel(left)
    assert house.instrument.failed == {"cancelled": 1}

    # A transport says the same of callers that left and of those whose time is up.
    house.instances.land()
    house.clock.now += 1.0
    house.scheduler.cancel(late)
    assert house.instrument.failed == {"cancelled": 1, "deadline": 1}


@pytest.mark.parametrize(
    ("patience_s", "left_s", "reason"),
    [
        (1.0, 0.0625, "deadline"),
        (1.0, 0.5, "cancelled"),
        (100.0, 4.0, "deadline"),
        (100.0, 6.0, "cancelled"),
        (math.inf, math.inf, "cancelled"),
    ],
)
def test_a_caller_whose_own_clock_is_a_little_ahead_is_late_too(
    patience_s: float, left_s: float, reason: str
) -> None:
    """gRPC rounds timeouts, so that a caller may leave just before its deadline by our clock."""
    house = House()
    one = house.submitted(patience_s=patience_s)
    if left_s != math.inf:
        house.clock.advance(patience_s - left_s)

    house.scheduler.cancel(one)

    assert house.instrument.failed == {reason: 1}


def test_the_rest_of_a_split_request_leaves_with_its_caller() -> None:
    house = House()
    large, small = house.submitted(10), house.submitted()

    house.scheduler.cancel(large)
    house.instances.land()

    assert house.running() == [[small]]
    house.instances.land()
    house.assert_silent(large)
    house.assert_answered(small)


# Workers that are lost.


def test_a_batch_that_lost_its_worker_runs_once_more() -> None:
    house = House()
    one = house.submitted()

    house.lose_worker()
    house.assert_silent(one)
    house.bring_worker_back()

    assert house.running() == [[one]]
    house.instances.land()
    house.assert_answered(one)
    assert house.instrument.retried == 1


def test_a_lost_batch_goes_before_what_came_later() -> None:
    house = House()
    lost, later = house.submitted(), house.submitted()

    house.lose_worker()
    house.bring_worker_back()

    assert house.running() == [[lost]]
    house.instances.land()
    assert house.running() == [[later]]


def test_a_request_that_costs_a_second_worker_is_told_so() -> None:
    house = House()
    one = house.submitted()

    for _ in range(2):
        house.lose_worker()
        house.bring_worker_back()

    house.assert_failed(RequestEndsWorkers, one)
    assert house.running() == []


def test_a_model_that_is_not_deterministic_runs_no_batch_twice() -> None:
    house = House(is_deterministic=False)
    one = house.submitted()

    house.lose_worker()

    house.assert_failed(InstanceLost, one)
    # Nor is the caller to have it run again.
    assert house.reply.error_of(one).retry_ms == -1


def test_a_lost_batch_waits_only_so_long_for_another_worker() -> None:
    house = House()
    one = house.submitted()
    house.lose_worker()

    house.clock.advance(RETRY_S_MAX - 0.5)
    house.assert_silent(one)
    house.clock.advance(0.5)

    house.assert_failed(InstanceLost, one)
    assert house.reply.error_of(one).retry_ms is None, "another server may run it"
    house.bring_worker_back()
    assert house.running() == []


def test_a_request_of_a_lost_batch_is_told_at_its_deadline() -> None:
    house = House()
    late, patient = house.request(patience_s=3.0), house.request()
    house.submit(late, patient)
    house.lose_worker()

    house.clock.advance(3.0)
    house.assert_failed(DeadlinePassed, late)
    house.bring_worker_back()

    assert house.running() == [[patient]]
    house.instances.land()
    house.assert_answered(patient)


def test_a_lost_batch_that_no_one_waits_for_is_not_run_again() -> None:
    house = House()
    one, next_one = house.submitted(), house.submitted()
    house.lose_worker()

    house.scheduler.cancel(one)
    house.bring_worker_back()

    assert house.running() == [[next_one]]


def test_a_batch_that_could_not_be_sent_has_lost_nothing() -> None:
    """The worker is dead, but its slots are still on offer: each may be tried, none twice."""
    house = House(slots=2, is_deterministic=False)
    house.instances.refusals += [InstanceLost("the worker is gone") for _ in range(2)]

    one = house.submitted()
    assert not house.instances.refusals
    house.assert_silent(one)
    assert house.running() == []

    house.lose_worker()
    house.bring_worker_back()
    assert house.running() == [[one]]
    house.instances.land()
    house.assert_answered(one)
    assert house.scheduler.in_flight == 0


def test_requests_wait_while_there_is_no_worker() -> None:
    house = House()
    house.lose_worker()
    one = house.submitted()

    house.clock.advance(3600.0)
    house.assert_silent(one)
    house.bring_worker_back()

    assert house.running() == [[one]]


# Models and arenas that fail.


def test_a_request_that_the_model_fails_on_is_told_what_it_says() -> None:
    house = House()
    alone = house.submitted()

    house.instances.crash(ModelFailed("ValueError", "no such city: 'Atlantis'", "abc"))

    house.assert_failed(ModelFailed, alone)
    assert str(house.reply.error_of(alone)) == "ValueError: no such city: 'Atlantis' (error id abc)"
    assert house.instrument.failed == {"model": 1}


def test_what_a_model_says_of_one_callers_rows_is_told_to_no_other() -> None:
    house = House(is_deterministic=False)
    burst = [house.request(), house.request()]
    house.submit(*burst)

    house.instances.crash(ModelFailed("ValueError", "no such city: 'Atlantis'", "abc"))

    for one in burst:
        assert str(house.reply.error_of(one)) == "ValueError (error id abc)"


def test_a_failed_batch_frees_its_slot() -> None:
    house = House()
    house.submitted()
    waiting = house.submitted()

    house.instances.crash(ModelFailed("ValueError", "", "abc"))

    assert house.running() == [[waiting]]


def test_a_batch_that_does_not_fit_the_arena_tells_its_callers_and_frees_its_slot() -> None:
    house = House()
    house.instances.refusals.append(ResourceExhausted("arena is full"))

    refused, next_one = house.submitted(), house.submitted()

    house.assert_failed(ResourceExhausted, refused)
    assert house.running() == [[next_one]]


def test_a_fault_of_our_own_reaches_callers_without_its_text() -> None:
    house = House()
    house.instances.refusals.append(KeyError("secret"))

    one = house.submitted()

    house.assert_failed(InternalError, one)
    assert "secret" not in str(house.reply.error_of(one))
    assert "error id" in str(house.reply.error_of(one))


@pytest.mark.parametrize(
    ("error", "told"),
    [(ResourceExhausted("too long"), ResourceExhausted), (KeyError("bug"), InternalError)],
    ids=["of the callers", "of our own"],
)
def test_an_answer_that_cannot_be_written_is_an_error_for_its_caller_alone(
    error: Exception, told: type[HeadraceError]
) -> None:
    house = House()
    burst = [house.request() for _ in range(3)]
    house.reply.unwritable[burst[1]] = error
    house.submit(*burst)

    house.instances.land()

    house.assert_answered(burst[0], burst[2])
    house.assert_failed(told, burst[1])
    assert house.instrument.answered == 2


@pytest.mark.parametrize("ends", ["in answers", "in an error", "refused", "late"])
def test_a_broken_connection_does_not_disturb_the_others(ends: str) -> None:
    house = House()
    busy = house.submitted()
    burst = [house.request(patience_s=1.0 if ends == "late" else math.inf) for _ in range(3)]
    house.reply.broken.add(burst[1])
    house.submit(*burst)
    if ends == "late":
        house.clock.advance(1.0)
        house.assert_failed(DeadlinePassed, burst[0], burst[2])
    house.instances.land()
    house.assert_answered(busy)
    if ends == "refused":
        house.scheduler.close(0.0)
        house.assert_failed(Draining, burst[0], burst[2])
    if ends == "in answers":
        house.instances.land()
        house.assert_answered(burst[0], burst[2])
    if ends == "in an error":
        run_all(house, guilty=burst)
        house.assert_failed(ModelFailed, burst[0], burst[2])
        next_one = house.submitted()
        assert house.running() == [[next_one]]


# Answers of which some rows cannot be carried.


@pytest.mark.parametrize("is_deterministic", [True, False])
def test_a_refused_row_is_told_to_its_caller_alone_and_nothing_runs_again(
    is_deterministic: bool,
) -> None:
    house = House(limits=Limits(rows_max=8), is_deterministic=is_deterministic)
    first, second, third = burst = [house.request(rows) for rows in (2, 3, 1)]
    house.submit(*burst)

    house.instances.land(refused={3: "output 'y': expected long (INT64), got null", 4: "other"})

    house.assert_answered(first, third)
    house.assert_failed(ModelFailed, second)
    message = str(house.reply.error_of(second))
    assert message.startswith("OutputsUnlike: output 'y': expected long (INT64), got null (error")
    assert len(house.instances.dispatched) == 1
    assert house.instrument.failed["model"] == 1
    assert (house.instrument.answered, house.instrument.taken_apart) == (2, 0)


def test_a_refused_row_of_padding_is_nobodys() -> None:
    house = House()
    one = house.submitted(2)

    house.instances.land(refused={2: "padding", 3: "padding"})

    house.assert_answered(one)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_refused_row_of_a_part_fails_the_whole_request_and_its_mates_are_answered(
    order: tuple[int, int],
) -> None:
    house = House(slots=2)
    large, small = house.request(6), house.request(2)
    house.submit(large, small)
    assert house.running() == [[large], [large, small]]

    parts = list(house.instances.running)
    for index in order:
        run = parts[index]
        refused = {1: "output 'y': no"} if index else None
        house.instances.land(house.instances.running.index(run), refused=refused)

    house.assert_answered(small)
    house.assert_failed(ModelFailed, large)
    assert house.instrument.answered == 1


# Batches taken apart.


def run_all(house: House, guilty: Collection[Request], *, fits: int = 1000) -> int:
    """Let everything run: the model fails on the guilty, and has memory for so many rows.

    Returns the number of batches that were run.
    """
    runs = 0
    while house.instances.running:
        runs += 1
        batch = house.instances.running[0].batch
        if batch.rows > fits:
            house.instances.crash(OutOfMemory("OutOfMemoryError", "no room", "oom"))
        elif any(part.request in guilty for part in batch.parts):
            house.instances.crash(ModelFailed("ValueError", "bad row", "abc"))
        else:
            house.instances.land()
    return runs


@given(
    rows=st.lists(st.integers(1, 6), min_size=1, max_size=20),
    guilty=st.sets(st.integers(0, 19), max_size=2),
    slots=st.integers(1, 3),
)
def test_the_guilty_alone_are_told_and_the_innocent_get_their_answers(
    rows: list[int], guilty: set[int], slots: int
) -> None:
    house = House(slots=slots, limits=Limits(rows_max=16))
    burst = [house.request(count) for count in rows]
    blamed = [one for index, one in enumerate(burst) if index in guilty]
    house.submit(*burst)

    run_all(house, blamed)

    house.assert_answered(*(one for one in burst if one not in blamed))
    house.assert_failed(ModelFailed, *blamed)
    for one in blamed:
        assert "bad row" in str(house.reply.error_of(one))


def test_finding_one_guilty_request_takes_two_runs_per_halving() -> None:
    house = House(limits=Limits(rows_max=64))
    house.submit(*(burst := [house.request() for _ in range(64)]))

    runs = run_all(house, burst[41:42])

    assert runs == 1 + 2 * 6
    assert house.instrument.taken_apart == 6
    house.assert_answered(*burst[:41], *burst[42:])


def test_a_model_that_always_fails_multiplies_its_work_by_a_quarter_at_most() -> None:
    house = House(limits=Limits(rows_max=4))
    runs = batches = 0
    for _ in range(400):
        burst = [house.request() for _ in range(4)]
        house.submit(*burst)
        runs += run_all(house, burst)
        batches += 1
        house.clock.advance(0.025)
        house.assert_failed(ModelFailed, *burst)

    # All within ten seconds.
    assert runs - batches <= EXTRA_RUNS_MIN + 0.25 * runs
    assert runs - batches >= EXTRA_RUNS_MIN


def test_the_budget_of_extra_runs_comes_back() -> None:
    house = House(limits=Limits(rows_max=64))
    burst = [house.request() for _ in range(64)]
    house.submit(*burst)
    assert run_all(house, burst) == 1 + EXTRA_RUNS_MIN

    house.clock.advance(11.0)
    house.submit(*(burst := [house.request() for _ in range(64)]))

    assert run_all(house, burst[:1]) == 1 + 2 * 6
    house.assert_answered(*burst[1:])


def test_a_model_that_is_not_deterministic_runs_nothing_again() -> None:
    house = House(is_deterministic=False, limits=Limits(rows_max=8))
    house.submit(*(burst := [house.request() for _ in range(8)]))

    assert run_all(house, burst[:1]) == 1
    house.assert_failed(ModelFailed, *burst)
    house.submit(*(burst := [house.request() for _ in range(8)]))
    assert run_all(house, (), fits=4) == 1
    house.assert_failed(OutOfMemory, *burst)
    house.submit(*(burst := [house.request() for _ in range(8)]))
    # The cap is remembered all the same.
    assert run_all(house, (), fits=4) == 2


def test_pieces_run_before_what_came_later() -> None:
    house = House(limits=Limits(rows_max=4))
    house.submit(*(burst := [house.request() for _ in range(4)]))
    later = house.submitted()

    house.instances.crash(ModelFailed("ValueError", "", "abc"))

    assert house.running() == [burst[:2]]
    house.instances.land()
    assert house.running() == [burst[2:]]
    house.instances.land()
    assert house.running() == [[later]]


def test_a_caller_that_left_does_not_run_again() -> None:
    house = House(slots=1, limits=Limits(rows_max=4))
    house.submit(*(burst := [house.request() for _ in range(4)]))
    house.scheduler.cancel(burst[0])
    house.scheduler.cancel(burst[1])

    house.instances.crash(ModelFailed("ValueError", "", "abc"))

    assert house.running() == [burst[2:]]
    house.instances.land()
    house.assert_answered(*burst[2:])


@pytest.mark.parametrize("count", [2, 9, 64])
def test_the_request_that_ends_workers_is_found_and_the_innocent_get_their_answers(
    count: int,
) -> None:
    house = House(limits=Limits(rows_max=64))
    house.submit(*(burst := [house.request() for _ in range(count)]))
    killer = burst[count // 2]
    ended = 0
    while house.instances.running:
        if killer in house.running()[0]:
            house.lose_worker()
            ended += 1
            house.bring_worker_back()
        else:
            house.instances.land()

    house.assert_failed(RequestEndsWorkers, killer)
    house.assert_answered(*(one for one in burst if one is not killer))
    # Two to suspect the batch, one per time that it is taken apart.
    assert ended <= 4
    assert house.instrument.failed == {"ends_workers": 1}


# Memory.


@given(
    rows=st.lists(st.integers(1, 20), min_size=1, max_size=20),
    fits=st.integers(1, 16),
    slots=st.integers(1, 2),
)
def test_batches_that_exceed_the_memory_are_halved_until_they_fit(
    rows: list[int], fits: int, slots: int
) -> None:
    house = House(slots=slots, limits=Limits(rows_max=16))
    house.submit(*(burst := [house.request(count) for count in rows]))

    run_all(house, (), fits=fits)

    house.assert_answered(*burst)


def test_what_did_not_fit_is_not_tried_again_soon() -> None:
    house = House(limits=Limits(rows_max=16))
    house.submit(*(house.request() for _ in range(16)))
    assert run_all(house, (), fits=5) == 7  # 16, 8, two of 4 of it, 8, two of 4 of it.
    assert house.scheduler.rows_cap == 4

    house.submit(*(burst := [house.request() for _ in range(16)]))

    assert run_all(house, (), fits=5) == 4
    house.assert_answered(*burst)


def test_a_larger_batch_is_tried_again_later_and_raises_the_cap() -> None:
    house = House(limits=Limits(rows_max=16))
    house.submit(*(house.request() for _ in range(16)))
    run_all(house, (), fits=5)

    for expected in (8, 0):
        house.clock.advance(PROBE_S_MIN)
        house.submit(*(burst := [house.request() for _ in range(32)]))
        run_all(house, ())
        house.assert_answered(*burst)
        assert house.scheduler.rows_cap == expected


def test_one_row_that_does_not_fit_is_told_so() -> None:
    house = House()
    house.submit(*(burst := [house.request(), house.request()]))

    run_all(house, (), fits=0)

    house.assert_failed(OutOfMemory, *burst)
    assert house.instrument.failed == {"out_of_memory": 2}


def test_a_request_that_cannot_be_cut_is_told_that_it_does_not_fit() -> None:
    house = House(limits=Limits(rows_max=8, splits=False))
    large, small = house.request(6), house.request(2)
    house.submit(large, small)

    run_all(house, (), fits=4)

    house.assert_failed(OutOfMemory, large)
    house.assert_answered(small)


# Deadlines that cannot be met, and priorities.


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    house = House(limits=Limits(rows_max=4, predicts=True))
    house.submitted(4)
    house.clock.advance(2.0)
    house.instances.land()
    busy = house.submitted(4)
    house.clock.advance(0.5)

    hasty, patient = house.request(4, patience_s=3.0), house.request(4, patience_s=4.0)
    house.submit(patient, hasty)

    house.assert_failed(DeadlineInfeasible, hasty)
    assert str(house.reply.error_of(hasty)).startswith("the answer is expected in 3.5e+03 ms")
    house.assert_silent(busy, patient)
    assert house.instrument.failed == {"infeasible": 1}


def test_of_a_burst_those_with_the_earliest_deadlines_go_first() -> None:
    house = House()
    burst = [house.request(4, patience_s=patience_s) for patience_s in (9.0, math.inf, 5.0, 7.0)]

    house.submit(*burst)

    order = []
    while house.instances.running:
        order += house.running()[0]
        house.instances.land()
    assert order == [burst[2], burst[3], burst[0], burst[1]]


def test_a_priority_that_has_waited_too_long_is_told_at_that_instant() -> None:
    house = House(limits=Limits(rows_max=4, levels=(Level(), Level(timeout_s=1.0))))
    busy = house.submitted()
    low, high = house.request(priority=2), house.request()
    house.submit(low, high)

    house.clock.advance(1.0)

    house.assert_failed(DeadlinePassed, low)
    house.assert_silent(busy, high)


# The adaptive policy on its way through the clock.


def test_the_adaptive_policy_waits_for_a_row_that_is_about_to_come() -> None:
    """A second for any batch, four rows a second: one that ran alone would make three late."""
    times = ServiceTimes()
    policy = AdaptivePolicy(10.0, times)
    house = House(policy=policy, limits=Limits(rows_max=8), times=times)
    for rows in (1, 8):
        times.observe(NUMBERS, rows, 1.0)
    for before in range(64, 0, -1):
        policy.note_arrival(NUMBERS, 1, house.clock.now - 0.25 * before)

    burst = []
    for _ in range(3):
        assert house.running() == []
        burst.append(house.submitted())
        house.clock.advance(0.25)

    assert house.running() == [burst]


def test_the_adaptive_policy_gives_up_on_a_row_that_does_not_come() -> None:
    times = ServiceTimes()
    policy = AdaptivePolicy(10.0, times)
    house = House(policy=policy, limits=Limits(rows_max=8), times=times)
    for rows in (1, 8):
        times.observe(NUMBERS, rows, 1.0)
    for before in range(64, 0, -1):
        policy.note_arrival(NUMBERS, 1, house.clock.now - 0.25 * before)

    one = house.submitted()
    house.clock.advance(0.45)
    assert house.running() == []
    house.clock.advance(0.1)

    assert house.running() == [[one]]


# Requests larger than a batch.


@pytest.mark.parametrize("key", [NUMBERS, TEXTS], ids=["numbers", "texts"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_split_request_is_answered_whole_in_whatever_order_its_parts_return(
    key: BatchKey, order: tuple[int, ...]
) -> None:
    house = House(slots=3)
    large = house.request(10, key=key)
    house.submit(large)
    assert [run.batch.rows for run in house.instances.running] == [4, 4, 2]

    parts = list(house.instances.running)
    for index in order:
        house.assert_silent(large)
        house.instances.land(house.instances.running.index(parts[index]))

    house.assert_answered(large)


def test_a_part_shares_its_batch_with_other_requests() -> None:
    house = House()
    large, small = house.request(6, key=TEXTS), house.request(2, key=TEXTS)
    house.submit(large, small)

    house.instances.land()
    assert house.running() == [[large, small]]
    house.instances.land()

    house.assert_answered(large, small)


def test_a_split_request_fails_once_though_two_parts_do() -> None:
    house = House(slots=2)
    large = house.submitted(10)

    house.instances.crash(ModelFailed("ValueError", "", "abc"))
    house.instances.crash(ModelFailed("ValueError", "", "def"))

    house.assert_failed(ModelFailed, large)
    assert house.scheduler.queued_rows == 0
    assert house.running() == []


def test_a_part_that_lost_its_worker_runs_again_alone() -> None:
    house = House(slots=2)
    large = house.submitted(8)
    first = house.instances.running[0]
    house.instances.land(1)

    house.lose_worker()
    house.bring_worker_back()

    assert [run.batch.parts[0].stop for run in house.instances.running] == [
        first.batch.parts[0].stop
    ]
    house.instances.land()
    house.assert_answered(large)


# The end.


def closing(house: House) -> tuple[threading.Thread, list[bool]]:
    """Close on a thread of its own, which waits when this returns."""
    results: list[bool] = []
    thread = threading.Thread(
        target=lambda: results.append(house.scheduler.close(60.0)), name="closer", daemon=True
    )
    thread.start()
    # It asks for the time before it takes the lock, and under the lock before it waits.
    for _ in range(2):
        assert house.clock.asked_by["closer"].acquire(timeout=10.0)
    return thread, results


def test_closing_an_idle_scheduler_is_clean() -> None:
    assert House().scheduler.close(0.0) is True


def test_a_closed_scheduler_refuses_requests() -> None:
    house = House()
    house.scheduler.close(0.0)

    one = house.submitted()

    house.assert_failed(Draining, one)
    assert house.instances.dispatched == []


def test_closing_waits_for_what_runs_and_what_waits() -> None:
    house = House()
    requests = [house.submitted(3) for _ in range(3)]

    thread, results = closing(house)
    while house.instances.running:
        house.instances.land()
    thread.join(10.0)

    house.assert_answered(*requests)
    assert results == [True]


def test_closing_ends_when_the_last_caller_has_left() -> None:
    house = House()
    requests = [house.submitted() for _ in range(2)]
    house.lose_worker()

    thread, results = closing(house)
    for one in requests:
        house.scheduler.cancel(one)
    thread.join(10.0)

    assert results == [True]


def test_closing_ends_when_the_last_request_is_late() -> None:
    house = House()
    house.lose_worker()
    house.submitted(patience_s=1.0)

    thread, results = closing(house)
    house.clock.advance(1.0)
    thread.join(10.0)

    assert results == [True]


def test_what_is_left_at_the_end_of_draining_is_refused_wherever_it_is() -> None:
    house = House(slots=2)
    running = house.submitted()
    house.instances.refusals.append(InstanceLost("the worker is gone"))
    lost = house.submitted()
    waiting = [house.submitted(), house.submitted(9)]
    assert house.running() == [[running]]

    assert house.scheduler.close(0.0) is False

    house.assert_failed(Draining, lost, running, *waiting)


def test_what_comes_back_after_the_end_changes_nothing() -> None:
    house = House(slots=3)
    requests = [house.submitted(4) for _ in range(3)]
    house.scheduler.close(0.0)

    house.instances.land()
    house.instances.crash(ModelFailed("ValueError", "", "abc"))
    house.lose_worker()
    house.bring_worker_back()
    house.clock.advance(60.0)

    house.assert_failed(Draining, *requests)
    assert house.running() == []


# Numbers.


def test_answers_are_counted_with_their_times() -> None:
    house = House()
    house.submit(*(house.request() for _ in range(3)))
    house.submitted(2)
    house.clock.advance(2.0)
    house.instances.land()
    house.clock.advance(1.0)
    house.instances.land()

    numbers = house.instrument
    assert (numbers.answered, numbers.rows, numbers.batches) == (4, 5, 2)
    assert (numbers.request_s.count, numbers.request_s.total) == (4, 3 * 2.0 + 3.0)
    assert (numbers.queue_s.count, numbers.queue_s.total) == (4, 2.0)
    assert (numbers.batch_s.count, numbers.batch_s.total) == (2, 2.0 + 1.0)
    assert (numbers.batch_rows.count, numbers.batch_rows.total) == (2, 5.0)


def test_a_burst_is_counted_once_from_its_arrival_to_the_queue() -> None:
    house = House()
    requests = [house.request(), house.request()]
    house.clock.advance(0.25)

    house.scheduler.submit(requests)
    house.scheduler.submit([])

    assert (house.instrument.decode_s.count, house.instrument.decode_s.total) == (1, 0.25)


def test_the_frameworks_own_time_is_counted_apart() -> None:
    house = House()
    house.submitted()

    second_ns = 1_000_000_000
    house.instances.land(instants=Instants(0, second_ns, 3 * second_ns, 9 * second_ns))

    assert house.instrument.compute_s.count == 1
    assert house.instrument.compute_s.total == 2.0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_split_request_is_one_answer(order: tuple[int, ...]) -> None:
    house = House(slots=3)
    house.submitted(10)
    parts = list(house.instances.running)

    for index in order:
        house.clock.advance(1.0)
        house.instances.land(house.instances.running.index(parts[index]))

    assert house.instrument.answered == 1
    assert house.instrument.request_s.total == 3.0


def test_a_split_request_that_fails_is_no_answer() -> None:
    house = House(slots=2)
    house.submitted(6)

    house.instances.land(1)
    house.instances.crash(ModelFailed("ValueError", "", "abc"))

    assert house.instrument.answered == 0
    assert house.instrument.failed == {"model": 1}


# Everything at once.


class SchedulerMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order, every request ends once, and rightly."""

    policy: Policy = GreedyPolicy()
    levels: tuple[Level, ...] = (Level(),)
    splits = True
    is_deterministic = True
    times: ServiceTimes | None = None

    def __init__(self) -> None:
        super().__init__()
        self.house = House(
            slots=2,
            policy=self.policy,
            limits=Limits(
                rows_max=4,
                queue_rows_max=30,
                splits=self.splits,
                levels=self.levels,
                predicts=True,
            ),
            is_deterministic=self.is_deterministic,
            times=self.times,
        )
        self.requests: list[Request] = []
        self.cancelled: set[Request] = set()

    @rule(
        burst=st.lists(
            st.tuples(
                st.sampled_from([NUMBERS, TEXTS]),
                st.integers(1, 9),
                st.sampled_from([0.0, 0.5, 2.0, math.inf, math.inf, math.inf]),
                st.sampled_from(["fine", "fine", "fine", "broken", "left"]),
                st.integers(1, 3),
            ),
            max_size=4,
        )
    )
    def submit(self, burst: list[tuple[BatchKey, int, float, str, int]]) -> None:
        made = []
        for key, rows, patience_s, fate, priority in burst:
            level = min(priority, len(self.levels))
            one = self.house.request(rows, key=key, patience_s=patience_s, priority=level)
            made.append(one)
            self.requests.append(one)
            if fate == "broken":
                self.house.reply.broken.add(one)
            if fate == "left":
                self.cancel_one(one)
        self.house.submit(*made)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.cancel_one(data.draw(st.sampled_from(self.requests)))

    @rule(seconds=st.sampled_from([0.25, 1.0, 15.0]))
    def pass_time(self, seconds: float) -> None:
        self.house.clock.advance(seconds)

    @precondition(lambda self: self.house.instances.running)
    @rule(data=st.data(), is_detached=st.booleans())
    def land(self, data: st.DataObject, is_detached: bool) -> None:
        index = data.draw(st.integers(0, len(self.house.instances.running) - 1))
        self.house.instances.land(index, is_detached=is_detached)

    @precondition(lambda self: self.house.instances.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.house.instances.running) - 1))
        self.house.instances.crash(ModelFailed("ValueError", "why", "abc"), index)

    @precondition(lambda self: self.house.instances.running)
    @rule(data=st.data())
    def run_out_of_memory(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.house.instances.running) - 1))
        self.house.instances.crash(OutOfMemory("MemoryError", "no room", "oom"), index)

    @rule()
    def lose_worker(self) -> None:
        self.house.lose_worker()

    @rule()
    def bring_worker_back(self) -> None:
        if not self.house.instances.is_up:
            self.house.bring_worker_back()

    @rule(
        error=st.sampled_from(
            [InstanceLost("gone"), ResourceExhausted("arena is full"), KeyError("bug")]
        )
    )
    def refuse_the_next(self, error: Exception) -> None:
        self.house.instances.refusals.append(error)

    @invariant()
    def no_one_waits_beyond_their_deadline(self) -> None:
        running = set(itertools.chain.from_iterable(self.house.running()))
        for one in self.requests:
            if one.deadline_at <= self.house.clock.now and one not in running:
                assert self.has_ended(one)

    @invariant()
    def nothing_waits_beside_a_free_slot(self) -> None:
        if type(self.policy) is GreedyPolicy and self.house.instances.free:
            assert self.house.scheduler.queued_rows == 0

    @invariant()
    def what_runs_is_counted(self) -> None:
        assert self.house.scheduler.in_flight == len(self.house.instances.running)

    @invariant()
    def no_request_ends_twice(self) -> None:
        assert all(len(ends) <= 1 for ends in self.house.reply.ends.values())

    def teardown(self) -> None:
        house = self.house
        house.instances.refusals.clear()
        house.lose_worker()
        house.bring_worker_back()
        house.clock.advance(5.0)
        while house.instances.running:
            house.instances.land()
            house.clock.advance(5.0)
        assert house.scheduler.close(0.0)
        assert len(house.instances.free) == len(house.instances.slots)
        assert (house.scheduler.queued_rows, house.scheduler.queued_bytes) == (0, 0)
        counted = house.instrument.answered + sum(house.instrument.failed.values())
        # A caller that leaves after its answer is counted as both.
        assert len(self.requests) <= counted <= len(self.requests) + len(self.cancelled)
        for one in self.requests:
            assert self.has_ended(one)
            ends = house.reply.ends[one]
            if ends and not isinstance(ends[0], HeadraceError):
                house.assert_answered(one)

    def cancel_one(self, one: Request) -> None:
        self.house.scheduler.cancel(one)
        self.cancelled.add(one)

    def has_ended(self, one: Request) -> bool:
        """Told, or no one is there to be told."""
        is_told = len(self.house.reply.ends[one]) == 1
        return is_told or one in self.cancelled or one in self.house.reply.broken


class DelayedMachine(SchedulerMachine):
    policy = DelayPolicy(0.75)


class WholeMachine(SchedulerMachine):
    splits = False
    is_deterministic = False


class LevelsMachine(SchedulerMachine):
    levels = (Level(), Level(queue_rows_max=6, timeout_s=1.0), Level(timeout_s=2.0))


class DelayingLevelsMachine(SchedulerMachine):
    policy = DelayPolicy(0.75, rows_preferred=2)
    levels = (Level(timeout_s=1.0, is_delayed=True), Level())


class AdaptiveMachine(SchedulerMachine):
    def __init__(self) -> None:
        self.times = ServiceTimes()
        self.policy = AdaptivePolicy(2.0, self.times)
        super().__init__()


TestPromptly = SchedulerMachine.TestCase
TestLevels = LevelsMachine.TestCase
TestDelayingLevels = DelayingLevelsMachine.TestCase
TestAdaptive = AdaptiveMachine.TestCase
TestDelayed = DelayedMachine.TestCase
TestWhole = WholeMachine.TestCase

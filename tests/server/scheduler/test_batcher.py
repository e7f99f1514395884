"""Batcher: which requests run together, and when; told the time, asked for the next action."""

import math
import random
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from doubles import RecordingReply
from headrace.datatypes import DATATYPES
from headrace_server.errors import DeadlineInfeasible, ResourceExhausted
from headrace_server.scheduler.batcher import Batcher, Dispatch, Level, Limits, WaitUntil
from headrace_server.scheduler.policy import AdaptivePolicy, DelayPolicy, GreedyPolicy, Policy
from headrace_server.types import Batch, BatchKey, InputLayout, Request

LAYOUT = InputLayout("x", DATATYPES["FP32"], (), 4)
REPLY = RecordingReply()


class Key(BatchKey):
    """A key whose life can be watched."""

    __slots__ = ("__weakref__",)


class Tracked(Request):
    """A request whose life can be watched."""

    __slots__ = ("__weakref__",)


def key(*, is_whole: bool = False) -> BatchKey:
    return Key((LAYOUT,), is_whole=is_whole)


K = key()


def request(
    rows: int = 1,
    *,
    of: BatchKey = K,
    at: float = 0.0,
    deadline: float = math.inf,
    nbytes: int = 0,
    priority: int = 1,
) -> Request:
    return Tracked(of, rows, [b""], REPLY, None, nbytes, b"", at, deadline, priority)


def batcher(
    *requests: Request,
    delay_s: float = 0.0,
    service_s: float = 0.0,
    limits: Limits = Limits(rows_max=4),  # noqa: B008 - a frozen value.
) -> Batcher:
    made = Batcher(limits, DelayPolicy(delay_s))
    if service_s:
        made.times.observe(K, 1, service_s)
    for one in requests:
        made.submit(one)
    return made


def dispatched(action: Dispatch | WaitUntil) -> Batch:
    assert isinstance(action, Dispatch), f"expected a batch, got {action}"
    return action.batch


def late(waiting: Batcher, now: float) -> list[Request]:
    """Those whose time is up."""
    return [one for one, _ in waiting.expire(now)]


def parts(batch: Batch) -> list[tuple[Request, int, int]]:
    return [(part.request, part.start, part.stop) for part in batch.parts]


# When.


def test_with_nothing_to_do_it_waits_for_ever() -> None:
    assert batcher().next_action(5.0) == WaitUntil(math.inf)


def test_without_a_delay_a_free_instance_never_waits() -> None:
    one = request(at=5.0)

    assert parts(dispatched(batcher(one).next_action(5.0))) == [(one, 0, 1)]


def test_an_open_batch_waits_until_its_oldest_request_has_waited_the_delay() -> None:
    waiting = batcher(request(at=1.0), request(at=2.0), delay_s=3.0)

    assert waiting.next_action(2.0) == WaitUntil(4.0)
    assert dispatched(waiting.next_action(4.0)).rows == 2


def test_a_full_batch_waits_for_no_delay() -> None:
    waiting = batcher(request(3, at=1.0), request(1, at=1.0), delay_s=3.0)

    assert dispatched(waiting.next_action(1.0)).rows == 4


def test_a_batch_closes_while_its_most_urgent_request_can_still_be_answered() -> None:
    waiting = batcher(request(at=0.0), request(at=0.0, deadline=6.0), delay_s=10.0, service_s=1.0)

    # One row took a second so far: two are taken to take two.
    assert waiting.next_action(0.0) == WaitUntil(4.0)
    assert dispatched(waiting.next_action(4.0)).rows == 2


def test_an_urgent_request_hastens_only_the_line_it_waits_in() -> None:
    other = key()
    relaxed, urgent = request(at=0.0), request(of=other, at=1.0, deadline=4.0)
    waiting = batcher(relaxed, urgent, delay_s=10.0)

    waiting.times.observe(K, 1, 1.0)

    assert parts(dispatched(waiting.next_action(3.0))) == [(urgent, 0, 1)]
    assert waiting.next_action(3.0) == WaitUntil(10.0)


def test_a_closed_batch_says_when_it_was_closed() -> None:
    assert dispatched(batcher(request(at=1.0)).next_action(1.5)).closed_at == 1.5


# Which.


def test_requests_run_in_the_order_in_which_they_came() -> None:
    requests = [request() for _ in range(6)]
    waiting = batcher(*requests)

    first, second = dispatched(waiting.next_action(0.0)), dispatched(waiting.next_action(0.0))

    assert [part.request for part in first.parts + second.parts] == requests
    assert (first.rows, second.rows) == (4, 2)


def test_requests_of_different_keys_never_share_a_batch() -> None:
    other = key()
    waiting = batcher(request(), request(of=other), request())

    first, second = dispatched(waiting.next_action(0.0)), dispatched(waiting.next_action(0.0))

    assert (first.key, first.rows, second.key, second.rows) == (K, 2, other, 1)


def test_the_line_with_the_oldest_request_goes_first() -> None:
    lines = [key() for _ in range(3)]
    waiting = batcher(*(request(of=line, at=at) for line, at in zip(lines, (2, 1, 3), strict=True)))

    order = [dispatched(waiting.next_action(5.0)).key for _ in lines]

    assert order == [lines[1], lines[0], lines[2]]


def test_a_full_line_does_not_pass_an_older_one_that_is_due() -> None:
    other = key()
    waiting = batcher(request(at=1.0), *(request(of=other, at=2.0) for _ in range(4)))

    assert dispatched(waiting.next_action(2.0)).key is K


def test_the_rest_of_a_line_keeps_its_own_place_after_a_batch_was_taken_from_it() -> None:
    other = key()
    waiting = batcher(
        *(request(at=1.0) for _ in range(4)), request(at=3.0), request(of=other, at=2.0)
    )

    order = [dispatched(waiting.next_action(3.0)).key for _ in range(3)]

    assert order == [K, other, K]


def test_a_request_that_does_not_fit_the_batch_waits_whole_for_the_next() -> None:
    one, two = request(3), request(2)
    waiting = batcher(one, two)

    assert parts(dispatched(waiting.next_action(0.0))) == [(one, 0, 3)]
    assert parts(dispatched(waiting.next_action(0.0))) == [(two, 0, 2)]


def test_a_request_above_rows_max_is_cut_and_its_rest_shares_a_batch() -> None:
    large, small = request(6), request(2)
    waiting = batcher(large, small)

    first, second = dispatched(waiting.next_action(0.0)), dispatched(waiting.next_action(0.0))

    assert parts(first) == [(large, 0, 4)]
    assert parts(second) == [(large, 4, 6), (small, 0, 2)]
    assert first.is_split
    assert second.is_split


def test_a_batch_of_whole_requests_is_not_split() -> None:
    assert not dispatched(batcher(request(2), request(2)).next_action(0.0)).is_split


def test_where_splitting_is_impossible_a_large_request_runs_alone_and_whole() -> None:
    small, large, last = request(1), request(6), request(1)
    waiting = batcher(small, large, last, limits=Limits(4, splits=False))

    batches = [dispatched(waiting.next_action(0.0)) for _ in range(3)]

    assert [parts(batch) for batch in batches] == [
        [(small, 0, 1)],
        [(large, 0, 6)],
        [(last, 0, 1)],
    ]
    assert not any(batch.is_split for batch in batches)


def test_tensors_without_a_row_axis_never_share_a_batch() -> None:
    """Two scalars side by side would be a vector, which the model was not asked about."""
    scalar = key(is_whole=True)
    one, two = request(of=scalar), request(of=scalar)
    waiting = batcher(one, two, delay_s=9.0)

    assert parts(dispatched(waiting.next_action(0.0))) == [(one, 0, 1)]
    assert parts(dispatched(waiting.next_action(0.0))) == [(two, 0, 1)]


def test_a_request_with_a_scalar_runs_whole_whatever_its_rows() -> None:
    """A part of its rows would need the scalar too."""
    large = request(9, of=key(is_whole=True))
    waiting = batcher(large, limits=Limits(4))

    assert parts(dispatched(waiting.next_action(0.0))) == [(large, 0, 9)]


def test_the_batch_that_is_due_first_is_told_to_be_full_or_not() -> None:
    small, large = request(3, at=1.0), request(4, of=key(), at=2.0)
    waiting = batcher(small, large, limits=Limits(4))
    assert not waiting.is_next_full(2.0)

    waiting.submit(request(1))
    assert waiting.is_next_full(2.0)
    waiting.next_action(2.0)
    assert waiting.is_next_full(2.0)
    waiting.next_action(2.0)
    assert not waiting.is_next_full(2.0)


# How many.


def test_the_queue_takes_exactly_the_rows_it_is_allowed() -> None:
    waiting = batcher(request(5), request(4), limits=Limits(4, queue_rows_max=10))

    with pytest.raises(ResourceExhausted) as caught:
        waiting.submit(request(2))

    assert str(caught.value) == (
        "queue is full: 9 rows wait, 2 more would exceed queue_rows_max = 10"
    )
    waiting.submit(request(1))
    assert waiting.rows == 10


def test_the_queue_takes_exactly_the_bytes_it_is_allowed() -> None:
    waiting = batcher(request(nbytes=50), request(nbytes=40), limits=Limits(queue_bytes_max=100))

    with pytest.raises(ResourceExhausted) as caught:
        waiting.submit(request(nbytes=11))

    assert str(caught.value) == (
        "queue is full: 90 bytes wait, 11 more would exceed queue_bytes_max = 100"
    )
    waiting.submit(request(nbytes=10))
    assert waiting.nbytes == 100


def test_a_request_that_no_empty_queue_could_take_is_told_so() -> None:
    """It should not be sent again: waiting does not help."""
    waiting = batcher(limits=Limits(queue_rows_max=10))

    with pytest.raises(ResourceExhausted) as caught:
        waiting.submit(request(11))

    assert str(caught.value) == "the request has 11 rows, queue_rows_max is 10"


def test_a_refused_request_leaves_no_trace() -> None:
    waiting = batcher(request(3), limits=Limits(queue_rows_max=3))
    refused = request(1, of=key(), deadline=1.0)

    with pytest.raises(ResourceExhausted):
        waiting.submit(refused)

    assert repr(waiting) == "<Batcher [3 rows waiting in 1 lines]>"
    assert waiting.next_expiry_at() == math.inf
    assert waiting.expire(2.0) == []


def test_rows_leave_with_each_batch_and_bytes_with_the_last_row() -> None:
    waiting = batcher(request(6, nbytes=60))

    waiting.next_action(0.0)
    assert (waiting.rows, waiting.nbytes) == (2, 60)

    waiting.next_action(0.0)
    assert (waiting.rows, waiting.nbytes) == (0, 0)


# Leaving.


def test_a_cancelled_request_is_never_dispatched() -> None:
    requests = [request(nbytes=10) for _ in range(3)]
    waiting = batcher(*requests)

    assert waiting.cancel(requests[1])

    assert (waiting.rows, waiting.nbytes) == (2, 20)
    kept = [part.request for part in dispatched(waiting.next_action(0.0)).parts]
    assert kept == [requests[0], requests[2]]


def test_cancelling_again_or_what_is_not_here_changes_nothing() -> None:
    here, gone, elsewhere, stranger = request(), request(), request(), request(of=key())
    waiting = batcher(here, gone)

    assert waiting.cancel(gone)
    assert not any(waiting.cancel(one) for one in (gone, elsewhere, stranger))

    assert waiting.rows == 1


def test_a_request_of_more_rows_than_were_proven_is_not_cut() -> None:
    small, large, larger = request(2), request(9), request(10)
    waiting = batcher(small, large, larger, limits=Limits(4, cut_rows_max=9))

    batches = [parts(dispatched(waiting.next_action(0.0))) for _ in range(5)]

    assert batches == [
        [(small, 0, 2)],
        [(large, 0, 4)],
        [(large, 4, 8)],
        [(large, 8, 9)],
        [(larger, 0, 10)],
    ]


def test_the_rest_of_a_request_that_was_cut_leaves_when_it_is_cancelled() -> None:
    large, small = request(10, nbytes=10), request(1, nbytes=1)
    waiting = batcher(large, small)
    waiting.next_action(0.0)

    assert waiting.cancel(large)

    assert (waiting.rows, waiting.nbytes) == (1, 1)
    assert parts(dispatched(waiting.next_action(0.0))) == [(small, 0, 1)]


def test_when_the_oldest_leaves_the_next_oldest_sets_the_time() -> None:
    oldest = request(at=1.0)
    waiting = batcher(oldest, request(at=3.0), delay_s=5.0)

    waiting.cancel(oldest)

    assert waiting.next_action(6.0) == WaitUntil(8.0)


def test_a_full_line_that_someone_leaves_waits_again() -> None:
    leaver = request(2, at=1.0)
    waiting = batcher(request(2, at=1.0), leaver, delay_s=5.0)

    waiting.cancel(leaver)

    assert waiting.next_action(1.0) == WaitUntil(6.0)


def test_a_line_that_everyone_left_is_gone() -> None:
    only = request(deadline=9.0)
    waiting = batcher(only)

    waiting.cancel(only)

    assert waiting.next_action(0.0) == WaitUntil(math.inf)
    assert waiting.next_expiry_at() == math.inf
    assert repr(waiting) == "<Batcher [0 rows waiting in 0 lines]>"


def test_late_requests_leave_in_order_of_their_deadlines() -> None:
    requests = [request(deadline=at) for at in (5.0, 3.0, 9.0, 4.0)]
    waiting = batcher(*requests)

    assert waiting.next_expiry_at() == 3.0
    assert late(waiting, 2.9) == []
    assert late(waiting, 5.0) == [requests[1], requests[3], requests[0]]
    assert waiting.next_expiry_at() == 9.0
    assert waiting.rows == 1


def test_many_late_requests_leave_at_once_and_each_only_once() -> None:
    requests = [request(deadline=float(at % 7)) for at in range(300)]
    waiting = batcher(*requests)

    assert late(waiting, 6.0) == sorted(requests, key=lambda one: one.deadline_at)
    assert waiting.expire(6.0) == []
    assert waiting.rows == 0


def test_draining_hands_out_everything() -> None:
    requests = [request(2), request(deadline=5.0), request(of=key())]
    waiting = batcher(*requests)

    assert set(waiting.drain()) == set(requests)

    assert (waiting.rows, waiting.nbytes) == (0, 0)
    assert waiting.next_action(9.0) == WaitUntil(math.inf)


def test_requests_that_are_gone_are_forgotten_however_late_their_deadlines() -> None:
    """Else every caller that leaves early costs memory until its deadline, perhaps for days."""
    tracked: weakref.WeakSet[Tracked] = weakref.WeakSet()
    waiting = batcher(request(deadline=1e9))
    for _ in range(1000):
        leaver = request(deadline=1e9)
        tracked.add(leaver)  # type: ignore[arg-type]
        waiting.submit(leaver)
        waiting.cancel(leaver)
        del leaver

    assert len(tracked) < 100


def test_lines_that_are_gone_are_forgotten_while_no_instance_is_free() -> None:
    """No instance asks for an action while a worker is replaced, and callers come and go."""
    tracked: weakref.WeakSet[Key] = weakref.WeakSet()
    waiting = batcher(request())
    for _ in range(1000):
        line = key()
        tracked.add(line)  # type: ignore[arg-type]
        leaver = request(of=line)
        waiting.submit(leaver)
        waiting.cancel(leaver)
        del line, leaver

    assert len(tracked) < 100
    assert dispatched(waiting.next_action(0.0)).key is K


# Several kinds of requests at once.


@pytest.mark.parametrize("seed", range(5))
def test_many_interleaved_shapes_fill_their_batches_as_if_they_came_sorted(seed: int) -> None:
    """Eight shapes at random, a backlog of 1024 requests and more coming: batches stay full."""
    shapes = [key() for _ in range(8)]
    mixed = random.Random(seed).choices(shapes, k=8192)

    def mean_rows(order: list[BatchKey]) -> float:
        waiting = batcher(limits=Limits(rows_max=16))
        coming = iter(order)
        batches: list[int] = []
        while True:
            while waiting.rows < 1024 and (shape := next(coming, None)) is not None:
                waiting.submit(request(of=shape, at=float(len(batches))))
            action = waiting.next_action(float(len(batches)))
            if isinstance(action, WaitUntil):
                return sum(batches) / len(batches)
            batches.append(action.batch.rows)

    assert mean_rows(mixed) >= 0.9 * mean_rows(sorted(mixed, key=shapes.index))


# Priorities.

TWO_LEVELS = Limits(rows_max=4, levels=(Level(), Level()))


def test_a_higher_priority_goes_first_also_where_it_came_later() -> None:
    low, high = request(3, at=0.0, priority=2), request(3, of=key(), at=1.0)
    waiting = batcher(low, high, limits=TWO_LEVELS)

    assert [parts(dispatched(waiting.next_action(1.0)))[0][0] for _ in range(2)] == [high, low]


def test_a_higher_priority_passes_those_of_its_own_key() -> None:
    low = [request(priority=2) for _ in range(5)]
    high = request(at=1.0)
    waiting = batcher(*low, high, limits=TWO_LEVELS)

    first = dispatched(waiting.next_action(1.0))

    assert [part.request for part in first.parts] == [high, *low[:3]]
    assert [part.request for part in dispatched(waiting.next_action(1.0)).parts] == low[3:]


def test_rows_of_a_lower_priority_ride_along_where_there_is_room() -> None:
    low, high, large = request(priority=2), request(2), request(3, priority=2)
    waiting = batcher(low, high, large, limits=TWO_LEVELS)

    assert parts(dispatched(waiting.next_action(0.0))) == [(high, 0, 2), (low, 0, 1)]


def test_each_priority_has_its_own_bound() -> None:
    limits = Limits(rows_max=4, levels=(Level(), Level(queue_rows_max=3)))
    waiting = batcher(request(3, priority=2), limits=limits)

    with pytest.raises(ResourceExhausted) as caught:
        waiting.submit(request(priority=2))

    assert str(caught.value) == (
        "queue is full: 3 rows of priority 2 wait, 1 more would exceed priority_queue_rows_max = 3"
    )
    waiting.submit(request(5))
    assert waiting.rows == 8


def test_a_priority_whose_requests_may_wait_only_so_long_refuses_them_then() -> None:
    limits = Limits(rows_max=4, levels=(Level(), Level(timeout_s=0.5)))
    low, high = request(at=1.0, priority=2), request(at=1.0)
    waiting = batcher(low, high, limits=limits)

    assert waiting.next_expiry_at() == 1.5
    assert waiting.expire(1.25) == []
    ((gone, error),) = waiting.expire(1.5)

    assert gone is low
    assert str(error) == "the request waited for 500 ms, as long as priority 2 may"
    assert waiting.rows == 1
    assert waiting.next_expiry_at() == math.inf


def test_a_priority_may_put_those_that_waited_too_long_behind_all_others() -> None:
    limits = Limits(rows_max=2, levels=(Level(timeout_s=0.5, is_delayed=True), Level()))
    old, low, young = request(2, at=1.0), request(2, at=1.2, priority=2), request(2, at=1.4)
    waiting = batcher(old, low, young, limits=limits)

    assert waiting.expire(1.5) == []

    order = [parts(dispatched(waiting.next_action(1.5)))[0][0] for _ in range(3)]
    assert order == [young, low, old]
    assert waiting.rows == 0


def test_one_that_was_put_behind_all_others_still_has_its_deadline() -> None:
    limits = Limits(rows_max=2, levels=(Level(timeout_s=0.5, is_delayed=True),))
    waiting = batcher(request(deadline=3.0), limits=limits)
    waiting.expire(0.5)

    assert waiting.next_expiry_at() == 3.0
    ((_, error),) = waiting.expire(3.0)
    assert str(error) == "the deadline passed while the request waited"


# Deadlines that cannot be met.


def predicting(*seconds: tuple[int, float]) -> Batcher:
    """A batcher of one instance that knows what batches take."""
    made = Batcher(Limits(rows_max=4, predicts=True, levels=(Level(), Level())), GreedyPolicy())
    made.width = 1
    for rows, took_s in seconds:
        made.times.observe(K, rows, took_s)
    return made


def test_a_deadline_that_cannot_be_met_is_refused_with_the_estimate() -> None:
    waiting = predicting((1, 0.01), (4, 0.04))
    waiting.busy_s = 0.02
    for _ in range(2):
        waiting.submit(request(4))

    with pytest.raises(DeadlineInfeasible) as caught:
        waiting.submit(request(deadline=0.1))

    assert str(caught.value) == (
        "the answer is expected in 110 ms (100 ms until its batch runs, behind 8 rows, and 10 ms "
        "to run it); the deadline is in 100 ms"
    )
    assert waiting.rows == 8
    waiting.submit(request(deadline=0.2))


def test_a_deadline_is_measured_against_those_of_its_priority_and_above() -> None:
    waiting = predicting((4, 0.04))
    for _ in range(10):
        waiting.submit(request(4, priority=2))

    waiting.submit(request(4, deadline=0.05))
    with pytest.raises(DeadlineInfeasible):
        waiting.submit(request(4, deadline=0.05, priority=2))


def test_several_instances_share_what_waits() -> None:
    waiting = predicting((4, 0.04))
    waiting.width = 4
    for _ in range(4):
        waiting.submit(request(4))

    waiting.submit(request(4, deadline=0.09))


def test_without_knowledge_nothing_is_refused() -> None:
    waiting = predicting()
    waiting.submit(request(1000, deadline=1e-9))
    down = predicting((1, 10.0))
    down.width = 0
    down.submit(request(deadline=1.0))

    assert (waiting.rows, down.rows) == (1000, 1)


def test_a_refused_request_is_not_remembered_for_its_priority_either() -> None:
    levels = (Level(timeout_s=1.0, is_delayed=True),)
    waiting = Batcher(Limits(rows_max=4, predicts=True, levels=levels), GreedyPolicy())
    waiting.width = 1
    waiting.times.observe(K, 1, 5.0)

    with pytest.raises(DeadlineInfeasible):
        waiting.submit(request(deadline=2.0))

    assert waiting.next_expiry_at() == math.inf
    assert waiting.expire(9.0) == []


# Memory.


def test_after_a_batch_ran_out_of_memory_batches_of_its_key_have_half_its_rows() -> None:
    other = key()
    waiting = batcher(limits=Limits(rows_max=8))
    for _ in range(8):
        waiting.submit(request())
        waiting.submit(request(of=other))

    waiting.shrink(dispatched(waiting.next_action(0.0)), 0.0)
    for _ in range(8):
        waiting.submit(request())

    sizes = [(batch.key is K, batch.rows) for batch in drained(waiting, 0.0)]
    assert sorted(sizes) == [(False, 8), (True, 4), (True, 4)]
    assert waiting.caps.lowest == 4


def drained(waiting: Batcher, now: float) -> list[Batch]:
    """All batches that are due."""
    batches = []
    while isinstance(action := waiting.next_action(now), Dispatch):
        batches.append(action.batch)
    return batches


# Everything at once.

QUARTERS = st.integers(0, 12).map(lambda n: n / 4)


class BatcherMachine(RuleBasedStateMachine):
    """A Batcher beside a model that looks at every waiting request every time."""

    policy: Policy = GreedyPolicy()
    levels: tuple[Level, ...] = (Level(),)
    splits = True

    ROWS_MAX = 4
    QUEUE_ROWS_MAX = 24
    QUEUE_BYTES_MAX = 60

    def __init__(self) -> None:
        super().__init__()
        limits = Limits(
            self.ROWS_MAX, self.QUEUE_ROWS_MAX, self.QUEUE_BYTES_MAX, self.splits, self.levels
        )
        self.batcher = Batcher(limits, self.policy)
        self.now = 100.0
        self.keys = [key(), key(), key(), key(is_whole=True)]
        # The model: what waits, in order of arrival, and how many rows of it have left.
        self.waiting: list[Request] = []
        self.taken: dict[Request, int] = {}
        # Those that have waited as long as their priority may, in that order.
        self.delayed: list[Request] = []
        # How each request ended: rows that were dispatched, and whether it was told to go.
        self.dispatched: dict[Request, list[tuple[int, int]]] = {}
        self.gone: set[Request] = set()

    @rule(
        index=st.integers(0, 3),
        rows=st.integers(1, 9),
        nbytes=st.integers(0, 12),
        patience=st.none() | QUARTERS,
        data=st.data(),
    )
    def submit(
        self, index: int, rows: int, nbytes: int, patience: float | None, data: st.DataObject
    ) -> None:
        of = self.keys[index]
        one = request(
            1 if of.is_whole else rows,
            of=of,
            at=self.now,
            deadline=math.inf if patience is None else self.now + patience,
            nbytes=nbytes,
            priority=data.draw(st.integers(1, len(self.levels))),
        )
        bound = self.levels[one.priority - 1].queue_rows_max or math.inf
        same = [other for other in self.waiting if self.level(other) == one.priority]
        fits = (
            self.rows(self.waiting) + one.rows <= self.QUEUE_ROWS_MAX
            and self.nbytes() + nbytes <= self.QUEUE_BYTES_MAX
            and self.rows(same) + one.rows <= bound
        )
        if fits:
            self.batcher.submit(one)
            self.waiting.append(one)
            self.taken[one] = 0
            self.dispatched[one] = []
        else:
            with pytest.raises(ResourceExhausted):
                self.batcher.submit(one)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(list(self.taken)))

        assert self.batcher.cancel(one) is (one in self.waiting)

        self.leave(one)

    @rule(seconds=QUARTERS)
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.expire()

    @rule()
    def act(self) -> None:
        self.expire()
        self.check(self.batcher.next_action(self.now))

    @precondition(lambda self: self.waiting)
    @rule()
    def wait(self) -> None:
        """Whatever is waited for happens: a batch, or the end of someone's patience."""
        self.expire()
        action = self.batcher.next_action(self.now)
        self.check(action)
        if isinstance(action, WaitUntil) and self.waiting:
            assert self.now < action.at < math.inf
            self.now = action.at
            is_late = self.expire()
            then = self.batcher.next_action(self.now)
            self.check(then)
            assert is_late or isinstance(then, Dispatch), "woken for nothing"

    @rule(rows=st.integers(1, 4), seconds=QUARTERS, index=st.integers(0, 3))
    def learn(self, rows: int, seconds: float, index: int) -> None:
        self.batcher.times.observe(self.keys[index], rows, seconds)

    @rule(is_really=st.sampled_from([False, False, True]))
    def drain(self, is_really: bool) -> None:
        if is_really:
            assert sorted(map(id, self.batcher.drain())) == sorted(map(id, self.waiting))
            for one in list(self.waiting):
                self.leave(one)

    @invariant()
    def counts_are_exact(self) -> None:
        assert self.batcher.rows == self.rows(self.waiting)
        assert self.batcher.nbytes == self.nbytes()
        assert self.batcher.next_expiry_at() == min(
            (min(one.deadline_at, self.timeout_at(one)) for one in self.waiting), default=math.inf
        )

    def teardown(self) -> None:
        left = set(self.batcher.drain())
        assert left == set(self.waiting)
        assert self.batcher.rows == self.batcher.nbytes == 0
        for one, ranges in self.dispatched.items():
            # Rows that ran did so once, in order, from the first on; all did, or the rest left.
            ends = [0, *(stop for _, stop in ranges)]
            assert [start for start, _ in ranges] == ends[:-1]
            assert ends[-1] == one.rows or one in self.gone or one in left

    # The model.

    def rows(self, requests: list[Request]) -> int:
        return sum(one.rows - self.taken[one] for one in requests)

    def nbytes(self) -> int:
        return sum(one.nbytes for one in self.waiting)

    def level(self, one: Request) -> int:
        return len(self.levels) + 1 if one in self.delayed else one.priority

    def timeout_at(self, one: Request) -> float:
        if one in self.delayed:
            return math.inf
        return one.arrived_at + self.levels[one.priority - 1].timeout_s

    def leave(self, one: Request) -> None:
        if one in self.waiting:
            self.waiting.remove(one)
            self.gone.add(one)

    def expire(self) -> bool:
        """Whether someone left, or was put behind the others."""
        late = [one for one in self.waiting if one.deadline_at <= self.now]
        rest = [one for one in self.waiting if one not in late]
        timed_out = [one for one in rest if self.timeout_at(one) <= self.now]
        timed_out.sort(key=self.timeout_at)
        delayed = [one for one in timed_out if self.levels[one.priority - 1].is_delayed]
        refused = [one for one in timed_out if one not in delayed]

        expired = [one for one, _ in self.batcher.expire(self.now)]

        assert sorted(map(id, expired)) == sorted(map(id, late + refused))
        told = [one.deadline_at for one in expired[: len(late)]]
        assert told == sorted(one.deadline_at for one in late)
        self.delayed += delayed
        for one in late + refused:
            self.leave(one)
        return bool(late or timed_out)

    def line(self, of: BatchKey) -> list[Request]:
        """What waits of one key, in the order in which it goes."""
        line = [one for one in self.waiting if one.key is of and one not in self.delayed]
        line.sort(key=lambda one: one.priority)
        return line + [one for one in self.delayed if one.key is of and one in self.waiting]

    def rows_max(self, of: BatchKey) -> int:
        return 1 if of.is_whole else self.ROWS_MAX

    def due_at(self, of: BatchKey) -> float:
        """When a line is due; for policies that look at nothing but rows and arrival."""
        line = self.line(of)
        if self.rows(line) >= self.policy.rows_wanted(of, self.rows_max(of)):
            return -math.inf
        firsts = {self.level(one): one for one in reversed(line)}.values()
        oldest_at = min(one.arrived_at for one in firsts)
        return self.policy.due_at(of, self.rows(line), oldest_at, self.now)

    def place(self, of: BatchKey) -> tuple[int, float]:
        first = self.line(of)[0]
        return self.level(first), first.arrived_at

    def check(self, action: Dispatch | WaitUntil) -> None:
        """Compare *action* with what the model would do, and do it in the model."""
        lines = {one.key for one in self.waiting}
        if not lines:
            assert action == WaitUntil(math.inf)
            return
        due = {of for of in lines if self.due_at(of) <= self.now}
        deadline_at = min(one.deadline_at for one in self.waiting)
        urgent = {one.key for one in self.waiting if one.deadline_at == deadline_at}
        if due:
            best = min(map(self.place, due))
            self.run(action, {of for of in due if self.place(of) == best})
            return
        # Of several that are as urgent any may be looked at.
        urgent_ats = {of: deadline_at - self.run_s(of) for of in urgent}
        if isinstance(action, Dispatch):
            self.run(action, {of for of, at in urgent_ats.items() if at <= self.now})
            return
        due_at = min(map(self.due_at, lines))
        assert action.at in {min(due_at, at) for at in urgent_ats.values()}
        assert action.at > self.now

    def run_s(self, of: BatchKey) -> float:
        rows = min(self.rows(self.line(of)), self.rows_max(of))
        return self.batcher.times.allow(of, rows)

    def run(self, action: Dispatch | WaitUntil, first: set[BatchKey]) -> None:
        """The batch must be of one of these keys, and have the rows that go first."""
        batch = dispatched(action)
        assert batch.key in first
        assert batch.closed_at == self.now
        expected = list(self.next_parts(batch.key))
        assert parts(batch) == expected
        assert batch.rows == sum(stop - start for _, start, stop in expected)
        assert batch.is_split == any(stop - start != one.rows for one, start, stop in expected)
        for one, start, stop in expected:
            assert one.deadline_at > self.now
            assert one not in self.gone
            self.dispatched[one].append((start, stop))
            self.taken[one] = stop
            if stop == one.rows:
                self.waiting.remove(one)

    def next_parts(self, of: BatchKey) -> Iterator[tuple[Request, int, int]]:
        """The first rows of a line, as many as fit."""
        room = self.room(of)
        for index, one in enumerate(self.line(of)):
            start = self.taken[one]
            left = one.rows - start
            if left > room and index:
                return
            size = min(left, room) if self.splits else left
            yield one, start, start + size
            room -= size
            if room <= 0:
                return

    def room(self, of: BatchKey) -> int:
        return self.rows_max(of)


class DelayedMachine(BatcherMachine):
    policy = DelayPolicy(1.5)


class PreferringMachine(BatcherMachine):
    policy = DelayPolicy(1.5, rows_preferred=2)


class WholeMachine(BatcherMachine):
    splits = False


class DelayedWholeMachine(BatcherMachine):
    policy = DelayPolicy(1.5)
    splits = False


class LevelsMachine(BatcherMachine):
    levels = (Level(), Level(queue_rows_max=10, timeout_s=1.25), Level(timeout_s=0.75))


class DelayingLevelsMachine(BatcherMachine):
    policy = DelayPolicy(1.5)
    levels = (Level(timeout_s=2.0, is_delayed=True), Level(timeout_s=0.75, is_delayed=True))


class AdaptiveMachine(BatcherMachine):
    """What it waits for is its own affair; the rows that run, and that something does, is not."""

    P99_S = 3.0

    def __init__(self) -> None:
        super().__init__()
        self.batcher.policy = AdaptivePolicy(self.P99_S, self.batcher.times)

    def check(self, action: Dispatch | WaitUntil) -> None:
        if not self.waiting:
            assert action == WaitUntil(math.inf)
        elif isinstance(action, WaitUntil):
            assert action.at > self.now
            for of in {one.key for one in self.waiting}:
                line = self.line(of)
                assert self.rows(line) < self.rows_max(of), "a full batch waits"
                assert action.at < line[0].arrived_at + self.P99_S, "waits beyond the objective"
        else:
            self.run(action, {one.key for one in self.waiting})

    def room(self, of: BatchKey) -> int:
        waited_s = self.now - self.line(of)[0].arrived_at
        return self.batcher.policy.rows_taken(of, self.rows_max(of), waited_s)


TestNoDelay = BatcherMachine.TestCase
TestDelay = DelayedMachine.TestCase
TestPreferred = PreferringMachine.TestCase
TestNoDelayWhole = WholeMachine.TestCase
TestDelayWhole = DelayedWholeMachine.TestCase
TestLevels = LevelsMachine.TestCase
TestDelayingLevels = DelayingLevelsMachine.TestCase
TestAdaptive = AdaptiveMachine.TestCase

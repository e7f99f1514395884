"""Batcher: which requests run together, and when; told the time, asked for the next action."""

import math
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from doubles import RecordingReply
from headrace.datatypes import DATATYPES
from headrace_server.errors import ResourceExhausted
from headrace_server.scheduler.batcher import Batcher, Dispatch, Limits, WaitUntil
from headrace_server.scheduler.policy import DelayPolicy
from headrace_server.types import Batch, BatchKey, InputLayout, Request

LAYOUT = InputLayout("x", DATATYPES["FP32"], (), 4)
REPLY = RecordingReply()


class Key(BatchKey):
    """A key whose life can be watched."""

    __slots__ = ("__weakref__",)


class Tracked(Request):
    """A request whose life can be watched."""

    __slots__ = ("__weakref__",)


def key(*, is_scalar: bool = False) -> BatchKey:
    return Key((LAYOUT,), is_scalar=is_scalar)


K = key()


def request(
    rows: int = 1,
    *,
    of: BatchKey = K,
    at: float = 0.0,
    deadline: float = math.inf,
    nbytes: int = 0,
) -> Request:
    return Tracked(of, rows, [b""], REPLY, None, nbytes, b"", at, deadline)


def batcher(
    *requests: Request,
    delay_s: float = 0.0,
    service_s: float = 0.0,
    limits: Limits = Limits(rows_max=4),  # noqa: B008 - a frozen value.
) -> Batcher:
    made = Batcher(limits, DelayPolicy(delay_s, service_s))
    for one in requests:
        made.submit(one)
    return made


def dispatched(action: Dispatch | WaitUntil) -> Batch:
    assert isinstance(action, Dispatch), f"expected a batch, got {action}"
    return action.batch


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
    waiting = batcher(request(at=0.0), request(at=0.0, deadline=6.0), delay_s=10.0, service_s=2.0)

    assert waiting.next_action(0.0) == WaitUntil(4.0)
    assert dispatched(waiting.next_action(4.0)).rows == 2


def test_an_urgent_request_hastens_only_the_line_it_waits_in() -> None:
    other = key()
    relaxed, urgent = request(at=0.0), request(of=other, at=1.0, deadline=4.0)
    waiting = batcher(relaxed, urgent, delay_s=10.0)

    waiting.policy.observe(1, 1.0)

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
    scalar = key(is_scalar=True)
    one, two = request(of=scalar), request(of=scalar)
    waiting = batcher(one, two, delay_s=9.0)

    assert parts(dispatched(waiting.next_action(0.0))) == [(one, 0, 1)]
    assert parts(dispatched(waiting.next_action(0.0))) == [(two, 0, 1)]


def test_a_request_with_a_scalar_runs_whole_whatever_its_rows() -> None:
    """A part of its rows would need the scalar too."""
    large = request(9, of=key(is_scalar=True))
    waiting = batcher(large, limits=Limits(4))

    assert parts(dispatched(waiting.next_action(0.0))) == [(large, 0, 9)]


def test_the_batch_that_is_due_first_is_told_to_be_full_or_not() -> None:
    small, large = request(3, at=1.0), request(4, of=key(), at=2.0)
    waiting = batcher(small, large, limits=Limits(4))
    assert not waiting.is_next_full()

    waiting.submit(request(1))
    assert waiting.is_next_full()
    waiting.next_action(2.0)
    assert waiting.is_next_full()
    waiting.next_action(2.0)
    assert not waiting.is_next_full()


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
    assert waiting.next_deadline_at() == math.inf
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
    assert waiting.next_deadline_at() == math.inf
    assert repr(waiting) == "<Batcher [0 rows waiting in 0 lines]>"


def test_late_requests_leave_in_order_of_their_deadlines() -> None:
    requests = [request(deadline=at) for at in (5.0, 3.0, 9.0, 4.0)]
    waiting = batcher(*requests)

    assert waiting.next_deadline_at() == 3.0
    assert waiting.expire(2.9) == []
    assert waiting.expire(5.0) == [requests[1], requests[3], requests[0]]
    assert waiting.next_deadline_at() == 9.0
    assert waiting.rows == 1


def test_many_late_requests_leave_at_once_and_each_only_once() -> None:
    requests = [request(deadline=float(at % 7)) for at in range(300)]
    waiting = batcher(*requests)

    late = waiting.expire(6.0)

    assert late == sorted(requests, key=lambda one: one.deadline_at)
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


# Everything at once.

QUARTERS = st.integers(0, 12).map(lambda n: n / 4)


class BatcherMachine(RuleBasedStateMachine):
    """A Batcher beside a model that looks at every waiting request every time."""

    delay_s = 0.0
    splits = True

    ROWS_MAX = 4
    QUEUE_ROWS_MAX = 24
    QUEUE_BYTES_MAX = 60

    def __init__(self) -> None:
        super().__init__()
        self.batcher = Batcher(
            Limits(self.ROWS_MAX, self.QUEUE_ROWS_MAX, self.QUEUE_BYTES_MAX, self.splits),
            DelayPolicy(self.delay_s),
        )
        self.now = 100.0
        self.keys = [key(), key(), key(), key(is_scalar=True)]
        # The model: what waits, in order of arrival, and how many rows of it have left.
        self.waiting: list[Request] = []
        self.taken: dict[Request, int] = {}
        # How each request ended: rows that were dispatched, and whether it was told to go.
        self.dispatched: dict[Request, list[tuple[int, int]]] = {}
        self.gone: set[Request] = set()

    @initialize(service_s=st.sampled_from([0.0, 0.5]))
    def begin(self, service_s: float) -> None:
        if service_s:
            self.batcher.policy.observe(1, service_s)

    @rule(
        index=st.integers(0, 3),
        rows=st.integers(1, 9),
        nbytes=st.integers(0, 12),
        age=st.sampled_from([0.0, 0.25]),
        patience=st.none() | QUARTERS,
    )
    def submit(
        self, index: int, rows: int, nbytes: int, age: float, patience: float | None
    ) -> None:
        of = self.keys[index]
        one = request(
            1 if of.is_scalar else rows,
            of=of,
            at=self.now - age,
            deadline=math.inf if patience is None else self.now + patience,
            nbytes=nbytes,
        )
        fits = (
            self.rows() + one.rows <= self.QUEUE_ROWS_MAX
            and self.nbytes() + nbytes <= self.QUEUE_BYTES_MAX
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

    @rule(seconds=QUARTERS)
    def learn(self, seconds: float) -> None:
        self.batcher.policy.observe(1, seconds)

    @rule(is_really=st.sampled_from([False, False, True]))
    def drain(self, is_really: bool) -> None:
        if is_really:
            assert sorted(map(id, self.batcher.drain())) == sorted(map(id, self.waiting))
            for one in list(self.waiting):
                self.leave(one)

    @invariant()
    def counts_are_exact(self) -> None:
        assert self.batcher.rows == self.rows()
        assert self.batcher.nbytes == self.nbytes()
        assert self.batcher.next_deadline_at() == min(
            (one.deadline_at for one in self.waiting), default=math.inf
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

    def rows(self) -> int:
        return sum(one.rows - self.taken[one] for one in self.waiting)

    def nbytes(self) -> int:
        return sum(one.nbytes for one in self.waiting)

    def leave(self, one: Request) -> None:
        if one in self.waiting:
            self.waiting.remove(one)
            self.gone.add(one)

    def expire(self) -> bool:
        late = [one for one in self.waiting if one.deadline_at <= self.now]
        expired = self.batcher.expire(self.now)
        assert sorted(map(id, expired)) == sorted(map(id, late))
        assert [one.deadline_at for one in expired] == sorted(one.deadline_at for one in late)
        for one in late:
            self.leave(one)
        return bool(late)

    def line(self, of: BatchKey) -> list[Request]:
        return [one for one in self.waiting if one.key is of]

    def rows_max(self, of: BatchKey) -> int:
        return 1 if of.is_scalar else self.ROWS_MAX

    def due_at(self, of: BatchKey) -> float:
        line = self.line(of)
        is_full = sum(one.rows - self.taken[one] for one in line) >= self.rows_max(of)
        return line[0].arrived_at + (0.0 if is_full else self.delay_s)

    def check(self, action: Dispatch | WaitUntil) -> None:
        """Compare *action* with what the model would do, and do it in the model."""
        lines = {one.key for one in self.waiting}
        if not lines:
            assert action == WaitUntil(math.inf)
            return
        due_at = min(map(self.due_at, lines))
        deadline_at = min(one.deadline_at for one in self.waiting)
        urgent_at = deadline_at - self.batcher.policy.service_s
        if due_at <= self.now:
            first = {of for of in lines if self.due_at(of) == due_at}
        elif urgent_at <= self.now:
            first = {one.key for one in self.waiting if one.deadline_at == deadline_at}
        else:
            assert action == WaitUntil(min(due_at, urgent_at))
            return
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
        """The oldest rows of a line, as many as fit."""
        room = self.rows_max(of)
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


class DelayedMachine(BatcherMachine):
    delay_s = 1.5


class WholeMachine(BatcherMachine):
    splits = False


class DelayedWholeMachine(BatcherMachine):
    delay_s = 1.5
    splits = False


TestNoDelay = BatcherMachine.TestCase
TestDelay = DelayedMachine.TestCase
TestNoDelayWhole = WholeMachine.TestCase
TestDelayWhole = DelayedWholeMachine.TestCase

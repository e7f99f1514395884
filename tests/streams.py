"""Streams: requests of one kind after another, each accounted for and each answer checked."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headrace_client import Client, HeadraceClientError, PredictionFuture

Array = npt.NDArray[Any]
KEPT_MAX = 10


@dataclass(frozen=True)
class Question:
    """One request, and what may become of it.

    Attributes:
        model: Who is asked.
        data: As for `Client.submit`.
        answer: The right one.
        options: Of `Client.submit`.
        codes: Statuses that it may end with instead of its answer.
        must_fail: Whether it may not be answered at all.
        leaves: Whether the caller gives up while others of its stream are on their way.
    """

    model: str
    data: Array | Mapping[str, Array]
    answer: Array
    options: Mapping[str, Any] = field(default_factory=dict)
    codes: frozenset[str] = frozenset()
    must_fail: bool = False
    leaves: bool = False


class Stream:
    """Questions that *make* gives by number, *in_flight* at a time, until the block ends.

    Attributes:
        name: As it is printed.
        sent: Requests sent.
        answered: Those with the right answer.
        failed: Those that failed as they may, by status.
        wrong: The first few that ended in any other way, with how; there must be none.
        wrong_count: How many those are.
    """

    def __init__(
        self, target: str, name: str, make: Callable[[int], Question], *, in_flight: int
    ) -> None:
        self.name = name
        self.sent = 0
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.wrong_count = 0
        self._client = Client(target, timeout_s=60)
        self._make = make
        self._in_flight = in_flight
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"stream {name}")

    @property
    def is_accounted(self) -> bool:
        """Whether what was sent is what ended."""
        return self.sent == self.answered + self.failed.total() + self.wrong_count

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()
        self._client.close()

    def __repr__(self) -> str:
        return (
            f"<Stream {self.name}: {self.sent} sent, {self.answered} answered, "
            f"{dict(self.failed)}, {self.wrong_count} wrong: {self.wrong}>"
        )

    def _run(self) -> None:
        flying: deque[tuple[Question, PredictionFuture]] = deque()
        while not self._is_over.is_set():
            question = self._make(self.sent)
            self.sent += 1
            try:
                future = self._client.submit(question.model, question.data, **question.options)
            except HeadraceClientError as error:
                # Its model's metadata could not be had.
                self._fail(question, error)
                continue
            flying.append((question, future))
            # Half of a stream's requests are younger than this one, half are older.
            middle, its_future = flying[len(flying) // 2]
            if middle.leaves:
                its_future.cancel()
            if len(flying) >= self._in_flight:
                self._take(*flying.popleft())
        while flying:
            self._take(*flying.popleft())

    def _take(self, question: Question, future: PredictionFuture) -> None:
        try:
            prediction = future.result()
        except HeadraceClientError as error:
            self._fail(question, error)
            return
        got = prediction.array
        wants_timings = question.options.get("timings", False)
        if question.must_fail:
            self._go_wrong(f"was answered {got!r} and should have failed")
        elif not np.array_equal(got, question.answer):
            self._go_wrong(f"was answered {got!r}, not {question.answer!r}")
        elif wants_timings and (prediction.timings is None or prediction.timings.total_ns <= 0):
            self._go_wrong(f"was told the timings {prediction.timings}")
        else:
            self.answered += 1

    def _fail(self, question: Question, error: HeadraceClientError) -> None:
        if error.code in question.codes:
            self.failed[error.code] += 1
        else:
            self._go_wrong(f"failed: {error.code} {error.message}")

    def _go_wrong(self, how: str) -> None:
        self.wrong_count += 1
        if len(self.wrong) < KEPT_MAX:
            self.wrong.append(f"{self.name}: {how}")

"""Load: a stream of requests, each of them accounted for, under which tests break something."""

import math
import threading
from collections import Counter, deque
from types import TracebackType
from typing import Self

import numpy as np

from headrace_client import Client, HeadraceClientError, PredictionFuture

IN_FLIGHT = 64


class Load:
    """Rows `[what, n]`, each with an n of its own, sent to an echoing model until the block ends.

    Attributes:
        sent: Requests sent.
        answered: Those whose answer was their own row.
        wrong: Answers that were not.
        failed: Those that failed, by status and sentence.
    """

    def __init__(
        self, target: str, model: str, *, what: float = 0.0, until_failed: bool = False
    ) -> None:
        self.sent = 0
        self.answered = 0
        self.wrong: list[object] = []
        self.failed: Counter[tuple[str, str]] = Counter()
        self._client = Client(target, timeout_s=60)
        self._model = model
        self._what = what
        self._until_failed = until_failed
        self._is_over = threading.Event()
        self._passed = threading.Condition()
        # As many answers are waited for; whoever waits is not woken by those before.
        self._goal = math.inf
        self._thread = threading.Thread(target=self._run, name="load")

    @property
    def codes(self) -> set[str]:
        """The statuses that there were besides OK."""
        return {code for code, _ in self.failed}

    def wait_answered(self, more: int) -> None:
        """Wait until so many *more* answers have come."""
        with self._passed:
            self._goal = goal = self.answered + more
            assert self._passed.wait_for(lambda: self.answered >= goal, 60), self

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_answered(IN_FLIGHT)
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
        assert self.sent == self.answered + len(self.wrong) + self.failed.total()
        assert self.wrong == []

    def __repr__(self) -> str:
        return f"<Load {self.sent} sent, {self.answered} answered, {dict(self.failed)}>"

    def join(self) -> None:
        """Wait for the end of a load that ends when a request fails."""
        self._thread.join(60)
        assert not self._thread.is_alive(), self

    def _run(self) -> None:
        flying: deque[tuple[float, PredictionFuture]] = deque()
        while not self._is_over.is_set():
            row = np.array([[self._what, float(self.sent)]])
            flying.append((float(self.sent), self._client.submit(self._model, row)))
            self.sent += 1
            if len(flying) >= IN_FLIGHT:
                self._take(*flying.popleft())
        while flying:
            self._take(*flying.popleft())

    def _take(self, number: float, future: PredictionFuture) -> None:
        try:
            answer = future.result().array.tolist()
        except HeadraceClientError as error:
            self.failed[error.code, error.message] += 1
            if self._until_failed:
                self._is_over.set()
            return
        with self._passed:
            if answer == [[self._what, number]]:
                self.answered += 1
            else:
                self.wrong.append((number, answer))
            if self.answered >= self._goal:
                self._passed.notify_all()

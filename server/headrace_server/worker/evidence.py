"""Evidence: what real traffic shows of whether a model batches.

Requests of a model that is unproven are kept, each with the answer that it had alone, and run
together in idle moments: alike in enough trials, the model batches. Of a model that batches a few
rows of a batch are run alone now and then: another answer than they had makes the model whole.
Nothing here runs while a caller waits, but for one trial a second where callers always wait.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..adapters.base import Array, Params, Tensors, cause
from ..adapters.comparing import Tolerance
from ..adapters.memory import is_out_of_memory
from ..adapters.proof import TRAFFIC_ROWS, Finding, Verdict
from ..adapters.variety import together

Predict = Callable[[Tensors, Params], Tensors]

# What is kept: requests of one kind, kinds, the bytes of a request with its answer, and of all.
_KEPT_MAX = 32
_KINDS_MAX = 4
_BYTES_MAX = 1 << 20
_ALL_BYTES_MAX = 8 << 20
# A model batches once so many different requests were alike in so many trials.
_REQUESTS_MIN = 8
_TRIALS_MIN = 8
_TRIAL_REQUESTS_MAX = 8
# An output that never differs is taken for constant after so many rows.
_CONSTANT_ROWS = 256
# Where the model is never idle, a trial may hold it up once in so long (seconds).
_HOLD_UP_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A batch that ran, in memory of its own.

    Attributes:
        kind: What requests must have in common to be run together.
        params: What the model was asked with.
        inputs: Its inputs.
        answer: Its outputs.
        rows: Its rows; 0 where the inputs have no common number.
    """

    kind: Hashable
    params: Params
    inputs: Tensors
    answer: Tensors
    rows: int


@dataclass(slots=True)
class _Kind:
    """The requests of one kind that are kept, and how they fared together."""

    kept: list[Seen] = field(default_factory=list)
    trials: int = 0
    rows_seen: int = 0
    varied: set[str] = field(default_factory=set)


class _Refuted(Exception):
    """The model does not batch; the message says how that was seen."""


class Evidence:
    """What traffic shows of one model. Used by the thread of its instance alone.

    Attributes:
        answers: Once it has proven the model: to so many rows each, what the model answered.
    """

    def __init__(self, predict: Predict, verdict: Verdict, *, precision: str = "fp32") -> None:
        """Nothing is known but *verdict*.

        Args:
            predict: Asks the model.
            verdict: What the proof at load said: batched or unproven.
            precision: In what the model computes.
        """
        self.answers: list[tuple[int, Tensors]] = []
        self._predict = predict
        self._is_proving = verdict is Verdict.UNPROVEN
        self._tolerance = Tolerance(precision)
        self._fresh: deque[Seen] = deque()
        self._kinds: dict[Hashable, _Kind] = {}
        self._nbytes = 0
        self._batches = 0
        self._audited_at = 0
        self._last_trial = time.monotonic()

    def wants(self, rows: int) -> bool:
        """Whether a batch of so many *rows* would tell anything; 0 is a whole request."""
        if self._is_proving:
            return len(self._fresh) < _TRIAL_REQUESTS_MAX
        self._batches += 1
        # Ever more seldom: the first, the second, the fourth, the eighth batch, ...
        return rows > 1 and not self._fresh and self._batches >= 2 * self._audited_at

    def note(self, inputs: Tensors, answer: Tensors, params: Params) -> None:
        """Keep a copy of what ran, if it is small."""
        nbytes = _bytes_of(inputs) + _bytes_of(answer)
        if nbytes > _BYTES_MAX:
            return
        self._audited_at = self._batches
        counts = {array.shape[:1] for array in inputs.values()}
        rows = next(iter(counts))[0] if len(counts) == 1 and () not in counts else 0
        if self._is_proving and (not rows or self._nbytes + nbytes > _ALL_BYTES_MAX):
            return
        kind = (
            tuple((name, array.dtype.str, array.shape[1:]) for name, array in inputs.items()),
            repr(sorted(params.items())),
        )
        self._fresh.append(Seen(kind, params, _copied(inputs), _copied(answer), rows))

    def has_work(self) -> bool:
        """Whether there is something to find out."""
        return bool(self._fresh) or any(_is_ready(kind) for kind in self._kinds.values())

    def is_overdue(self) -> bool:
        """Whether it has waited so long for an idle moment that it may hold up a caller."""
        return (
            self._is_proving
            and time.monotonic() - self._last_trial > _HOLD_UP_S
            and self.has_work()
        )

    def weigh(self) -> Finding | None:
        """Find out a little more, by a few calls of the model at most; a finding if that decides.

        After a finding of a whole model there is no more to find out.
        """
        self._last_trial = time.monotonic()
        try:
            if not self._is_proving:
                self._audit(self._fresh.popleft())
                return None
            while self._fresh:
                self._sort_in(self._fresh.popleft())
            ready = next((kind for kind in self._kinds.values() if _is_ready(kind)), None)
            if ready is not None:
                self._try_together(ready)
            proven = next((kind for kind in self._kinds.values() if _is_proven(kind)), None)
            if proven is None:
                return None
        except _Refuted as refuted:
            self._forget()
            return Finding(Verdict.WHOLE, str(refuted))
        self._is_proving = False
        count = len(proven.kept)
        self.answers = [(seen.rows, seen.answer) for seen in proven.kept]
        self._forget()
        return Finding(Verdict.BATCHED, f"{count} requests answered alike alone and together")

    def _forget(self) -> None:
        self._fresh.clear()
        self._kinds.clear()
        self._nbytes = 0

    # A model that is unproven.

    def _sort_in(self, seen: Seen) -> None:
        """Keep a request that is unlike those that are kept."""
        for name, array in seen.answer.items():
            if array.shape[:1] != (seen.rows,):
                raise _Refuted(
                    f"output {name!r} has shape {list(array.shape)} for {seen.rows} row(s)"
                )
        if seen.kind not in self._kinds and len(self._kinds) >= _KINDS_MAX:
            return
        kind = self._kinds.setdefault(seen.kind, _Kind())
        self._tolerance.learn(seen.answer)
        kind.rows_seen += seen.rows
        first = kind.kept[0] if kind.kept else seen
        if first.answer.keys() != seen.answer.keys():
            raise _Refuted(f"outputs are {list(seen.answer)} after {list(first.answer)}")
        news = {
            name
            for name in seen.answer.keys() - kind.varied
            if self._differs_within(seen, name) or self._differs(first, seen, name)
        }
        kind.varied |= news
        if any(_is_alike(seen.inputs, other.inputs) for other in kind.kept):
            return
        if len(kind.kept) < _KEPT_MAX:
            kind.kept.append(seen)
        elif news:
            kind.kept[-1] = seen
        else:
            return
        self._nbytes += _bytes_of(seen.inputs) + _bytes_of(seen.answer)

    def _differs_within(self, seen: Seen, name: str) -> bool:
        first = _row(seen.answer, 0, only=name)
        return any(
            self._tolerance.difference(first, _row(seen.answer, at, only=name))
            for at in range(1, min(seen.rows, TRAFFIC_ROWS))
        )

    def _differs(self, first: Seen, seen: Seen, name: str) -> bool:
        if not first.rows or not seen.rows:
            return False
        one, other = _row(first.answer, 0, only=name), _row(seen.answer, 0, only=name)
        return bool(self._tolerance.difference(one, other))

    def _try_together(self, kind: _Kind) -> None:
        """Run some of the kept requests in one call, others each time, and in another order."""
        kind.trials += 1
        count = len(kind.kept)
        order = [kind.kept[(kind.trials * 3 + at) % count] for at in range(count)]
        if kind.trials % 2:
            order.reverse()
        chosen: list[Seen] = []
        rows = 0
        for seen in order[:_TRIAL_REQUESTS_MAX]:
            if len(chosen) >= 2 and rows + seen.rows > TRAFFIC_ROWS:
                break
            chosen.append(seen)
            rows += seen.rows
        try:
            answer = self._predict(together([seen.inputs for seen in chosen]), chosen[0].params)
        except Exception as error:
            if is_out_of_memory(error):
                return
            why = f"{len(chosen)} requests run alone, but not together ({cause(error)})"
            raise _Refuted(why) from error
        for name, array in answer.items():
            if array.shape[:1] != (rows,):
                raise _Refuted(f"output {name!r} has shape {list(array.shape)} for {rows} row(s)")
        start = 0
        for seen in chosen:
            mine = {name: array[start : start + seen.rows] for name, array in answer.items()}
            self._hold(seen.inputs, seen.answer, mine, seen.params)
            start += seen.rows

    # A model that batches.

    def _audit(self, seen: Seen) -> None:
        """Run a few rows of a batch alone: the first, the last and one in between."""
        if not seen.rows or any(a.shape[:1] != (seen.rows,) for a in seen.answer.values()):
            return
        for at in {0, seen.rows // 2, seen.rows - 1}:
            inputs, served = _row(seen.inputs, at), _row(seen.answer, at)
            try:
                alone = self._predict(inputs, seen.params)
            except Exception as error:
                why = f"a row was answered in a batch, but fails alone ({cause(error)})"
                raise _Refuted(why) from error
            self._hold(inputs, alone, served, seen.params)

    def _hold(self, inputs: Tensors, alone: Tensors, beside: Tensors, params: Params) -> None:
        """Hold the answer that *inputs* had beside others against the one alone."""
        why = self._tolerance.difference(alone, beside)
        if not why:
            return
        try:
            again = self._predict(inputs, params)
        except Exception as error:
            raise _Refuted(f"a request fails the second time ({cause(error)})") from error
        if changed := self._tolerance.difference(alone, again):
            raise _Refuted(f"the answer to one request differs each time: {changed}")
        raise _Refuted(f"rows differ with their neighbours: {why}")


def _is_ready(kind: _Kind) -> bool:
    """Whether a trial of its requests would tell something new."""
    return len(kind.kept) >= _REQUESTS_MIN and kind.trials < _TRIALS_MIN


def _is_proven(kind: _Kind) -> bool:
    """Whether enough trials were alike, and each output differed or never did in many rows."""
    if kind.trials < _TRIALS_MIN:
        return False
    return kind.kept[0].answer.keys() <= kind.varied or kind.rows_seen >= _CONSTANT_ROWS


def _bytes_of(tensors: Tensors) -> int:
    return sum(
        sum(len(item) if isinstance(item, str | bytes) else 64 for item in array.ravel().tolist())
        if array.dtype.kind == "O"
        else array.nbytes
        for array in tensors.values()
    )


def _copied(tensors: Tensors) -> Tensors:
    return {name: array.copy() for name, array in tensors.items()}


def _row(tensors: Tensors, at: int, *, only: str = "") -> Tensors:
    names: Sequence[str] = (only,) if only else tuple(tensors)
    return {name: tensors[name][at : at + 1] for name in names}


def _is_alike(one: Tensors, other: Tensors) -> bool:
    return all(_is_equal(array, other[name]) for name, array in one.items())


def _is_equal(one: Array, other: Array) -> bool:
    return one.shape == other.shape and bool(
        np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    )

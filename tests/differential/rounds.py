"""Rounds: models of families, asked of one daemon, and a verdict on each of its answers."""

import math
import random
import re
import threading
import traceback
import urllib.request
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from headrace_client import Client, HeadraceClientError, Prediction, PredictionFuture
from serving import Daemon

from .cases import Case, Data, Family, by_pyfunc, drawn
from .equality import Comparison, fingerprint, shown
from .refusals import BUDGET, FAILING, LOADS, REQUESTS, reason_of

# Cases of a family that are drawn for a round; the last is taken, since the first are the simplest.
_CASES_DRAWN: Final = 4
# Threads that ask, and the requests that each of them has on their way.
_THREADS: Final = 3
_IN_FLIGHT: Final = 48
# Requests of one model that are sent one behind the other.
_BURST: Final = range(2, 10)
# Settings of families that must be seen to share batches, whatever was drawn.
_SHARING: Final = {"rows_max": 128, "queue_delay_us_max": 4000}
_PATIENCE_S: Final = 60.0

EQUAL: Final = "equal"
REFUSED_ALIKE: Final = "MLflow fails too"
CHANCE: Final = "of the right shape"
WRONG: Final = "wrong"


@dataclass(frozen=True)
class Failure:
    """MLflow's own call failed."""

    sentence: str


@dataclass(eq=False)
class Question:
    """A request, and what MLflow answers to it.

    Attributes:
        data: The request.
        answer: MLflow's answer, or a Failure.
        known: Answers that were judged already, and how.
    """

    data: Data
    answer: Any
    known: dict[tuple[Any, ...], tuple[str, str]] = field(default_factory=dict)

    @property
    def fails(self) -> bool:
        """Whether MLflow's call fails."""
        return isinstance(self.answer, Failure)


@dataclass(eq=False)
class Served:
    """A model that the daemon serves.

    Attributes:
        name: The name it is served by.
        family: Whose it is.
        case: What was drawn.
        predict: MLflow's own call.
        questions: What it is asked.
        comparison: How its answers are compared.
        why_not: Why the daemon does not serve it.
    """

    name: str
    family: Family
    case: Case
    predict: Callable[[Data], Any]
    questions: list[Question] = field(default_factory=list)
    comparison: Comparison = field(default_factory=Comparison)
    why_not: str = ""

    def batches_of(self, question: Question) -> int:
        """How many batches a request fills by itself."""
        rows = max((len(array) for array in question.data.values() if array.ndim), default=1)
        return math.ceil(rows / int(str(self.case.settings.get("rows_max", 128))))

    def question(self, data: Data) -> Question:
        """*data* and MLflow's answer to it alone."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return Question(data, self.predict(data))
            except Exception as error:  # noqa: BLE001 - a model may raise anything.
                return Question(
                    data, Failure(f"{type(error).__name__}: {error}".partition("\n")[0])
                )


@dataclass(frozen=True)
class Contradiction:
    """What a daemon answered and MLflow did not.

    Attributes:
        served: The model.
        question: The request.
        beside: What was sent to the model just before and behind it; nothing where it was alone.
        how: How the answers differ.
    """

    served: Served
    question: Question
    beside: Sequence[Question]
    how: str


@dataclass
class Tally:
    """What became of the requests of a family.

    Attributes:
        models: Its models.
        ended: How many requests ended, by verdict: equal, or the reason of a refusal.
        wrong_alone: Contradictions of requests that no other was beside.
        wrong_beside: Those of requests among others.
        batches: The batches that its requests ran in, as the daemon counted.
        batches_apart: As many as there would be if none had shared one.
        seconds: How long its models computed.
        first: The first contradictions.
    """

    models: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    wrong_alone: int = 0
    wrong_beside: int = 0
    batches: int = 0
    batches_apart: int = 0
    seconds: float = 0.0
    first: list[Contradiction] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """All contradictions."""
        return self.wrong_alone + self.wrong_beside

    @property
    def count(self) -> int:
        """All requests that ended."""
        return self.ended.total() + self.wrong

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


# By the name of the family.
Tallies = dict[str, Tally]


def merged(one: Tallies, other: Tallies) -> Tallies:
    """What became of the requests of both."""
    return {name: one.get(name, Tally()) + other.get(name, Tally()) for name in {**one, **other}}


class Round:
    """Models of *families*, served by a daemon, until the block ends.

    Attributes:
        tallies: What became of the requests, by family.
        models: All models, with those that are not served.
    """

    def __init__(
        self, families: Sequence[Family], folder: Path, *, seed: int, questions: int
    ) -> None:
        """Draw models of *families* with *seed*, and so many *questions* for each."""
        self.tallies: Tallies = {family.name: Tally() for family in families}
        self.models = [
            _made(f"m{number}", family, folder, seed=seed * 1000 + number, questions=questions)
            for number, family in enumerate(families)
        ]
        self._folder = folder
        self._seed = seed
        self._daemon: Daemon | None = None
        self._lock = threading.Lock()
        for served in self.models:
            self.tallies[served.family.name].models += 1

    def __enter__(self) -> Self:
        arguments = [
            word
            for served in self.models
            for key, value in {"trial": "false", **served.case.settings}.items()
            for word in ("--set", f"{served.name}.{key}={value}")
        ]
        uris = [f"{served.name}={self._folder / served.name}" for served in self.models]
        self._daemon = Daemon(*uris, *arguments, cwd=self._folder, cache=self._folder / "cache")
        try:
            self._learn(self._daemon)
        except BaseException:
            self._daemon.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._daemon is not None
        assert self._daemon.stop() == 0

    @property
    def count(self) -> int:
        """How many requests have ended."""
        return sum(tally.count for tally in self.tallies.values())

    def contradictions(self) -> list[Contradiction]:
        """The first of each family: one among others where there is one."""
        return [tally.first[-1] for tally in self.tallies.values() if tally.first]

    @property
    def served(self) -> list[Served]:
        """The models that are served."""
        return [served for served in self.models if not served.why_not]

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of the daemon."""
        assert self._daemon is not None
        with Client(self._daemon.address, timeout_s=_PATIENCE_S) as client:
            yield client

    def ask_alone(self) -> int:
        """Ask each question once, while nothing else of its model is on its way.

        How many have ended then, with those of models that are not served.
        """
        asked = self.count
        with self.client() as client:
            for column in range(max(len(served.questions) for served in self.models)):
                # One of each model at a time.
                flying = [
                    (served, question, _submitted(client, served, question))
                    for served in self.served
                    for question in served.questions[column : column + 1]
                ]
                for served, question, future in flying:
                    self._take(served, question, (), future)
                asked += len(flying)
        return asked

    def ask_beside(self, answers: int, tick: Callable[[int], None] = lambda _: None) -> None:
        """Ask *answers* questions in bursts, several of one model at a time, from threads.

        *tick* is told of each few that have ended.
        """
        failed: list[str] = []

        def run(number: int) -> None:
            try:
                part = (answers + number) // _THREADS
                self._stream(random.Random(f"{self._seed}/{number}"), part, tick)
            except BaseException:  # noqa: BLE001 - told by the thread that waits.
                failed.append(traceback.format_exc())

        threads = [
            threading.Thread(target=run, args=(number,), name=f"asking {number}")
            for number in range(_THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed[0]
        self._count_batches()

    def contradicts(
        self, client: Client, served: Served, question: Question, beside: Sequence[Data]
    ) -> str:
        """How the answer to *question*, sent among *beside*, differs; empty where it does not."""
        middle = len(beside) // 2
        neighbours = [Question(data, None) for data in beside]
        burst = [*neighbours[:middle], question, *neighbours[middle:]]
        futures = [_submitted(client, served, one) for one in burst]
        outcomes = [_ended(future) for future in futures]
        return _judged(served, question, outcomes[middle])[1]

    # The daemon's end.

    def _learn(self, daemon: Daemon) -> None:
        """Learn what is served once nothing loads any more, and what the metadata says of it."""
        daemon.wait_ready()
        with self.client() as client:
            reasons = {
                status.name: status.reason for status in client.models() if status.state != "READY"
            }
            for served in self.models:
                served.why_not = reasons.get(served.name, "")
                if not served.why_not:
                    outputs = client.metadata(served.name).outputs
                    served.comparison = Comparison(
                        {spec.name: spec for spec in outputs},
                        shapes=served.family.chance,
                        computes=served.family.computes,
                    )
        for served in self.models:
            if served.why_not:
                self._count_unserved(served)

    def _count_unserved(self, served: Served) -> None:
        tally = self.tallies[served.family.name]
        answered = [question for question in served.questions if not question.fails]
        reason = reason_of(LOADS, served.family, "FAILED_PRECONDITION", served.why_not)
        if reason:
            tally.ended[f"not served: {reason}"] += len(served.questions)
        elif not answered:
            tally.ended[REFUSED_ALIKE] += len(served.questions)
        else:
            tally.wrong_alone += len(answered)
            tally.first.append(
                Contradiction(served, answered[0], (), f"not served: {served.why_not}")
            )

    def _count_batches(self) -> None:
        """Add what the daemon counted."""
        assert self._daemon is not None
        with urllib.request.urlopen(self._daemon.metrics) as page:  # noqa: S310 - our own daemon.
            text = page.read().decode()
        found = re.findall(r'^(headrace_\w+)\{model="(\w+)".*\} (\S+)$', text, re.MULTILINE)
        numbers = {(metric, name): float(value) for metric, name, value in found}
        for served in self.models:
            tally = self.tallies[served.family.name]
            tally.batches += int(numbers.get(("headrace_batches_total", served.name), 0))
            tally.seconds += numbers.get(("headrace_compute_seconds_sum", served.name), 0.0)

    # Asking.

    def _stream(self, chance: random.Random, answers: int, tick: Callable[[int], None]) -> None:
        flying: deque[tuple[Served, Question, Sequence[Question], PredictionFuture | Exception]]
        flying = deque()
        served = self.served
        with self.client() as client:
            while answers > 0:
                one = chance.choice(served)
                burst = _burst(one, chance, answers)
                for question in burst:
                    flying.append((one, question, burst, _submitted(client, one, question)))
                answers -= len(burst)
                tick(len(burst))
                while len(flying) > _IN_FLIGHT:
                    self._take(*flying.popleft())
            while flying:
                self._take(*flying.popleft())

    def _take(
        self,
        served: Served,
        question: Question,
        burst: Sequence[Question],
        future: PredictionFuture | Exception,
    ) -> None:
        verdict, how = _judged(served, question, _ended(future), is_alone=not burst)
        tally = self.tallies[served.family.name]
        with self._lock:
            tally.batches_apart += served.batches_of(question)
            if verdict != WRONG:
                tally.ended[verdict] += 1
                return
            if burst:
                tally.wrong_beside += 1
            else:
                tally.wrong_alone += 1
            # The first of those alone, and of those beside others.
            if len(tally.first) < 1 or (burst and not any(one.beside for one in tally.first)):
                beside = [other for other in burst if other is not question]
                tally.first.append(Contradiction(served, question, beside, how))


def _made(name: str, family: Family, folder: Path, *, seed: int, questions: int) -> Served:
    """A model of *family*, saved in *folder*, with what MLflow answers."""
    case = drawn(family.cases, _CASES_DRAWN, seed)[-1]
    if family.batches:
        case = replace(case, settings={**case.settings, **_SHARING})
    with warnings.catch_warnings():
        # MLflow has much to say to people who save models.
        warnings.simplefilter("ignore")
        case.save(str(folder / name))
        served = Served(name, family, case, (case.load or by_pyfunc)(str(folder / name)))
    served.questions = [served.question(data) for data in drawn(case.requests, questions, seed)]
    return served


def _burst(served: Served, chance: random.Random, most: int) -> list[Question]:
    """Questions to send one behind the other; one at most that the model fails on."""
    found: list[Question] = []
    for question in chance.choices(served.questions, k=min(chance.choice(_BURST), most)):
        if not question.fails or not any(one.fails for one in found):
            found.append(question)
    return found


def _submitted(client: Client, served: Served, question: Question) -> PredictionFuture | Exception:
    try:
        return client.submit(served.name, question.data.get("", question.data))
    except (HeadraceClientError, TypeError) as error:
        return error


def _ended(future: PredictionFuture | Exception) -> Prediction | Exception:
    if isinstance(future, Exception):
        return future
    try:
        return future.result()
    except HeadraceClientError as error:
        return error


def _judged(
    served: Served, question: Question, outcome: Prediction | Exception, *, is_alone: bool = False
) -> tuple[str, str]:
    """The verdict on an answer, and if it is WRONG how it differs."""
    if isinstance(outcome, Exception):
        return _judged_error(served, question, outcome, is_alone=is_alone)
    print_ = fingerprint(outcome)
    if print_ not in question.known:
        question.known[print_] = _judged_answer(served, question, outcome)
    return question.known[print_]


def _judged_answer(served: Served, question: Question, answer: Prediction) -> tuple[str, str]:
    if isinstance(question.answer, Failure):
        return WRONG, f"answered {shown(dict(answer))}, MLflow fails: {question.answer.sentence}"
    try:
        how = served.comparison.difference(question.answer, answer)
    except Exception as error:  # noqa: BLE001 - an answer so odd that it cannot be compared.
        how = f"cannot be compared: {type(error).__name__}: {error}"
    if how:
        return WRONG, how
    return (CHANCE if served.family.chance else EQUAL), ""


def _judged_error(
    served: Served, question: Question, error: Exception, *, is_alone: bool
) -> tuple[str, str]:
    code = error.code if isinstance(error, HeadraceClientError) else type(error).__name__
    sentence = error.message if isinstance(error, HeadraceClientError) else str(error)
    if question.fails and code in FAILING:
        return REFUSED_ALIKE, ""
    refusals = REQUESTS
    if served.family.raises and not is_alone:
        refusals = (*refusals, BUDGET)
    if reason := reason_of(refusals, served.family, code, sentence):
        return reason, ""
    return WRONG, f"refused: {code} {sentence}"

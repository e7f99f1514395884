"""What traffic shows of a model that the proof at load could not judge, or judged wrongly."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from headrace_server.adapters.base import Params, Tensors
from headrace_server.adapters.proof import Finding, Verdict
from headrace_server.worker.evidence import Evidence

Model = Callable[[Any], Any]


class Bench:
    """A model of one column, its evidence, and requests that it answers whole."""

    def __init__(self, model: Model, verdict: Verdict = Verdict.UNPROVEN) -> None:
        self.calls: list[int] = []
        self._model = model
        self.evidence = Evidence(self.predict, verdict)
        self.findings: list[Finding] = []

    def predict(self, tensors: Tensors, params: Params) -> Tensors:
        self.calls.append(len(tensors["x"]))
        return {"y": np.asarray(self._model(tensors["x"]))}

    def serve(self, *requests: Any) -> None:
        """Answer requests, each by itself, with an idle moment after each."""
        for request in requests:
            inputs = {"x": np.atleast_1d(np.asarray(request))}
            answer = self.predict(inputs, {})
            if self.evidence.wants(0):
                self.evidence.note(inputs, answer, {})
            self.rest()

    def serve_together(self, batch: Any, answer: Any) -> None:
        inputs = {"x": np.asarray(batch)}
        if self.evidence.wants(len(inputs["x"])):
            self.evidence.note(inputs, {"y": np.asarray(answer)}, {})
        self.rest()

    def rest(self) -> None:
        steps = 0
        while self.evidence.has_work():
            steps += 1
            assert steps < 50, "it never has enough"
            if (finding := self.evidence.weigh()) is not None:
                self.findings.append(finding)
                if finding.verdict is Verdict.WHOLE:
                    return


def known(texts: Any) -> Any:
    return np.array([{"red": 1.0, "blue": 2.0}.get(text, 0.0) for text in texts])


def names(count: int) -> list[Any]:
    colors = ("red", "blue", "green")
    return [np.array([colors[at % 3], f"a{at}"], object) for at in range(count)]


def test_real_requests_prove_what_made_up_rows_could_not() -> None:
    bench = Bench(known)

    bench.serve(*names(12))

    assert bench.findings == [
        Finding(Verdict.BATCHED, "8 requests answered alike alone and together")
    ]


def test_a_few_requests_are_no_proof() -> None:
    bench = Bench(known)

    bench.serve(*names(7))

    assert bench.findings == []


def test_the_same_request_again_and_again_is_no_proof() -> None:
    bench = Bench(known)

    bench.serve(*[np.array(["red", "blue"], object)] * 50)

    assert bench.findings == []


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x - x.mean(),
        np.cumsum,
        lambda x: x * len(x),
        np.sort,
    ],
)
def test_requests_that_answer_otherwise_together_make_the_model_whole(model: Model) -> None:
    bench = Bench(model)

    bench.serve(*([float(at), 3.5 * at + 1] for at in range(12)))

    (finding,) = bench.findings
    assert finding.verdict is Verdict.WHOLE
    assert finding.why.startswith("rows differ with their neighbours: 'y', ")


def test_one_request_with_fewer_rows_in_its_answer_makes_the_model_whole() -> None:
    bench = Bench(lambda x: x[x >= 0])

    bench.serve([1.0, 2.0], [3.0, -1.0])

    assert bench.findings == [Finding(Verdict.WHOLE, "output 'y' has shape [1] for 2 row(s)")]


def test_requests_that_fail_only_together_make_the_model_whole() -> None:
    def narrow(x: Any) -> Any:
        if len(x) > 2:
            raise ValueError("two at most")
        return x

    bench = Bench(narrow)

    bench.serve(*([float(at), 3.5 * at + 1] for at in range(12)))

    (finding,) = bench.findings
    assert finding.verdict is Verdict.WHOLE
    assert "requests run alone, but not together (ValueError: two at most)" in finding.why


def test_answers_that_differ_each_time_are_no_proof_for_batches() -> None:
    chance = np.random.default_rng(0)
    bench = Bench(lambda x: chance.random(len(x)))

    bench.serve(*([float(at)] for at in range(12)))

    (finding,) = bench.findings
    assert finding.verdict is Verdict.WHOLE
    assert finding.why.startswith("the answer to one request differs each time: ")


def test_an_output_that_never_differs_needs_very_many_rows() -> None:
    bench = Bench(lambda x: np.zeros(len(x)))

    bench.serve(*([float(at)] for at in range(200)))
    before = list(bench.findings)
    bench.serve(*([float(at)] for at in range(200, 300)))

    assert before == []
    assert [finding.verdict for finding in bench.findings] == [Verdict.BATCHED]


def test_trials_are_bounded_in_rows_and_memory() -> None:
    bench = Bench(known)

    bench.serve(*(np.array([f"a{at}-{row}" for row in range(60)], object) for at in range(40)))

    assert max(bench.calls) <= 120
    large = np.array(["x" * 100_000] * 12, object)
    kept = len(bench.evidence._fresh)
    bench.serve(large)
    assert len(bench.evidence._fresh) == kept


def test_a_contradiction_that_comes_later_makes_a_proven_model_whole() -> None:
    bench = Bench(lambda x: x - np.where(x > 10, x.min(), 0), Verdict.BATCHED)

    bench.serve_together([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    fine = list(bench.findings)
    bench.serve_together([1.0, 20.0], [1.0, 19.0])

    assert fine == []
    assert bench.findings == [
        Finding(Verdict.WHOLE, "rows differ with their neighbours: 'y', 19 against 0")
    ]


def test_batches_of_a_proven_model_are_looked_at_ever_more_seldom() -> None:
    bench = Bench(lambda x: x, Verdict.BATCHED)

    for at in range(1000):
        bench.serve_together([float(at), float(at + 1)], [float(at), float(at + 1)])

    assert bench.findings == []
    assert len(bench.calls) <= 2 * 11


def test_requests_of_another_kind_do_not_mix() -> None:
    bench = Bench(lambda x: x.reshape(len(x), -1).sum(1).astype(float))

    for at in range(5):
        bench.serve(np.full((2, 1 + at % 2), float(at)))
    assert bench.findings == []
    for at in range(5, 30):
        bench.serve(np.full((2, 1 + at % 2), float(at)))

    assert bench.findings[0].verdict is Verdict.BATCHED

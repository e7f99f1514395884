"""Timings, priorities and timeouts over both transports."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import puppet
from calling import Caller, ending, message

pytestmark = pytest.mark.slow

X = np.zeros((1, 4), np.float32)
ASK = (("headrace-timings", "1"),)
BATCH_STEPS = ["queue", "gather", "send", "stage", "compute", "finish", "return"]


def timings(call: Any) -> dict[str, int]:
    """What the one trailing key of a call says, once it was answered."""
    assert ending(call).code == "OK"
    (text,) = (value for key, value in call.trailing_metadata() if key == "headrace-timings")
    told: dict[str, int] = json.loads(text)
    return told


def running(caller: Caller) -> Any:
    """A call whose batch runs until the gate opens."""
    call = caller.submit(message("puppet", {"input-0": np.array([[puppet.WAIT, 0.0]])}))
    until = time.monotonic() + 30
    while caller.metric("headrace_batches_in_flight", "puppet") < 1:
        assert time.monotonic() < until
    return call


def wait_for_rows(caller: Caller, rows: int) -> None:
    """Wait until so many rows wait behind it."""
    until = time.monotonic() + 30
    while caller.metric("headrace_queue_rows", "puppet") < rows:
        assert time.monotonic() < until


def test_a_call_that_asks_is_told_how_long_each_step_took(caller: Caller) -> None:
    for _ in range(3):
        began = time.monotonic_ns()
        told = timings(caller.submit(message("graph", {"x": X}), metadata=ASK))
        elapsed_ns = time.monotonic_ns() - began

        steps = [f"{step}_ns" for step in ("decode", "admit", *BATCH_STEPS, "answer")]
        assert list(told) == [*steps, "total_ns", "batch_rows"]
        assert told["batch_rows"] == 1
        assert all(told[step] >= 0 for step in steps)
        assert told["compute_ns"] > 0
        assert sum(told[step] for step in steps) == told["total_ns"] <= elapsed_ns


@pytest.mark.parametrize("metadata", [(), (("headrace-timings", "0"),), (("x-timings", "1"),)])
def test_a_call_that_does_not_ask_is_told_nothing(
    caller: Caller, metadata: tuple[tuple[str, str], ...]
) -> None:
    call = caller.submit(message("graph", {"x": X}), metadata=metadata)

    assert ending(call).code == "OK"
    assert [key for key, _ in call.trailing_metadata() if key.startswith("headrace")] == []


def test_mates_of_a_batch_are_told_its_rows_and_a_step_that_waits_is_the_long_one(
    caller: Caller, gate: Path
) -> None:
    slow = running(caller)
    began = time.monotonic_ns()
    mates = [
        caller.submit(message("puppet", {"input-0": np.zeros((rows, 2))}), metadata=ASK)
        for rows in (1, 2, 3)
    ]
    wait_for_rows(caller, 6)
    queued_ns = time.monotonic_ns()
    assert caller.metric("headrace_queue_rows", "puppet") == 6
    released_ns = time.monotonic_ns()

    gate.open("wb").close()

    assert ending(slow).code == "OK"
    for mate in mates:
        told = timings(mate)
        assert told["batch_rows"] == 6
        assert released_ns - queued_ns <= told["queue_ns"] <= time.monotonic_ns() - began


def test_a_split_request_is_told_of_its_last_batch(caller: Caller) -> None:
    """Batches hold 64 rows."""
    told = timings(caller.submit(message("graph", {"x": np.repeat(X, 200, 0)}), metadata=ASK))

    assert told["batch_rows"] in {64, 200 - 3 * 64}
    steps = {step: ns for step, ns in told.items() if step not in {"total_ns", "batch_rows"}}
    assert sum(steps.values()) == told["total_ns"]


def test_no_rows_pass_no_batch(caller: Caller) -> None:
    request = message("graph", {"x": np.empty((0, 4), np.float32)})

    told = timings(caller.submit(request, metadata=ASK))

    assert list(told) == ["decode_ns", "admit_ns", "answer_ns", "total_ns", "batch_rows"]
    assert told["batch_rows"] == 0


def test_every_step_of_every_batch_is_counted(caller: Caller) -> None:
    names = [f"headrace_{step}_seconds_count" for step in (*BATCH_STEPS, "answer", "decode")]
    before = [caller.metric(name, "graph") for name in names]

    for _ in range(5):
        assert caller.ask(message("graph", {"x": X})).code == "OK"

    # A batch is counted after its answers are sent.
    until = time.monotonic() + 10
    while caller.metric(names[-2], "graph") < before[-2] + 5:
        assert time.monotonic() < until
    assert [caller.metric(name, "graph") for name in names] == [count + 5 for count in before]


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
@pytest.mark.parametrize("level", [0, 1])
def test_a_model_of_one_priority_takes_it_and_none(caller: Caller, kind: str, level: int) -> None:
    request = message("graph", {"x": X})
    setattr(request.parameters["priority"], kind, level)

    assert caller.ask(request).code == "OK"


def test_the_more_urgent_goes_first_and_who_names_no_priority_last(
    caller: Caller, gate: Path
) -> None:
    """Each fills a batch of its own."""
    slow = running(caller)
    ended: list[int] = []
    calls = []
    for level in (3, 0, 2, 1):
        request = message("puppet", {"input-0": np.zeros((64, 2))})
        if level:
            request.parameters["priority"].int64_param = level
        calls.append(caller.submit(request))
        calls[-1].add_done_callback(lambda _, level=level: ended.append(level))
        wait_for_rows(caller, 64 * len(calls))

    gate.open("wb").close()

    assert ending(slow).code == "OK"
    assert [ending(call).code for call in calls] == ["OK"] * 4
    until = time.monotonic() + 30
    while len(ended) < 4:
        assert time.monotonic() < until
    assert ended == [1, 2, 3, 0]


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
@pytest.mark.parametrize(("timeout_s", "deadline_s"), [(0.2, 30.0), (30.0, 0.2)])
def test_the_earlier_of_timeout_and_deadline_ends_a_call_that_waits(
    caller: Caller, gate: Path, kind: str, timeout_s: float, deadline_s: float
) -> None:
    slow = running(caller)
    request = message("puppet", {"input-0": np.zeros((1, 2))})
    setattr(request.parameters["timeout"], kind, round(timeout_s * 1e6))
    began = time.monotonic()

    told = caller.ask(request, timeout=deadline_s)

    assert time.monotonic() - began < 10.0
    assert told.code == "DEADLINE_EXCEEDED"
    gate.open("wb").close()
    assert ending(slow).code == "OK"

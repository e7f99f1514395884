"""Calls that end before their answer, over both transports: each is told, and counted once."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import puppet
from calling import Caller, answers, ending, message

pytestmark = pytest.mark.slow

LEAVE_S_MAX = 10.0


def row(what: float, value: float = 0.0, **fields: Any) -> Any:
    return message("puppet", {"input-0": np.array([[what, value]])}, **fields)


def open_gate(gate: Path) -> None:
    """Let go on what waits, once it waits."""
    gate.open("wb").close()


def grown(caller: Caller, reason: str, before: dict[str, int], by: int) -> dict[str, int]:
    """By how much each count of failures has grown, once that of *reason* has by *by*.

    A caller's reset reaches the server after the caller has given up.
    """
    until = time.monotonic() + LEAVE_S_MAX
    while True:
        now = caller.failures()
        if now.get(reason, 0) - before.get(reason, 0) >= by or time.monotonic() > until:
            break
    return {key: now[key] - before.get(key, 0) for key in now if now[key] != before.get(key, 0)}


def running(caller: Caller) -> Any:
    """A call whose batch runs: calls may overtake each other on their way."""
    call = caller.submit(row(puppet.WAIT))
    until = time.monotonic() + 30
    while caller.metric("headrace_batches_in_flight", "puppet") < 1:
        assert time.monotonic() < until
    return call


def test_batches_form_while_the_previous_one_runs(caller: Caller, gate: Path) -> None:
    """Whoever comes while a batch runs shares the next one."""
    slow = running(caller)
    batches = caller.metric("headrace_batches_total", "puppet")
    calls = [caller.submit(row(0.0, k)) for k in range(32)]
    until = time.monotonic() + 30
    while caller.metric("headrace_queue_rows", "puppet") < 32:
        assert time.monotonic() < until

    open_gate(gate)

    assert [ending(call).code for call in [slow, *calls]] == ["OK"] * 33
    assert caller.metric("headrace_batches_total", "puppet") == batches + 2


def test_a_deadline_that_passes_while_a_request_waits_is_told(caller: Caller, gate: Path) -> None:
    before = caller.failures()
    slow = running(caller)

    late = [caller.submit(row(0.0, k), timeout=0.3) for k in range(5)]

    assert [ending(call).code for call in late] == ["DEADLINE_EXCEEDED"] * 5
    open_gate(gate)
    assert ending(slow).code == "OK"
    assert grown(caller, "deadline", before, 5) == {"deadline": 5}


def test_a_timeout_of_the_request_is_told_by_the_server(caller: Caller, gate: Path) -> None:
    """In microseconds, as Triton's clients send it."""
    before = caller.failures()
    slow = running(caller)
    request = row(0.0)
    request.parameters["timeout"].int64_param = 100_000

    told = caller.ask(request)

    open_gate(gate)
    assert ending(slow).code == "OK"
    assert (told.code, told.details) == (
        "DEADLINE_EXCEEDED",
        "the deadline passed while the request waited",
    )
    assert grown(caller, "deadline", before, 1) == {"deadline": 1}


def test_a_deadline_that_passes_while_a_batch_runs_disturbs_nobody(
    caller: Caller, gate: Path
) -> None:
    before = caller.failures()

    late = ending(caller.submit(row(puppet.WAIT), timeout=0.3))
    waiting = caller.submit(row(0.0, 7.0))
    open_gate(gate)

    assert late.code == "DEADLINE_EXCEEDED"
    assert answers(ending(waiting).response)["output-0"].tolist() == [[0, 7]]
    assert grown(caller, "deadline", before, 1) == {"deadline": 1}


def test_callers_that_leave_are_counted_once_and_disturb_nobody(caller: Caller, gate: Path) -> None:
    before = caller.failures()
    slow = running(caller)
    mates = [caller.submit(row(0.0, k)) for k in range(20)]
    # Its answer shows that the server has read everything sent before it on this connection.
    assert caller.ask(message("graph", {"x": np.zeros((1, 4), np.float32)})).code == "OK"

    for leaver in mates[::2]:
        assert leaver.cancel()

    assert grown(caller, "cancelled", before, 10) == {"cancelled": 10}
    open_gate(gate)
    assert ending(slow).code == "OK"
    left = [answers(ending(mate).response)["output-0"].tolist() for mate in mates[1::2]]
    assert left == [[[0, k]] for k in range(1, 20, 2)]
    assert grown(caller, "cancelled", before, 10) == {"cancelled": 10}


def test_a_caller_that_leaves_while_its_batch_runs_is_counted_once(
    caller: Caller, gate: Path
) -> None:
    before = caller.failures()
    answered = caller.metric("headrace_requests_total", "puppet")
    slow = running(caller)
    assert caller.ask(message("graph", {"x": np.zeros((1, 4), np.float32)})).code == "OK"

    slow.cancel()

    assert grown(caller, "cancelled", before, 1) == {"cancelled": 1}
    open_gate(gate)
    assert caller.ask(row(0.0)).code == "OK"
    assert caller.metric("headrace_requests_total", "puppet") == answered + 1
    assert grown(caller, "cancelled", before, 1) == {"cancelled": 1}

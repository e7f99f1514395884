"""Timings: what a caller who asks is told."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from doubles import FakeRepository, RecordingReply
from headrace.oip.open_inference_pb2 import ModelInferRequest
from headrace_server.service import Service
from headrace_server.transport.intake import Intake
from headrace_server.transport.timings import timings_of
from headrace_server.types import BatchKey, Instants, Request, Timing, Trip

STEPS = (
    "decode_ns",
    "admit_ns",
    "queue_ns",
    "gather_ns",
    "send_ns",
    "stage_ns",
    "compute_ns",
    "finish_ns",
    "return_ns",
    "answer_ns",
)
ROW = ModelInferRequest(model_name="m", raw_input_contents=[b"\0\0\0\0"])
ROW.inputs.add(name="x", datatype="FP32", shape=[1])


def timed(instants: list[int], rows: int = 3) -> Request:
    """A request that passed its first nine steps at *instants*."""
    arrived, decoded, submitted, *rest = instants
    request = Request(BatchKey(()), 1, (), RecordingReply(), 1, arrived_at=arrived / 1e9)
    request.timing = Timing(decoded / 1e9)
    request.timing.submitted_at = submitted / 1e9
    if rest:
        closed, gathered, *worker, landed = rest
        request.timing.trip = Trip(rows, closed, gathered, Instants(*worker), landed)
    return request


def test_each_step_is_told_by_its_nanoseconds() -> None:
    told = json.loads(timings_of(timed([0, 1000, 3000, *range(10_000, 17_000, 1000)]), 20_000))

    assert tuple(told) == (*STEPS, "total_ns", "batch_rows")
    assert list(told.values()) == [1000, 2000, 7000, *[1000] * 6, 4000, 20_000, 3]


@given(st.lists(st.integers(0, 10**15), min_size=11, max_size=11).map(sorted))
def test_steps_follow_one_another_and_are_together_the_total(instants: list[int]) -> None:
    told = json.loads(timings_of(timed(instants[:-1]), instants[-1]))

    steps = [told[step] for step in STEPS]
    assert sum(steps) == told["total_ns"]
    # Three instants are kept as seconds, which are exact to about a tenth of a microsecond here.
    for got, (begin, end) in zip(steps, pairwise(instants), strict=True):
        assert got >= 0
        assert abs(got - (end - begin)) <= 300


def test_what_needed_no_batch_has_the_steps_that_it_passed() -> None:
    told = json.loads(timings_of(timed([0, 1000, 3000]), 7000))

    assert told == {
        "decode_ns": 1000,
        "admit_ns": 2000,
        "answer_ns": 4000,
        "total_ns": 7000,
        "batch_rows": 0,
    }


def test_only_those_who_ask_are_timed_and_all_of_a_burst_are_handed_over_together() -> None:
    repository = FakeRepository()
    repository.serve("m")
    reply = RecordingReply()
    intake = Intake(Service(repository.real, queue_bytes_max=100), reply, message_bytes_max=1000)
    intake.begin()
    asked = (True, False, True)

    taken = [
        intake.take(ROW.SerializeToString(), call, None, is_timed=is_timed)[1]
        for call, is_timed in enumerate(asked)
    ]
    intake.submit()

    assert [request.timing is not None for request in taken] == list(asked)
    first, last = (request.timing for request in taken if request.timing is not None)
    assert first.decoded_at <= last.decoded_at <= last.submitted_at == first.submitted_at
    assert repository.target.submitted == taken

"""Timings: where the time of one request went, for a caller who asks with its metadata.

docs/timings.md names the steps. A call that does not ask pays one look at its metadata.
"""

import json
import time

from headrace.timings import KEY

from ..types import Request


def trailing(request: Request) -> tuple[tuple[str, str]]:
    """The trailing metadata of *request*, which asked for it and is about to be answered."""
    return ((KEY, timings_of(request, time.monotonic_ns())),)


def timings_of(request: Request, answered_ns: int) -> str:
    """The nanoseconds of each step of *request* until *answered_ns*, as JSON.

    Each step begins where the one before it ends, so that together they are the total.
    """
    timing = request.timing
    assert timing is not None, "only a request that asked is told"
    began_ns = _ns(request.arrived_at)
    ends = {"decode_ns": _ns(timing.decoded_at), "admit_ns": _ns(timing.submitted_at)}
    trip = timing.trip
    if trip is not None:
        ends["queue_ns"] = trip.closed
        ends["gather_ns"] = trip.gathered
        ends["send_ns"] = trip.worker.received
        ends["stage_ns"] = trip.worker.staged
        ends["compute_ns"] = trip.worker.computed
        ends["finish_ns"] = trip.worker.finished
        ends["return_ns"] = trip.landed
    ends["answer_ns"] = answered_ns
    told = {}
    at_ns = began_ns
    for step, end_ns in ends.items():
        # Where seconds were rounded, a step may end a nanosecond before it begins.
        told[step] = max(end_ns - at_ns, 0)
        at_ns += told[step]
    told["total_ns"] = at_ns - began_ns
    told["batch_rows"] = 0 if trip is None else trip.rows
    return json.dumps(told)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)

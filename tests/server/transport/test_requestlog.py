"""The request log: one line for each call, whatever ends it; no caller's text can harm it."""

import math
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from headrace.oip.open_inference_pb2 import ModelInferRequest
from headrace_server.errors import HeadraceError, InvalidRequest, ModelFailed
from headrace_server.transport.requestlog import RequestLog
from headrace_server.types import BatchKey, Outputs, Request

KEY = BatchKey((), model=("iris", "3"))
OUTPUTS = Outputs(("iris", "3"), (), 2)


class Transport:
    """A Reply that notes what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def answer(self, request: Request, outputs: Outputs, start: int, stop: int) -> None:
        self.told.append(f"answer {start} {stop}")

    def fail(self, request: Request, error: HeadraceError) -> None:
        self.told.append(error.message)


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def log(transport: Transport) -> RequestLog:
    return RequestLog(transport)


def asked(log: RequestLog, *, name: str = "", deadline_at: float = math.inf) -> Request:
    now = time.monotonic()
    request = Request(
        KEY, 2, [], log, 7,
        id_field=ModelInferRequest(id=name).SerializeToString(),
        arrived_at=now, deadline_at=deadline_at,
    )  # fmt: skip
    log.begin(7, "ipv4:10.0.0.1:555")
    return request


def test_an_answer_is_passed_on_and_is_one_line(log: RequestLog, transport: Transport) -> None:
    request = asked(log, name="my-1")

    with capture_logs() as lines:
        log.answer(request, OUTPUTS, 0, 2)
        log.leave(request)

    (line,) = lines
    assert 0 <= line.pop("ms") < 60_000
    assert line == {
        "event": "request",
        "log_level": "info",
        "request_id": "my-1",
        "model": "iris",
        "version": "3",
        "rows": 2,
        "status": "OK",
        "peer": "10.0.0.1:555",
    }
    assert transport.told == ["answer 0 2"]


def test_an_error_is_passed_on_and_told_with_its_status(
    log: RequestLog, transport: Transport
) -> None:
    with capture_logs() as lines:
        log.fail(asked(log), ModelFailed("ValueError", "no", "abc"))

    assert lines[0]["status"] == "INTERNAL"
    assert lines[0]["error"] == "ValueError: no (error id abc)"
    assert lines[0]["request_id"] == ""
    assert transport.told == ["ValueError: no (error id abc)"]


@pytest.mark.parametrize(
    ("left_s", "status"), [(math.inf, "CANCELLED"), (-1.0, "DEADLINE_EXCEEDED")]
)
def test_a_caller_that_leaves_is_a_line(log: RequestLog, left_s: float, status: str) -> None:
    request = asked(log, deadline_at=time.monotonic() + left_s)

    with capture_logs() as lines:
        log.leave(request)

    assert [line["status"] for line in lines] == [status]


def refused(log: RequestLog, payload: bytes) -> Any:
    log.begin(7, "ipv6:%5B::1%5D:555")
    with capture_logs() as lines:
        log.refuse(7, payload, InvalidRequest("no"))
        log.refuse(7, payload, InvalidRequest("no"))
    (line,) = lines
    return line


def test_what_is_refused_before_it_is_a_request_is_a_line_too(log: RequestLog) -> None:
    message = ModelInferRequest(model_name="nope", model_version="2", id="a")

    line = refused(log, message.SerializeToString())

    assert (line["model"], line["version"], line["request_id"]) == ("nope", "2", "a")
    assert (line["rows"], line["status"], line["peer"]) == (0, "INVALID_ARGUMENT", "[::1]:555")


def test_bytes_that_are_no_message_are_a_line_too(log: RequestLog) -> None:
    assert refused(log, b"\xff\xff")["model"] == ""


def test_a_callers_text_neither_breaks_a_line_nor_fills_it(log: RequestLog) -> None:
    message = ModelInferRequest(model_name="m" * 10_000, id="a\n[error] \x1b[2J")

    line = refused(log, message.SerializeToString())

    assert line["request_id"] == r"a\n[error] \x1b[2J"
    assert len(line["model"]) == 128


def test_an_id_that_is_no_text_is_shown_as_such(log: RequestLog) -> None:
    request = asked(log)
    request.id_field = b"\x1a\x01\xff"

    with capture_logs() as lines:
        log.answer(request, OUTPUTS, 0, 2)

    assert lines[0]["request_id"] == "?"

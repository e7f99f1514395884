"""A fault of our own: the log has the exception under the id that the caller is told."""

import pytest
from structlog.testing import capture_logs

from headrace_server.errors import InternalError
from headrace_server.faults import fault


def test_the_caller_is_told_the_id_that_the_log_has_beside_the_exception() -> None:
    with capture_logs() as lines:
        try:
            int("a secret of ours")
        except ValueError:
            told = fault("decode_failed", call=7)

    (line,) = lines
    assert isinstance(told, InternalError)
    assert line["error_id"] in told.message
    assert "secret" not in told.message
    assert (line["event"], line["log_level"], line["call"]) == ("decode_failed", "error", 7)
    assert line["exc_info"] is True


def test_an_exception_that_is_no_longer_handled_can_be_given() -> None:
    error = ValueError("x")

    with capture_logs() as lines:
        fault("later", error)

    assert lines[0]["exc_info"] is error


def test_every_fault_has_an_id_of_its_own() -> None:
    with capture_logs():
        told = {fault("a").message for _ in range(20)}

    assert len(told) == 20


@pytest.mark.parametrize("event", ["decode_failed", "collect_failed"])
def test_its_status_is_internal(event: str) -> None:
    with capture_logs():
        assert fault(event).code == "INTERNAL"

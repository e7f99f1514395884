"""How a client's connection behaves while servers come, go and fail, over real sockets."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import oip_double
from alike import KINDS
from headrace_client import Client, DeadlineExceeded, Tls, Unavailable
from headrace_client.channel import authority_options, channel_options, channel_targets
from oip_double import Double

ROW = np.array([[5.1, 3.5, 1.4, 0.2]])
UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "a worker was lost")


@pytest.fixture
def double() -> Iterator[Double]:
    with oip_double.serving({"iris": oip_double.iris()}) as double:
        yield double


@pytest.fixture
def other() -> Iterator[Double]:
    with oip_double.serving({"iris": oip_double.iris()}) as double:
        yield double


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_names_in_a_list_are_resolved_and_addresses_taken_once() -> None:
    assert channel_targets("models:9000") == "models:9000"
    assert channel_targets(["models:9000"]) == "models:9000"
    assert channel_targets(["127.0.0.1:1", "127.0.0.2", "grpc://127.0.0.1:1"]) == (
        "ipv4:127.0.0.1:1,127.0.0.2:8001"
    )
    assert channel_targets(["localhost:1", "127.0.0.1:2"]) == "ipv4:127.0.0.1:1,127.0.0.1:2"
    assert channel_targets(["[::1]:1", "[::2]:2"]) == "ipv6:[::1]:1,[::2]:2"
    assert channel_targets(["unix:/a", "unix:b", "unix:/a"]) == "unix:/a,b"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "empty list: expected host:port"),
        (["127.0.0.1:1", "unix:/run/x"], "expected Unix sockets or addresses alone, got both"),
        (["127.0.0.1:1", "dns:///x:1"], "'dns:///x:1' in a list: expected host:port or unix:path"),
        (["[::1]:1", "127.0.0.1:1"], "expected IPv4 or IPv6 addresses alone, got both"),
        (["127.0.0.1:1", "nobody.invalid:1"], "'nobody.invalid': DNS has no address of it"),
    ],
)
def test_a_list_that_cannot_be_connected_to_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(ValueError, match="cannot connect") as caught:
        Client(given)
    assert said in str(caught.value)


def test_a_list_with_tls_says_which_name_the_certificates_bear() -> None:
    for tls in (None, True, Tls(), Tls(ca=b"unread")):
        with pytest.raises(ValueError, match=r"need Tls\(server_name="):
            Client(["grpcs://127.0.0.1:1", "grpcs://127.0.0.1:2"], tls=tls)
    with pytest.raises(ValueError, match="every target of a list, or before none"):
        Client(["grpcs://127.0.0.1:1", "127.0.0.1:2"])
    named = Tls(server_name="models")
    Client(["grpcs://127.0.0.1:1", "grpcs://127.0.0.1:2"], tls=named).close()


@pytest.mark.parametrize("attempts", [0, 6])
def test_attempts_beyond_what_grpc_makes_are_refused(attempts: int) -> None:
    with pytest.raises(ValueError, match="attempts_max: expected 1 to 5"):
        Client("127.0.0.1:1", attempts_max=attempts)


def test_calls_go_in_turn_to_all_of_a_list(double: Double, other: Double, kind: Any) -> None:
    with kind([double.target, other.target], timeout_s=20, wait_for_ready=True) as client:
        # Both have a connection once both have been asked.
        until = time.monotonic() + 20
        while not (double.infer_requests and other.infer_requests):
            client.predict("iris", ROW)
            assert time.monotonic() < until, "one is never asked"
        before = len(double.infer_requests), len(other.infer_requests)
        for _ in range(10):
            client.predict("iris", ROW)

    assert len(double.infer_requests) - before[0] == 5
    assert len(other.infer_requests) - before[1] == 5


def test_calls_go_in_turn_to_all_unix_sockets_of_a_list(tmp_path: Path, kind: Any) -> None:
    hosts = [f"unix:{tmp_path}/{name}" for name in "ab"]
    models = {"iris": oip_double.iris()}
    with (
        oip_double.serving(models, host=hosts[0]) as double,
        oip_double.serving(models, host=hosts[1]) as other,
        kind(hosts, timeout_s=20, wait_for_ready=True) as client,
    ):
        until = time.monotonic() + 20
        while not (double.infer_requests and other.infer_requests):
            client.predict("iris", ROW)
            assert time.monotonic() < until, "one is never asked"
        before = len(double.infer_requests), len(other.infer_requests)
        for _ in range(10):
            client.predict("iris", ROW)

        assert len(double.infer_requests) - before[0] == 5
        assert len(other.infer_requests) - before[1] == 5


def test_what_a_list_calls_itself_is_one_address() -> None:
    assert authority_options("ipv4:127.0.0.1:1,127.0.0.2:2") == [
        ("grpc.default_authority", "127.0.0.1:1")
    ]
    assert authority_options("ipv6:[::1]:1,[::2]:2") == [("grpc.default_authority", "[::1]:1")]
    assert authority_options("models:8001") == []
    assert authority_options("unix:/a,/b") == []


def test_one_server_of_two_that_ends_is_gone_around(double: Double, kind: Any) -> None:
    with oip_double.serving({"iris": oip_double.iris()}) as ending:
        client = kind([double.target, ending.target], timeout_s=20, attempts_max=3)
        until = time.monotonic() + 20
        while not (double.infer_requests and ending.infer_requests):
            client.predict("iris", ROW)
            assert time.monotonic() < until, "one is never asked"
    with client:
        asked = len(double.infer_requests)
        for _ in range(20):
            client.predict("iris", ROW)

    assert len(double.infer_requests) == asked + 20


def test_a_server_that_comes_back_on_its_port_is_found_again(kind: Any) -> None:
    models = {"iris": oip_double.iris()}
    with oip_double.serving(models) as first:
        client = kind(first.target, timeout_s=20, wait_for_ready=True)
        client.predict("iris", ROW)
        port = first.port
    with client:
        with pytest.raises(DeadlineExceeded):
            client.predict("iris", ROW, timeout=0.3)
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(client.predict("iris", ROW)))
        waiting.start()
        with oip_double.serving(models, port=port) as second:
            waiting.join(20)
            assert len(second.infer_requests) == len(answers) == 1


def test_without_waiting_a_server_that_is_not_there_is_told_at_once(kind: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with kind(f"127.0.0.1:{free.getsockname()[1]}", timeout_s=20) as client:
            began = time.monotonic()
            with pytest.raises(Unavailable):
                client.predict("iris", ROW)
            assert time.monotonic() - began < 10


def test_ready_never_waits_for_a_server(kind: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
        with kind(target, timeout_s=20, wait_for_ready=True) as client:
            assert not client.ready()
            assert not client.ready("iris")


def test_unavailable_is_tried_again_as_often_as_asked(double: Double, kind: Any) -> None:
    with kind(double.target, timeout_s=20, attempts_max=3) as client:
        double.failures = [UNAVAILABLE] * 2
        client.predict("iris", ROW)
        assert len(double.infer_requests) == 3

        double.failures = [UNAVAILABLE] * 3
        with pytest.raises(Unavailable, match="a worker was lost"):
            client.predict("iris", ROW)
        assert len(double.infer_requests) == 6


def test_a_long_message_is_tried_again_like_a_short_one(double: Double, kind: Any) -> None:
    double.failures = [UNAVAILABLE]
    with kind(double.target, timeout_s=20, attempts_max=2) as client:
        client.predict("iris", np.ones((50_000, 4)))

    assert len(double.infer_requests) == 2


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.FAILED_PRECONDITION,
    ],
)
def test_no_other_error_is_tried_again(double: Double, code: grpc.StatusCode, kind: Any) -> None:
    double.failures = [(code, "no")]
    with (
        kind(double.target, timeout_s=20, attempts_max=3) as client,
        pytest.raises(Exception, match="no"),
    ):
        client.predict("iris", ROW)

    assert len(double.infer_requests) == 1


def test_a_model_is_run_once_unless_the_caller_allows_more(double: Double, kind: Any) -> None:
    double.failures = [UNAVAILABLE]
    with kind(double.target, timeout_s=20) as client, pytest.raises(Unavailable):
        client.predict("iris", ROW)

    assert len(double.infer_requests) == 1


def test_a_server_that_says_not_to_is_not_asked_again(double: Double, kind: Any) -> None:
    double.failures = [UNAVAILABLE]
    double.pushback_ms = "-1"
    with (
        kind(double.target, timeout_s=20, attempts_max=3) as client,
        pytest.raises(Unavailable),
    ):
        client.predict("iris", ROW)

    assert len(double.infer_requests) == 1


def test_retries_stop_where_everything_fails(double: Double, kind: Any) -> None:
    double.failures = [UNAVAILABLE] * 200
    with kind(double.target, timeout_s=20, attempts_max=5) as client:
        for _ in range(10):
            with pytest.raises(Unavailable):
                client.predict("iris", ROW)

    # Without a bound on them 50 requests would have come.
    assert len(double.infer_requests) < 20


def test_retries_and_readiness_are_left_to_grpc_by_its_service_config() -> None:
    options = dict(channel_options(1, attempts_max=2, wait_for_ready=True))
    config = json.loads(options["grpc.service_config"])

    (method,) = config["methodConfig"]
    assert {name["method"] for name in method["name"]} == {
        "ModelInfer",
        "ModelMetadata",
        "RepositoryIndex",
    }
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert method["waitForReady"] is True


def test_a_late_answer_is_hedged_and_the_first_one_taken(
    double: Double, other: Double, kind: Any
) -> None:
    with kind([double.target, other.target], timeout_s=20, hedge_after_s=0.05) as client:
        until = time.monotonic() + 20
        while not (double.infer_requests and other.infer_requests):
            client.predict("iris", ROW)
            assert time.monotonic() < until, "one is never asked"
        double.is_holding = True
        for _ in range(4):
            assert client.predict("iris", ROW, timings=True)["longest"].tolist() == [0]


def test_an_answer_in_time_is_not_hedged(double: Double, kind: Any) -> None:
    with kind(double.target, timeout_s=20, hedge_after_s=15) as client:
        client.predict("iris", ROW)

    assert len(double.infer_requests) == 1


def test_what_is_submitted_is_not_hedged(double: Double, kind: Any) -> None:
    double.is_holding = True
    with kind(double.target, timeout_s=20, hedge_after_s=0.05) as client:
        client.metadata("iris")
        submitted = client.submit("iris", ROW)
        asking = threading.Thread(target=client.predict, args=("iris", ROW))
        asking.start()
        until = time.monotonic() + 20
        # Two of them are the prediction's, whose time to be hedged came later.
        while len(double.infer_requests) < 3 and time.monotonic() < until:
            pass
        double.release.set()
        submitted.result(20)
        asking.join(20)

    assert len(double.infer_requests) == 3


def test_a_hedged_call_that_both_fail_is_told_as_any_other(double: Double, kind: Any) -> None:
    double.is_holding = True
    with kind(double.target, timeout_s=20, hedge_after_s=0.01) as client:
        client.metadata("iris")
        double.failures = [UNAVAILABLE] * 2
        asking = threading.Thread(target=lambda: errors.append(_error_of(client)))
        errors: list[Exception] = []
        asking.start()
        until = time.monotonic() + 20
        while len(double.infer_requests) < 2 and time.monotonic() < until:
            pass
        double.release.set()
        asking.join(20)

    assert [type(error) for error in errors] == [Unavailable]


def _error_of(client: Any) -> Exception:
    try:
        client.predict("iris", ROW)
    except Unavailable as error:
        return error
    raise AssertionError("it answered")

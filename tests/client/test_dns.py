"""One name with several addresses, from a DNS server that the test runs: who is asked, and when."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest

import nameserver
import oip_double
from alike import KINDS
from certificates import Authority
from headrace_client import Tls, Unavailable
from oip_double import Double

ROW = np.array([[5.1, 3.5, 1.4, 0.2]])
MODELS = {"iris": oip_double.iris()}
HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
WAIT_S_MAX = 60.0


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as running:
        yield running


def start(running: ExitStack, host: str, port: int = 0, **options: Any) -> Double:
    return running.enter_context(oip_double.serving(MODELS, host=host, port=port, **options))


def ask_until_asked(client: Any, *doubles: Double) -> None:
    """Ask until each of *doubles* has had one more request: all have a connection then."""
    before = [len(double.infer_requests) for double in doubles]
    until = time.monotonic() + WAIT_S_MAX
    while any(len(d.infer_requests) == n for d, n in zip(doubles, before, strict=True)):
        client.predict("iris", ROW)
        assert time.monotonic() < until, "one is never asked"


def asked_by_ten(client: Any, *doubles: Double) -> list[int]:
    """How many of ten predictions come to each."""
    before = [len(double.infer_requests) for double in doubles]
    for _ in range(10):
        client.predict("iris", ROW)
    return [len(d.infer_requests) - n for d, n in zip(doubles, before, strict=True)]


def test_calls_go_in_turn_to_every_address_of_a_name(running: ExitStack, kind: Any) -> None:
    one = start(running, HOSTS[0])
    two = start(running, HOSTS[1], one.port)
    names = running.enter_context(nameserver.serving(models=HOSTS[:2]))
    with kind(names.target("models", one.port), timeout_s=20) as client:
        ask_until_asked(client, one, two)

        assert asked_by_ten(client, one, two) == [5, 5]


@pytest.mark.slow
def test_addresses_that_come_and_go_are_followed_once_a_connection_breaks(
    running: ExitStack, kind: Any
) -> None:
    with ExitStack() as ending:
        one = start(ending, HOSTS[0])
        two = start(running, HOSTS[1], one.port)
        names = running.enter_context(nameserver.serving(models=HOSTS[:2]))
        target = names.target("models", one.port)
        client = running.enter_context(kind(target, timeout_s=WAIT_S_MAX, attempts_max=3))
        ask_until_asked(client, one, two)
        three = start(running, HOSTS[2], one.port)
        names.addresses["models"] = HOSTS[1:]
        # Nothing broke, so nobody asked.
        assert asked_by_ten(client, one, two, three) == [5, 5, 0]

    ask_until_asked(client, two, three)

    # The one that went is back at its address, which DNS no longer has.
    again = start(running, HOSTS[0], one.port)
    assert asked_by_ten(client, again, two, three) == [0, 5, 5]


def test_a_name_that_dns_does_not_have_is_told_at_once(running: ExitStack, kind: Any) -> None:
    names = running.enter_context(nameserver.serving())
    with (
        kind(names.target("models", 8001), timeout_s=WAIT_S_MAX) as client,
        pytest.raises(Unavailable, match="models"),
    ):
        client.predict("iris", ROW)


def test_with_tls_the_certificates_bear_the_name_that_dns_is_asked_for(
    running: ExitStack, kind: Any
) -> None:
    authority = Authority()
    pair = authority.issue("models")
    credentials = grpc.ssl_server_credentials([(pair.key, pair.cert)])
    one = start(running, HOSTS[0], credentials=credentials)
    two = start(running, HOSTS[1], one.port, credentials=credentials)
    names = running.enter_context(nameserver.serving(models=HOSTS[:2], others=HOSTS[:2]))
    tls = Tls(ca=authority.cert)

    with kind(names.target("models", one.port), timeout_s=20, tls=tls) as client:
        ask_until_asked(client, one, two)
        assert asked_by_ten(client, one, two) == [5, 5]
    with (
        kind(names.target("others", one.port), timeout_s=20, tls=tls) as client,
        pytest.raises(Unavailable, match="Hostname Verification"),
    ):
        client.predict("iris", ROW)

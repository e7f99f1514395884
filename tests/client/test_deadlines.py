"""Every call of either client has a deadline."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import oip_double
from alike import KINDS
from headrace_client import AsyncClient, Client, DeadlineExceeded
from headrace_client.deadlines import TIMEOUT_S_MAX, check_seconds
from oip_double import Double

ROW = np.array([[5.1, 3.5, 1.4, 0.2]])
COLUMNS = {name: ROW[0, i : i + 1] for i, name in enumerate(oip_double.IRIS_COLUMNS)}
NO_TIMEOUTS: list[Any] = [
    0,
    0.0,
    -1,
    math.nan,
    math.inf,
    True,
    False,
    "5",
    4e7,
    np.float32(0),
    [1],
]
ASKING: dict[str, Callable[[Any, Any], object]] = {
    "predict": lambda client, timeout: client.predict("iris", ROW, timeout=timeout),
    "submit": lambda client, timeout: client.submit("iris", ROW, timeout=timeout).result(),
    "infer": lambda client, timeout: client.infer("iris", COLUMNS, timeout=timeout),
    "load": lambda client, timeout: client.load("iris", timeout=timeout),
    "unload": lambda client, timeout: client.unload("iris", timeout=timeout),
}


@pytest.fixture
def double() -> Iterator[Double]:
    with oip_double.serving({"iris": oip_double.iris()}) as double:
        yield double


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("given", [None, *NO_TIMEOUTS], ids=repr)
@pytest.mark.parametrize("either", [Client, AsyncClient])
def test_a_client_without_a_deadline_is_refused(either: Any, given: Any) -> None:
    with pytest.raises(ValueError, match="timeout_s: expected a number of seconds above 0") as told:
        either("127.0.0.1:1", timeout_s=given)
    assert str(told.value).endswith(f"above 0, at most a year, got {given!r}")


@pytest.mark.parametrize("given", NO_TIMEOUTS, ids=repr)
def test_what_is_no_time_before_a_hedge_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="hedge_after_s: expected a number of seconds above 0"):
        Client("127.0.0.1:1", hedge_after_s=given)


@pytest.mark.parametrize("name", ASKING)
def test_a_call_whose_timeout_is_none_at_all_is_refused_before_anything_is_sent(
    double: Double, kind: Any, name: str
) -> None:
    with kind(double.target, timeout_s=20) as client:
        for given in NO_TIMEOUTS:
            with pytest.raises(ValueError, match="timeout: expected a number of seconds above 0"):
                ASKING[name](client, given)

    assert double.left_s == []


@pytest.mark.parametrize("method", ["predict_many", "predict_as_completed"])
def test_a_stream_with_no_timeout_is_refused_before_the_first_item(kind: Any, method: str) -> None:
    items = map(pytest.fail, ["asked for an item"])
    with (
        kind("127.0.0.1:1") as client,
        pytest.raises(ValueError, match="timeout: expected a number of seconds above 0"),
    ):
        getattr(client, method)("iris", items, timeout=0)


@pytest.mark.parametrize(
    "given", [1, 0.25, TIMEOUT_S_MAX, np.float32(1.5), np.int64(3), np.float64(2)]
)
def test_any_number_of_seconds_is_taken_numpys_too(given: Any) -> None:
    assert check_seconds("timeout", given) == given
    assert type(check_seconds("timeout", given)) is float


def test_the_longest_timeout_is_one_that_grpc_can_keep(double: Double, kind: Any) -> None:
    with kind(double.target, timeout_s=TIMEOUT_S_MAX) as client:
        assert client.predict("iris", ROW).version == "1"

    assert min(double.left_s) > 0.9 * TIMEOUT_S_MAX


def test_every_method_sends_the_clients_deadline_or_its_own(double: Double, kind: Any) -> None:
    with kind(double.target, timeout_s=500) as client:
        client.metadata("iris")
        client.models()
        client.ready()
        client.ready("iris")
        for ask in ASKING.values():
            ask(client, None)
        assert all(400 < left < 600 for left in double.left_s)
        # After `metadata` no prediction asked it first.
        assert len(double.left_s) == 4 + len(ASKING)

        double.left_s.clear()
        for ask in ASKING.values():
            ask(client, 5000)
        assert all(4000 < left < 6000 for left in double.left_s)


@pytest.mark.parametrize("name", [name for name in ASKING if name != "unload"])
def test_a_call_ends_at_its_own_timeout(double: Double, kind: Any, name: str) -> None:
    with kind(double.target, timeout_s=20) as client:
        client.predict("iris", ROW)
        double.is_holding = True
        with pytest.raises(DeadlineExceeded):
            ASKING[name](client, 0.05)
        double.release.set()

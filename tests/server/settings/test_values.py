"""Values: what is said is read as the setting's type, within its bounds."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.errors import UsageError
from headrace_server.settings.tables import TABLES
from headrace_server.settings.values import checked, expected, toml_value

ALL = [(table, key) for table, content in TABLES.items() for key in content.model_fields]


def bounds(table: str, key: str) -> tuple[float, float]:
    kind = TABLES[table].model_fields[key].annotation
    words = expected(table, key).split()
    return kind(words[-3]), kind(words[-1])  # type: ignore[misc]


BOUNDED = [(table, key) for table, key in ALL if "number from " in expected(table, key)]


def is_good(table: str, key: str, value: Any) -> bool:
    """Whether *value* is taken, from a file and as text alike."""
    verdicts = set()
    for said, is_text in ((value, False), (str(value), True)):
        try:
            assert checked(table, key, said, "here", is_text=is_text) == value
        except UsageError:
            verdicts.add(False)
        else:
            verdicts.add(True)
    (verdict,) = verdicts
    return verdict


@pytest.mark.parametrize(("table", "key"), BOUNDED)
def test_every_bound_is_the_one_that_is_told(table: str, key: str) -> None:
    low, high = bounds(table, key)

    assert is_good(table, key, low)
    assert is_good(table, key, high)
    assert not is_good(table, key, low - 1)
    assert not is_good(table, key, high + 1)


def test_every_number_is_bounded() -> None:
    kinds = {(table, key): TABLES[table].model_fields[key].annotation for table, key in ALL}

    assert [setting for setting, kind in kinds.items() if kind in (int, float)] == BOUNDED


@pytest.mark.parametrize(("table", "key"), ALL)
def test_every_default_is_a_value_that_may_be_said(table: str, key: str) -> None:
    default = TABLES[table].model_fields[key].default
    said = tomllib.loads(f"x = {toml_value(default)}")["x"]

    assert checked(table, key, said, "here", is_text=False) == default


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_a_device_is_taken(device: str) -> None:
    assert is_good("server", "device", device)
    assert is_good("models", "device", device)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", "cuda:1 ", "CUDA", "cpu\n"])
def test_anything_else_is_no_device(device: str) -> None:
    assert not is_good("server", "device", device)
    assert not is_good("models", "device", device)


def test_a_models_device_may_be_left_to_the_server() -> None:
    assert is_good("models", "device", "")
    assert not is_good("server", "device", "")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("priority_queue_rows_max", "10 0 5", (10, 0, 5)),
        ("priority_queue_rows_max", "", ()),
        ("priority_timeout_action", "reject delay", ("reject", "delay")),
    ],
)
def test_a_list_is_written_as_on_a_command_line(
    key: str, text: str, value: tuple[object, ...]
) -> None:
    assert checked("models", key, text, "here", is_text=True) == value
    assert checked("models", key, list(value), "here", is_text=False) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("priority_queue_rows_max", [-1]),
        ("priority_queue_rows_max", ["many"]),
        ("priority_queue_rows_max", 5),
        ("priority_timeout_us", [2**63]),
        ("priority_timeout_action", ["refuse"]),
    ],
)
def test_a_list_with_a_wrong_entry_is_refused(key: str, value: object) -> None:
    with pytest.raises(UsageError, match="one per priority"):
        checked("models", key, value, "here", is_text=False)


@given(st.text(max_size=200))
def test_a_refusal_is_bounded(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked("models", "worker", f"?{text}", "here", is_text=True)

    assert len(str(caught.value)) < 120


@given(st.one_of(st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.lists(st.text())))
def test_a_value_is_written_as_toml_reads_it(value: Any) -> None:
    assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value


@pytest.mark.parametrize(
    "host",
    [
        "unix:",
        "unix:/",
        "unix:/run/",
        "unix://run/x",
        "unix:/run/a,b",
        "unix:/run/%41",
        "unix:/run/a?b",
        "unix:/run/a#b",
        "unix:/run/a\nb",
        "unix-abstract:headrace",
    ],
)
def test_a_unix_socket_that_no_client_could_name_is_refused(host: str) -> None:
    assert not is_good("server", "host", host)


@pytest.mark.parametrize("host", ["unix:/run/x", "unix:x", "unix:///run/x", "::1", "unix.example"])
def test_a_host_is_an_address_a_name_or_a_unix_socket(host: str) -> None:
    assert is_good("server", "host", host)


@pytest.mark.parametrize(
    ("mode", "good"),
    [("0600", True), ("660", True), ("0o660", False), ("0680", False), ("", False)],
)
def test_the_mode_of_a_socket_is_octal(mode: str, good: bool) -> None:
    assert is_good("server", "socket_mode", mode) is good

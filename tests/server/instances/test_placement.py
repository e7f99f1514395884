"""Placement: how instances are spread over devices."""

import pytest

from headrace_server.instances.placement import placed


@pytest.mark.parametrize(
    ("devices", "instances", "expected"),
    [
        ("cpu", 1, ("cpu",)),
        ("cpu", 3, ("cpu", "cpu", "cpu")),
        ("auto", 1, ("auto",)),
        ("cuda", 2, ("cuda:0", "cuda:0")),
        ("cuda:0,cuda:1", 1, ("cuda:0", "cuda:1")),
        ("cuda:1,cuda:3", 2, ("cuda:1", "cuda:3", "cuda:1", "cuda:3")),
    ],
)
def test_devices_take_turns_and_each_gets_as_many(
    devices: str, instances: int, expected: tuple[str, ...]
) -> None:
    assert placed(devices, instances) == expected

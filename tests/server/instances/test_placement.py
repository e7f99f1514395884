"""Placement: how instances are spread over devices."""

from collections.abc import Mapping

import pytest

from headrace_server.adapters import adapter_of
from headrace_server.adapters.base import LoadError
from headrace_server.instances.placement import ACCELERATED, placed


@pytest.mark.parametrize(
    ("devices", "instances", "expected"),
    [
        ("cpu", 1, ("cpu",)),
        ("cpu", 3, ("cpu", "cpu", "cpu")),
        ("auto", 1, ("auto",)),
        ("cuda", 2, ("cuda:0", "cuda:0")),
        ("cuda:0,cuda:1", 1, ("cuda:0", "cuda:1")),
        ("cuda,cuda:1", 1, ("cuda:0", "cuda:1")),
        ("cuda:1,cuda:3", 2, ("cuda:1", "cuda:3", "cuda:1", "cuda:3")),
    ],
)
def test_devices_take_turns_and_each_gets_as_many(
    devices: str, instances: int, expected: tuple[str, ...]
) -> None:
    assert placed(devices, instances, {}) == expected


@pytest.mark.parametrize("devices", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("left", "each", "instances", "expected"),
    [
        ({"cuda:0": 5, "cuda:1": 9}, 0, 1, ("cuda:1",)),
        ({"cuda:0": 9, "cuda:1": 9}, 0, 1, ("cuda:0",)),
        ({"cuda:0": 5, "cuda:1": 9}, 0, 3, ("cuda:1", "cuda:0", "cuda:1")),
        ({"cuda:0": 5, "cuda:1": 9}, 2, 2, ("cuda:1", "cuda:0")),
        ({"cuda:0": 1, "cuda:1": 9}, 2, 3, ("cuda:1", "cuda:1", "cuda:1")),
        # None has room: the emptiest will say so.
        ({"cuda:0": 1, "cuda:1": 3}, 4, 1, ("cuda:1",)),
    ],
)
def test_where_the_choice_is_free_gpus_take_turns_as_long_as_they_have_room(
    devices: str, left: Mapping[str, int], each: int, instances: int, expected: tuple[str, ...]
) -> None:
    assert placed(devices, instances, left, each) == expected


def test_a_named_device_is_kept_however_full_it_is() -> None:
    assert placed("cuda:0", 1, {"cuda:0": 0, "cuda:1": 9}, 5) == ("cuda:0",)
    assert placed("cpu", 1, {"cuda:1": 9}, 5) == ("cpu",)


def test_the_flavors_that_may_go_to_a_gpu_are_those_whose_adapters_use_one() -> None:
    from pathlib import Path

    import headrace_server.adapters as package

    found = set()
    for file in Path(package.__path__[0]).glob("[a-z]*.py"):
        try:
            adapter = adapter_of(file.stem)
        except LoadError:
            continue  # What adapters share.
        if adapter.is_accelerated:
            found.add(file.stem)

    assert found == ACCELERATED

"""Faults of a GPU: too little of its memory, and errors that its context never recovers from."""

from collections.abc import Callable

import pytest

from headrace_server.errors import HeadraceError, InstanceLost, LoadFailed, OutOfMemory
from headrace_server.gpus.nvml import Gpus
from house import PATIENCE_S
from networks import ALL_MEMORY, BAD_INDEX, GpuHouse, doubling, greedy, hungry, indexing, lavish

pytestmark = pytest.mark.slow

Houses = Callable[..., GpuHouse]


def test_a_batch_that_is_out_of_memory_is_halved_and_the_rows_that_fit_are_remembered(
    houses: Houses,
) -> None:
    # Held back, so that they come together.
    house = houses(rows_max=16, slots=1, queue_delay_us_max=200_000)
    house.networks.put("hungry", hungry(rows_max=4))
    house.load("hungry", "hungry")
    model = house.repository.find("hungry")
    assert model.is_batched

    requests = [house.request(model, float(number), 1.0) for number in range(16)]
    model.scheduler.submit(requests)
    ends = [house.reply.wait_for(request) for request in requests]

    assert [end for end in ends if isinstance(end, HeadraceError)] == []
    assert 1 <= model.scheduler.rows_cap <= 4
    assert house.ask("hungry", 3.0, 4.0) == (6.0, 8.0)


def test_a_row_that_is_out_of_memory_alone_is_told_and_the_worker_lives(houses: Houses) -> None:
    house = houses(slots=1)
    house.networks.put("greedy", greedy())
    house.load("greedy", "greedy")
    (worker,) = house.pool.workers
    before = worker.pid

    end = house.reply.wait_for(house.submit("greedy", ALL_MEMORY, 0.0))

    assert isinstance(end, OutOfMemory)
    assert house.ask("greedy", 1.0, 2.0) == (2.0, 4.0)
    assert worker.pid == before


def test_another_model_of_the_worker_goes_on_while_one_is_out_of_memory(houses: Houses) -> None:
    house = houses(rows_max=16, slots=1)
    house.networks.put("hungry", hungry(rows_max=4))
    house.networks.put("kind", doubling())
    house.load("kind", "kind")
    house.load("hungry", "hungry")
    model = house.repository.find("hungry")
    pids = {worker.pid for worker in house.pool.workers}

    requests = [house.request(model, float(number), 1.0) for number in range(32)]
    model.scheduler.submit(requests)
    answers = [house.ask("kind", float(number), 0.0) for number in range(32)]
    ends = [house.reply.wait_for(request) for request in requests]

    assert answers == [(2.0 * number, 0.0) for number in range(32)]
    assert not any(isinstance(end, OutOfMemory) for end in ends)
    assert {worker.pid for worker in house.pool.workers} == pids


def test_after_an_assertion_of_the_device_the_worker_is_replaced_and_others_are_answered(
    houses: Houses, device: str
) -> None:
    """On the CPU the same row raises an IndexError, which the worker survives."""
    house = houses(rows_max=8, slots=1)
    house.networks.put("table", indexing())
    house.load("table", "table")
    (worker,) = house.pool.workers
    before = worker.pid
    assert house.ask("table", 3.0, 1.0) == (6.0, 2.0)

    guilty = house.submit("table", BAD_INDEX, 0.0)
    end = house.reply.wait_for(guilty)

    assert isinstance(end, HeadraceError)
    # Where the model takes more than ten seconds to load, nobody finds out whose fault it was.
    assert end.code in {"INTERNAL", "UNAVAILABLE"}
    with house.changed:
        assert house.changed.wait_for(
            lambda: house.repository.find("table").is_ready, PATIENCE_S
        ), "no instance came up again"
    assert house.ask("table", 4.0, 1.0) == (8.0, 2.0)
    assert (worker.pid != before) is device.startswith("cuda")


def test_a_request_that_shares_a_batch_with_a_guilty_one_is_answered(
    houses: Houses, device: str
) -> None:
    house = houses(rows_max=2, slots=1, queue_delay_us_max=200_000)
    house.networks.put("table", indexing())
    house.load("table", "table")
    model = house.repository.find("table")

    requests = [house.request(model, row, 0.0) for row in (2.0, BAD_INDEX)]
    model.scheduler.submit(requests)
    mate, guilty = (house.reply.wait_for(request) for request in requests)

    assert isinstance(guilty, HeadraceError)
    is_slow = device != "cpu" and isinstance(mate, InstanceLost)
    assert isinstance(mate, dict) or is_slow, mate


def test_a_model_that_is_tried_takes_no_more_than_the_budget_leaves(
    houses: Houses, gpu: str, gpus: Gpus
) -> None:
    if not gpus.all:
        pytest.skip("the driver is not asked: NVML or its library is missing")
    house = houses(trial=True, fraction=0.5)
    house.networks.put("lavish", lavish(0.6))

    house.load("lavish", "lavish")

    model = house.repository.find("lavish")
    assert "OutOfMemoryError" in model.note
    # Once it is known, torch may take what there is.
    assert house.ask("lavish", 1.0, 2.0) == (2.0, 4.0)


def test_a_load_that_exceeds_the_memory_is_refused_before_it_starts(
    houses: Houses, gpu: str, gpus: Gpus
) -> None:
    if not gpus.all:
        pytest.skip("the driver is not asked: NVML or its library is missing")
    house = houses()
    house.networks.put("kind", doubling())
    house.load("kind", "kind")
    here = next(one for one in gpus.all if one.device == gpu)
    house.networks.put("vast", doubling())
    weights = house.networks.source("vast") / "data" / "model.pth"
    # Sparse: its size is what counts, and it is never read.
    with open(weights, "r+b") as file:
        file.truncate(here.memory_bytes)

    with pytest.raises(LoadFailed, match=f"{gpu} has too little memory: it needs"):
        house.load("vast", "vast")

    assert house.ask("kind", 1.0, 2.0) == (2.0, 4.0)

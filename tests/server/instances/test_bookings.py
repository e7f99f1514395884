"""Bookings: who is promised memory on GPUs, by readings of a double of the driver."""

from collections.abc import Iterator

import pytest

from fake_nvml import FakeCard, FakeNvml
from headrace_server.errors import LoadFailed
from headrace_server.gpus.nvml import Gpus, find_gpus
from headrace_server.instances.bookings import Bookings

GIB = 1 << 30


class Machine:
    """Two GPUs of 10 GiB, of which 1 GiB is in use."""

    def __init__(self) -> None:
        self.cards = [FakeCard(f"GPU-{i}", total=10 * GIB, used=GIB) for i in range(2)]
        self.nvml = FakeNvml(self.cards)
        self.gpus: Gpus = find_gpus({}, self.nvml.module)
        self.bookings = Bookings(self.gpus, 0.9)

    def use(self, gib: int, card: int = 0) -> None:
        self.cards[card].used += gib * GIB


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.gpus.close()


def test_a_model_goes_to_the_emptiest_gpu(machine: Machine) -> None:
    machine.use(2, card=0)

    assert machine.bookings.book("auto", "onnx", 1).devices == ("cuda:1",)
    assert machine.bookings.book("cuda", "sklearn", 1).devices == ("cuda:1",)


def test_a_model_that_uses_no_gpu_is_given_none_where_the_choice_is_free(machine: Machine) -> None:
    assert machine.bookings.book("auto", "sklearn", 2).devices == ("cpu", "cpu")
    assert machine.bookings.book("cuda:1", "sklearn", 1).devices == ("cuda:1",)


def test_the_cpu_will_do_only_where_the_choice_is_free(machine: Machine) -> None:
    assert machine.bookings.book("auto", "pytorch", 1).is_choice
    assert not machine.bookings.book("cuda", "pytorch", 1).is_choice


def test_what_does_not_fit_is_refused_and_leaves_no_trace(machine: Machine) -> None:
    with pytest.raises(LoadFailed, match=r"cuda:0 .* needs 9.00 GiB, and 8.00 GiB are free of"):
        machine.bookings.book("cuda:0", "pytorch", 1, 9 * GIB)
    with pytest.raises(LoadFailed, match=r"3 instances need 9.00 GiB"):
        machine.bookings.book("cuda:0", "pytorch", 3, 3 * GIB)

    machine.bookings.book("cuda:0", "pytorch", 1, 8 * GIB)


def test_what_is_being_loaded_counts_before_it_is_in_use_and_once_it_is(machine: Machine) -> None:
    first = machine.bookings.book("cuda:0", "pytorch", 1, 5 * GIB)
    with pytest.raises(LoadFailed, match=r"3.00 GiB are free"):
        machine.bookings.book("cuda:0", "pytorch", 1, 4 * GIB)

    machine.use(5)
    machine.bookings.settle(first)

    with pytest.raises(LoadFailed, match=r"3.00 GiB are free"):
        machine.bookings.book("cuda:0", "pytorch", 1, 4 * GIB)
    machine.bookings.book("cuda:0", "pytorch", 1, 3 * GIB)


def test_a_half_loaded_model_is_not_counted_twice(machine: Machine) -> None:
    machine.bookings.book("cuda:0", "pytorch", 1, 5 * GIB)
    machine.use(2)

    machine.bookings.book("cuda:0", "pytorch", 1, 3 * GIB)


def test_a_model_keeps_its_memory_while_its_worker_is_replaced(machine: Machine) -> None:
    held = machine.bookings.book("cuda:0", "pytorch", 1, 6 * GIB)
    machine.bookings.settle(held)
    machine.cards[0].used = 0

    with pytest.raises(LoadFailed):
        machine.bookings.book("cuda:0", "pytorch", 1, 4 * GIB)

    machine.bookings.release(held)
    machine.bookings.book("cuda:0", "pytorch", 1, 4 * GIB)


def test_what_the_first_instance_took_decides_whether_the_others_fit(machine: Machine) -> None:
    booking = machine.bookings.book("cuda:0", "pytorch", 3, GIB)
    machine.use(3)

    with pytest.raises(LoadFailed, match=r"2 instances need 6.00 GiB, and 5.00 GiB are free"):
        machine.bookings.measure(booking, 1)

    assert booking.each_bytes == 3 * GIB


def test_the_need_is_per_instance_and_never_below_what_is_known(machine: Machine) -> None:
    booking = machine.bookings.book("cuda:0,cuda:1", "pytorch", 2, GIB)
    machine.use(4, card=0)
    machine.use(1, card=1)

    machine.bookings.measure(booking, 4)

    assert booking.each_bytes == 2 * GIB


def test_a_trial_may_take_what_the_budget_leaves(machine: Machine) -> None:
    assert machine.bookings.book("cuda:0", "pytorch", 1, GIB).trial_bytes_max == 8 * GIB
    machine.use(9, card=1)
    # None at all: 0 would mean any.
    assert machine.bookings.book("cuda:1", "pytorch", 1).trial_bytes_max == 1
    assert machine.bookings.book("cpu", "pytorch", 1).trial_bytes_max == 0


def test_nothing_is_learned_where_two_models_are_loaded_at_once(machine: Machine) -> None:
    first = machine.bookings.book("cuda:0", "pytorch", 1, GIB)
    second = machine.bookings.book("cuda:0", "pytorch", 1, GIB)
    machine.use(4)

    machine.bookings.measure(first, 1)
    machine.bookings.settle(first)
    machine.bookings.measure(second, 1)

    assert (first.each_bytes, second.each_bytes) == (GIB, GIB)


def test_a_driver_that_says_nothing_refuses_nothing(machine: Machine) -> None:
    assert Bookings().book("cuda:0", "pytorch", 1, 99 * GIB).devices == ("cuda:0",)
    assert Bookings().book("auto", "pytorch", 1, 99 * GIB).devices == ("auto",)

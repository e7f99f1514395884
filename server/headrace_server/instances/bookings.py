"""Bookings: which GPU's memory is promised to which model.

A model is given its devices, and refused where it does not fit, before anything of it is started.
Where no GPU is known nothing is refused.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import LoadFailed
from ..gpus.nvml import Gpus
from .budget import Budget
from .placement import ACCELERATED, placed


@dataclass(slots=True, eq=False)
class Booking:
    """The memory that one model has, or will have once it is loaded.

    Attributes:
        devices: The device of each instance.
        is_choice: Whether the choice was ours, so that the CPU will do where it fails.
        each_bytes: What one instance needs on its device; 0 where that is not known.
        is_loaded: Whether all of them have it.
        used_before: What all processes had on each GPU when the load began.
        trial_bytes_max: What the first instance may take while it is tried; 0 for any.
        is_alone: Whether no other model was loaded on its GPUs meanwhile.
    """

    devices: tuple[str, ...]
    is_choice: bool = False
    each_bytes: int = 0
    is_loaded: bool = False
    used_before: Mapping[str, int] = field(default_factory=dict)
    trial_bytes_max: int = 0
    is_alone: bool = True

    @property
    def is_on_gpus(self) -> bool:
        """Whether one of its devices is a GPU whose memory is known."""
        return not self.used_before.keys().isdisjoint(self.devices)


class Bookings:
    """All bookings of the daemon. Methods may be called from any thread."""

    def __init__(self, gpus: Gpus | None = None, memory_fraction: float = 1.0) -> None:
        """Book memory of *gpus*, up to *memory_fraction* of each; None where none are known."""
        self._gpus = Gpus() if gpus is None else gpus
        self._fraction = memory_fraction
        self._bookings: set[Booking] = set()
        self._lock = threading.Lock()

    def book(self, devices: str, flavor: str, instances: int, each_bytes: int = 0) -> Booking:
        """Choose devices for a model that is about to be loaded, and promise it memory there.

        Args:
            devices: As settings name them; see `placed`.
            flavor: MLflow's flavor key.
            instances: How many; see `placed`.
            each_bytes: What one needs at least; 0 where that is not known.

        Raises:
            LoadFailed: It does not fit: what it needs, what is free and what is granted.
        """
        if devices == "auto" and flavor not in ACCELERATED:
            devices = "cpu"
        used = self._used()
        with self._lock:
            budgets = self._budgets(used, self._bookings)
            left = {name: budget.left_bytes for name, budget in budgets.items()}
            names = placed(devices, instances, left, each_bytes)
            _check(budgets, names, each_bytes)
            booking = Booking(
                names,
                devices == "auto",
                each_bytes,
                used_before=used,
                trial_bytes_max=max(left[names[0]], 1) if names[0] in left else 0,
            )
            for other in self._bookings:
                if not other.is_loaded and set(other.devices) & set(names):
                    other.is_alone = booking.is_alone = False
            self._bookings.add(booking)
        return booking

    def measure(self, booking: Booking, loaded: int) -> None:
        """Learn from what the first *loaded* instances took; the others must fit all the same.

        Nothing is learned where another model was loaded on the same GPU. Batches of models that
        were there already may have grown their memory: that counts as the new one's.

        Raises:
            LoadFailed: The others do not fit.
        """
        used = self._used()
        with self._lock:
            for name, count in Counter(booking.devices[:loaded]).items():
                if booking.is_alone and name in used and name in booking.used_before:
                    grown = used[name] - booking.used_before[name]
                    booking.each_bytes = max(booking.each_bytes, grown // count)
            others = self._bookings - {booking}
            _check(self._budgets(used, others), booking.devices[loaded:], booking.each_bytes)

    def settle(self, booking: Booking) -> None:
        """The model is loaded: it has what it was promised."""
        booking.is_loaded = True

    def release(self, booking: Booking) -> None:
        """The model is gone, or never came."""
        with self._lock:
            self._bookings.discard(booking)

    def _used(self) -> dict[str, int]:
        return {reading.gpu.device: reading.used_bytes for reading in self._gpus.read()}

    def _budgets(self, used: Mapping[str, int], bookings: Iterable[Booking]) -> dict[str, Budget]:
        """The budget of each GPU that *used* tells of."""
        return {
            gpu.device: Budget(
                gpu.device,
                gpu.memory_bytes,
                self._fraction,
                used[gpu.device],
                _promised(gpu.device, bookings),
            )
            for gpu in self._gpus.all
            if gpu.device in used
        }


def _check(budgets: Mapping[str, Budget], devices: Iterable[str], each_bytes: int) -> None:
    for name, count in Counter(devices).items():
        if name in budgets and (why := budgets[name].refusal(each_bytes, count)):
            raise LoadFailed(why)


def _promised(device: str, bookings: Iterable[Booking]) -> int:
    """What is used on *device* once all *bookings* are loaded."""
    held, awaited = 0, 0
    before = []
    for booking in bookings:
        need = booking.each_bytes * booking.devices.count(device)
        if booking.is_loaded:
            held += need
        elif need:
            awaited += need
            before.append(booking.used_before.get(device, 0))
    # Of what is being loaded some is in use by now: it is counted from when the first one began.
    return max(held, min(before, default=0)) + awaited

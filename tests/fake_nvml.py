"""NVML as a machine with GPUs would have it: a double of the few calls of pynvml that are used.

A test holds its names and arguments against the real module.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeCard:
    """A GPU, or a MIG device.

    Attributes:
        uuid: As NVML says it.
        name: The product's.
        total: Bytes of memory.
        used: Bytes that are in use.
        slices: MIG devices by their index; None where the card has no MIG mode at all.
    """

    uuid: str
    name: str = "NVIDIA L4"
    total: int = 24 << 30
    used: int = 1 << 30
    gpu: int = 40
    milliwatts: int = 61_500
    celsius: int = 55
    slices: "dict[int, FakeCard] | None" = None

    @property
    def free(self) -> int:
        return self.total - self.used


class NVMLError(Exception):
    pass


class NVMLError_NotFound(NVMLError):  # noqa: N801 - the library's own name.
    pass


class NVMLError_NotSupported(NVMLError):  # noqa: N801 - the library's own name.
    pass


@dataclass
class FakeNvml:
    """The module. Whatever is asked of a MIG device beyond its memory is not supported.

    Attributes:
        cards: The GPUs of the machine.
        broken: What `nvmlInit` raises.
        answers: Cleared while the driver does not answer.
    """

    cards: Sequence[FakeCard] = ()
    broken: str = ""
    answers: threading.Event = field(default_factory=threading.Event)

    NVMLError = NVMLError
    NVMLError_NotFound = NVMLError_NotFound
    NVML_TEMPERATURE_GPU = 0

    def __post_init__(self) -> None:
        self.answers.set()

    def nvmlInit(self) -> None:
        if self.broken:
            raise NVMLError(self.broken)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeCard:
        return self.cards[index]

    def nvmlDeviceGetUUID(self, handle: FakeCard) -> str:
        return handle.uuid

    def nvmlDeviceGetName(self, handle: FakeCard) -> str:
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: FakeCard) -> FakeCard:
        self.answers.wait()
        return handle

    def nvmlDeviceGetUtilizationRates(self, handle: FakeCard) -> FakeCard:
        return self._whole(handle)

    def nvmlDeviceGetPowerUsage(self, handle: FakeCard) -> int:
        return self._whole(handle).milliwatts

    def nvmlDeviceGetTemperature(self, handle: FakeCard, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._whole(handle).celsius

    def nvmlDeviceGetMigMode(self, device: FakeCard) -> list[int]:
        if device.slices is None:
            raise NVMLError_NotSupported("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, device: FakeCard) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: FakeCard, index: int) -> FakeCard:
        if device.slices is None or index not in device.slices:
            raise NVMLError_NotFound("Not Found")
        return device.slices[index]

    @property
    def module(self) -> Any:
        """This double, for those who ask for the module."""
        return self

    def _whole(self, handle: FakeCard) -> FakeCard:
        if handle.uuid.startswith("MIG-"):
            raise NVMLError_NotSupported("Not Supported")
        return handle

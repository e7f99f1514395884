"""Devices: the only part of a worker that knows hardware."""

from .base import Device, DeviceUnavailable


def open_device(name: str, threads: int = 1, arena: memoryview | None = None) -> Device:
    """The device called *name*, for one instance.

    Args:
        name: "cpu", "cuda" or "cuda:N".
        threads: How many threads one call may use on the CPU.
        arena: The memory that batches come from and go to.

    Raises:
        DeviceUnavailable: This machine or its frameworks have no such device.
    """
    kind, _, index = name.partition(":")
    if kind == "cpu" and not index:
        from .cpu import CpuDevice

        return CpuDevice(threads)
    if kind == "cuda" and (index.isdigit() or not index):
        from .cuda import CudaDevice

        return CudaDevice(int(index or 0), arena)
    raise DeviceUnavailable(f"unknown device {name!r}: expected cpu, cuda or cuda:N")


__all__ = ["Device", "DeviceUnavailable", "open_device"]

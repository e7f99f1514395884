"""NVML: what NVIDIA's driver says of the GPUs that workers may use.

The library is nvidia-ml-py (module pynvml), which the extra `gpu` brings; it is imported here alone
and only when asked for. Without it, or without a driver, there are no GPUs to tell of.
"""

import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import structlog

from .visible import Card, visible

# How long a reading may take (seconds). A driver in trouble may not answer for minutes.
READ_S_MAX = 0.5

_log = structlog.get_logger("headrace")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or a MIG slice of one.

    Attributes:
        device: As settings name it: "cuda:0" is the first that CUDA shows.
        uuid: NVIDIA's own.
        name: The product's.
        memory_bytes: Its whole memory.
    """

    device: str
    uuid: str
    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What a GPU is doing. None is what the driver does not tell, as of a MIG slice.

    Attributes:
        gpu: Which it is.
        free_bytes: Memory that no process has.
        used_bytes: Memory that processes and the driver have.
        busy: Share of the driver's last sample, 1/6 s to 1 s, in which a kernel ran; 0 to 1.
        watts: Power drawn.
        celsius: Temperature of the chip.
    """

    gpu: Gpu
    free_bytes: int
    used_bytes: int
    busy: float | None
    watts: float | None
    celsius: float | None


class Gpus:
    """The GPUs that CUDA shows to workers; read from any thread.

    Attributes:
        all: In CUDA's order.
        is_known: Whether the driver was asked: else there may be more than *all*.
    """

    def __init__(
        self,
        nvml: ModuleType | None = None,
        handles: Sequence[tuple[Gpu, Any]] = (),
        *,
        read_s_max: float = READ_S_MAX,
    ) -> None:
        """Read by *nvml*, which is started; without arguments there are no GPUs.

        Args:
            nvml: The module pynvml.
            handles: Each GPU with NVML's handle of it.
            read_s_max: How long `read` waits.
        """
        self.all = tuple(gpu for gpu, _ in handles)
        self.is_known = nvml is not None
        self._nvml = nvml
        self._handles = tuple(handles)
        self._read_s_max = read_s_max
        self._asked: queue.SimpleQueue[Future[list[Reading]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending: Future[list[Reading]] | None = None
        self._is_quiet = False
        self._thread: threading.Thread | None = None
        if handles:
            self._thread = threading.Thread(target=self._run, name="gpus", daemon=True)
            self._thread.start()

    def read(self) -> list[Reading]:
        """What each GPU does now; nothing where the driver does not say so in time."""
        if not self._handles:
            return []
        with self._lock:
            if self._pending is None or self._pending.done():
                self._pending = Future()
                self._asked.put(self._pending)
            pending = self._pending
        try:
            found = pending.result(self._read_s_max)
        except Exception as error:  # noqa: BLE001 - NVML's, or a TimeoutError.
            if not self._is_quiet:
                self._is_quiet = True
                why = str(error) or f"no answer within {self._read_s_max:g} s"
                _log.warning("gpus_not_read", why=why)
            return []
        self._is_quiet = False
        return found

    def close(self) -> None:
        """Read no more."""
        self._asked.put(None)
        if self._thread is not None:
            # Not for ever: a call of the driver may never return.
            self._thread.join(self._read_s_max)

    def _run(self) -> None:
        while (future := self._asked.get()) is not None:
            try:
                future.set_result([self._reading(gpu, handle) for gpu, handle in self._handles])
            except BaseException as error:  # noqa: BLE001 - whoever waits is told.
                future.set_exception(error)

    def _reading(self, gpu: Gpu, handle: Any) -> Reading:
        nvml: Any = self._nvml
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        celsius = nvml.NVML_TEMPERATURE_GPU
        return Reading(
            gpu,
            free_bytes=memory.free,
            used_bytes=memory.used,
            busy=self._told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            watts=self._told(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            celsius=self._told(lambda: float(nvml.nvmlDeviceGetTemperature(handle, celsius))),
        )

    def _told(self, ask: Callable[[], float]) -> float | None:
        nvml: Any = self._nvml
        try:
            return ask()
        except nvml.NVMLError:
            return None


def find_gpus(environ: Mapping[str, str] = os.environ, nvml: Any = None) -> Gpus:
    """The GPUs that CUDA shows to a process with the environment *environ*.

    The log has one line that says which, or why there are none.

    Args:
        environ: Where CUDA_VISIBLE_DEVICES may be.
        nvml: The module pynvml; None to import it.
    """
    if nvml is None:
        try:
            nvml = import_module("pynvml")
        except ModuleNotFoundError:
            _log.info("no_gpus", why='pynvml is not installed: pip install "headrace[gpu]"')
            return Gpus()
    try:
        nvml.nvmlInit()
        found = _find(environ, nvml)
    except nvml.NVMLError as error:
        _log.info("no_gpus", why=str(error))
        return Gpus()
    if found:
        _log.info("gpus", found={gpu.device: f"{gpu.name} {gpu.uuid}" for gpu, _ in found})
    else:
        _log.info("no_gpus", why="the driver shows none, or CUDA_VISIBLE_DEVICES hides them")
    return Gpus(nvml, found)


def _find(environ: Mapping[str, str], nvml: Any) -> list[tuple[Gpu, Any]]:
    cards: list[Card] = []
    handles: dict[str, Any] = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = nvml.nvmlDeviceGetUUID(handle)
        is_sliced = _is_sliced(handle, nvml)
        slices = _slices(handle, nvml) if is_sliced else {}
        handles |= {uuid: handle, **slices}
        cards.append(Card(uuid, is_sliced, tuple(slices)))
    names = {nvml.nvmlDeviceGetName(handles[card.uuid]) for card in cards}
    if environ.get("CUDA_DEVICE_ORDER") == "FASTEST_FIRST" and len(names) > 1:
        why = "CUDA numbers unlike GPUs by speed: set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        _log.warning("gpu_numbers_unknown", why=why)
        return []
    shown = visible(environ.get("CUDA_VISIBLE_DEVICES"), cards)
    return [
        (
            Gpu(
                f"cuda:{index}",
                uuid,
                nvml.nvmlDeviceGetName(handles[uuid]),
                nvml.nvmlDeviceGetMemoryInfo(handles[uuid]).total,
            ),
            handles[uuid],
        )
        for index, uuid in enumerate(shown)
    ]


def _is_sliced(handle: Any, nvml: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return False  # A card, or a driver, from before MIG.
    return bool(current)


def _slices(handle: Any, nvml: Any) -> dict[str, Any]:
    """The MIG devices of a card by their UUIDs."""
    found = {}
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            slice_handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError_NotFound:
            continue  # Of as many as there may be, few are there.
        found[nvml.nvmlDeviceGetUUID(slice_handle)] = slice_handle
    return found

"""Accelerators: GPUs, their driver, and whether torch and onnxruntime were built for them."""

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ..gpus.visible import Card, visible
from .finding import Finding, Setup, ok, problem, warning
from .software import version_of

_NVIDIA = Path("/proc/driver/nvidia")
_SMI_S_MAX = 15.0
_SMI_FIELDS = "index,name,uuid,memory.total,memory.used"


def check_accelerators(setup: Setup, nvidia: Path = _NVIDIA) -> Iterator[Finding]:
    """Yield findings about GPUs; the CPU is no problem unless a GPU was asked for.

    *nvidia* is where the driver shows itself.
    """
    cards = list(_cards(nvidia))
    if not cards:
        yield _no_gpu(setup, nvidia)
        return
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = visible(said, [Card(uuid) for _, uuid, _ in cards])
    for index, (name, uuid, text) in enumerate(cards):
        if uuid in shown:
            number = f": cuda:{shown.index(uuid)}" if said is not None else ""
            yield ok(f"gpu {index}", f"{name}{text}{number}")
        else:
            yield ok(f"gpu {index}", f"{name}{text}: hidden by CUDA_VISIBLE_DEVICES={said}")
    # MIG slices are not looked for: only their UUIDs name them.
    if said is None or not said.startswith("MIG-"):
        yield from _asked_device(setup, len(shown))
    supported = _driver_cuda()
    yield _driver(supported, nvidia)
    yield from _torch(supported)
    yield from _onnxruntime()


def _cards(nvidia: Path) -> Iterator[tuple[str, str, str]]:
    """Name, UUID and details of every GPU, by nvidia-smi, else by what the driver says in /proc."""
    if shutil.which("nvidia-smi") is not None:
        command = ["nvidia-smi", f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader"]
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, timeout=_SMI_S_MAX, check=True
            )
        except (OSError, subprocess.SubprocessError):
            pass
        else:
            for line in ran.stdout.splitlines():
                _, name, uuid, total, used = (cell.strip() for cell in line.split(","))
                yield name, uuid, f", {total} of memory, {used} in use"
            return
    for path in sorted(nvidia.glob("gpus/*/information")):
        written = path.read_text()
        model = re.search(r"^Model:\s*(.+)$", written, re.MULTILINE)
        found = re.search(r"^GPU UUID:\s*(\S+)$", written, re.MULTILINE)
        slot = path.parent.name
        yield model[1] if model else slot, found[1] if found else slot, ""


def _no_gpu(setup: Setup, nvidia: Path) -> Finding:
    if setup.device.startswith("cuda"):
        return problem(
            "gpu",
            f"none found, but device is {setup.device!r}",
            'install the NVIDIA driver, or set device = "cpu" in headrace.toml, or --device cpu',
        )
    if (nvidia / "version").exists():
        return warning(
            "gpu",
            "the NVIDIA driver is loaded, but shows no GPU here: models run on the CPU",
            "give the container the GPUs, as in docker run --gpus all",
        )
    return ok("gpu", "none found: models run on the CPU")


def _asked_device(setup: Setup, cards: int) -> Iterator[Finding]:
    number = setup.device.removeprefix("cuda").removeprefix(":") or "0"
    if not cards and setup.device.startswith("cuda"):
        yield problem(
            "device",
            f"device is {setup.device!r}, but CUDA_VISIBLE_DEVICES hides every GPU",
            "unset CUDA_VISIBLE_DEVICES, or --device cpu",
        )
    elif setup.device.startswith("cuda") and int(number) >= cards:
        yield problem(
            "device",
            f"device is {setup.device!r}, but the last GPU here is cuda:{cards - 1}",
            f"--device cuda:{cards - 1}",
        )


def _driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver supports; None where it does not say."""
    version = ctypes.c_int(0)
    try:
        # The one call that needs no initialised device.
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return (
        None if failed or not version.value else (version.value // 1000, version.value % 1000 // 10)
    )


def _driver(supported: tuple[int, int] | None, nvidia: Path) -> Finding:
    version = None
    if (nvidia / "version").exists():
        found = re.search(r"\b(\d+\.\d+(\.\d+)?)\b", (nvidia / "version").read_text())
        version = found[1] if found else None
    name = f"NVIDIA {version}" if version else "NVIDIA"
    if supported is None:
        return problem(
            "driver",
            f"{name}, but libcuda.so.1 does not load: no framework can use the GPU",
            "install the driver's libraries; give a container "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        )
    return ok("driver", f"{name}, for CUDA up to {_dotted(supported)}")


def _torch(supported: tuple[int, int] | None) -> Iterator[Finding]:
    version = version_of("torch")
    if version is None:
        return
    built = _torch_cuda()
    index = "https://download.pytorch.org/whl/"
    if built is None:
        yield warning(
            "torch cuda",
            f"torch {version} is built without CUDA: PyTorch models run on the CPU",
            f"pip install --force-reinstall torch --index-url {index}cu{_squeezed(supported)}",
        )
    elif supported is not None and built[0] > supported[0]:
        yield problem(
            "torch cuda",
            f"torch {version} is built for CUDA {_dotted(built)}, the driver ends at "
            f"{_dotted(supported)}",
            f"update the driver, or pip install torch from {index} for CUDA {supported[0]}",
        )
    else:
        yield ok("torch cuda", f"torch {version} is built for CUDA {_dotted(built)}")


def _torch_cuda() -> tuple[int, int] | None:
    """The CUDA that torch was built for, read from its files: an import takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    path = os.path.join(os.path.dirname(spec.origin), "version.py")
    found = re.search(r"^cuda\b[^=]*=\s*'(\d+)\.(\d+)", Path(path).read_text(), re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else None


def _onnxruntime() -> Iterator[Finding]:
    if version_of("onnxruntime") is not None and version_of("onnxruntime-gpu") is None:
        yield warning(
            "onnxruntime cuda",
            "onnxruntime is built without CUDA: ONNX models run on the CPU",
            "pip uninstall onnxruntime && pip install onnxruntime-gpu",
        )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _squeezed(version: tuple[int, int] | None) -> str:
    """As the indexes of torch name a CUDA: 128 for 12.8."""
    return "NNN" if version is None else f"{version[0]}{version[1]}"

"""GPU memory: a bound on what torch may take of it while a model is tried.

What one process takes of a GPU the models in all others lack: their batches would fail for want of
memory, and be made smaller. Frameworks other than torch know no such bound. Never run on a GPU.
"""

import sys
from typing import Any


def bound_growth(device: str, bytes_max: int) -> None:
    """Let torch take up to *bytes_max* more of the memory of *device* than it has; 0 for any.

    Nothing happens where *device* is no GPU, or torch is not imported. Beyond the bound torch
    raises what it raises where the GPU itself has no more.
    """
    torch: Any = sys.modules.get("torch")
    kind, _, index = device.partition(":")
    if torch is None or kind != "cuda":
        return
    number = int(index)
    fraction = 1.0
    if bytes_max:
        total: int = torch.cuda.get_device_properties(number).total_memory
        fraction = min(1.0, (torch.cuda.memory_reserved(number) + bytes_max) / total)
    torch.cuda.set_per_process_memory_fraction(fraction, number)

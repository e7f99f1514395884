"""Faulty: a model that echoes its rows, unless the first number of one tells it to do harm."""

import contextlib
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt

# Numbers that no sample holds with which a model is tried at load.
RAISE, EXIT, HALF_A_FRAME, FREEZE, SWALLOW_MEMORY, TAKE_TIME, SWELL, SHRINK = map(
    float, range(901, 909)
)

# What a row that swells brings back, in columns of eight bytes.
SWOLLEN = 1_000_000

_MLMODEL = """
flavors:
  sklearn:
    pickled_model: model.pkl
    serialization_format: cloudpickle
signature:
  inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]'
"""


class Faulty:
    """See the module."""

    def predict(self, rows: npt.NDArray[np.float64]) -> Any:
        # Whatever other rows ask for.
        if (rows[:, 0] == RAISE).any():
            raise ValueError("a row said so")
        if (rows[:, 0] == SHRINK).any():
            return rows[1:]
        what = rows[:, 0].max()
        if what == EXIT:
            os._exit(3)
        if what == HALF_A_FRAME:
            _send_half_a_frame()
            os._exit(0)
        if what == FREEZE:
            threading.Event().wait()
        if what == SWALLOW_MEMORY:
            return np.ones(1 << 40)
        if what == TAKE_TIME:
            # A model that computes this long.
            time.sleep(0.02)
        if what == SWELL:
            return np.repeat(rows, SWOLLEN, axis=1)
        return rows


def save(folder: Path) -> Path:
    """The model in a new directory, as MLflow would have saved it; the directory."""
    folder.mkdir()
    (folder / "MLmodel").write_text(_MLMODEL)
    # A worker does not know this module.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    (folder / "model.pkl").write_bytes(cloudpickle.dumps(Faulty()))
    return folder


def _send_half_a_frame() -> None:
    """The head of a DONE frame and a body that breaks off, over whatever socket there is."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            socket.socket(fileno=os.dup(int(name))).send(bytes([13, 0, 1, 2, 3]))

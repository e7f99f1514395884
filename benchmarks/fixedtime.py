"""Fixedtime: a model that takes 5 ms for a batch of any size, and gives its rows back.

It sleeps rather than spins: so the core stays with the server, as it does beside a model that
computes on an accelerator. The sleep ends at an instant that was fixed when the call began; what
the kernel wakes it late belongs to the service time that a run measures.
"""

import sys
import time
from pathlib import Path

import cloudpickle
import numpy as np
import numpy.typing as npt

SERVICE_S = 0.005

_SPEC = '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}, "name": "%s"}]'
_MLMODEL = f"""
flavors:
  sklearn:
    pickled_model: model.pkl
    serialization_format: cloudpickle
signature:
  inputs: '{_SPEC % "x"}'
  outputs: '{_SPEC % "y"}'
"""


class FixedTime:
    """See the module."""

    def predict(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """*rows*, SERVICE_S after the call at the earliest."""
        until = time.monotonic() + SERVICE_S
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(left_s)
        return rows


def save(folder: Path) -> Path:
    """The model in *folder*, as MLflow would have saved it; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "MLmodel").write_text(_MLMODEL.lstrip())
    # A worker does not know this module.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    (folder / "model.pkl").write_bytes(cloudpickle.dumps(FixedTime()))
    return folder

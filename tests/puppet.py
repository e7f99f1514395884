"""Puppet: models that do what their rows say, and one that gives back whatever it is given."""

import json
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt

# What the first number of a batch's first row may ask for; any other is echoed. No sample with
# which a model is tried at load holds these.
RAISE, TOO_FEW_ROWS, NOT_A_NUMBER, WAIT = 901, 904, 905, 908

_FLAVOR = """
flavors:
  sklearn:
    pickled_model: model.pkl
    serialization_format: cloudpickle
"""


class Puppet:
    """Of two FP64 columns, so that it can be told what to do."""

    def __init__(self, gate: Path) -> None:
        # Whoever waits, waits for this FIFO to be opened for writing.
        self.gate = str(gate)

    def predict(self, rows: npt.NDArray[np.float64]) -> Any:
        match int(rows[0, 0]):
            case 901:
                raise ValueError("a row said so, in /etc/secret/file")
            case 904:
                return rows[1:]
            case 905:
                return np.full_like(rows, np.nan)
            case 908:
                with open(self.gate, "rb"):
                    return rows
            case _:
                return rows


class Echo:
    """Of any input, so that every datatype passes."""

    def predict(self, rows: npt.NDArray[Any]) -> Any:
        return rows


def save_puppet(folder: Path, gate: Path) -> Path:
    """A Puppet as MLflow would have saved it; the directory."""
    tensor = json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}])
    signature = f"signature:\n  inputs: '{tensor}'\n  outputs: '{tensor}'\n"
    return _save(Puppet(gate), folder, _FLAVOR + signature)


def save_echo(folder: Path) -> Path:
    """An Echo, without a signature."""
    return _save(Echo(), folder, _FLAVOR)


def save_broken(folder: Path) -> Path:
    """A model that cannot be loaded: its file is not there."""
    folder.mkdir()
    (folder / "MLmodel").write_text(_FLAVOR)
    return folder


def save_scaled(folder: Path) -> Path:
    """An ONNX graph of a matrix and a scalar: y = x * scale."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        "scaled",
        [
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
    )
    folder.mkdir()
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(built, str(folder / "model.onnx"))
    (folder / "MLmodel").write_text("flavors:\n  onnx:\n    data: model.onnx\n")
    return folder


def _save(model: object, folder: Path, described: str) -> Path:
    folder.mkdir()
    (folder / "MLmodel").write_text(described)
    # A worker does not know this module.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    (folder / "model.pkl").write_bytes(cloudpickle.dumps(model))
    return folder

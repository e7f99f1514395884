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


class Sized:
    """Compiled, so to speak, for 4 and 8 rows: tells beside each row with how many it ran."""

    def predict(self, rows: npt.NDArray[np.float64]) -> Any:
        if len(rows) not in (4, 8):
            raise ValueError(f"compiled for 4 and 8 rows, not for {len(rows)}")
        return np.column_stack([rows[:, 0], np.full(len(rows), float(len(rows)))])


class Echo:
    """Of any input, so that every datatype passes."""

    def predict(self, rows: npt.NDArray[Any]) -> Any:
        return rows


_TENSOR = json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}])
_SIGNATURE = f"signature:\n  inputs: '{_TENSOR}'\n  outputs: '{_TENSOR}'\n"


def save_puppet(folder: Path, gate: Path) -> Path:
    """A Puppet as MLflow would have saved it; the directory."""
    return _save(Puppet(gate), folder, _FLAVOR + _SIGNATURE)


def save_sized(folder: Path) -> Path:
    """A Sized as MLflow would have saved it; the directory."""
    return _save(Sized(), folder, _FLAVOR + _SIGNATURE)


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


def save_masked(folder: Path) -> Path:
    """An ONNX graph of a ragged matrix and its mask: y = x * real + 1, and each row's length."""
    import onnx
    from onnx import TensorProto, helper

    def ragged(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["rows", "length"])

    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["real"], ["factor"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "factor"], ["masked"]),
            helper.make_node("Constant", [], ["one"], value_float=1.0),
            helper.make_node("Add", ["masked", "one"], ["y"]),
            helper.make_node("Constant", [], ["inner"], value_ints=[1]),
            helper.make_node("ReduceSum", ["real", "inner"], ["length"], keepdims=1),
            helper.make_node("Shape", ["x"], ["ran"], start=1),
            helper.make_node("Mul", ["length", "ran"], ["length_times_ran"]),
        ],
        "masked",
        [ragged("x", TensorProto.FLOAT), ragged("real", TensorProto.INT64)],
        [
            ragged("y", TensorProto.FLOAT),
            helper.make_tensor_value_info("length", TensorProto.INT64, ["rows", 1]),
            helper.make_tensor_value_info("length_times_ran", TensorProto.INT64, ["rows", 1]),
        ],
    )
    folder.mkdir()
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(built)
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

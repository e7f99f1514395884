"""Memory: what frameworks raise when they have too little of it, as they really raise it."""

from collections.abc import Callable

import numpy as np
import pytest

from headrace_server.adapters.memory import is_out_of_memory

PETABYTE = 1 << 50


def numpy_array() -> None:
    np.empty(PETABYTE)


def torch_tensor() -> None:
    import torch

    torch.ones(1 << 20).expand(1 << 20, 1 << 20).contiguous()


def torch_device() -> None:
    import torch

    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def onnxruntime_session() -> None:
    import onnxruntime
    from onnx import TensorProto, helper

    size = helper.make_tensor("size", TensorProto.INT64, [1], [PETABYTE])
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "size"], ["y"])],
        "grows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [size],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    session.run(None, {"x": np.ones(1, np.float32)})


def wrong_shape() -> None:
    np.ones(3) + np.ones(4)


def odd() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

    raise Mute


def raised_by(call: Callable[[], None]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - of whatever kind it is.
        call()
    return caught.value


@pytest.mark.parametrize("call", [numpy_array, torch_tensor, torch_device, onnxruntime_session])
def test_what_frameworks_raise_without_memory_is_recognised(call: Callable[[], None]) -> None:
    assert is_out_of_memory(raised_by(call))


@pytest.mark.parametrize("call", [wrong_shape, odd])
def test_other_errors_are_not_taken_for_it(call: Callable[[], None]) -> None:
    assert not is_out_of_memory(raised_by(call))

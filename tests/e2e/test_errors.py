"""Wrong requests: each gets its status and a sentence, and the next request is served."""

import re
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest

import models
from headrace.datatypes import datatype_of
from headrace.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from serving import Daemon

pytestmark = pytest.mark.slow

INFER = "/inference.GRPCInferenceService/ModelInfer"
Infer = Callable[..., bytes]


@pytest.fixture(scope="module")
def infer(daemon: Daemon) -> Iterator[Infer]:
    """A bare call, with bytes in and out."""
    with grpc.insecure_channel(daemon.address) as channel:
        yield channel.unary_unary(INFER, None, None)


def _request(name: str = "graph", **changes: object) -> ModelInferRequest:
    request = ModelInferRequest(model_name=name)
    fields = {"name": "x", "datatype": "FP32", "shape": [1, 4], **changes}
    request.inputs.add(**fields)
    request.raw_input_contents.append(np.zeros(4, np.float32).tobytes())
    return request


def _unknown_model() -> ModelInferRequest:
    return _request("nothing")


def _unknown_version() -> ModelInferRequest:
    request = _request()
    request.model_version = "77"
    return request


def _unknown_alias() -> ModelInferRequest:
    request = _request()
    request.model_version = "@nobody"
    return request


def _malformed_version() -> ModelInferRequest:
    request = _request()
    request.model_version = "abc"
    return request


def _unknown_input() -> ModelInferRequest:
    request = _request()
    request.inputs[0].name = "z"
    return request


def _missing_input() -> ModelInferRequest:
    request = ModelInferRequest(model_name="iris")
    for name in models.IRIS_COLUMNS[:3]:
        request.inputs.add(name=name, datatype="FP64", shape=[1])
        request.raw_input_contents.append(bytes(8))
    return request


def _different_rows() -> ModelInferRequest:
    request = ModelInferRequest(model_name="iris")
    for rows, name in enumerate(models.IRIS_COLUMNS, 1):
        request.inputs.add(name=name, datatype="FP64", shape=[rows])
        request.raw_input_contents.append(bytes(8 * rows))
    return request


def _short_bytes() -> ModelInferRequest:
    request = _request()
    request.raw_input_contents[0] = bytes(12)
    return request


def _unknown_output() -> ModelInferRequest:
    request = _request()
    request.outputs.add(name="nope")
    return request


def _unknown_parameter() -> ModelInferRequest:
    request = _request()
    request.parameters["colour"].string_param = "red"
    return request


WRONG = {
    "unknown model": (_unknown_model, "NOT_FOUND", "'nothing' is not served"),
    "unknown version": (_unknown_version, "NOT_FOUND", "'77'.*served are: 1"),
    "unknown alias": (_unknown_alias, "NOT_FOUND", "'@nobody'"),
    "malformed version": (_malformed_version, "INVALID_ARGUMENT", "'abc'.*expected a number"),
    "unknown input": (_unknown_input, "INVALID_ARGUMENT", "unknown input 'z': expected .'x'."),
    "missing input": (_missing_input, "INVALID_ARGUMENT", "missing input 'petal_width'"),
    "different rows": (_different_rows, "INVALID_ARGUMENT", "has 2 rows, but .* has 1"),
    "wrong datatype": (
        lambda: _request(datatype="FP64"),
        "INVALID_ARGUMENT",
        "input 'x': expected FP32, got FP64",
    ),
    "unknown datatype": (
        lambda: _request(datatype="FP99"),
        "INVALID_ARGUMENT",
        "input 'x': unknown datatype 'FP99'",
    ),
    "wrong shape": (
        lambda: _request(shape=[1, 5]),
        "INVALID_ARGUMENT",
        r"input 'x': expected shape \[-1, 4\], got \[1, 5\]",
    ),
    "negative shape": (
        lambda: _request(shape=[-1, 4]),
        "INVALID_ARGUMENT",
        r"input 'x': shape \[-1, 4\] has a negative size",
    ),
    "wrong byte count": (_short_bytes, "INVALID_ARGUMENT", "input 'x': expected 16 bytes.*got 12"),
    "unknown output": (_unknown_output, "INVALID_ARGUMENT", "unknown output 'nope'"),
    "unknown parameter": (_unknown_parameter, "INVALID_ARGUMENT", "'colour'.*known are"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_gets_its_status_and_the_next_one_is_served(
    infer: Infer, case: str
) -> None:
    make, status, message = WRONG[case]

    with pytest.raises(grpc.RpcError) as caught:
        infer(make().SerializeToString(), timeout=30)

    error = caught.value
    assert error.code().name == status
    details = error.details() or ""
    assert re.search(message, details)
    assert "/" not in details
    assert "Traceback" not in details
    answer = ModelInferResponse.FromString(infer(_request().SerializeToString(), timeout=30))
    assert answer.outputs[0].shape == [1, 3]


@pytest.mark.parametrize("payload", [b"\xff", b"\x0a\x40abc", bytes(range(256)), b"\x0b"])
def test_bytes_that_are_no_message_are_refused(infer: Infer, payload: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(payload, timeout=30)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_what_the_model_raises_is_told_without_paths_or_traceback(infer: Infer) -> None:
    """The column model was fitted on known cities and refuses others."""
    request = ModelInferRequest(model_name="mixed")
    tensors = models.model("mixed_columns").rows(1)
    for name, array in tensors.items():
        if array.dtype == object:
            request.inputs.add(name=name, datatype="BYTES", shape=[1])
            request.raw_input_contents.append(b"\x06\0\0\0no-one")
        else:
            request.inputs.add(name=name, datatype=datatype_of(array.dtype).name, shape=[1])
            request.raw_input_contents.append(array.tobytes())

    with pytest.raises(grpc.RpcError) as caught:
        infer(request.SerializeToString(), timeout=30)

    assert caught.value.code() is grpc.StatusCode.INTERNAL
    details = caught.value.details() or ""
    assert "ValueError" in details
    assert "error id" in details
    assert "/" not in details

"""Calling: messages in bytes over the bare wire, and how a call ended."""

import re
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from headrace.datatypes import BYTES, Datatype, datatype_of
from headrace.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from headrace.tensors import decode, encode
from serving import Daemon

INFER = "/inference.GRPCInferenceService/ModelInfer"
TIMEOUT_S = 60.0
# The setting of the daemons of the conformance tests: small, so that longer messages are cheap.
MESSAGE_BYTES_MAX = 8 << 20

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Ending:
    """How a call ended: its status, and the sentence or the answer."""

    code: str
    details: str
    payload: bytes = b""

    @property
    def response(self) -> ModelInferResponse:
        assert self.code == "OK", self
        return ModelInferResponse.FromString(self.payload)


class Caller:
    """A connection to a daemon that sends bytes and gives back bytes."""

    def __init__(self, daemon: Daemon, channel: grpc.Channel) -> None:
        self.daemon = daemon
        self.channel = channel
        self._infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            INFER, None, None
        )

    def submit(self, message: ModelInferRequest | bytes, **options: Any) -> Any:
        """A call in flight."""
        payload = message if isinstance(message, bytes) else message.SerializeToString()
        return self._infer.future(payload, **{"timeout": TIMEOUT_S, **options})

    def ask(self, message: ModelInferRequest | bytes, **options: Any) -> Ending:
        """A call, and how it ended."""
        return ending(self.submit(message, **options))

    def call(self, method: str, payload: bytes) -> Ending:
        """A call of any unary method, by its full name."""
        unary: Any = self.channel.unary_unary(method, None, None)
        return ending(unary.future(payload, timeout=10))

    def metric(self, name: str, model: str = "") -> float:
        """The sum of one of the daemon's counters, of one model or of all."""
        with urllib.request.urlopen(self.daemon.metrics) as response:  # noqa: S310 - our own daemon.
            text = response.read().decode()
        labels = rf'\{{[^}}]*model="{model}"[^}}]*\}}' if model else r"(?:\{[^}]*\})?"
        return sum(map(float, re.findall(rf"^{name}{labels} (\S+)$", text, re.MULTILINE)))

    def failures(self) -> dict[str, int]:
        """Requests that ended in an error, by reason."""
        with urllib.request.urlopen(self.daemon.metrics) as response:  # noqa: S310
            text = response.read().decode()
        found = re.findall(
            r'^headrace_requests_failed_total\{.*reason="(\w+)".*\} (\S+)$', text, re.MULTILINE
        )
        counts: dict[str, int] = {}
        for reason, count in found:
            counts[reason] = counts.get(reason, 0) + int(float(count))
        return counts


def ending(call: Any) -> Ending:
    """How *call* ended, once it has."""
    try:
        payload = call.result()
    except grpc.RpcError:
        pass
    except grpc.FutureCancelledError:
        return Ending("CANCELLED", "")
    else:
        return Ending("OK", "", payload)
    return Ending(call.code().name, call.details() or "")


def message(
    model: str,
    tensors: Mapping[str, Array],
    *,
    datatypes: Mapping[str, Datatype] | None = None,
    outputs: Sequence[str] = (),
    **fields: Any,
) -> ModelInferRequest:
    """A request with raw tensors."""
    request = ModelInferRequest(model_name=model, **fields)
    for name, array in tensors.items():
        datatype = (datatypes or {}).get(name) or datatype_of(array.dtype)
        request.inputs.add(name=name, datatype=datatype.name, shape=array.shape)
        request.raw_input_contents.append(bytes(encode(array, datatype)))
    for name in outputs:
        request.outputs.add(name=name)
    return request


def typed(model: str, name: str, datatype: Datatype, array: Array) -> ModelInferRequest:
    """A request with one tensor in typed contents."""
    request = ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name=name, datatype=datatype.name, shape=array.shape)
    assert datatype.contents is not None
    getattr(tensor.contents, datatype.contents).extend(array.ravel().tolist())
    return request


def answers(response: ModelInferResponse) -> dict[str, Array]:
    """The outputs of a response, which are always raw."""
    from headrace.datatypes import DATATYPES

    assert len(response.outputs) == len(response.raw_output_contents)
    assert not any(output.HasField("contents") for output in response.outputs)
    return {
        output.name: decode(raw, DATATYPES[output.datatype], tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def chain(*elements: bytes) -> Array:
    """BYTES elements as an array."""
    array = np.empty(len(elements), BYTES.dtype)
    array[:] = elements
    return array

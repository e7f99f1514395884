"""Parameters: what a message gives beside its tensors, as plain values."""

import math
from collections.abc import Mapping

from headrace.oip.open_inference_pb2 import InferParameter, ModelInferRequest
from headrace.parameters import Given

from ..errors import InvalidRequest
from ..service import TOLERATED

_TIMEOUT = "timeout"


def refuse_parameters(parameters: Mapping[str, InferParameter], where: str) -> None:
    """Refuse parameters of a tensor, *where* it stands: it has none that mean anything.

    Raises:
        InvalidRequest: There is one, beside those that are tolerated.
    """
    unknown = sorted(set(parameters) - TOLERATED)
    if unknown:
        raise InvalidRequest(f"{where}: unknown parameter {unknown[0]!r}, none is known here")


def model_parameters(message: ModelInferRequest) -> dict[str, Given]:
    """The parameters that are not the protocol's own, by name.

    Raises:
        InvalidRequest: One has no value.
    """
    return {
        name: _value(name, parameter)
        for name, parameter in message.parameters.items()
        if name != _TIMEOUT
    }


def timeout_s(message: ModelInferRequest) -> float:
    """How long the request may take, in seconds; infinity where it does not say.

    Raises:
        InvalidRequest: The parameter is no positive integer.
    """
    if _TIMEOUT not in message.parameters:
        return math.inf
    value = message.parameters[_TIMEOUT]
    microseconds = value.int64_param or value.uint64_param
    if microseconds <= 0:
        raise InvalidRequest("parameter 'timeout': expected microseconds above 0 as int64")
    return microseconds / 1e6


def _value(name: str, parameter: InferParameter) -> Given:
    field = parameter.WhichOneof("parameter_choice")
    if field is None:
        raise InvalidRequest(f"parameter {name!r}: expected a value, got none")
    value: Given = getattr(parameter, field)
    return value

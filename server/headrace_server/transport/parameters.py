"""Parameters: what a message gives beside its tensors, as plain values."""

from collections.abc import Mapping

from headrace.oip.open_inference_pb2 import InferParameter, ModelInferRequest
from headrace.parameters import Given

from ..errors import InvalidRequest
from ..planning import TOLERATED


def refuse_parameters(parameters: Mapping[str, InferParameter], where: str) -> None:
    """Refuse parameters of a tensor, *where* it stands: it has none that mean anything.

    Raises:
        InvalidRequest: There is one, beside those that are tolerated.
    """
    unknown = sorted(set(parameters) - TOLERATED)
    if unknown:
        raise InvalidRequest(f"{where}: unknown parameter {unknown[0]!r}, none is known here")


def parameters_of(message: ModelInferRequest) -> dict[str, Given]:
    """The parameters of a request, by name.

    Raises:
        InvalidRequest: One has no value.
    """
    return {name: _value(name, parameter) for name, parameter in message.parameters.items()}


def _value(name: str, parameter: InferParameter) -> Given:
    field = parameter.WhichOneof("parameter_choice")
    if field is None:
        raise InvalidRequest(f"parameter {name!r}: expected a value, got none")
    value: Given = getattr(parameter, field)
    return value

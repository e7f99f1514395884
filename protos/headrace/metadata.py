"""Metadata: what ModelMetadata says of a signature.

The standard tells names, datatypes and shapes. What these cannot say stands in `parameters` fields,
and as a whole in `signature`, which other clients ignore: see docs/decisions/0007.
"""

import json
from typing import Any

from .jsontext import write_json
from .nulls import masks_of
from .oip.open_inference_pb2 import InferParameter, ModelMetadataResponse
from .signature import Signature, TensorSpec

# Kinds that a datatype does not tell, and what they are called.
_KINDS = {
    "boolean": "boolean",
    "datetime": "datetime64[ns]",
    "string": "string",
    "binary": "binary",
    "json": "json",
}


def tell_signature(response: ModelMetadataResponse, signature: Signature) -> None:
    """Write the inputs, outputs and parameters of *signature* into *response*."""
    nullable = {spec.name for spec in masks_of(signature.inputs).values()}
    for spec in signature.inputs:
        tensor = response.inputs.add()
        _tell_tensor(tensor, spec)
        if spec.name in nullable:
            tensor.parameters["nullable"].bool_param = True
    for spec in signature.outputs:
        _tell_tensor(response.outputs.add(), spec)
    for param in signature.params:
        _tell_default(response.parameters[param.name], param.default)
    response.signature = json.dumps(signature.to_json(), separators=(",", ":"))


def _tell_tensor(tensor: ModelMetadataResponse.TensorMetadata, spec: TensorSpec) -> None:
    tensor.name = spec.name
    tensor.datatype = spec.datatype
    tensor.shape.extend(spec.shape)
    if kind := _KINDS.get(spec.kind):
        tensor.parameters["kind"].string_param = kind
    if spec.schema:
        tensor.parameters["schema"].string_param = spec.schema
    if spec.optional:
        tensor.parameters["optional"].bool_param = True


def _tell_default(parameter: InferParameter, default: Any) -> None:
    """The default as a request would give it; nothing where it is null."""
    match default:
        case None:
            pass
        case bool():
            parameter.bool_param = default
        case int():
            parameter.int64_param = default
        case float():
            parameter.double_param = default
        case str():
            parameter.string_param = default
        case _:
            parameter.string_param = write_json(default)

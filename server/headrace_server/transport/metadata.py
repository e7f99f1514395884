"""Metadata: what the server says of a model before anyone asks it for an answer.

The standard tells names, datatypes and shapes. What these cannot say stands in `parameters` fields,
which other clients ignore: see docs/decisions/0007.
"""

import json
from typing import Any

from headrace.oip.open_inference_pb2 import InferParameter, ModelMetadataResponse
from headrace.signature import ParamSpec, TensorSpec

from ..repository.model import ModelVersion

# Kinds that a datatype does not tell, and what they are called.
_KINDS = {"datetime": "datetime64[ns]", "string": "string", "binary": "binary", "json": "json"}


def metadata_of(model: ModelVersion) -> ModelMetadataResponse:
    """Inputs, outputs and parameters of *model*; none where it has no signature."""
    response = ModelMetadataResponse(
        name=model.name, versions=[model.version], platform=f"mlflow_{model.flavor}"
    )
    if model.signature is not None:
        for spec in model.signature.inputs:
            _describe(response.inputs.add(), spec)
        for spec in model.signature.outputs:
            _describe(response.outputs.add(), spec)
        for param in model.signature.params:
            _set_default(response.parameters[param.name], param)
        response.signature = json.dumps(model.signature.to_json(), separators=(",", ":"))
        response.field_numbers = model.fields.to_text()
    return response


def _describe(tensor: ModelMetadataResponse.TensorMetadata, spec: TensorSpec) -> None:
    tensor.name = spec.name
    tensor.datatype = spec.datatype
    tensor.shape.extend(spec.shape)
    if kind := _KINDS.get(spec.kind):
        tensor.parameters["kind"].string_param = kind
    if spec.schema:
        tensor.parameters["schema"].string_param = spec.schema
    if spec.optional:
        tensor.parameters["optional"].bool_param = True


def _set_default(parameter: InferParameter, spec: ParamSpec) -> None:
    """The default as a request would give it; nothing where it is null."""
    value: Any = spec.default
    match value:
        case None:
            pass
        case bool():
            parameter.bool_param = value
        case int():
            parameter.int64_param = value
        case float():
            parameter.double_param = value
        case str():
            parameter.string_param = value
        case _:
            parameter.string_param = json.dumps(value)

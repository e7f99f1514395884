"""Signatures: a model's signature from what says it: MLflow's JSON, or a server's metadata."""

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from headrace.datatypes import BYTES, datatype_of
from headrace.signature import ParamSpec, Signature, TensorSpec

from .types import ModelMetadata

# Types of MLflow's columns; what is none of them (arrays, objects, maps) travels as JSON.
_COLUMNS: Final = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
    "datetime": "INT64",
}
_NOT_OF_THE_TYPE: Final = {"name", "required"}


def signature_from_mlflow(signature: Mapping[str, Any]) -> Signature:
    """The signature in the `signature` entry of an MLmodel file.

    Args:
        signature: As `mlflow.models.ModelSignature.to_dict()` gives it: "inputs", "outputs" and
            "params", each a list or its JSON as text; what is missing or None says nothing.

    Raises:
        ValueError: It is no such thing, or a tensor has a numpy type that no datatype carries.
    """
    try:
        inputs, outputs, params = (
            _list_of(signature.get(name)) for name in ("inputs", "outputs", "params")
        )
        return Signature(
            tuple(_spec(item, f"input-{at}") for at, item in enumerate(inputs)),
            tuple(_spec(item, f"output-{at}") for at, item in enumerate(outputs)),
            tuple(_param(item) for item in params),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a signature as MLflow writes it: {error!r}") from None


def signature_from_metadata(metadata: ModelMetadata) -> Signature:
    """The signature behind a server's metadata.

    Where the server does not tell it as a whole, a parameter is of the kind of its default, and
    text without one.
    """
    if metadata.signature is not None:
        return metadata.signature
    params = tuple(
        ParamSpec(name, _kind_of(default), default) for name, default in metadata.parameters.items()
    )
    return Signature(metadata.inputs, metadata.outputs, params)


def _list_of(given: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(given) if isinstance(given, str) else given or []
    return found


def _spec(item: Mapping[str, Any], fallback: str) -> TensorSpec:
    name = str(item.get("name") or fallback)
    kind = item["type"]
    if kind == "tensor":
        tensor = item["tensor-spec"]
        datatype = datatype_of(np.dtype(tensor["dtype"]))
        return TensorSpec(name, datatype.name, tuple(map(int, tensor["shape"])))
    is_optional = item.get("required") is False
    if kind in _COLUMNS:
        return TensorSpec(name, _COLUMNS[kind], (-1,), kind, optional=is_optional)
    own = {key: value for key, value in item.items() if key not in _NOT_OF_THE_TYPE}
    return TensorSpec(name, BYTES.name, (-1,), "json", optional=is_optional, schema=json.dumps(own))


def _param(item: Mapping[str, Any]) -> ParamSpec:
    shape = item.get("shape")
    return ParamSpec(
        item["name"], item["type"], item["default"], None if shape is None else tuple(shape)
    )


def _kind_of(default: object) -> str:
    match default:
        case bool():
            return "boolean"
        case int():
            return "long"
        case float():
            return "double"
        case _:
            return "string"

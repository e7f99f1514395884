"""Telling: what comments and docstrings say of an input, an output or a parameter."""

import json
from typing import Any

from headrace.nulls import SUFFIX
from headrace.signature import ParamSpec, TensorSpec

from .layout import printable, shown


def of_tensor(spec: TensorSpec, *, is_row: bool) -> str:
    """A sentence or two on *spec*, as one row has it or as several rows have it."""
    if not spec.is_column:
        shape = list(spec.shape[1:] if is_row else spec.shape)
        text = f"{spec.datatype}, shape {shape}." if shape else f"{spec.datatype}."
    elif spec.kind == "json":
        text = f"{_of_json(json.loads(spec.schema)) if spec.schema else 'any JSON'}."
    else:
        text = f"{spec.kind}."
    return f"{text} May be left out." if spec.optional else text


def of_mask(name: str, *, is_row: bool) -> str:
    """A sentence on the mask called *name*."""
    of = shown(name.removesuffix(SUFFIX))
    return f"Whether {of} has no value." if is_row else f"In which rows {of} has no value."


def of_param(spec: ParamSpec) -> str:
    """A sentence or two on a parameter."""
    kind = spec.kind if spec.shape is None else f"list of {spec.kind}"
    default = printable(json.dumps(spec.default, ensure_ascii=False))
    return f"{kind}. Default: {default}." if spec.default is not None else f"{kind}."


def _of_json(kind: Any) -> str:
    match kind["type"]:
        case "array":
            return f"list of {_of_json(kind['items'])}"
        case "map":
            return f"map of {_of_json(kind['values'])}"
        case "object":
            names = ", ".join(map(shown, kind["properties"]))
            return f"object of {names}" if names else "object"
        case "any":
            return "any JSON"
        case other:
            return str(other)

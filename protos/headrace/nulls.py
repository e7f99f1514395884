"""Nulls: values that are missing in some rows of a column, and the masks that say in which.

A column NAME of a signature may come with one more input, the BOOL mask NAME.is_null: a value per
row, true where the column has none. What the column itself holds there is not looked at. A mask
that comes without its column is true in every row. Where the signature has an input of the mask's
name, that is what is meant, and the column has no mask.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from .datatypes import DATATYPES

if TYPE_CHECKING:  # Signatures ask here which masks they have.
    from .signature import TensorSpec

# What a column's name gets to be that of its mask.
SUFFIX: Final = ".is_null"
MASK_DATATYPE: Final = "BOOL"


def mask_name(column: str) -> str:
    """What the mask of *column* is called."""
    return f"{column}{SUFFIX}"


def masks_of(inputs: "Sequence[TensorSpec]") -> "dict[str, TensorSpec]":
    """The columns among *inputs* that may have a mask, by its name, in their order."""
    names = {spec.name for spec in inputs}
    found = {mask_name(spec.name): spec for spec in inputs if is_nullable(spec)}
    return {name: spec for name, spec in found.items() if name not in names}


def is_nullable(spec: "TensorSpec") -> bool:
    """Whether rows may have no value in the column *spec*: where MLflow lets them, and the model.

    MLflow has a null for each type of column but integers, whether it is optional or not; in what
    travels as JSON only where the column is optional, or may be anything.
    """
    if not spec.is_column or len(spec.shape) != 1 or spec.no_nulls:
        return False
    if spec.kind == "json":
        return spec.optional or not spec.schema or is_anything(json.loads(spec.schema))
    return spec.kind == "datetime" or DATATYPES[spec.datatype].dtype.kind in "bfO"


def has_own_null(spec: "TensorSpec") -> bool:
    """Whether a value of *spec* can say that it is none: NaN, NaT or JSON's null."""
    return spec.kind in {"datetime", "json"} or DATATYPES[spec.datatype].dtype.kind == "f"


def why_no_null(spec: "TensorSpec") -> str:
    """Why rows may not lack a value in the column *spec*, which is not nullable."""
    if spec.no_nulls:
        return "this model takes none without"
    if spec.kind == "json":
        return "it is not optional"
    return "MLflow has no null for it; columns of double have one"


def is_anything(kind: Mapping[str, Any]) -> bool:
    """Whether the type *kind*, in MLflow's own JSON, takes null though it is required."""
    if kind["type"] in {"array", "map"}:
        return bool(kind["items" if kind["type"] == "array" else "values"].get("type") == "any")
    return bool(kind["type"] == "any")

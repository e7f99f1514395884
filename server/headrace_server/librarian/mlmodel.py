"""Mlmodel: what a model's MLmodel file says, in our own terms.

MLflow reads the file; what comes out knows nothing of MLflow, and all of it can be written as JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from mlflow.models import Model, ModelSignature
from mlflow.types import DataType, ParamSchema, Schema
from mlflow.types import TensorSpec as MlflowTensorSpec

from headrace.datatypes import BYTES, datatype_of
from headrace.signature import ParamSpec, Signature, TensorSpec

from ..errors import LoadFailed

_PYFUNC = "python_function"
# Room for a signature of tens of thousands of columns. A file may refer to one value many times.
_BYTES_MAX: Final = 8 << 20
_VALUES_MAX: Final = 1_000_000
_DEPTH_MAX: Final = 100
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_COLUMNS: Final = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": BYTES.name,
    "binary": BYTES.name,
    "datetime": "INT64",
}


@dataclass(frozen=True, slots=True)
class Description:
    """A model as its MLmodel file describes it.

    Attributes:
        flavor: MLflow's flavor key; "pyfunc" where there is only python_function.
        config: That flavor's entry.
        pyfunc: The python_function entry; empty where there is none.
        signature: Inputs and outputs; None where the inputs are not known.
        has_code: Whether modules were logged with it.
        mlflow_version: What it was logged with; empty where it does not say.
    """

    flavor: str
    config: dict[str, Any]
    pyfunc: dict[str, Any]
    signature: Signature | None
    has_code: bool
    mlflow_version: str


def load(directory: Path, source: str) -> Model:
    """MLflow's own reading of the MLmodel file in *directory*, which came from *source*.

    Raises:
        LoadFailed: There is none, or it cannot be read.
    """
    file = directory / "MLmodel"
    if not file.is_file():
        raise LoadFailed(f"{source} has no MLmodel file: it is no MLflow model")
    with file.open("rb") as stream:
        text = stream.read(_BYTES_MAX + 1)
    if len(text) > _BYTES_MAX:
        raise LoadFailed(f"the MLmodel file of {source} is larger than {_BYTES_MAX} bytes")
    try:
        said = _yaml(text)
        _check_content(said, source)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LoadFailed(f"the MLmodel file of {source} cannot be read: {_where(error)}") from error
    try:
        return Model.from_dict(said)
    except Exception as error:  # A broken file breaks MLflow anywhere.
        raise LoadFailed(
            f"the MLmodel file of {source} cannot be read: {type(error).__name__}"
        ) from error


def _yaml(text: bytes) -> object:
    depth = 0
    # The loader goes as deep as the text does, and in C ends the process when that is too deep.
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH_MAX:
            raise RecursionError
    return yaml.load(text, _Loader)  # noqa: S506 - either loader is a safe one.


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return type(error).__name__ + (f" in line {mark.line + 1}" if mark is not None else "")


def _check_content(said: object, source: str) -> None:
    """Hold what an MLmodel file says against the form of one.

    Raises:
        LoadFailed: It has another form, or would take too much memory when written out.
    """
    wrong = ""
    if not isinstance(said, Mapping):
        wrong = f"expected a mapping, got {_kind(said)}"
    elif _values_in(said, {}) > _VALUES_MAX:
        wrong = f"expected at most {_VALUES_MAX} values, references written out"
    elif not isinstance(flavors := said.get("flavors"), Mapping):
        wrong = f"expected a mapping 'flavors', got {_kind(flavors)}"
    else:
        for flavor, config in flavors.items():
            if not isinstance(flavor, str) or not isinstance(config, Mapping):
                wrong = f"expected a mapping for the flavor {flavor!r}, got {_kind(config)}"
    if wrong:
        raise LoadFailed(f"the MLmodel file of {source} is none: {wrong}")


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _values_in(value: object, counted: dict[int, int]) -> int:
    """How many values there are when each reference to one is written out.

    What contains itself counts as more than may be.
    """
    if not isinstance(value, Mapping | list):
        return 1
    if id(value) not in counted:
        counted[id(value)] = _VALUES_MAX + 1
        items = value.values() if isinstance(value, Mapping) else value
        counted[id(value)] = 1 + sum(_values_in(item, counted) for item in items)
    return counted[id(value)]


def describe(model: Model, source: str) -> Description:
    """What *model*, which came from *source*, is.

    Raises:
        LoadFailed: It has no flavor, or its signature holds what no datatype carries.
    """
    flavors = _jsonable(model.flavors)
    pyfunc = flavors.pop(_PYFUNC, None)
    if not flavors and pyfunc is None:
        raise LoadFailed(f"the MLmodel file of {source} names no flavor")
    flavor, config = next(iter(flavors.items()), ("pyfunc", pyfunc))
    try:
        signature = signature_of(
            model.signature,
            # The model's own type hints decide then, and may allow more than their schema says.
            has_schemas=not model._is_signature_from_type_hint(),  # noqa: SLF001 - nothing public.
        )
    except ValueError as error:
        raise LoadFailed(f"the signature of {source} cannot be served: {error}") from error
    if signature is not None and not signature.inputs and flavor != "pyfunc":
        # Other flavors know their inputs themselves.
        signature = None
    return Description(
        flavor=flavor,
        config=config,
        pyfunc=pyfunc or {},
        signature=signature,
        has_code=bool(config.get("code") or (pyfunc or {}).get("code")),
        mlflow_version=str(model.mlflow_version or ""),
    )


def signature_of(given: ModelSignature | None, *, has_schemas: bool = True) -> Signature | None:
    """Our signature for MLflow's; None where that says nothing of inputs and parameters.

    Args:
        given: MLflow's.
        has_schemas: Whether arrays, objects and maps must be of the types that it gives them.

    Raises:
        ValueError: A tensor has a numpy type that no datatype carries.
    """
    if given is None or (given.inputs is None and given.params is None):
        return None
    return Signature(
        inputs=()
        if given.inputs is None
        else _specs(given.inputs, "input", has_schemas=has_schemas),
        outputs=() if given.outputs is None else _specs(given.outputs, "output"),
        params=() if given.params is None else _params(given.params),
    )


def _specs(schema: Schema, prefix: str, *, has_schemas: bool = True) -> tuple[TensorSpec, ...]:
    return tuple(
        _spec(item, f"{prefix}-{index}", has_schemas=has_schemas)
        for index, item in enumerate(schema.inputs)
    )


def _spec(item: Any, fallback: str, *, has_schemas: bool) -> TensorSpec:
    name = fallback if item.name in (None, "") else str(item.name)
    if isinstance(item, MlflowTensorSpec):
        shape = tuple(int(size) for size in item.shape)
        return TensorSpec(name, datatype_of(item.type).name, shape)
    # Arrays, objects and maps differ from row to row: each cell travels as JSON.
    kind = item.type.name if isinstance(item.type, DataType) else "json"
    datatype = _COLUMNS.get(kind, BYTES.name)
    schema = json.dumps(item.type.to_dict()) if kind == "json" and has_schemas else ""
    return TensorSpec(name, datatype, (-1,), kind, optional=not item.required, schema=schema)


def _params(schema: ParamSchema) -> tuple[ParamSpec, ...]:
    return tuple(
        ParamSpec(
            name=param["name"],
            kind=param["type"],
            default=_jsonable(param["default"]),
            shape=None if param["shape"] is None else tuple(param["shape"]),
        )
        for param in schema.to_dict()
    )


def _jsonable(value: Any) -> Any:
    """*value* as JSON would bring it back."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)

"""MLmodel: what such a file says of a model."""

import json
from typing import Any

import numpy as np
import pytest
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, Schema
from mlflow.types import ParamSpec as MlflowParam
from mlflow.types import TensorSpec as MlflowTensor
from mlflow.types.schema import AnyType, Array, DataType, Map, Object, Property

from headrace.signature import ParamSpec, Signature, TensorSpec
from headrace_server.errors import (
    LoadFailed,
)
from headrace_server.librarian.mlmodel import describe, signature_of


def test_a_model_with_python_function_alone_is_a_pyfunc() -> None:
    entry = {"loader_module": "mlflow.pyfunc.model", "code": "code"}
    described = describe(Model(flavors={"python_function": entry}), "it")
    assert described.flavor == "pyfunc"
    assert described.config == described.pyfunc == entry
    assert described.has_code


def test_a_model_without_python_function_has_an_empty_entry() -> None:
    described = describe(Model(flavors={"pytorch": {"model_data": "data"}}), "it")
    assert (described.flavor, described.pyfunc) == ("pytorch", {})
    assert described.signature is None


KEYED = Object([Property("key", DataType.string)])
COLUMNS = [
    (DataType.boolean, "BOOL", "boolean", ""),
    (DataType.integer, "INT32", "integer", ""),
    (DataType.long, "INT64", "long", ""),
    (DataType.float, "FP32", "float", ""),
    (DataType.double, "FP64", "double", ""),
    (DataType.string, "BYTES", "string", ""),
    (DataType.binary, "BYTES", "binary", ""),
    (DataType.datetime, "INT64", "datetime", ""),
    (Array(DataType.double), "BYTES", "json", '{"type": "array", "items": {"type": "double"}}'),
    (KEYED, "BYTES", "json", json.dumps(KEYED.to_dict())),
    (Map(DataType.string), "BYTES", "json", '{"type": "map", "values": {"type": "string"}}'),
    (AnyType(), "BYTES", "json", '{"type": "any"}'),
]


@pytest.mark.parametrize(("given", "datatype", "kind", "schema"), COLUMNS)
def test_a_column_becomes_one_input_of_its_type(
    given: Any, datatype: str, kind: str, schema: str
) -> None:
    columns = Schema([ColSpec(given, "x"), ColSpec(given, "y", required=False)])
    expected = (
        TensorSpec("x", datatype, (-1,), kind, schema=schema),
        TensorSpec("y", datatype, (-1,), kind, optional=True, schema=schema),
    )
    assert signature_of(ModelSignature(columns, columns)) == Signature(expected, expected)


def test_type_hints_decide_themselves_what_an_object_must_be() -> None:
    """Their schema asks for every field, where pydantic has defaults."""
    signature = ModelSignature(Schema([ColSpec(KEYED)]))
    model = Model(flavors={"python_function": {}}, signature=signature)
    assert describe(model, "it").signature == Signature(
        (TensorSpec("input-0", "BYTES", (-1,), "json", schema=json.dumps(KEYED.to_dict())),)
    )

    model._is_signature_from_type_hint = lambda: True
    assert describe(model, "it").signature == Signature(
        (TensorSpec("input-0", "BYTES", (-1,), "json"),)
    )


def test_parameters_without_inputs_are_kept_for_custom_models_alone() -> None:
    signature = ModelSignature(params=ParamSchema([MlflowParam("scale", "double", 1.0)]))
    custom = describe(Model(flavors={"python_function": {}}, signature=signature), "it")
    assert custom.signature == Signature((), params=(ParamSpec("scale", "double", 1.0),))
    native = describe(Model(flavors={"sklearn": {}}, signature=signature), "it")
    assert native.signature is None


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [
        ("float32", "FP32"),
        ("float16", "FP16"),
        ("uint8", "UINT8"),
        ("int64", "INT64"),
        ("bool", "BOOL"),
        ("str", "BYTES"),
        ("bytes", "BYTES"),
        ("object", "BYTES"),
    ],
)
def test_a_tensor_keeps_its_name_type_and_shape(dtype: str, datatype: str) -> None:
    schema = Schema([MlflowTensor(np.dtype(dtype), (-1, 3, 4), "image")])
    found = signature_of(ModelSignature(schema))
    assert found == Signature((TensorSpec("image", datatype, (-1, 3, 4)),))


def test_what_has_no_name_is_numbered() -> None:
    columns = Schema([ColSpec(DataType.long), ColSpec(DataType.long)])
    tensor = Schema([MlflowTensor(np.dtype("float32"), (-1, 2))])
    assert signature_of(ModelSignature(columns, tensor)) == Signature(
        inputs=(
            TensorSpec("input-0", "INT64", (-1,), "long"),
            TensorSpec("input-1", "INT64", (-1,), "long"),
        ),
        outputs=(TensorSpec("output-0", "FP32", (-1, 2)),),
    )


def test_a_signature_without_inputs_says_nothing() -> None:
    outputs = Schema([ColSpec(DataType.long)])
    assert signature_of(ModelSignature(outputs=outputs)) is None
    assert signature_of(None) is None


def test_a_type_that_no_datatype_carries_is_a_failure_to_load() -> None:
    schema = Schema([MlflowTensor(np.dtype("complex64"), (-1,), "wave")])
    model = Model(flavors={"sklearn": {}}, signature=ModelSignature(schema))
    with pytest.raises(LoadFailed, match="complex64 has no datatype"):
        describe(model, "it")


def test_parameters_keep_defaults_that_json_can_hold() -> None:
    params = ParamSchema(
        [
            MlflowParam("scale", "double", np.float64(0.5)),
            MlflowParam("count", "integer", 3),
            MlflowParam("names", "string", ["a", "b"], (-1,)),
            MlflowParam("since", "datetime", np.datetime64("2024-01-02T03:04:05")),
            MlflowParam("options", Object([Property("deep", DataType.boolean)]), {"deep": True}),
        ]
    )
    schema = Schema([ColSpec(DataType.long, "x")])
    found = signature_of(ModelSignature(schema, params=params))
    assert found is not None
    assert found.params == (
        ParamSpec("scale", "double", 0.5),
        ParamSpec("count", "integer", 3),
        ParamSpec("names", "string", ["a", "b"], (-1,)),
        ParamSpec("since", "datetime", "2024-01-02T03:04:05"),
        ParamSpec("options", "object", {"deep": True}),
    )
    assert Signature.from_json(json.loads(json.dumps(found.to_json()))) == found

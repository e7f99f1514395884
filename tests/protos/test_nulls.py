"""Masks of missing values: which columns have one, and how they fit a signature."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowException
from mlflow.models import ModelSignature
from mlflow.models.utils import _enforce_schema
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType, Array, Map, Object, Property

from headrace.metadata import tell_signature
from headrace.nulls import has_own_null, is_nullable, mask_name, masks_of
from headrace.oip.open_inference_pb2 import ModelMetadataResponse
from headrace.signature import Given, Signature, SignatureMismatch, TensorSpec
from headrace_server.librarian.mlmodel import signature_of
from strategies import mlflow_signatures

SIZE = TensorSpec("size", "FP64", (-1,), "double")
NOTE = TensorSpec("note", "BYTES", (-1,), "string", optional=True)
RANK = TensorSpec("rank", "INT64", (-1,), "long", optional=True)
MIXED = Signature((SIZE, NOTE, RANK))

# A type of MLflow's, and a column of it that is full, then one with a null in its last row.
TYPES = {
    "boolean": (DataType.boolean, pd.Series([True, None])),
    "integer": (DataType.integer, pd.Series([np.int32(1), None])),
    "long": (DataType.long, pd.Series([1, None])),
    "float": (DataType.float, pd.Series([1.5, None], dtype="float32")),
    "double": (DataType.double, pd.Series([1.5, None])),
    "string": (DataType.string, pd.Series(["a", None])),
    "binary": (DataType.binary, pd.Series([b"a", None])),
    "datetime": (DataType.datetime, pd.Series([pd.Timestamp("2024-01-02"), None])),
    "array": (Array(DataType.double), pd.Series([[1.0], None])),
    "array of arrays": (Array(Array(DataType.double)), pd.Series([[[1.0]], None])),
    "array of anything": (Array(AnyType()), pd.Series([[1.0], None])),
    "object": (Object([Property("a", DataType.long)]), pd.Series([{"a": 1}, None])),
    "map": (Map(DataType.double), pd.Series([{"a": 1.0}, None])),
    "map of anything": (Map(AnyType()), pd.Series([{"a": 1.0}, None])),
    "anything": (AnyType(), pd.Series([{"a": 1}, None])),
}


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("name", TYPES)
def test_a_column_has_nulls_where_mlflow_lets_them_pass(name: str, *, required: bool) -> None:
    kind, values = TYPES[name]
    schema = Schema([ColSpec(kind, "c", required=required)])
    try:
        _enforce_schema(pd.DataFrame({"c": values}), schema)
        is_let_pass = True
    except MlflowException:
        is_let_pass = False
    signature = signature_of(ModelSignature(schema))
    assert signature is not None

    (spec,) = signature.inputs

    assert is_nullable(spec) == is_let_pass
    assert masks_of(signature.inputs) == ({"c.is_null": spec} if is_let_pass else {})


def test_a_model_that_takes_none_has_no_masks() -> None:
    assert not is_nullable(replace(NOTE, no_nulls=True))
    assert not is_nullable(TensorSpec("x", "FP32", (-1, 3)))
    assert not is_nullable(TensorSpec("x", "FP32", (-1,)))


def test_an_input_of_the_masks_name_is_what_is_meant() -> None:
    own = TensorSpec("note.is_null", "INT64", (-1,), "long")
    signature = Signature((NOTE, own, SIZE))

    assert list(masks_of(signature.inputs)) == ["size.is_null"]
    fit = signature.fit([Given("note.is_null", "INT64", (2,)), Given("size", "FP64", (2,))])
    assert fit.order == (-1, 0, 1)
    assert fit.masks == ()


def test_masks_stand_behind_all_inputs_in_the_order_of_their_columns() -> None:
    fit = MIXED.fit(
        [
            Given("note.is_null", "BOOL", (2, 1)),
            Given("size", "FP64", (2,)),
            Given("size.is_null", "BOOL", (2,)),
            Given("note", "BYTES", (2,)),
        ]
    )

    assert fit.order == (1, 3, -1)
    assert fit.masks == (2, 0)
    assert fit.rows == 2


@pytest.mark.parametrize("name", ["size", "note"])
def test_a_mask_alone_stands_for_a_column_whether_it_is_optional_or_not(name: str) -> None:
    other = {"size": Given("note", "BYTES", (3,)), "note": Given("size", "FP64", (3,))}[name]

    fit = MIXED.fit([Given(mask_name(name), "BOOL", (3,)), other])

    assert fit.order == ((-1, 1, -1) if name == "size" else (1, -1, -1))
    assert fit.masks == (0,)


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (Given("note.is_null", "UINT8", (2,)), "expected BOOL, as the mask of 'note', got UINT8"),
        (Given("note.is_null", "BOOL", (2, 2)), "expected shape [-1], as the mask of 'note', got "),
        (Given("note.is_null", "BOOL", ()), "expected shape [-1], as the mask of 'note', got []"),
        (Given("note.is_null", "BOOL", (3,)), "3"),
        (
            Given("rank.is_null", "BOOL", (2,)),
            "missing values: MLflow has no null for it; columns of double have one",
        ),
        (Given("odd.is_null", "BOOL", (2,)), "unknown input 'odd.is_null': expected ['size', "),
        (Given("note.is_null.is_null", "BOOL", (2,)), "unknown input 'note.is_null.is_null'"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_by_name(mask: Given, why: str) -> None:
    with pytest.raises(SignatureMismatch) as raised:
        MIXED.fit([Given("size", "FP64", (2,)), mask])

    assert why in str(raised.value)


def test_why_a_model_takes_no_nulls_is_told() -> None:
    json_column = TensorSpec("c", "BYTES", (-1,), "json", schema='{"type": "object"}')
    for spec, why in (
        (replace(NOTE, no_nulls=True), "this model takes none without"),
        (json_column, "it is not optional"),
    ):
        with pytest.raises(SignatureMismatch, match=why):
            Signature((spec,)).fit([Given(mask_name(spec.name), "BOOL", (1,))])


@given(mlflow_signatures(), st.data())
def test_every_choice_of_masks_fits(signature: Signature, data: st.DataObject) -> None:
    masks = masks_of(signature.inputs)
    chosen = data.draw(st.sets(st.sampled_from(sorted(masks))) if masks else st.just(set()))
    left_out = {masks[name].name for name in chosen if data.draw(st.booleans())}
    given_tensors = [
        Given(spec.name, spec.datatype, tuple(2 if size == -1 else size for size in spec.shape))
        for spec in signature.inputs
        if spec.name not in left_out
    ] + [Given(name, "BOOL", (2,)) for name in chosen]

    fit = signature.fit(data.draw(st.permutations(given_tensors)))

    assert len(fit.masks) == len(chosen)
    assert sum(at >= 0 for at in fit.order) == len(signature.inputs) - len(left_out)


@given(mlflow_signatures())
def test_metadata_tells_of_each_input_whether_it_takes_a_mask(signature: Signature) -> None:
    told = ModelMetadataResponse()

    tell_signature(told, signature)

    assert [one.name for one in told.inputs] == [spec.name for spec in signature.inputs]
    nullable = [one.name for one in told.inputs if "nullable" in one.parameters]
    assert nullable == [spec.name for spec in masks_of(signature.inputs).values()]
    assert not any("nullable" in one.parameters for one in told.outputs)


def test_a_signature_keeps_what_takes_no_nulls() -> None:
    signature = Signature((replace(NOTE, no_nulls=True), SIZE))

    assert Signature.from_json(json.loads(json.dumps(signature.to_json()))) == signature


def test_floats_instants_and_json_have_a_null_of_their_own() -> None:
    moment = TensorSpec("at", "INT64", (-1,), "datetime")
    cell = TensorSpec("cell", "BYTES", (-1,), "json", optional=True)

    assert [has_own_null(spec) for spec in (SIZE, NOTE, moment, cell)] == [True, False, True, True]

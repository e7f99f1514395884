"""How what a Python model returns becomes named tensors."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

from headrace.datatypes import datatype_of
from headrace.signature import Signature, TensorSpec
from headrace_server.adapters.conforming import conform, settle
from headrace_server.adapters.outputs import named_outputs


class Point(pydantic.BaseModel):
    x: int
    tags: list[str] = []


def declared(*outputs: TensorSpec) -> Signature:
    return Signature((), outputs)


def told(result: Any, signature: Signature | None = None) -> dict[str, tuple[str, Any]]:
    """Datatype and values of each output, typed by what is declared and by this answer alone."""
    outputs = named_outputs(result, signature)
    settled = settle(signature.outputs if signature is not None else (), [(0, outputs)])
    tensors, refused = conform(outputs, {spec.name: spec for spec in settled})
    assert not refused
    return {spec.name: (spec.datatype, tensors[spec.name].tolist()) for spec in settled}


ONE = "output-0"
NAN = pytest.approx(float("nan"), nan_ok=True)
TWO_ROWS = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", None]})


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (np.array([1, 2], np.int32), {ONE: ("INT32", [1, 2])}),
        (np.array([[1.0], [2.0]]), {ONE: ("FP64", [[1.0], [2.0]])}),
        (np.array([["a", 1], ["b", None]], object), {ONE: ("BYTES", ['["a", 1]', '["b", null]'])}),
        (np.array([["a", "b"]], object), {ONE: ("BYTES", [["a", "b"]])}),
        (np.array(["a", "b"]), {ONE: ("BYTES", ["a", "b"])}),
        ([1, 2], {ONE: ("INT64", [1, 2])}),
        ([True, False], {ONE: ("BOOL", [True, False])}),
        (["a", "b"], {ONE: ("BYTES", ["a", "b"])}),
        (["a", None], {ONE: ("BYTES", ['"a"', "null"])}),
        (["a", 1], {ONE: ("BYTES", ['"a"', "1"])}),
        ([1, None], {ONE: ("FP64", [1.0, NAN])}),
        ([1, 2.5], {ONE: ("FP64", [1.0, 2.5])}),
        ([np.float32(1.5)], {ONE: ("FP32", [1.5])}),
        ([b"a\0", b"b"], {ONE: ("BYTES", [b"a\0", b"b"])}),
        ([[1, 2], [3, 4]], {ONE: ("INT64", [[1, 2], [3, 4]])}),
        ([[1, 2], [3]], {ONE: ("BYTES", ["[1, 2]", "[3]"])}),
        ([["a"], ["b"]], {ONE: ("BYTES", ['["a"]', '["b"]'])}),
        ([{"a": 1}, {"a": [np.int64(2)]}], {ONE: ("BYTES", ['{"a": 1}', '{"a": [2]}'])}),
        ([Point(x=1)], {ONE: ("BYTES", ['{"x": 1, "tags": []}'])}),
        ([[b"\0\xff"], [b"a", b"b"]], {ONE: ("BYTES", ['["AP8="]', '["YQ==", "Yg=="]'])}),
        ([[b"a\0"], [b"b"]], {ONE: ("BYTES", ['["YQA="]', '["Yg=="]'])}),
        (pd.DataFrame({"a": [[b"a"]]}), {"a": ("BYTES", ['["YQ=="]'])}),
        ([{"p": Point(x=2)}], {ONE: ("BYTES", ['{"p": {"x": 2, "tags": []}}'])}),
        (Point(x=1, tags=["t"]), {ONE: ("BYTES", ['{"x": 1, "tags": ["t"]}'])}),
        ({"a": [1.5], "b": np.array([2])}, {"a": ("FP64", [1.5]), "b": ("INT64", [2])}),
        ({"a": 1.5, "b": "x"}, {"a": ("FP64", [1.5]), "b": ("BYTES", ["x"])}),
        ({"a": 1.5, "b": {"c": 1}}, {ONE: ("BYTES", ['{"a": 1.5, "b": {"c": 1}}'])}),
        ({}, {ONE: ("BYTES", ["{}"])}),
        ("text", {ONE: ("BYTES", "text")}),
        (b"raw\0", {ONE: ("BYTES", b"raw\0")}),
        (2.5, {ONE: ("FP64", 2.5)}),
        (None, {ONE: ("BYTES", "null")}),
        ((text for text in ("a", "b")), {ONE: ("BYTES", ["a", "b"])}),
        ((np.array([1]), np.array([2.0])), {ONE: ("INT64", [1]), "output-1": ("FP64", [2.0])}),
        ([np.array([1]), np.array([2])], {ONE: ("INT64", [[1], [2]])}),
        ([np.array([1]), np.array([2, 3])], {ONE: ("BYTES", ["[1]", "[2, 3]"])}),
        ([np.ma.array([1, 2], mask=[False, True])], {ONE: ("FP64", [[1.0, NAN]])}),
        (np.ma.array([1, 2], mask=[False, True]), {ONE: ("FP64", [1.0, NAN])}),
        (np.ma.array([1, 2], mask=[False, False]), {ONE: ("INT64", [1, 2])}),
        (np.ma.array([1.5, 2.5], "f4", mask=[False, True]), {ONE: ("FP32", [1.5, NAN])}),
        (np.ma.array(["a", "b"], mask=[False, True]), {ONE: ("BYTES", ['"a"', "null"])}),
        (TWO_ROWS, {"a": ("FP64", [1.5, 2.5]), "b": ("BYTES", ['"x"', "null"])}),
        (pd.DataFrame({"a": [[1], []]}), {"a": ("BYTES", ["[1]", "[]"])}),
        (pd.DataFrame({0: [1.5]}), {"0": ("FP64", [1.5])}),
        (pd.DataFrame({"a": [1, 2]}, dtype="Int64"), {"a": ("INT64", [1, 2])}),
        (pd.DataFrame({"a": ["u", "v"]}, dtype="category"), {"a": ("BYTES", ["u", "v"])}),
        (pd.Series([1.5], name="s"), {"s": ("FP64", [1.5])}),
        (pd.Series([1.5]), {ONE: ("FP64", [1.5])}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_results_of_every_form_become_tensors(
    result: Any, expected: dict[str, tuple[str, Any]]
) -> None:
    assert told(result) == expected


def test_nullable_numbers_with_nulls_become_nan() -> None:
    frame = pd.DataFrame({"a": [1, None]}, dtype="Int64")

    assert told(frame) == {"a": ("FP64", [1.0, NAN])}


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (
            {"heads": {"a": np.array([[1.5]]), "b": np.array([2])}, "x": np.array([3])},
            {"heads.a": ("FP64", [[1.5]]), "heads.b": ("INT64", [2]), "x": ("INT64", [3])},
        ),
        (
            {"heads": (np.array([1]), np.array([2]))},
            {"heads.0": ("INT64", [1]), "heads.1": ("INT64", [2])},
        ),
        ({"a": pd.Series([1.5])}, {"a": ("FP64", [1.5])}),
        (
            {"a": pd.DataFrame({"b": [1], "c": ["x"]})},
            {"a.b": ("INT64", [1]), "a.c": ("BYTES", ["x"])},
        ),
        (
            {"a": np.array([1.5, 2.5]), "b": None},
            {"a": ("FP64", [1.5, 2.5]), "b": ("BYTES", ["null", "null"])},
        ),
        (
            (np.array([1]), {"h": np.array([2]), "c": np.array([3])}),
            {ONE: ("INT64", [1]), "output-1.h": ("INT64", [2]), "output-1.c": ("INT64", [3])},
        ),
        (
            {"a": {"b": np.array([1.5]), "c": "text"}},
            {ONE: ("BYTES", ['{"a": {"b": [1.5], "c": "text"}}'])},
        ),
        ({"vectors": [np.array([1, 2])]}, {"vectors": ("INT64", [[1, 2]])}),
    ],
)
def test_arrays_within_answers_have_dotted_names_or_are_json_with_all_numbers(
    result: Any, expected: dict[str, tuple[str, Any]]
) -> None:
    assert told(result) == expected


def test_all_numbers_of_an_array_within_json_are_there() -> None:
    numbers = np.arange(4000) / 3

    (text,) = told({"a": numbers, "b": {"c": "text"}})[ONE][1]

    assert json.loads(text)["a"] == numbers.tolist()


def test_two_outputs_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two outputs called 'a\.b'"):
        named_outputs({"a": {"b": np.array([1])}, "a.b": np.array([2])}, None)


def test_arrays_in_a_list_are_the_tensors_that_are_declared() -> None:
    pair = declared(TensorSpec("a", "INT64", (-1, 1)), TensorSpec("b", "INT64", (-1,)))

    assert told([np.array([[1]]), np.array([2])], pair) == {
        "a": ("INT64", [[1]]),
        "b": ("INT64", [2]),
    }


def test_instants_of_a_frame_travel_as_nanoseconds() -> None:
    frame = pd.DataFrame({"at": pd.to_datetime(["2024-01-02"])})

    assert datatype_of(named_outputs(frame, None)["at"].dtype).name == "INT64"


COLUMN = TensorSpec("only", "BYTES", (-1,), "string")
PAIR = declared(TensorSpec("a", "FP64", (-1,), "double"), TensorSpec("b", "BYTES", (-1,), "string"))
OPTIONAL = declared(PAIR.outputs[0], replace(PAIR.outputs[1], optional=True))
JSON = declared(TensorSpec("only", "BYTES", (-1,), "json"))


@pytest.mark.parametrize(
    ("result", "signature", "expected"),
    [
        (["x"], declared(COLUMN), {"only": ("BYTES", ["x"])}),
        (pd.Series(["x"], name="other"), declared(COLUMN), {"only": ("BYTES", ["x"])}),
        ([{"a": 1.5, "b": "x"}], PAIR, {"a": ("FP64", [1.5]), "b": ("BYTES", ["x"])}),
        ([{"b": "x", "a": 1.5}], PAIR, {"a": ("FP64", [1.5]), "b": ("BYTES", ["x"])}),
        ([{"a": 1.5}], PAIR, {ONE: ("BYTES", ['{"a": 1.5}'])}),
        ({"a": 1.5, "b": ["x"]}, PAIR, {"a": ("FP64", [1.5]), "b": ("BYTES", ["x"])}),
        ([[1.5, "x"], [2, "y"]], PAIR, {"a": ("FP64", [1.5, 2.0]), "b": ("BYTES", ["x", "y"])}),
        ([{"a": 1.5}], OPTIONAL, {"a": ("FP64", [1.5]), "b": ("BYTES", ["null"])}),
        (
            {"a": [1.5, 2.5]},
            OPTIONAL,
            {"a": ("FP64", [1.5, 2.5]), "b": ("BYTES", ["null", "null"])},
        ),
        (np.array([[1.5, 2.5]]), PAIR, {"a": ("FP64", [1.5]), "b": ("FP64", [2.5])}),
        (pd.DataFrame([[1.5, "x"]]), PAIR, {"a": ("FP64", [1.5]), "b": ("BYTES", ["x"])}),
        (["x", [1]], JSON, {"only": ("BYTES", ['"x"', "[1]"])}),
        (np.array([1.5]), JSON, {"only": ("BYTES", ["1.5"])}),
        ([[1.5], [2.5]], JSON, {"only": ("BYTES", ["[1.5]", "[2.5]"])}),
    ],
)
def test_declared_outputs_give_names_and_kinds(
    result: Any, signature: Signature, expected: dict[str, tuple[str, Any]]
) -> None:
    assert told(result, signature) == expected


def test_declared_instants_may_be_pythons_own() -> None:
    signature = declared(TensorSpec("at", "INT64", (-1,), "datetime"))

    moment = pd.Timestamp("2024-01-02")

    assert told([moment.to_pydatetime()], signature) == {"at": ("INT64", [moment.value])}


def test_a_sparse_matrix_becomes_a_dense_one() -> None:
    (array,) = named_outputs(csr_matrix([[0, 1], [2, 0]]), None).values()

    assert array.tolist() == [[0, 1], [2, 0]]

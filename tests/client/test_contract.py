"""What stubs send and get, without a server: rows, batches, parameters, answers that do not fit."""

import datetime as dt
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from headrace.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from headrace.signature import Signature, TensorSpec
from headrace_client import InputMismatch, InvalidResponse
from headrace_client.contract import Contract, StubCodec
from strategies import mlflow_signatures, rows_of

MATRIX = '{"type": "array", "items": {"type": "double"}}'
NUMBERS = (
    TensorSpec("size", "FP64", (-1,), "double"),
    TensorSpec("count", "INT64", (-1,), "long"),
    TensorSpec("rank", "INT32", (-1,), "integer"),
)


def codec(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...] = ()) -> StubCodec:
    return StubCodec(Contract("m", "1...", inputs, outputs), "m", "3")


def sent(payload: bytes) -> ModelInferRequest:
    return ModelInferRequest.FromString(payload)


def answer(*outputs: tuple[str, str, list[int], bytes]) -> bytes:
    message = ModelInferResponse(model_name="m", model_version="3")
    for name, datatype, shape, raw in outputs:
        message.outputs.add(name=name, datatype=datatype, shape=shape)
        message.raw_output_contents.append(raw)
    return message.SerializeToString()


def text(*items: str) -> bytes:
    return b"".join(len(item.encode()).to_bytes(4, "little") + item.encode() for item in items)


@given(st.floats(), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_a_row_of_numbers_is_the_same_request_whichever_way_it_takes(
    size: float, count: int, rank: int
) -> None:
    stub = codec(NUMBERS)

    packed = stub.row((size, count, rank), None)
    # Integers of numpy take the general way.
    general = stub.row((np.float64(size), np.int64(count), np.int32(rank)), None)

    assert packed == general == stub.batch(([size], [count], [rank]), None)


@given(mlflow_signatures(), st.data())
def test_a_single_row_is_the_batch_of_that_row(signature: Signature, data: st.DataObject) -> None:
    stub = codec(signature.inputs)
    values = [data.draw(rows_of(spec)) for spec in signature.inputs]
    pairs = zip(signature.inputs, values, strict=True)
    assume(not any(spec.optional and value is None for spec, value in pairs))
    columns = [
        [value] if spec.is_column else np.asarray(value)[np.newaxis]
        for spec, value in zip(signature.inputs, values, strict=True)
    ]

    assert stub.row(values, None) == stub.batch(columns, None)


@given(st.integers(-(2**53), 2**53))
def test_a_whole_number_is_taken_where_a_float_is_wanted(size: int) -> None:
    stub = codec(NUMBERS)

    assert stub.row((size, 1, 2), None) == stub.row((float(size), 1, 2), None)


@pytest.mark.parametrize(
    ("values", "blamed"),
    [
        ((1.0, 2**63, 1), "count"),
        ((1.0, 1, 2**31), "rank"),
        ((1.0, 1.5, 1), "count"),
        (("a", 1, 1), "size"),
        ((2**53 + 1, 1, 1), "size"),
        ((None, 1, 1), "size"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_its_name(
    values: tuple[Any, ...], blamed: str
) -> None:
    with pytest.raises(InputMismatch) as caught:
        codec(NUMBERS).row(values, None)

    assert caught.value.input == blamed


def test_an_optional_input_that_is_none_is_left_out() -> None:
    stub = codec((*NUMBERS, TensorSpec("note", "BYTES", (-1,), "string", optional=True)))

    without = sent(stub.row((1.0, 2, 3, None), None))
    given = sent(stub.row((1.0, 2, 3, "x"), None))

    assert [tensor.name for tensor in without.inputs] == ["size", "count", "rank"]
    assert given.raw_input_contents[3] == text("x")


def test_a_row_of_a_tensor_gets_its_axis_of_rows() -> None:
    stub = codec((TensorSpec("x", "FP32", (-1, 2, 2)), TensorSpec("y", "UINT8", (-1,))))

    message = sent(stub.row(([[1, 2], [3, 4]], 7), None))

    assert [list(tensor.shape) for tensor in message.inputs] == [[1, 2, 2], [1]]
    assert message.raw_input_contents[0] == np.array([1, 2, 3, 4], "<f4").tobytes()
    assert message.raw_input_contents[1] == b"\x07"


def test_the_list_of_an_array_column_is_one_rows_value() -> None:
    stub = codec((TensorSpec("path", "BYTES", (-1,), "json", schema=MATRIX),))

    assert sent(stub.row(([1.0, 2.5],), None)).raw_input_contents[0] == text("[1.0, 2.5]")
    batch = sent(stub.batch(([[1.0], [2.5, 3.0]],), None))
    assert batch.raw_input_contents[0] == text("[1.0]", "[2.5, 3.0]")


def test_a_value_that_is_no_list_is_not_made_one_where_a_row_has_a_list() -> None:
    stub = codec((TensorSpec("path", "BYTES", (-1,), "json", schema=MATRIX),))

    assert sent(stub.row((1.0,), None)).raw_input_contents[0] == text("1.0")


def test_none_where_a_value_must_be_given_is_told_by_name() -> None:
    stub = codec((*NUMBERS, TensorSpec("x", "FP32", (-1, 2))))

    with pytest.raises(InputMismatch, match="'count': expected long: it is not optional, got"):
        stub.row((1.0, None, 3, [1, 2]), None)
    with pytest.raises(InputMismatch, match="'count': expected long: it is not optional, got"):
        stub.batch(([1.0], None, [3], [[1, 2]]), None)
    with pytest.raises(InputMismatch, match="'x': expected FP32: it is not optional, got None"):
        stub.row((1.0, 2, 3, None), None)


def test_parameters_travel_as_the_protocol_has_them() -> None:
    parameters = {
        "scale": np.float64(2.0),
        "tags": ("a", "b"),
        "since": dt.datetime(2024, 1, 2, 3),  # noqa: DTZ001 - without a zone, as MLflow has them.
        "day": np.datetime64("2024-01-02"),
        "more": {"a": 1},
        "none": None,
    }

    message = sent(codec(NUMBERS).row((1.0, 2, 3), parameters))

    given = dict(message.parameters.items())
    assert given.keys() == parameters.keys() - {"none"} | {"headrace_signature"}
    assert given["headrace_signature"].string_param == "1..."
    assert given["scale"].double_param == 2.0
    assert json.loads(given["tags"].string_param) == ["a", "b"]
    assert given["since"].string_param == "2024-01-02T03:00:00"
    assert given["day"].string_param == "2024-01-02"
    assert json.loads(given["more"].string_param) == {"a": 1}


OUTPUTS = (
    TensorSpec("label", "BYTES", (-1,), "string"),
    TensorSpec("at", "INT64", (-1,), "datetime"),
    TensorSpec("owner", "BYTES", (-1,), "json"),
    TensorSpec("score", "FP64", (-1,), "double"),
    TensorSpec("plane", "FP32", (-1, 2)),
)


def test_a_rows_answer_has_python_values_and_several_rows_have_arrays() -> None:
    instant = np.datetime64("2024-01-02T03:04:05.000000006")
    plane = np.arange(4, dtype="<f4").reshape(2, 2)

    def outputs(rows: int) -> bytes:
        return answer(
            ("label", "BYTES", [rows], text(*["Łódź"] * rows)),
            ("at", "INT64", [rows], instant.astype("<i8").tobytes() * rows),
            ("owner", "BYTES", [rows], text(*['{"id": 1}'] * rows)),
            ("score", "FP32", [rows, 1], np.full(rows, 0.5, "<f4").tobytes()),
            ("plane", "FP32", [rows, 2], plane[:rows].tobytes()),
        )

    stub = codec(NUMBERS, OUTPUTS)
    label, at, owner, score, row = stub.row_values(outputs(1))
    labels, ats, owners, scores, rows = stub.batch_values(outputs(2))

    assert (label, at, owner, score, row.tolist()) == ("Łódź", instant, {"id": 1}, 0.5, [0.0, 1.0])
    assert type(score) is float
    assert labels.tolist() == ["Łódź"] * 2
    assert ats.tolist() == np.array([instant] * 2).tolist()
    assert owners == [{"id": 1}] * 2
    # What the signature says, of whatever precision the framework answers.
    assert (scores.dtype, scores.tolist()) == (np.float64, [0.5, 0.5])
    assert rows.tolist() == plane.tolist()


def test_numbers_that_json_spells_out_are_numbers_where_the_signature_has_floats() -> None:
    schema = (
        '{"type": "object", "properties": {"p": {"type": "array", "items": {"type": "double"}, '
        '"required": true}, "q": {"type": "string", "required": true}}}'
    )
    stub = codec(NUMBERS, (TensorSpec("report", "BYTES", (-1,), "json", schema=schema),))
    said = '{"p": [1.5, "NaN", "-Infinity"], "q": "NaN", "other": "NaN"}'

    (report,) = stub.row_values(answer(("report", "BYTES", [1], text(said))))

    np.testing.assert_equal(report, {"p": [1.5, math.nan, -math.inf], "q": "NaN", "other": "NaN"})


def test_json_with_a_bare_nan_is_no_answer() -> None:
    stub = codec(NUMBERS, (TensorSpec("report", "BYTES", (-1,), "json"),))

    with pytest.raises(InvalidResponse, match="expected JSON"):
        stub.row_values(answer(("report", "BYTES", [1], text('{"p": NaN}'))))


def test_an_optional_output_that_is_not_answered_is_none() -> None:
    note = TensorSpec("note", "BYTES", (-1,), "json", optional=True)
    stub = codec(NUMBERS, (TensorSpec("score", "FP64", (-1,), "double"), note))
    payload = answer(("score", "FP64", [1], bytes(8)))

    assert stub.row_values(payload) == (0.0, None)
    assert stub.batch_values(payload)[1] is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([("other", "FP64", [1], bytes(8))], "expected output 'score', got ['other']"),
        ([("score", "FP64", [2], bytes(16))], "expected one row, got shape [2]"),
        ([("score", "FP64", [1, 3], bytes(24))], "expected one value a row, got shape [1, 3]"),
        ([("score", "BYTES", [1], text("a"))], "expected FP64, got object"),
    ],
)
def test_an_answer_that_is_not_as_the_contract_says_is_told(
    given: list[tuple[str, str, list[int], bytes]], said: str
) -> None:
    stub = codec(NUMBERS, (TensorSpec("score", "FP64", (-1,), "double"),))

    with pytest.raises(InvalidResponse) as caught:
        stub.row_values(answer(*given))

    assert said in str(caught.value)

"""Predictions and metadata as a caller sees them."""

import warnings

import numpy as np
import pytest

from headrace.nulls import is_nullable
from headrace.oip.open_inference_pb2 import ModelMetadataResponse
from headrace_client import InvalidResponse, ModelMetadata, Prediction, TensorSpec
from headrace_client.types import metadata_of

LABELS = np.array([b"setosa", "sauté".encode()], object)
SCORES = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_a_prediction_is_a_mapping_of_names_to_arrays() -> None:
    prediction = Prediction("iris", "3", "r1", {"label": LABELS, "score": SCORES})

    assert list(prediction) == ["label", "score"]
    assert len(prediction) == 2
    assert prediction["score"] is SCORES
    assert dict(prediction.items()) == {"label": LABELS, "score": SCORES}
    assert prediction == prediction  # noqa: PLR0124 - arrays inside must not be compared.
    assert len({prediction}) == 1


def test_the_only_output_needs_no_name() -> None:
    assert Prediction("m", "1", "", {"y": SCORES}).array is SCORES


@pytest.mark.parametrize("arrays", [{}, {"label": LABELS, "score": SCORES}])
def test_several_outputs_need_a_name(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="expected a single output"):
        _ = Prediction("m", "1", "", arrays).array


def test_text_is_decoded_on_demand() -> None:
    prediction = Prediction("m", "1", "", {"label": LABELS.reshape(2, 1), "score": SCORES})

    assert prediction.strings("label").tolist() == [["setosa"], ["sauté"]]
    assert Prediction("m", "1", "", {"label": LABELS}).strings().tolist() == ["setosa", "sauté"]
    with pytest.raises(ValueError, match="expected a BYTES output, got float32"):
        prediction.strings("score")
    with pytest.raises(KeyError):
        prediction.strings("nothing")


def test_a_prediction_shows_itself_in_one_line() -> None:
    prediction = Prediction("iris", "3", "", {"label": LABELS[:1], "score": SCORES})

    assert repr(prediction) == (
        "<Prediction iris version 3: label: BYTES 1 [b'setosa'], "
        "score: float32 2x4 [0 1 2 3 4 5 ...]>"
    )


def test_metadata_is_what_the_server_stated() -> None:
    message = ModelMetadataResponse(name="m", versions=["2"], platform="mlflow_sklearn")
    message.inputs.add(name="x", datatype="FP64", shape=[-1, 4])
    message.outputs.add(name="y", datatype="INT64", shape=[-1])

    assert metadata_of(message) == ModelMetadata(
        name="m",
        versions=("2",),
        platform="mlflow_sklearn",
        inputs=(TensorSpec("x", "FP64", (-1, 4)),),
        outputs=(TensorSpec("y", "INT64", (-1,)),),
    )


def test_metadata_tells_kinds_optional_inputs_and_parameters() -> None:
    message = ModelMetadataResponse(name="m")
    for name, datatype, kind in (
        ("at", "INT64", "datetime64[ns]"),
        ("path", "BYTES", "json"),
        ("note", "BYTES", "string"),
        ("is_new", "BOOL", "boolean"),
        ("odd", "BYTES", "of another server"),
    ):
        tensor = message.inputs.add(name=name, datatype=datatype, shape=[-1])
        tensor.parameters["kind"].string_param = kind
        tensor.parameters["nullable"].bool_param = True
    message.inputs[1].parameters["schema"].string_param = '{"type": "any"}'
    message.inputs[2].parameters["optional"].bool_param = True
    message.parameters["scale"].double_param = 0.5
    message.parameters["count"].int64_param = 3
    message.parameters["name"].SetInParent()

    metadata = metadata_of(message)

    assert metadata.inputs == (
        TensorSpec("at", "INT64", (-1,), "datetime"),
        TensorSpec("path", "BYTES", (-1,), "json", schema='{"type": "any"}'),
        TensorSpec("note", "BYTES", (-1,), "string", optional=True),
        TensorSpec("is_new", "BOOL", (-1,), "boolean"),
        TensorSpec("odd", "BYTES", (-1,)),
    )
    assert metadata.parameters == {"scale": 0.5, "count": 3, "name": None}


def test_columns_of_servers_that_tell_of_no_masks_take_none() -> None:
    message = ModelMetadataResponse(name="m")
    for name, told in (("old", None), ("never", False), ("new", True)):
        tensor = message.inputs.add(name=name, datatype="BYTES", shape=[-1])
        tensor.parameters["kind"].string_param = "string"
        if told is not None:
            tensor.parameters["nullable"].bool_param = told

    inputs = metadata_of(message).inputs

    assert [spec.no_nulls for spec in inputs] == [True, True, False]
    assert [is_nullable(spec) for spec in inputs] == [False, False, True]


def test_json_outputs_are_read_on_demand() -> None:
    cells = np.array([b'{"a": [1]}', b"null"], object)
    prediction = Prediction("m", "1", "", {"told": cells, "bad": np.array([b"{"], object)})

    assert prediction.json("told") == [{"a": [1]}, None]
    with pytest.raises(ValueError, match="Expecting property name"):
        prediction.json("bad")


def test_outputs_become_plain_values_for_json() -> None:
    prediction = Prediction(
        "m",
        "1",
        "",
        {"score": np.ones((2, 2), np.float32), "label": np.array([b"a", b"b"], object)},
    )

    assert prediction.as_dict() == {"score": [[1.0, 1.0], [1.0, 1.0]], "label": ["a", "b"]}


def test_outputs_become_columns_of_a_frame() -> None:
    prediction = Prediction(
        "m",
        "1",
        "",
        {
            "label": np.array([b"a", b"b"], object),
            "raw": np.array([[b"\xff"], [b"b"]], object),
            "score": np.array([[1.0, 2.0], [3.0, 4.0]]),
            "box": np.zeros((2, 1, 3)),
        },
    )

    frame = prediction.as_frame()

    assert list(frame.columns) == ["label", "raw", "score_0", "score_1", "box"]
    assert frame["label"].tolist() == ["a", "b"]
    assert frame["raw"].tolist() == [b"\xff", b"b"]
    assert frame["score_1"].tolist() == [2.0, 4.0]
    assert [cell.shape for cell in frame["box"]] == [(1, 3), (1, 3)]


@pytest.mark.parametrize("at", [0, 1])
def test_a_tensor_is_the_answers_own_memory_where_it_lies_aligned(at: int) -> None:
    pytest.importorskip("torch")
    memory = np.zeros(16, np.uint8)
    begin = -memory.__array_interface__["data"][0] % 4 + at
    array = memory[begin : begin + 8].view(np.float32)
    array[:] = [1, 2]
    array.flags.writeable = False
    prediction = Prediction("m", "1", "", {"y": array, "text": np.array([b"a"], object)})

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = prediction.as_tensor("y")

    assert tensor.tolist() == [1.0, 2.0]
    assert (tensor.data_ptr() == array.__array_interface__["data"][0]) is (at == 0)
    with pytest.raises(ValueError, match="expected an output of numbers, got BYTES"):
        prediction.as_tensor("text")


def test_metadata_with_a_datatype_of_another_world_is_an_invalid_response() -> None:
    message = ModelMetadataResponse(name="m")
    message.inputs.add(name="x", datatype="FP4", shape=[-1])

    with pytest.raises(InvalidResponse, match="tensor 'x' has an unknown datatype 'FP4'"):
        metadata_of(message)

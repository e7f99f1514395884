"""Bytes of requests and responses, against protobuf's own reading and writing."""

import contextlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.datatypes import BYTES, DATATYPES, Datatype
from headrace.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from headrace.tensors import encode
from headrace_client import InvalidResponse
from headrace_client.calls import Parameter, RequestEncoder, ResponseDecoder
from headrace_client.inputs import Tensors

Array = npt.NDArray[np.generic]
NAMES = st.text(st.characters(codec="utf-8"), max_size=12)
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
# Tensors on both sides of the size from which the decoder takes views.
LARGE = st.sampled_from([(129,), (16, 17), (1025,)])


@st.composite
def arrays(draw: st.DrawFn) -> tuple[Datatype, Array]:
    datatype = draw(st.sampled_from(sorted(DATATYPES.values(), key=lambda row: row.code)))
    shape = draw(SHAPES | LARGE)
    count = math.prod(shape)
    if datatype is BYTES:
        pool = draw(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
        array = np.empty(count, object)
        array[:] = [pool[i % len(pool)] for i in range(count)]
        return datatype, array.reshape(shape)
    assert datatype.wire is not None
    seed = draw(st.binary(min_size=16, max_size=16))
    raw = (seed * (count * datatype.itemsize // 16 + 1))[: count * datatype.itemsize]
    if datatype.name == "BOOL":
        raw = bytes(byte & 1 for byte in raw)
    values = np.frombuffer(raw, datatype.wire)
    if datatype.name == "BF16":
        # A float32 that is a bfloat16 already: nothing is rounded.
        values = (values.astype(np.uint32) << 16).view(np.float32)
        values = np.where(np.isnan(values), np.float32(1), values)
    return datatype, values.reshape(shape)


@st.composite
def named_arrays(draw: st.DrawFn) -> dict[str, tuple[Datatype, Array]]:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    return {name: draw(arrays()) for name in names}


PARAMETERS = st.dictionaries(
    NAMES,
    st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    max_size=3,
)


def tensors_from(named: dict[str, tuple[Datatype, Array]]) -> Tensors:
    return Tensors(
        names=tuple(named),
        datatypes=tuple(datatype.name for datatype, _ in named.values()),
        shapes=tuple(array.shape for _, array in named.values()),
        raws=[encode(array, datatype) for datatype, array in named.values()],
    )


def value_of(parameter: Any) -> Parameter:
    found: Parameter = getattr(parameter, parameter.WhichOneof("parameter_choice"))
    return found


@given(
    named=named_arrays(),
    model=NAMES,
    version=NAMES,
    request_id=NAMES,
    outputs=st.none() | st.lists(NAMES, max_size=3),
    parameters=st.none() | PARAMETERS,
)
def test_protobuf_reads_from_our_bytes_what_was_asked(
    named: dict[str, tuple[Datatype, Array]],
    model: str,
    version: str,
    request_id: str,
    outputs: list[str] | None,
    parameters: dict[str, Parameter] | None,
) -> None:
    tensors = tensors_from(named)

    encoder = RequestEncoder()
    payload = encoder.encode(
        model,
        version,
        tensors,
        outputs=outputs,
        parameters=parameters,
        request_id=request_id,
    )

    message = ModelInferRequest.FromString(payload)
    assert (message.model_name, message.model_version, message.id) == (model, version, request_id)
    assert [tensor.name for tensor in message.inputs] == list(named)
    assert [tensor.datatype for tensor in message.inputs] == [d.name for d, _ in named.values()]
    assert [tuple(tensor.shape) for tensor in message.inputs] == [
        array.shape for _, array in named.values()
    ]
    assert list(message.raw_input_contents) == [bytes(raw) for raw in tensors.raws]
    assert [output.name for output in message.outputs] == (outputs or [])
    read = {name: value_of(parameter) for name, parameter in message.parameters.items()}
    assert read == (parameters or {})
    assert {k: type(v) for k, v in read.items()} == {
        k: type(v) for k, v in (parameters or {}).items()
    }
    # Field for field the length that protobuf itself would write: nothing is left over or twice.
    assert len(payload) == message.ByteSize()
    # What was remembered gives the same bytes.
    assert payload == encoder.encode(
        model, version, tensors, outputs=outputs, parameters=parameters, request_id=request_id
    )


def test_parameters_that_are_equal_but_of_different_types_stay_different() -> None:
    encoder = RequestEncoder()
    tensors = Tensors(("x",), ("BOOL",), ((1,),), [b"\1"])
    kinds = []
    for value in (True, 1, 1.0):
        message = ModelInferRequest.FromString(
            encoder.encode("m", "", tensors, parameters={"p": value})
        )
        kinds.append(message.parameters["p"].WhichOneof("parameter_choice"))

    assert kinds == ["bool_param", "int64_param", "double_param"]


def test_a_negative_zero_is_another_parameter_than_zero() -> None:
    encoder = RequestEncoder()
    tensors = Tensors(("x",), ("BOOL",), ((1,),), [b"\1"])
    for value in (-0.0, 0.0, -0.0):
        message = ModelInferRequest.FromString(
            encoder.encode("m", "", tensors, parameters={"p": value})
        )
        assert str(message.parameters["p"].double_param) == str(value)


def test_large_integers_travel_unsigned_and_larger_ones_not_at_all() -> None:
    encoder = RequestEncoder()
    tensors = Tensors(("x",), ("BOOL",), ((1,),), [b"\1"])

    payload = encoder.encode("m", "", tensors, parameters={"p": 2**63})
    assert ModelInferRequest.FromString(payload).parameters["p"].uint64_param == 2**63
    for beyond in (2**64, -(2**63) - 1):
        with pytest.raises(ValueError, match="parameter 'p': expected an integer of at most 64"):
            encoder.encode("m", "", tensors, parameters={"p": beyond})


def test_a_parameter_of_another_type_is_a_type_error_that_names_it() -> None:
    tensors = Tensors(("x",), ("BOOL",), ((1,),), [b"\1"])

    with pytest.raises(
        TypeError, match="parameter 'p': expected bool, int, float, str, list or dict, got None"
    ):
        RequestEncoder().encode("m", "", tensors, parameters={"p": None})  # type: ignore[dict-item]


def test_lists_and_dicts_are_parameters_as_json() -> None:
    tensors = Tensors(("x",), ("BOOL",), ((1,),), [b"\1"])

    payload = RequestEncoder().encode(
        "m", "", tensors, parameters={"sizes": [1, 2.5], "options": {"deep": True}}
    )

    parameters = ModelInferRequest.FromString(payload).parameters
    assert parameters["sizes"].string_param == "[1, 2.5]"
    assert parameters["options"].string_param == '{"deep": true}'


def test_more_kinds_of_requests_than_are_remembered_are_still_right() -> None:
    encoder = RequestEncoder()
    for rows in (*range(600), *range(600)):
        tensors = Tensors(("x",), ("UINT8",), ((rows,),), [bytes(rows)])
        message = ModelInferRequest.FromString(encoder.encode("m", "", tensors))
        assert (tuple(message.inputs[0].shape), len(message.raw_input_contents[0])) == (
            (rows,),
            rows,
        )


def response(named: dict[str, tuple[Datatype, Array]], **fields: str) -> ModelInferResponse:
    message = ModelInferResponse(**fields)  # type: ignore[arg-type]
    for name, (datatype, array) in named.items():
        message.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
        message.raw_output_contents.append(bytes(encode(array, datatype)))
    return message


def assert_same(actual: Array, expected: Array) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if expected.dtype == object:
        assert actual.tolist() == expected.tolist()
    else:
        assert actual.tobytes() == expected.tobytes()


@given(named=named_arrays(), model=NAMES, version=NAMES, request_id=NAMES)
def test_what_protobuf_writes_comes_back_as_named_arrays(
    named: dict[str, tuple[Datatype, Array]], model: str, version: str, request_id: str
) -> None:
    payload = response(
        named, model_name=model, model_version=version, id=request_id
    ).SerializeToString()

    decoder = ResponseDecoder()
    # The second answer is read from what the first one taught.
    for prediction in (decoder.decode(payload), decoder.decode(payload)):
        assert (prediction.model, prediction.version, prediction.id) == (model, version, request_id)
        assert list(prediction) == list(named)
        for name, (_, array) in named.items():
            assert_same(prediction[name], array)


@given(named=named_arrays())
def test_what_one_side_encodes_the_other_decodes(
    named: dict[str, tuple[Datatype, Array]],
) -> None:
    tensors = tensors_from(named)
    request = ModelInferRequest.FromString(RequestEncoder().encode("m", "1", tensors))
    echo = ModelInferResponse(model_name="m", raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        echo.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)

    prediction = ResponseDecoder().decode(echo.SerializeToString())

    for name, (_, array) in named.items():
        assert_same(prediction[name], array)


def test_fields_in_another_order_and_unknown_fields_do_not_disturb() -> None:
    tensor = ModelInferResponse(raw_output_contents=[b"\x07"]).SerializeToString()
    rest = response({}, model_name="m", id="7")
    rest.outputs.add(name="y", datatype="UINT8", shape=[1])
    unknown = (
        bytes([0x98, 0x06, 0xAC, 0x02])  # Field 99, a number of two bytes.
        + bytes([0x99, 0x06, *range(8)])  # Field 99, eight bytes.
        + bytes([0x9D, 0x06, *range(4)])  # Field 99, four bytes.
    )

    prediction = ResponseDecoder().decode(tensor + unknown + rest.SerializeToString())

    assert (prediction.model, prediction.id, prediction["y"].tolist()) == ("m", "7", [7])


def test_more_kinds_of_answers_than_are_remembered_are_still_right() -> None:
    decoder = ResponseDecoder()
    for rows in (*range(600), *range(600)):
        payload = response({"y": (DATATYPES["UINT8"], np.zeros(rows, np.uint8))})
        assert decoder.decode(payload.SerializeToString())["y"].shape == (rows,)


def test_large_outputs_are_read_only_views_of_the_response() -> None:
    array = np.arange(1000.0)
    payload = response({"y": (DATATYPES["FP64"], array)}).SerializeToString()

    found = ResponseDecoder().decode(payload)["y"]

    assert not found.flags.owndata
    assert not found.flags.writeable
    assert np.shares_memory(found, np.frombuffer(payload, np.uint8))


@pytest.mark.parametrize(
    ("datatype", "contents", "elements"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-1, 2]),
        ("UINT16", "uint_contents", [1, 65535]),
        ("INT64", "int64_contents", [-(2**40), 2]),
        ("UINT64", "uint64_contents", [2**63, 2]),
        ("FP32", "fp32_contents", [0.5, 2.0]),
        ("FP64", "fp64_contents", [0.1, 2.0]),
        ("BYTES", "bytes_contents", [b"", b"ab"]),
    ],
)
def test_typed_elements_of_other_servers_are_read_too(
    datatype: str, contents: str, elements: list[Any]
) -> None:
    message = ModelInferResponse(model_name="m")
    tensor = message.outputs.add(name="y", datatype=datatype, shape=[2, 1])
    getattr(tensor.contents, contents).extend(elements)

    found = ResponseDecoder().decode(message.SerializeToString())["y"]

    assert found.dtype == DATATYPES[datatype].dtype
    assert found.tolist() == [[element] for element in elements]


def one_output(datatype: str, shape: list[int], *raws: bytes) -> bytes:
    message = ModelInferResponse(raw_output_contents=raws)
    message.outputs.add(name="y", datatype=datatype, shape=shape)
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x0a", "ends inside a field"),
        (b"\x0a\x05ab", "ends inside"),
        (b"\x1a\x01\xff", "utf-8"),
        (b"\x0b", "wire type at byte 0"),
        (b"\x0a" + b"\xff" * 10 + b"\x01", "too long"),
        (b"\x2a\x02\x0a\x05", "not a ModelInferResponse"),
        (one_output("FP32", [2], b"\0" * 7), "output 'y': expected 8 bytes"),
        (one_output("BYTES", [2], b"\0\0\0\0"), "output 'y': expected 2 BYTES elements"),
        (one_output("FP31", [1], b"\0" * 4), "output 'y' has an unknown datatype 'FP31'"),
        (one_output("FP32", [-1], b"\0" * 4), "output 'y' has shape"),
        (one_output("FP32", [1], b"\0" * 4, b""), "expected 1 raw outputs, one per output, got 2"),
        (one_output("FP32", [1]), "output 'y': expected 1 elements of FP32, got 0"),
        (one_output("FP16", [1]), "output 'y': expected 1 elements of FP16, got 0"),
    ],
)
def test_an_answer_that_makes_no_sense_says_why(payload: bytes, message: str) -> None:
    with pytest.raises(InvalidResponse, match=message) as caught:
        ResponseDecoder().decode(payload)
    assert caught.value.code == "INTERNAL"


@given(st.binary(max_size=60))
def test_any_bytes_are_a_prediction_or_an_invalid_response(payload: bytes) -> None:
    with contextlib.suppress(InvalidResponse):
        ResponseDecoder().decode(payload)

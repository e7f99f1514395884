"""Parameters and optional inputs: what makes requests share a batch, and what is refused."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from doubles import FakeRepository, RecordingReply
from headrace.elements import encode_elements
from headrace.oip.open_inference_pb2 import InferParameter, ModelInferRequest
from headrace.signature import ParamSpec, Signature, TensorSpec
from headrace_server.errors import InvalidRequest
from headrace_server.planning import PARAMETERS_BYTES_MAX
from headrace_server.service import Service
from headrace_server.transport.decoder import Decoder
from headrace_server.types import BatchKey, Request

SIZE = TensorSpec("size", "FP32", (-1,), "float")
NOTE = TensorSpec("note", "BYTES", (-1,), "string", optional=True)
PATH = TensorSpec(
    "path", "BYTES", (-1,), "json", schema='{"type": "array", "items": {"type": "double"}}'
)
PARAMS = (
    ParamSpec("scale", "double", 1.0),
    ParamSpec("name", "string", "n"),
    ParamSpec("sizes", "long", [1], (-1,)),
)
Given = Mapping[str, bool | int | float | str]


class Bench:
    """A decoder in front of one model."""

    def __init__(
        self,
        *inputs: TensorSpec,
        params: Sequence[ParamSpec] = (),
        is_signed: bool = True,
        settings: Mapping[str, int] | None = None,
    ) -> None:
        self.repository = FakeRepository()
        signature = Signature(inputs, params=tuple(params)) if is_signed else None
        self.repository.serve("m", signature, **(settings or {}))
        self._decoder = Decoder(Service(self.repository.real, queue_bytes_max=1 << 40))
        self._decoder.begin_burst()

    def decode(self, tensors: Mapping[str, Any], parameters: Given | None = None) -> Request:
        return self.decode_message(message(tensors, parameters or {}))

    def decode_message(self, sent: ModelInferRequest) -> Request:
        payload = sent.SerializeToString()
        _, request = self._decoder.decode(payload, RecordingReply(), "call", 0.0, math.inf)
        return request

    def key(self, parameters: Given | None = None) -> BatchKey:
        return self.decode({"size": [1.0]}, parameters).key

    def refusal(self, tensors: Mapping[str, Any], parameters: Given | None = None) -> str:
        with pytest.raises(InvalidRequest) as raised:
            self.decode(tensors, parameters)
        return str(raised.value)


def message(tensors: Mapping[str, Any], parameters: Given) -> ModelInferRequest:
    sent = ModelInferRequest(model_name="m")
    for name, value in parameters.items():
        fields = {bool: "bool_param", int: "int64_param", float: "double_param"}
        setattr(sent.parameters[name], fields.get(type(value), "string_param"), value)
    for name, values in tensors.items():
        is_bytes = isinstance(values[0], bytes)
        sent.inputs.add(name=name, datatype="BYTES" if is_bytes else "FP32", shape=[len(values)])
        sent.raw_input_contents.append(
            bytes(encode_elements(values)) if is_bytes else np.array(values, np.float32).tobytes()
        )
    return sent


def test_requests_of_equal_parameters_share_a_batch_and_others_do_not() -> None:
    bench = Bench(SIZE, params=PARAMS)
    plain = bench.key()

    assert bench.key({"scale": 1.0}) is plain
    assert bench.key({"scale": 1}) is plain
    assert bench.key({"name": "n", "sizes": "[ 1 ]"}) is plain
    assert bench.key({"timeout": 10**6, "headers": "h", "content_type": "c"}) is plain
    others = [bench.key({"scale": 2.0}), bench.key({"name": "m"}), bench.key({"sizes": "[]"})]
    assert len({plain, *others}) == 4
    assert json.loads(others[0].parameters) == {"scale": 2.0, "name": "n", "sizes": [1]}
    assert bench.key({"scale": 2}) is others[0]


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_a_request_has_the_priority_that_it_names(kind: str) -> None:
    bench = Bench(SIZE, settings={"priority_levels": 3, "priority_default": 2})

    def priority(said: int) -> int:
        sent = message({"size": [1.0]}, {})
        setattr(sent.parameters["priority"], kind, said)
        # The second time its layout is known.
        first, second = bench.decode_message(sent), bench.decode_message(sent)
        assert first.priority == second.priority
        return second.priority

    assert [priority(said) for said in (1, 2, 3)] == [1, 2, 3]
    assert priority(0) == 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 1),
        ({"priority_levels": 3}, 3),
        ({"priority_levels": 3, "priority_default": 1}, 1),
    ],
)
def test_a_request_that_names_none_has_the_models_default(
    settings: Mapping[str, int], expected: int
) -> None:
    assert Bench(SIZE, settings=settings).decode({"size": [1.0]}).priority == expected


@pytest.mark.parametrize("said", [-1, 3, 2**40, True, 1.0, "1"])
def test_a_priority_that_is_no_level_is_refused(said: float | str) -> None:
    refusal = Bench(SIZE, settings={"priority_levels": 2}).refusal(
        {"size": [1.0]}, {"priority": said}
    )

    assert refusal == (
        "model 'm': parameter 'priority': expected a whole number from 0 to 2, as its "
        f"priority_levels, got {said!r}"
    )


def test_requests_of_different_priorities_share_a_batch() -> None:
    bench = Bench(SIZE, params=PARAMS, settings={"priority_levels": 2})

    assert bench.key({"priority": 1}) is bench.key({"priority": 2}) is bench.key()


def test_a_models_own_priority_and_timeout_are_its_parameters() -> None:
    own = (ParamSpec("priority", "string", "low"), ParamSpec("timeout", "double", 0.5))
    bench = Bench(SIZE, params=own)

    request = bench.decode({"size": [1.0]}, {"priority": "high", "timeout": 2.0})

    assert json.loads(request.key.parameters) == {"priority": "high", "timeout": 2.0}
    assert (request.priority, request.deadline_at) == (1, math.inf)


def test_a_model_without_parameters_has_none_in_its_key() -> None:
    assert Bench(SIZE).key().parameters == b""
    assert Bench(is_signed=False).key().parameters == b""


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        (
            {"speed": 1},
            "unknown parameter 'speed': expected one of ['name', 'priority', 'scale', 'sizes', ",
        ),
        ({"scale": True}, "parameter 'scale': expected double, got bool"),
        ({"name": 1.5}, "parameter 'name': expected string, got float"),
        ({"sizes": "[1.5]"}, "parameter 'sizes': expected long, got float"),
        ({"name": "x" * PARAMETERS_BYTES_MAX}, "parameters: expected at most 65536 bytes of JSON"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(parameters: Given, why: str) -> None:
    refusal = Bench(SIZE, params=PARAMS).refusal({"size": [1.0]}, parameters)

    assert refusal.startswith(f"model 'm': {why}")


def test_a_models_own_parameter_goes_before_what_is_merely_tolerated() -> None:
    bench = Bench(SIZE, params=(ParamSpec("headers", "long", 0),))

    assert json.loads(bench.key({"headers": 3}).parameters) == {"headers": 3}


def test_a_parameter_without_a_value_is_refused() -> None:
    sent = message({"size": [1.0]}, {})
    sent.parameters["scale"].CopyFrom(InferParameter())

    with pytest.raises(InvalidRequest, match=r"^parameter 'scale': expected a value, got none$"):
        Bench(SIZE, params=PARAMS).decode_message(sent)


def test_unsigned_64_bit_values_are_numbers_too() -> None:
    sent = message({"size": [1.0]}, {})
    sent.parameters["scale"].uint64_param = 7

    key = Bench(SIZE, params=PARAMS).decode_message(sent).key

    assert json.loads(key.parameters)["scale"] == 7.0


def test_a_caller_of_ever_new_parameters_does_not_fill_the_memory() -> None:
    bench = Bench(SIZE, params=PARAMS)
    for number in range(600):
        bench.key({"name": f"{number}" + "x" * 60_000})

    (model,) = bench.repository.models.values()
    assert sum(len(key.parameters) for key in model._keys.values()) < 20 * 2**20


def test_requests_with_and_without_an_optional_input_do_not_share_a_batch() -> None:
    bench = Bench(SIZE, NOTE)

    full = bench.decode({"note": [b"a"], "size": [1.0]})
    plain = bench.decode({"size": [1.0]})

    assert [layout.name for layout in full.key.inputs] == ["size", "note"]
    assert [layout.name for layout in plain.key.inputs] == ["size"]
    assert len(plain.tensors) == 1


def test_text_must_be_utf_8() -> None:
    bench = Bench(SIZE, NOTE)

    for text in ("plain", "Łódź", "x" * 300, ""):
        assert bench.decode({"size": [1.0], "note": [text.encode()]}).rows == 1
    assert bench.refusal({"size": [1.0] * 3, "note": [b"\xc5\x81", b"a", b"\xff"]}) == (
        "input 'note': row 2: expected text, got bytes that are not UTF-8"
    )


def test_bytes_of_a_binary_column_and_of_a_tensor_are_anything() -> None:
    for spec in (TensorSpec("x", "BYTES", (-1,), "binary"), TensorSpec("x", "BYTES", (-1,))):
        assert Bench(spec).decode({"x": [b"\xff"]}).rows == 1


def test_json_is_checked_in_every_message_and_names_input_and_row() -> None:
    bench = Bench(SIZE, PATH)

    for cells in ([b"[1]", b"[]"], [b"[1, 2.5]", b"[1]"]):
        assert bench.decode({"size": [1.0, 2.0], "path": cells}).rows == 2
    assert bench.refusal({"path": [b"[1]", b'["a"]'], "size": [1.0, 2.0]}) == (
        "input 'path': row 1: expected double at '[0]', got text"
    )
    assert bench.refusal({"path": [b"null"], "size": [1.0]}) == (
        "input 'path': row 0: expected array, got null"
    )


def test_typed_contents_are_checked_too() -> None:
    sent = ModelInferRequest(model_name="m")
    sent.inputs.add(name="path", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"[")

    with pytest.raises(InvalidRequest, match="input 'path': row 0: expected JSON"):
        Bench(PATH).decode_message(sent)

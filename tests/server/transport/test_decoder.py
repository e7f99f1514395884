"""Decoder: requests from bytes by three ways that must agree."""

import contextlib
import math
import struct
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from doubles import FakeRepository, RecordingReply
from headrace.datatypes import BYTES, DATATYPES, Datatype
from headrace.oip.open_inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)
from headrace.signature import Signature, TensorSpec
from headrace.tensors import decode, encode
from headrace_server.errors import HeadraceError, InvalidRequest, ModelNotFound
from headrace_server.service import Service
from headrace_server.transport.decoder import Decoder
from headrace_server.transport.encoder import Encoder
from headrace_server.types import BatchKey, InputLayout, Outputs, OutputTensor, Plan, Request
from strategies import chained, datatypes, elements, names, raw_rows, texts

REPLY = RecordingReply()
NOW = 50.0


@dataclass(frozen=True)
class Tensor:
    """One input as a caller states it."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    raw: bytes

    @property
    def layout(self) -> InputLayout:
        inner = self.shape[1:]
        return InputLayout(
            self.name, self.datatype, inner, math.prod(inner) * self.datatype.itemsize
        )


@dataclass(frozen=True)
class Message:
    """What a caller sends, apart from how it is written down."""

    inputs: tuple[Tensor, ...]
    model: str = "any"
    version: str = ""
    id: str = ""
    outputs: tuple[str, ...] = ()
    parameters: dict[str, InferParameter] = field(default_factory=dict)

    def proto(self) -> ModelInferRequest:
        message = ModelInferRequest(
            model_name=self.model,
            model_version=self.version,
            id=self.id,
            parameters=self.parameters,
        )
        for tensor in self.inputs:
            message.inputs.add(name=tensor.name, datatype=tensor.datatype.name, shape=tensor.shape)
        for name in self.outputs:
            message.outputs.add(name=name)
        message.raw_input_contents.extend(tensor.raw for tensor in self.inputs)
        return message

    def payload(self) -> bytes:
        return self.proto().SerializeToString(deterministic=True)

    def fields(self) -> list[tuple[int, bytes]]:
        """The top-level fields, each with its number, in the order of their numbers."""
        payload, found, at = self.payload(), [], 0
        while at < len(payload):
            begin, number = at, payload[at] >> 3
            size, at = varint(payload, at + 1)
            at += size
            found.append((number, payload[begin:at]))
        return found


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def tensor(name: str, datatype: str, shape: tuple[int, ...], *values: Any) -> Tensor:
    """A tensor of *values*, or of zeros."""
    row = DATATYPES[datatype]
    array = np.zeros(math.prod(shape), row.dtype)
    if row is BYTES:
        array[:] = b""
    if values:
        array[:] = values
    return Tensor(name, row, shape, bytes(encode(array, row)))


class Bench:
    """A decoder in front of doubles."""

    def __init__(self, signature: Signature | None = None) -> None:
        self.repository = FakeRepository()
        self.repository.serve("any", signature)
        self.decoder = Decoder(Service(self.repository.real, queue_bytes_max=1 << 40))
        self.decoder.begin_burst()

    def decode(self, payload: bytes, *, deadline_at: float = math.inf) -> Request:
        return self.decode_all(payload, deadline_at=deadline_at)[1]

    def decode_all(self, payload: bytes, *, deadline_at: float = math.inf) -> tuple[Plan, Request]:
        return self.decoder.decode(payload, REPLY, "call", NOW, deadline_at)

    def refusal(self, payload: bytes) -> str:
        with pytest.raises(InvalidRequest) as caught:
            self.decode(payload)
        return str(caught.value)


def seen(request: Request) -> tuple[object, ...]:
    """Everything that a request says."""
    return (
        request.key,
        request.rows,
        [bytes(data) for data in request.tensors],
        request.nbytes,
        request.id_field,
        request.arrived_at,
        request.deadline_at,
        request.reply,
        request.call,
    )


def id_field(text: str) -> bytes:
    return ModelInferRequest(id=text).SerializeToString()


# Random messages.

ids = st.just("") | texts | st.integers(100, 400).map(lambda n: "i" * n)


@st.composite
def wire_tensors(draw: DrawFn, rows: int, name: str) -> Tensor:
    datatype = draw(datatypes)
    inner = draw(st.sampled_from([(), (1,), (2, 3), (0,), (300,)]))
    shape = (rows, *inner)
    count = math.prod(shape)
    if count > 100:
        # Long enough for views in place of slices; not worth hypothesis's bytes one by one.
        pattern = draw(st.just(b"\1") | st.binary(min_size=1, max_size=3))
        if datatype.name == "BOOL":
            pattern = b"\0\1"
        size = count * datatype.itemsize
        raw = chained([pattern] * count) if datatype is BYTES else (pattern * size)[:size]
    else:
        layout = Tensor(name, datatype, shape, b"").layout
        raw = draw(raw_rows(layout, rows))
    return Tensor(name, datatype, shape, raw)


@st.composite
def messages(draw: DrawFn) -> Message:
    rows = draw(st.integers(1, 4))
    wanted = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    inputs = tuple(draw(wire_tensors(rows, name)) for name in wanted)
    parameters = draw(
        st.dictionaries(
            st.sampled_from(["content_type", "headers", "binary_data_output", "binary_data_size"]),
            st.builds(InferParameter, string_param=texts)
            | st.builds(InferParameter, bool_param=st.booleans()),
        )
    )
    if draw(st.booleans()):
        parameters["timeout"] = InferParameter(int64_param=draw(st.integers(1, 10**9)))
    return Message(
        inputs,
        version=draw(st.sampled_from(["", "1"])),
        id=draw(ids),
        outputs=tuple(draw(st.lists(names, max_size=2, unique=True))),
        parameters=parameters,
    )


@st.composite
def orders(draw: DrawFn, message: Message) -> bytes:
    """*message* with its fields in any order that keeps those of one number in theirs."""
    fields = message.fields()
    shuffled = draw(st.permutations([number for number, _ in fields]))
    left = {number: [data for n, data in fields if n == number] for number in set(shuffled)}
    return b"".join(left[number].pop(0) for number in shuffled)


def with_id_last(message: Message) -> bytes:
    """Another order of the same fields: it shares a plan with the usual one, but no layout."""
    fields = message.fields()
    return b"".join(
        [data for number, data in fields if number != 3]
        + [data for number, data in fields if number == 3]
    )


def expected(message: Message, key: BatchKey, order: Sequence[int]) -> tuple[object, ...]:
    """What the request must say, worked out without the codec."""
    timeout = message.parameters.get("timeout")
    tensors = [message.inputs[index].raw for index in order]
    return (
        key,
        message.inputs[0].shape[0],
        tensors,
        sum(map(len, tensors)),
        id_field(message.id),
        NOW,
        math.inf if timeout is None else NOW + timeout.int64_param / 1e6,
        REPLY,
        "call",
    )


@given(messages(), ids, st.data())
def test_a_request_is_the_same_by_protobuf_by_plan_and_by_layout(
    message: Message, other_id: str, data: st.DataObject
) -> None:
    bench = Bench()
    again = replace(message, id=other_id)

    first = bench.decode(message.payload())
    key = first.key
    order = range(len(message.inputs))
    assert key.inputs == tuple(tensor.layout for tensor in message.inputs)
    assert key.outputs == message.outputs
    assert seen(first) == expected(message, key, order)
    for payload, meant in [
        (with_id_last(again), again),
        (message.payload(), message),
        (again.payload(), again),
        (again.payload(), again),
    ]:
        assert seen(bench.decode(payload)) == expected(meant, key, order)
    # Every way but the first found what the first had learned.
    assert bench.repository.lookups == 1
    shuffled = bench.decode(data.draw(orders(again)))
    assert seen(shuffled) == expected(again, key, order)


@given(messages(), st.data())
def test_tensors_come_in_the_signatures_order_by_every_way(
    message: Message, data: st.DataObject
) -> None:
    assume(all(0 not in tensor.shape for tensor in message.inputs))
    order = data.draw(st.permutations(range(len(message.inputs))))
    specs = [
        TensorSpec(one.name, one.datatype.name, (-1, *one.shape[1:]))
        for one in (message.inputs[index] for index in order)
    ]
    at = data.draw(st.integers(0, len(specs)))
    left_out = TensorSpec("\0 left out", "FP32", (-1,), optional=True)
    bench = Bench(Signature((*specs[:at], left_out, *specs[at:])))

    first = bench.decode(message.payload())

    assert first.key.inputs == tuple(message.inputs[index].layout for index in order)
    for payload in (message.payload(), with_id_last(message), message.payload()):
        assert seen(bench.decode(payload)) == expected(message, first.key, order)


def outcome(bench: Bench, payload: bytes) -> object:
    """What a request says, or the kind of its refusal."""
    try:
        said = seen(bench.decode(payload))
    except HeadraceError as error:
        return type(error)
    key = said[0]
    assert isinstance(key, BatchKey)
    return key.inputs, key.outputs, key.is_whole, said[1:]


@st.composite
def damaged(draw: DrawFn, payload: bytes) -> bytes:
    """*payload* with something cut off, changed, doubled or put in."""
    at = draw(st.integers(0, len(payload)))
    match draw(st.sampled_from(["cut", "change", "insert", "remove", "repeat"])):
        case "cut":
            return payload[:at]
        case "change":
            return payload[:at] + draw(st.binary(min_size=1, max_size=1)) + payload[at + 1 :]
        case "insert":
            return payload[:at] + draw(st.binary(min_size=1, max_size=4)) + payload[at:]
        case "remove":
            return payload[:at] + payload[at + draw(st.integers(1, 4)) :]
        case _:
            return payload[:at] + payload[max(at - draw(st.integers(1, 40)), 0) :]


@given(st.lists(messages(), min_size=1, max_size=3), st.data())
def test_what_was_learned_before_changes_no_outcome(
    taught: list[Message], data: st.DataObject
) -> None:
    """Also for messages that are nearly the same, or broken."""
    trained = Bench()
    for message in taught:
        trained.decode(message.payload())
    for _ in range(4):
        message = data.draw(st.sampled_from(taught))
        payload = data.draw(
            st.just(message.payload()) | damaged(message.payload()) | orders(message)
        )

        assert outcome(trained, payload) == outcome(Bench(), payload)


@given(messages(), st.data())
def test_a_damaged_message_is_a_request_or_an_error_of_ours(
    message: Message, data: st.DataObject
) -> None:
    bench = Bench()
    payload = data.draw(damaged(message.payload()))

    # A byte of the name may have changed.
    with contextlib.suppress(InvalidRequest, ModelNotFound):
        bench.decode(payload)


@given(st.binary(max_size=80))
def test_garbage_is_refused(payload: bytes) -> None:
    with pytest.raises((InvalidRequest, ModelNotFound)):
        Bench().decode(payload)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x0a", id="a tag alone"),
        pytest.param(b"\x0a\x05any", id="a field that ends too early"),
        pytest.param(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", id="a length of 70 bits"),
        pytest.param(b"\x0a" + b"\xff" * 12, id="a length without end"),
        pytest.param(b"\x0b", id="a group"),
        pytest.param(b"\x0f", id="a wire type that there is not"),
        pytest.param(b"\x02\x00", id="field number 0"),
        pytest.param(b"\x0a\x01\xff", id="a name that is not UTF-8"),
        pytest.param(b"\x09\x01", id="a cut fixed64"),
        pytest.param(b"\x0d\x01", id="a cut fixed32"),
        pytest.param(b"\x08\x80", id="a cut varint"),
    ],
)
def test_what_is_no_message_is_called_so(payload: bytes) -> None:
    assert "the message is not a ModelInferRequest" in Bench().refusal(payload)


def test_unknown_fields_are_skipped() -> None:
    """A newer protocol may have more of them, of any wire type."""
    message = Message((tensor("x", "FP32", (1,), 1.5),))
    unknown = b"\xa0\x06\x07" + b"\xa1\x06" + bytes(8) + b"\xa2\x06\x01z" + b"\xa5\x06" + bytes(4)
    bench = Bench()

    for _ in range(2):
        request = bench.decode(unknown + message.payload() + unknown)
        assert request.tensors == [message.inputs[0].raw]


@pytest.mark.parametrize("where", ["beside the first", "before the tensors", "at the end"])
def test_of_two_ids_the_last_one_is_echoed_as_protobuf_says(where: str) -> None:
    """Also by a decoder that has learned from messages in which both were the same."""
    bench = Bench()

    def twice(first: str, second: str) -> bytes:
        fields = [data for _, data in Message((tensor("x", "FP32", (1,)),), id=first).fields()]
        at = {"beside the first": 2, "before the tensors": len(fields) - 1, "at the end": 9}[where]
        return b"".join([*fields[:at], id_field(second), *fields[at:]])

    for _ in range(2):
        assert bench.decode(twice("a", "a")).id_field == id_field("a")
        assert bench.decode(twice("b", "a")).id_field == id_field("a")
        assert bench.decode(twice("a", "b")).id_field == id_field("b")


# Golden bytes: what stands on the wire, written by hand.

GOLDEN_REQUEST = bytes.fromhex(
    "0a03616e79"  # model_name "any"
    "120131"  # model_version "1"
    "1a026964"  # id "id"
    "2a0c 0a0178 1204 46503332 1a0102"  # inputs: "x" FP32 [2]
    "3205 0a036f7574"  # outputs: "out"
    "3a08 0000803f 000000c0"  # raw_input_contents: 1.0, -2.0
)
GOLDEN_RESPONSE = bytes.fromhex(
    "0a03616e79"  # model_name "any"
    "120131"  # model_version "1"
    "1a026964"  # id "id"
    "2a0f 0a036f7574 1205 494e543136 1a0102"  # outputs: "out" INT16 [2]
    "3204 0100 feff"  # raw_output_contents: 1, -2
)


def test_a_request_on_the_wire_is_read_as_the_protocol_says() -> None:
    request = Bench().decode(GOLDEN_REQUEST)

    assert request.key.inputs == (InputLayout("x", DATATYPES["FP32"], (), 4),)
    assert request.key.outputs == ("out",)
    assert request.rows == 2
    assert request.tensors == [struct.pack("<2f", 1.0, -2.0)]
    assert request.id_field == b"\x1a\x02id"


def test_a_response_on_the_wire_is_as_the_protocol_says() -> None:
    request = Bench().decode(GOLDEN_REQUEST)
    data = struct.pack("<2h", 1, -2)
    outputs = Outputs(("any", "1"), (OutputTensor("out", DATATYPES["INT16"], (2,), data),), 2)

    assert Encoder().encode(request, outputs, 0, 2) == GOLDEN_RESPONSE


# What is refused, and how it is said.


@pytest.fixture(params=["at first", "by plan"])
def taught(request: pytest.FixtureRequest) -> Bench:
    """A bench that has, or has not, seen a message like the one in question."""
    bench = Bench()
    if request.param == "by plan":
        bench.decode(Message((tensor("x", "FP32", (2,)), tensor("y", "BYTES", (2,)))).payload())
    return bench


def changed(*raws: bytes) -> bytes:
    """The message that the bench was taught, but with other raw contents."""
    message = Message((tensor("x", "FP32", (2,)), tensor("y", "BYTES", (2,)))).proto()
    del message.raw_input_contents[:]
    message.raw_input_contents.extend(raws)
    return message.SerializeToString()


@pytest.mark.parametrize("size", [0, 7, 9, 16])
def test_a_wrong_number_of_bytes_is_refused_with_both(taught: Bench, size: int) -> None:
    assert taught.refusal(changed(bytes(size), chained([b"a", b"b"]))) == (
        f"input 'x': expected 8 bytes for its shape and datatype, got {size}"
    )


def test_raw_contents_whose_lengths_only_add_up_are_refused() -> None:
    """The header and the length of such a message are those of a right one."""
    right = Message(tuple(tensor(name, "FP32", (2,)) for name in "xyz"))
    x, y, z = right.inputs
    wrong = replace(right, inputs=(x, replace(y, raw=bytes(9)), replace(z, raw=bytes(7))))
    bench = Bench()

    for _ in range(2):
        assert bench.refusal(wrong.payload()) == (
            "input 'y': expected 8 bytes for its shape and datatype, got 9"
        )
        bench.decode(right.payload())


def test_bytes_that_are_cut_are_refused(taught: Bench) -> None:
    assert taught.refusal(changed(bytes(8), chained([b"a", b"b"])[:-1])).startswith("input 'y': ")


def test_another_number_of_bytes_elements_is_refused(taught: Bench) -> None:
    assert taught.refusal(changed(bytes(8), chained([b"a", b"b", b"c"]))) == (
        "input 'y': expected 2 BYTES elements, got 5 bytes more than these"
    )


@pytest.mark.parametrize("count", [1, 3])
def test_raw_contents_that_are_not_one_per_input_are_refused(taught: Bench, count: int) -> None:
    assert taught.refusal(changed(*[bytes(8)] * count)) == (
        f"raw_input_contents: expected 2 entries, one per input, got {count}"
    )


def test_a_message_without_contents_is_refused(taught: Bench) -> None:
    assert taught.refusal(changed()) == (
        "input 'x': expected 8 bytes for its shape and datatype, got 0"
    )


def test_a_shape_that_claims_what_the_message_cannot_hold_costs_no_memory() -> None:
    huge = replace(tensor("y", "BYTES", (1,)), shape=(2**31 - 1,))

    assert "expected 2147483647 BYTES elements" in Bench().refusal(Message((huge,)).payload())


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((-1,), "input 'x': shape [-1] has a negative size"),
        ((2, -3), "input 'x': shape [2, -3] has a negative size"),
        ((1 << 31,), "input 'x': shape [2147483648] has more than 2147483647 elements"),
        ((1 << 62, 1 << 62), "has more than 2147483647 elements"),
        ((1 << 40, 0), "has more than 2147483647 elements"),
        ((1 << 31,), "has more than 2147483647 elements"),
        ((-(1 << 63),), "has a negative size"),
        ((1,) * 33, "input 'x': expected at most 32 axes, got 33"),
    ],
)
def test_a_shape_that_no_batch_can_hold_is_refused(shape: tuple[int, ...], why: str) -> None:
    message = Message((Tensor("x", DATATYPES["FP32"], shape, b""),))

    assert why in Bench().refusal(message.payload())


def test_a_tensor_that_does_not_fit_the_signature_is_refused_with_the_models_name() -> None:
    bench = Bench(Signature((TensorSpec("x", "FP32", (-1, 4)),)))

    assert bench.refusal(Message((tensor("x", "FP32", (2, 5)),)).payload()) == (
        "model 'any': input 'x': expected shape [-1, 4], got [2, 5]"
    )


def test_an_output_that_the_model_has_not_is_refused() -> None:
    outputs = (TensorSpec("y", "FP32", (-1,)),)
    bench = Bench(Signature((TensorSpec("x", "FP32", (-1,)),), outputs))

    assert "unknown output 'z'" in bench.refusal(
        Message((tensor("x", "FP32", (2,)),), outputs=("z",)).payload()
    )


@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_a_name_that_no_frame_can_hold_is_refused(where: str) -> None:
    x, name = tensor("x", "FP32", (1,)), "n" * 70_000
    long = {
        "inputs": Message((replace(x, name=name),)),
        "outputs": Message((x,), outputs=(name,)),
    }

    assert "is longer than 1024 bytes" in Bench().refusal(long[where].payload())


def test_more_tensors_than_a_frame_can_hold_are_refused() -> None:
    message = Message((tensor("x", "FP32", (1,)),), outputs=tuple(map(str, range(1 << 16))))

    assert "at most 65535" in Bench().refusal(message.payload())


def test_an_output_or_input_that_is_named_twice_is_refused() -> None:
    x = tensor("x", "FP32", (2,))

    assert Bench().refusal(Message((x,), outputs=("z", "y", "y")).payload()) == (
        "output 'y' is asked for twice"
    )
    assert "input 'x' is given twice" in Bench().refusal(Message((x, x)).payload())


def test_a_datatype_that_there_is_not_is_refused_with_those_that_are() -> None:
    message = Message((tensor("x", "FP32", (2,)),)).proto()
    message.inputs[0].datatype = "FLOAT"

    why = Bench().refusal(message.SerializeToString())

    assert "input 'x': unknown datatype 'FLOAT'" in why
    assert "FP32" in why


def test_a_model_that_is_not_served_is_not_found() -> None:
    message = Message((tensor("x", "FP32", (2,)),), model="other")

    with pytest.raises(ModelNotFound):
        Bench().decode(message.payload())


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**62])
def test_an_integer_that_fp64_lacks_is_refused_by_every_way(value: int) -> None:
    bench = Bench(Signature((TensorSpec("y", "FP64", (-1,)), TensorSpec("x", "FP64", (-1,)))))
    fine = Message((tensor("x", "INT64", (2,), 2**53, -(2**53)), tensor("y", "FP32", (2,))))
    broken = replace(fine, inputs=(tensor("x", "INT64", (2,), 0, value), fine.inputs[1]))
    why = "input 'x': INT64 values beyond 2**53 cannot become FP64 without loss"

    assert bench.refusal(broken.payload()) == why
    bench.decode(fine.payload())
    assert bench.refusal(with_id_last(replace(broken, id="a"))) == why
    assert bench.refusal(broken.payload()) == why
    assert bench.decode(fine.payload()).rows == 2


@pytest.mark.parametrize("rows", [3, 3000])
def test_a_bool_that_is_neither_0_nor_1_is_refused_by_every_way(rows: int) -> None:
    bench = Bench()
    fine = Message((tensor("x", "INT8", (rows,)), tensor("b", "BOOL", (rows,), True)))
    odd = replace(fine.inputs[1], raw=bytes(rows - 1) + b"\x02")
    broken = replace(fine, inputs=(fine.inputs[0], odd))
    why = "input 'b': expected BOOL elements of 0 or 1, got 2"

    assert bench.refusal(broken.payload()) == why
    assert bench.decode(fine.payload()).rows == rows
    assert bench.refusal(with_id_last(replace(broken, id="a"))) == why
    assert bench.refusal(broken.payload()) == why
    assert bench.decode(fine.payload()).rows == rows


def test_an_id_that_is_no_text_is_refused_by_every_way() -> None:
    bench = Bench()
    fine = Message((tensor("x", "FP32", (2,)),), id="\u00e9")
    payload = fine.payload()
    broken = payload.replace("\u00e9".encode(), b"\xe9\xe9")
    why = "id: expected UTF-8, got b'\\xe9\\xe9', which is none at byte 0"

    for _ in range(2):
        assert bench.refusal(broken) == why
        assert bench.decode(payload).id_field == id_field("\u00e9")


def test_a_scalar_goes_with_any_rows_and_makes_the_request_a_batch_of_its_own() -> None:
    message = Message((tensor("t", "FP32", (), 0.5), tensor("x", "FP32", (3, 2))))

    request = Bench().decode(message.payload())

    assert request.rows == 3
    assert request.key.is_whole
    assert request.key.inputs == (
        InputLayout("t", DATATYPES["FP32"], (), 4, has_rows=False),
        InputLayout("x", DATATYPES["FP32"], (3, 2), 24, has_rows=False),
    )


# No rows.

NO_ROWS = Signature(
    (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("s", "BYTES", (-1,))),
    (
        TensorSpec("y", "FP32", (-1, 3)),
        TensorSpec("text", "BYTES", (-1,)),
        TensorSpec("free", "INT64", (-1, -1, 2)),
    ),
)


def no_rows(**options: Any) -> Message:
    inputs = (tensor("x", "FP32", (0, 4)), tensor("s", "BYTES", (0,)))
    return Message(inputs, **options)


def answered_at_once(bench: Bench, message: Message) -> ModelInferResponse:
    """The answer to *message*, which never reaches the model's queue."""
    encoded: list[bytes] = []

    class Encoding(RecordingReply):
        def answer(self, request: Request, outputs: Outputs, start: int, stop: int) -> None:
            encoded.append(Encoder().encode(request, outputs, start, stop))

    plan, request = bench.decoder.decode(message.payload(), Encoding(), "call", NOW, math.inf)
    plan.target.submit((request,))
    assert bench.repository.target.submitted == []
    return ModelInferResponse.FromString(encoded.pop())


def test_no_rows_are_answered_with_no_rows_of_every_output() -> None:
    bench = Bench(NO_ROWS)

    for _ in range(2):
        response = answered_at_once(bench, no_rows(id="7"))

        assert (response.model_name, response.model_version, response.id) == ("any", "1", "7")
        assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
            ("y", "FP32", [0, 3]),
            ("text", "BYTES", [0]),
            ("free", "INT64", [0, 0, 2]),
        ]
        assert list(response.raw_output_contents) == [b"", b"", b""]
    assert bench.repository.target.instrument.answered_empty == 2


def test_no_rows_are_answered_with_the_outputs_that_were_asked_for() -> None:
    response = answered_at_once(Bench(NO_ROWS), no_rows(outputs=("text", "y")))

    assert [output.name for output in response.outputs] == ["text", "y"]


def test_no_rows_of_outputs_that_are_not_known_are_refused() -> None:
    x = tensor("x", "FP32", (0, 4))
    fixed = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("mean", "FP32", (4,)),))

    assert Bench().refusal(Message((x,)).payload()) == (
        "model 'any': expected at least 1 row, got none; its outputs are not known"
    )
    assert Bench(fixed).refusal(Message((x,)).payload()) == (
        "model 'any': expected at least 1 row, got none; its output 'mean' of shape [4] does not "
        "follow the rows"
    )


# Parameters.


def test_what_other_clients_set_is_tolerated_wherever_it_stands() -> None:
    message = Message((tensor("x", "FP32", (1,)),), outputs=("y",)).proto()
    for parameters in (
        message.parameters,
        message.inputs[0].parameters,
        message.outputs[0].parameters,
    ):
        parameters["content_type"].string_param = "np"
        parameters["binary_data_output"].bool_param = True
        # kserve's client sets the size of every raw input.
        parameters["binary_data_size"].int64_param = 4
        parameters["binary_data"].bool_param = True

    assert Bench().decode(message.SerializeToString()).rows == 1


def test_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    message = Message((tensor("x", "FP32", (1,)),), outputs=("y",)).proto()
    message.parameters["sequence_id"].int64_param = 1
    assert Bench().refusal(message.SerializeToString()) == (
        "model 'any': unknown parameter 'sequence_id': expected one of ['priority', 'timeout']"
    )

    del message.parameters["sequence_id"]
    message.outputs[0].parameters["classification"].int64_param = 3
    assert Bench().refusal(message.SerializeToString()) == (
        "output 'y': unknown parameter 'classification', none is known here"
    )

    message.inputs[0].parameters["shared_memory_region"].string_param = "r"
    assert Bench().refusal(message.SerializeToString()) == (
        "input 'x': unknown parameter 'shared_memory_region', none is known here"
    )


@pytest.mark.parametrize(
    "value", [InferParameter(int64_param=250_000), InferParameter(uint64_param=250_000)]
)
def test_the_earlier_of_timeout_and_deadline_counts(value: InferParameter) -> None:
    payload = Message((tensor("x", "FP32", (1,)),), parameters={"timeout": value}).payload()
    bench = Bench()

    for _ in range(2):
        assert bench.decode(payload).deadline_at == NOW + 0.25
        assert bench.decode(payload, deadline_at=NOW + 0.125).deadline_at == NOW + 0.125
        assert bench.decode(payload, deadline_at=NOW + 9.0).deadline_at == NOW + 0.25


@pytest.mark.parametrize(
    "value",
    [
        InferParameter(int64_param=0),
        InferParameter(int64_param=-5),
        InferParameter(string_param="1s"),
        InferParameter(double_param=0.5),
        InferParameter(bool_param=True),
    ],
)
def test_a_timeout_that_is_no_number_of_microseconds_is_refused(value: InferParameter) -> None:
    message = Message((tensor("x", "FP32", (1,)),), parameters={"timeout": value})

    assert "parameter 'timeout': expected microseconds above 0" in Bench().refusal(
        message.payload()
    )


@pytest.mark.parametrize("name", ["timeout", "priority", "any"])
def test_a_parameter_without_a_value_is_refused(name: str) -> None:
    message = Message((tensor("x", "FP32", (1,)),), parameters={name: InferParameter()})

    assert Bench().refusal(message.payload()) == f"parameter {name!r}: expected a value, got none"


# Typed contents.


def typed(datatype: str, values: Sequence[Any], **contents: Sequence[Any]) -> bytes:
    """A message with one tensor as typed elements, in its datatype's field or a given one."""
    message = ModelInferRequest(model_name="any")
    found = contents or {DATATYPES[datatype].contents or "fp32_contents": values}
    message.inputs.add(
        name="x",
        datatype=datatype,
        shape=(len(values),),
        contents=InferTensorContents(**found),
    )
    return message.SerializeToString()


@pytest.mark.parametrize(
    "datatype",
    [row for row in DATATYPES.values() if row.contents is not None],
    ids=lambda row: row.name,
)
@given(data=st.data())
def test_typed_contents_say_the_same_as_raw_bytes(datatype: Datatype, data: st.DataObject) -> None:
    values = data.draw(st.lists(elements(datatype), min_size=1, max_size=5))
    array = np.empty(len(values), datatype.dtype)
    array[:] = values
    raw = Message((Tensor("x", datatype, array.shape, bytes(encode(array, datatype))),))
    bench = Bench()

    by_typed = bench.decode(typed(datatype.name, array.tolist()))
    by_raw = bench.decode(raw.payload())

    assert by_typed.key is by_raw.key
    (given_data,) = by_typed.tensors
    found = decode(given_data, datatype, array.shape)
    # Equal as values: Python keeps no NaN's payload apart.
    if array.dtype.kind == "f":
        assert np.array_equal(found, array, equal_nan=True)
    else:
        assert found.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT8", 128),
        ("INT8", -129),
        ("INT16", 1 << 15),
        ("INT16", -(1 << 15) - 1),
        ("UINT8", 256),
        ("UINT16", 1 << 16),
    ],
)
def test_a_typed_value_that_its_datatype_cannot_hold_is_refused_not_cut(
    datatype: str, value: int
) -> None:
    bounds = np.iinfo(DATATYPES[datatype].dtype.name)

    why = Bench().refusal(typed(datatype, [0, value]))

    assert f"input 'x': {datatype} holds {bounds.min} to {bounds.max}" in why
    assert str(value) in why


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_has_no_typed_form(datatype: str) -> None:
    assert Bench().refusal(typed(datatype, [1.0])) == (
        f"input 'x': {datatype} belongs in raw_input_contents, got fp32_contents"
    )


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "INT8"])
def test_a_tensor_without_any_contents_lacks_its_bytes(datatype: str) -> None:
    message = Message((tensor("x", datatype, (2,)),)).proto()
    del message.raw_input_contents[:]

    assert "bytes for its shape and datatype, got 0" in Bench().refusal(message.SerializeToString())


def test_typed_contents_of_a_datatype_that_there_is_not_are_refused() -> None:
    message = ModelInferRequest.FromString(typed("FP32", [1.0]))
    message.inputs[0].datatype = "FLOAT"

    assert "input 'x': unknown datatype 'FLOAT'" in Bench().refusal(message.SerializeToString())


def test_elements_in_another_datatypes_field_are_refused() -> None:
    assert Bench().refusal(typed("INT8", [1], int64_contents=[1])) == (
        "input 'x': INT8 belongs in int_contents, got int64_contents"
    )
    assert "got int_contents, fp32_contents" in Bench().refusal(
        typed("INT8", [1], int_contents=[1], fp32_contents=[1.0])
    )


def test_another_number_of_typed_elements_is_refused() -> None:
    assert Bench().refusal(typed("FP32", [0.0, 0.0], fp32_contents=[1.0])) == (
        "input 'x': expected 8 bytes for its shape and datatype, got 4"
    )
    assert (
        Bench()
        .refusal(typed("BYTES", [b"", b""], bytes_contents=[b"a"]))
        .startswith("input 'x': expected 2 BYTES elements")
    )


@pytest.mark.parametrize("is_taught", [False, True])
def test_typed_and_raw_contents_exclude_each_other(is_taught: bool) -> None:
    bench = Bench()
    message = ModelInferRequest.FromString(typed("FP32", [1.0]))
    if is_taught:
        bench.decode(message.SerializeToString())
    message.raw_input_contents.append(bytes(4))

    assert bench.refusal(message.SerializeToString()) == (
        "input 'x': contents and raw_input_contents exclude each other"
    )


def test_typed_values_are_read_anew_for_every_message() -> None:
    """They are part of what messages of one plan have in common."""
    bench = Bench()

    for value in (1.0, 2.0, 1.0):
        assert bench.decode(typed("FP32", [value])).tensors == [struct.pack("<f", value)]


# Models that come and go.


def test_what_was_learned_is_forgotten_when_the_served_models_change() -> None:
    bench = Bench()
    message = Message((tensor("x", "FP32", (2,)),))
    before = bench.decode_all(message.payload())[0]
    bench.repository.serve("any")

    assert bench.decode_all(message.payload())[0] is before
    bench.repository.generation += 1
    bench.decoder.begin_burst()
    after = bench.decode_all(message.payload())[0]

    assert after.key is not before.key
    assert bench.decode_all(message.payload())[0] is after


def test_what_was_learned_is_kept_while_they_do_not() -> None:
    bench = Bench()
    message = Message((tensor("x", "FP32", (2,)),))

    for _ in range(3):
        bench.decoder.begin_burst()
        bench.decode(message.payload())

    assert bench.repository.lookups == 1


def test_what_is_kept_is_bounded_in_bytes() -> None:
    """Callers choose how long the headers are that are kept, and that no two are the same."""
    bench = Bench()
    tracemalloc.start()
    try:
        for number in range(100):
            text = InferParameter(string_param=f"{number:07}" * 130_000)
            message = Message((tensor("x", "FP32", (1,)),), parameters={"headers": text})
            bench.decode(message.payload())
            del text, message
        assert tracemalloc.get_traced_memory()[0] < 70 << 20
    finally:
        tracemalloc.stop()


def test_what_is_kept_is_bounded_in_number() -> None:
    """So the memory of one caller's many kinds of requests ends, and everyone's goes on."""
    bench = Bench()
    kinds = [
        Message((tensor("x", "FP32", (1,)),), outputs=(str(number),)).payload()
        for number in range(5000)
    ]
    for payload in kinds:
        bench.decode(payload)
    lookups = bench.repository.lookups

    bench.decode(kinds[-1])
    assert bench.repository.lookups == lookups
    bench.decode(kinds[3000])
    assert bench.repository.lookups == lookups + 1

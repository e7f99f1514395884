"""Typed messages to requests and back, beside protobuf's own reading of the same bytes."""

import json
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from doubles import FakeRepository, RecordingReply
from headrace.datatypes import BYTES, DATATYPES
from headrace.signature import ParamSpec, Signature, TensorSpec
from headrace.tensors import decode, encode
from headrace_server.errors import HeadraceError, InvalidRequest, ResourceExhausted
from headrace_server.repository.model import ModelVersion
from headrace_server.service import Service
from headrace_server.transport.typed.binding import Binding, NoTypedService
from headrace_server.transport.typed.values import NAT, read_instant, write_instant, write_json
from headrace_server.transport.typed.writing import OutputUnlike
from headrace_server.types import Outputs, OutputTensor, Plan, Request

REPLY = RecordingReply()
NOW = 50.0
COLUMNS = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
}
ANSWER = (TensorSpec("y", "FP64", (-1,), "double"),)


class Typed:
    """A binding of a model with *signature*, and what asks it."""

    def __init__(self, signature: Signature, message_bytes_max: int = 1 << 30) -> None:
        self.repository = FakeRepository()
        self.model: ModelVersion = self.repository.serve("any", signature)
        self.service = Service(self.repository.real, queue_bytes_max=1 << 30)
        self.binding = Binding(self.model, message_bytes_max)

    def message(self, name: str) -> Any:
        package = self.binding.service.package
        return GetMessageClass(self.binding.pool.FindMessageTypeByName(f"{package}.{name}"))()

    @property
    def request(self) -> Any:
        return self.message(self.binding.service.request)

    @property
    def row(self) -> Any:
        return self.message(self.binding.service.row)

    def decode(self, message: Any, *, is_row: bool = False) -> tuple[Plan, Request]:
        payload = message if isinstance(message, bytes) else message.SerializeToString()
        return self.binding.decode(
            self.service, payload, (), REPLY, None, NOW, math.inf, is_row=is_row
        )

    def tensors(self, message: Any, *, is_row: bool = False) -> dict[str, Any]:
        """The tensors of the request that *message* states, as arrays."""
        _, request = self.decode(message, is_row=is_row)
        return {
            layout.name: decode(raw, layout.datatype, (request.rows, *layout.row_shape))
            for layout, raw in zip(request.key.inputs, request.tensors, strict=True)
        }


def outputs(rows: int, **arrays: Any) -> Outputs:
    """What a batch of *rows* rows brought back."""
    tensors = []
    for name, (datatype, array) in arrays.items():
        raw = bytes(encode(array, DATATYPES[datatype]))
        starts = None
        if DATATYPES[datatype] is BYTES:
            sizes = [len(encode(array[at : at + 1], BYTES)) for at in range(len(array))]
            starts = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
        tensors.append(OutputTensor(name, DATATYPES[datatype], array.shape, raw, starts))
    return Outputs(("any", "7"), tuple(tensors), rows)


@st.composite
def tables(draw: DrawFn) -> tuple[Signature, dict[str, list[Any]]]:
    """A signature of columns, and rows of them."""
    kinds = draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=6))
    rows = draw(st.integers(1, 5))
    values: dict[str, st.SearchStrategy[Any]] = {
        "boolean": st.booleans(),
        "integer": st.integers(-(2**31), 2**31 - 1),
        "long": st.integers(-(2**63), 2**63 - 1),
        "float": st.floats(width=32, allow_nan=False),
        "double": st.floats(allow_nan=False),
        "string": st.text(st.characters(codec="utf-8"), max_size=9),
        "binary": st.binary(max_size=9),
    }
    specs, columns = [], {}
    for index, kind in enumerate(kinds):
        name = f"c{index} {kind}"
        specs.append(TensorSpec(name, COLUMNS[kind], (-1,), kind))
        columns[name] = draw(st.lists(values[kind], min_size=rows, max_size=rows))
    return Signature(tuple(specs), ANSWER), columns


def plain(array: Any, kind: str) -> list[Any]:
    return [each.decode() if kind == "string" else each for each in array.tolist()]


@given(tables())
def test_columns_are_read_as_protobuf_wrote_them(
    table: tuple[Signature, dict[str, list[Any]]],
) -> None:
    signature, columns = table
    typed = Typed(signature)
    message = typed.request
    for item in typed.binding.service.inputs:
        getattr(message, item.field).extend(columns[item.name])
    found = typed.tensors(message)
    for spec in signature.inputs:
        assert plain(found[spec.name], spec.kind) == columns[spec.name]


@given(tables())
def test_a_row_is_read_as_protobuf_wrote_it(
    table: tuple[Signature, dict[str, list[Any]]],
) -> None:
    signature, columns = table
    typed = Typed(signature)
    message = typed.row
    for item in typed.binding.service.inputs:
        setattr(message, item.field, columns[item.name][0])
    found = typed.tensors(message, is_row=True)
    for spec in signature.inputs:
        assert plain(found[spec.name], spec.kind) == columns[spec.name][:1]


@given(tables(), st.data())
def test_answers_are_written_as_protobuf_reads_them(
    table: tuple[Signature, dict[str, list[Any]]], data: st.DataObject
) -> None:
    signature, columns = table
    inputs = (TensorSpec("x", "FP64", (-1,), "double", optional=True),)
    typed = Typed(Signature((*inputs, TensorSpec("z", "FP64", (-1,))), signature.inputs))
    message = typed.request
    message.z.append(1.0)
    _, request = typed.decode(message)
    rows = len(next(iter(columns.values())))
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    arrays = {}
    for spec in signature.inputs:
        array = np.empty(rows, DATATYPES[spec.datatype].dtype)
        array[:] = columns[spec.name]
        arrays[spec.name] = (spec.datatype, array)
    assert request.encode is not None
    payload = request.encode(request, outputs(rows, **arrays), start, stop)
    answer = typed.message(typed.binding.service.response)
    answer.MergeFromString(payload)
    for item in typed.binding.service.outputs:
        assert list(getattr(answer, item.field)) == columns[item.name][start:stop]
    assert answer.model_version == typed.model.version


@given(tables(), st.data())
def test_what_one_message_taught_changes_no_other(
    table: tuple[Signature, dict[str, list[Any]]], data: st.DataObject
) -> None:
    signature, columns = table
    typed, fresh = Typed(signature), Typed(signature)
    is_row = data.draw(st.booleans())
    message = typed.row if is_row else typed.request
    for item in typed.binding.service.inputs:
        if is_row:
            setattr(message, item.field, columns[item.name][0])
        else:
            getattr(message, item.field).extend(columns[item.name])
    payload = message.SerializeToString()
    typed.decode(payload, is_row=is_row)
    at = data.draw(st.integers(0, len(payload) - 1))
    octet = data.draw(st.integers(0, 255))
    other = payload[:at] + bytes([octet]) + payload[at + 1 :]
    assert read_or_refused(typed, other, is_row) == read_or_refused(fresh, other, is_row)


def read_or_refused(typed: Typed, payload: bytes, is_row: bool) -> Any:
    try:
        plan, request = typed.decode(payload, is_row=is_row)
    except HeadraceError as error:
        return str(error)
    return plan.rows, plan.key.inputs, [bytes(tensor) for tensor in request.tensors]


def test_columns_in_another_order_on_the_wire_are_told_apart_again_and_again() -> None:
    typed = columns(A, TensorSpec("b", "FP64", (-1,), "double"))
    for one, two in ((1.0, 2.0), (3.0, 4.0)):
        payload = b"\x11" + np.array([two]).tobytes() + b"\x09" + np.array([one]).tobytes()
        found = typed.tensors(payload, is_row=True)
        assert (found["a"].tolist(), found["b"].tolist()) == ([one], [two])


def test_what_was_learned_is_forgotten_when_other_models_are_served() -> None:
    typed = columns(A)
    message = typed.request
    message.a.append(1.0)
    first, _ = typed.decode(message)
    assert typed.decode(message)[0] is first
    typed.repository.generation += 1
    assert typed.decode(message)[0] is not first


def columns(*specs: TensorSpec, params: Sequence[ParamSpec] = ()) -> Typed:
    return Typed(Signature(specs, ANSWER, tuple(params)))


A = TensorSpec("a", "FP64", (-1,), "double")


def test_lists_that_are_not_packed_or_come_in_pieces_are_joined() -> None:
    typed = columns(A)
    one = np.array([1.5]).tobytes()
    two = np.array([2.5, 3.5]).tobytes()
    payload = b"\x09" + one + b"\x0a\x10" + two + b"\x09" + one
    assert typed.tensors(payload)["a"].tolist() == [1.5, 2.5, 3.5, 1.5]


def test_of_a_single_value_the_last_one_counts() -> None:
    typed = columns(A)
    payload = b"".join(b"\x09" + np.array([value]).tobytes() for value in (1.0, 2.0))
    assert typed.tensors(payload, is_row=True)["a"].tolist() == [2.0]


LACKING = Signature(
    (
        TensorSpec("name", "BYTES", (-1,), "string"),
        TensorSpec("is_new", "BOOL", (-1,), "boolean", optional=True),
        TensorSpec("size", "FP64", (-1,), "double"),
    ),
    ANSWER,
)


def test_masks_of_missing_values_are_read_beside_and_without_their_columns() -> None:
    typed = Typed(LACKING)
    message = typed.request
    message.size.extend([1.0, 2.0])
    message.name.extend(["a", ""])
    message.name_is_null.extend([False, True])
    message.is_new_is_null.extend([True, True])

    # The second time by what the first has taught.
    for _ in range(2):
        _, request = typed.decode(message)
        told = [(one.name, one.mask_of, one.is_alone) for one in request.key.inputs]
        assert told == [
            *(("name", "", False), ("size", "", False)),
            *(("name.is_null", "name", False), ("is_new.is_null", "is_new", True)),
        ]
        assert [bytes(raw) for raw in request.tensors[2:]] == [b"\0\1", b"\1\1"]
    message.is_new_is_null[0] = False
    with pytest.raises(InvalidRequest, match="'is_new' is not there, got false in row 0"):
        typed.decode(message)


def test_of_numbers_alone_masks_have_a_layout() -> None:
    typed = Typed(LACKING)
    message = typed.request
    message.size.extend([1.0, 2.0])
    message.is_new.extend([True, False])
    message.is_new_is_null.extend([False, True])
    message.name_is_null.extend([True, True])
    typed.decode(message)
    for nulls in ([True, False], [False, False]):
        message.is_new_is_null[:] = nulls
        _, request = typed.decode(message)
        at = [one.name for one in request.key.inputs].index("is_new.is_null")
        assert list(bytes(request.tensors[at])) == [int(null) for null in nulls]


@pytest.mark.parametrize("name", ["", "a"])
def test_a_row_without_a_value_says_so_in_its_mask(name: str) -> None:
    typed = Typed(LACKING)
    row = typed.row
    row.size = 1.0
    with pytest.raises(InvalidRequest, match="missing input 'name'"):
        typed.decode(row, is_row=True)
    row.name_is_null = True
    if name:
        row.name = name

    _, request = typed.decode(row, is_row=True)

    assert request.key.inputs[-1].mask_of == "name"
    assert request.key.inputs[-1].is_alone == (not name)
    assert bytes(request.tensors[-1]) == b"\1"


def test_the_mask_of_a_column_that_is_gone_is_told_by_its_name() -> None:
    before = Typed(LACKING)
    message = before.request
    message.size.append(1.0)
    message.is_new_is_null.append(True)
    typed = Typed(Signature((LACKING.inputs[0], LACKING.inputs[2]), ANSWER))
    typed.model.fields = before.binding.service.numbers
    typed.binding = Binding(typed.model, 1 << 20)

    with pytest.raises(InvalidRequest, match="field 200002 was input 'is_new'"):
        typed.decode(message)


def test_a_zero_in_a_row_is_a_value() -> None:
    typed = columns(A, TensorSpec("n", "INT64", (-1,), "long"))
    message = typed.row
    message.a = 0.0
    message.n = 0
    assert typed.tensors(message, is_row=True)["n"].tolist() == [0]


@pytest.mark.parametrize("is_row", [False, True])
def test_a_field_that_the_model_has_not_is_refused(is_row: bool) -> None:
    typed = columns(A)
    with pytest.raises(InvalidRequest, match="has no field 7"):
        typed.decode(b"\x3a\x00", is_row=is_row)


def test_a_field_of_another_wire_type_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="input 'a': its field has another type"):
        columns(A).decode(b"\x08\x01")


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_read_or_refused(payload: bytes, is_row: bool) -> None:
    specs = [TensorSpec(kind, datatype, (-1,), kind) for kind, datatype in COLUMNS.items()]
    longs = '{"type":"array","items":{"type":"long"}}'
    specs += [
        TensorSpec("at", "INT64", (-1,), "datetime"),
        TensorSpec("cell", "BYTES", (-1,), "json"),
        TensorSpec("list", "BYTES", (-1,), "json", True, longs),
        TensorSpec("image", "UINT8", (-1, 2)),
    ]
    typed = BROAD.setdefault("typed", columns(*specs, params=[ParamSpec("p", "double", 1.0)]))
    try:
        typed.decode(payload, is_row=is_row)
    except HeadraceError as error:
        assert error.code == "INVALID_ARGUMENT"  # noqa: PT017 - or none at all.


BROAD: dict[str, Typed] = {}


# Tensors.


def test_a_tensor_is_its_values_or_its_raw_bytes() -> None:
    typed = columns(TensorSpec("image", "UINT8", (-1, 2, 2)))
    message = typed.request
    message.image.shape[:] = [1, 2, 2]
    message.image.values[:] = [0, 1, 2, 255]
    assert typed.tensors(message)["image"].tolist() == [[[0, 1], [2, 255]]]
    message.image.ClearField("values")
    message.image.raw = bytes([3, 4, 5, 6])
    assert typed.tensors(message)["image"].tolist() == [[[3, 4], [5, 6]]]
    message.image.values.append(1)
    with pytest.raises(InvalidRequest, match="values and raw exclude each other"):
        typed.decode(message)


def test_a_row_of_a_tensor_has_no_axis_of_rows() -> None:
    typed = columns(TensorSpec("x", "FP32", (-1, 3)))
    message = typed.row
    message.x.values[:] = [1, 2, 3]
    assert typed.tensors(message, is_row=True)["x"].tolist() == [[1.0, 2.0, 3.0]]


def test_a_value_beyond_its_datatype_is_refused() -> None:
    typed = columns(TensorSpec("image", "UINT8", (-1, 2)))
    message = typed.request
    message.image.values[:] = [1, 256]
    with pytest.raises(InvalidRequest, match="input 'image': UINT8 holds 0 to 255, got 1 to 256"):
        typed.decode(message)


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32"])
def test_narrow_floats_travel_as_floats(datatype: str) -> None:
    typed = columns(TensorSpec("x", datatype, (-1, 2)))
    message = typed.request
    message.x.values[:] = [0.5, -2.0]
    assert typed.tensors(message)["x"].tolist() == [[0.5, -2.0]]


def test_a_shape_that_cannot_be_told_is_asked_for() -> None:
    typed = columns(TensorSpec("x", "FP32", (-1, -1)))
    message = typed.request
    message.x.values[:] = [1, 2]
    with pytest.raises(InvalidRequest, match=r"input 'x': expected a shape such as \[-1, -1\]"):
        typed.decode(message)


def test_a_model_whose_rows_are_fixed_takes_no_single_rows() -> None:
    typed = columns(TensorSpec("x", "FP32", (2, 2)))
    assert not typed.binding.service.has_rows
    with pytest.raises(NoTypedService, match="no axis of rows"):
        typed.decode(b"", is_row=True)


# Instants, JSON, parameters.


@given(st.integers(NAT + 1, 2**63 - 1))
def test_instants_survive_protobuf(nanoseconds: int) -> None:
    moment = Timestamp()
    moment.FromNanoseconds(nanoseconds)
    assert read_instant(moment.SerializeToString()) == nanoseconds
    assert write_instant(nanoseconds) == moment.SerializeToString()


def test_no_instant_is_the_first_timestamp_of_all() -> None:
    assert Timestamp.FromString(write_instant(NAT)).ToJsonString() == "0001-01-01T00:00:00Z"
    assert read_instant(write_instant(NAT)) == NAT


def test_an_instant_beyond_64_bits_is_refused_by_its_row() -> None:
    typed = columns(TensorSpec("at", "INT64", (-1,), "datetime"))
    message = typed.request
    message.at.add(seconds=1)
    message.at.add(seconds=2**40)
    for seconds, told in (
        (253_370_764_800, "9999-01-01T00:00:00Z"),
        (2**40, "seconds: 1099511627776"),
    ):
        message.at[1].seconds = seconds
        with pytest.raises(InvalidRequest, match="input 'at': row 1: expected a Timesta") as caught:
            typed.decode(message)
        assert f"between 1678 and 2261, got {told}" in str(caught.value)


def test_lists_and_nulls_become_json() -> None:
    schema = '{"type": "array", "items": {"type": "long"}}'
    typed = columns(TensorSpec("list", "BYTES", (-1,), "json", True, schema), A)
    message = typed.request
    message.a.extend([1, 2, 3])
    message.list.add(values=[1, 2**60])
    message.list.add(is_null=True)
    message.list.add()
    assert typed.tensors(message)["list"].tolist() == [b"[1, 1152921504606846976]", b"null", b"[]"]


def test_objects_become_json_in_the_order_of_their_schema() -> None:
    schema = (
        '{"type": "object", "properties": {"z": {"type": "long", "required": true}, '
        '"a": {"type": "map", "values": {"type": "double"}, "required": true}}}'
    )
    typed = columns(TensorSpec("cell", "BYTES", (-1,), "json", False, schema))
    message = typed.request
    cell = message.cell.add()
    cell.struct_value.update({"a": {"y": 1.5, "b": 2}, "z": 3})
    assert typed.tensors(message)["cell"].tolist() == [b'{"z": 3, "a": {"b": 2, "y": 1.5}}']


def test_a_negative_zero_is_kept_but_where_the_schema_wants_an_integer() -> None:
    schema = (
        '{"type": "object", "properties": {"a": {"type": "double", "required": true}, '
        '"b": {"type": "long", "required": true}}}'
    )
    typed = columns(TensorSpec("cell", "BYTES", (-1,), "json", False, schema))
    message = typed.request
    message.cell.add().struct_value.update({"a": -0.0, "b": -0.0})
    assert typed.tensors(message)["cell"].tolist() == [b'{"a": -0.0, "b": 0}']


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_has_not_is_text_where_a_float_is_wanted(number: float) -> None:
    schema = (
        '{"type": "object", "properties": {"a": {"type": "double", "required": true}, '
        '"b": {"type": "string", "required": true}}}'
    )
    array = '{"type": "array", "items": {"type": "double"}}'
    typed = columns(
        TensorSpec("cell", "BYTES", (-1,), "json", False, schema),
        TensorSpec("list", "BYTES", (-1,), "json", False, array),
    )
    message = typed.request
    message.cell.add().struct_value.update({"a": number, "b": "NaN"})
    message.list.add(values=[number])
    text = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(number)]

    found = typed.tensors(message)

    assert json.loads(found["cell"][0]) == {"a": text, "b": "NaN"}
    assert json.loads(found["list"][0]) == [text]
    message.cell[0].struct_value.update({"b": number})
    with pytest.raises(InvalidRequest, match=f"'cell': row 0: {text} has a place in JSON only as"):
        typed.decode(message)


def test_a_value_holds_json_as_it_is_or_says_why_not() -> None:
    text = b'{"a": [1, 2.5, "NaN", null, true], "b": 9007199254740992}'

    value = Value.FromString(write_json(text))

    assert json_format.MessageToDict(value) == json.loads(text)
    for wrong in (b"[9007199254740993]", b"[NaN]", b"text"):
        with pytest.raises(ValueError):  # noqa: PT011 - each in words of its own.
            write_json(wrong)


def test_parameters_become_those_of_a_tensor_request() -> None:
    params = [
        ParamSpec("scale", "float", 1.0),
        ParamSpec("tags", "string", ["a"], (-1,)),
        ParamSpec("at", "datetime", "2024-01-02T00:00:00"),
        ParamSpec("extra", "object", {}),
    ]
    typed = columns(A, params=params)
    message = typed.request
    message.a.append(1.0)
    plan, _ = typed.decode(message)
    assert b'"scale": 1.0, "tags": ["a"], "at": "2024-01-02T00:00:00"' in plan.key.parameters
    message.params.scale = 0.1
    message.params.at.FromJsonString("2025-03-04T05:06:07.5Z")
    message.params.tags.extend(["x", "y"])
    message.params.extra.struct_value["k"] = 1
    plan, _ = typed.decode(message)
    assert b'"scale": 0.1, "tags": ["x", "y"]' in plan.key.parameters
    assert b'"at": "2025-03-04T05:06:07.500000"' in plan.key.parameters
    assert b'"extra": {"k": 1}' in plan.key.parameters


def test_a_parameter_that_the_model_has_not_is_refused() -> None:
    typed = columns(A, params=[ParamSpec("scale", "double", 1.0)])
    message = typed.request
    message.a.append(1.0)
    payload = message.SerializeToString() + b"\x82\xea\x30\x02\x10\x01"
    with pytest.raises(InvalidRequest, match="params: the model has no field 2"):
        typed.decode(payload)


# What a model may answer.


def answered(
    spec: TensorSpec, rows: int, datatype: str, array: Any, *, is_row: bool = False
) -> Any:
    typed = Typed(Signature((A,), (spec,)))
    message = typed.row if is_row else typed.request
    if is_row:
        message.a = 1.0
    else:
        message.a.append(1.0)
    _, request = typed.decode(message, is_row=is_row)
    assert request.encode is not None
    service = typed.binding.service
    answer = typed.message(service.prediction if is_row else service.response)
    payload = request.encode(request, outputs(rows, y=(datatype, array)), 0, rows)
    answer.MergeFromString(payload)
    return answer.y


def test_a_narrower_answer_is_widened() -> None:
    spec = TensorSpec("y", "FP64", (-1,))
    assert list(answered(spec, 2, "INT32", np.array([1, 2], np.int32))) == [1.0, 2.0]


def test_an_answer_that_no_field_can_hold_is_told() -> None:
    spec = TensorSpec("y", "INT64", (-1,))
    with pytest.raises(OutputUnlike, match=r"answered FP64 of shape \[2\], its signature says"):
        answered(spec, 2, "FP64", np.array([1.5, 2.5]))
    with pytest.raises(OutputUnlike, match="no UTF-8"):
        answered(TensorSpec("y", "BYTES", (-1,)), 1, "BYTES", np.array([b"\xff"], object))


def test_a_row_of_a_tensor_is_answered_without_its_axis_of_rows() -> None:
    spec = TensorSpec("y", "FP32", (-1, 2))
    tensor = answered(spec, 1, "FP32", np.array([[1, 2]], np.float32), is_row=True)
    assert (list(tensor.shape), list(tensor.values)) == ([2], [1.0, 2.0])


def test_small_integers_are_answered_as_wide_ones() -> None:
    spec = TensorSpec("y", "INT8", (-1,))
    assert list(answered(spec, 2, "INT8", np.array([-1, 7], np.int8))) == [-1, 7]


def test_an_answer_longer_than_a_message_may_be_is_refused() -> None:
    typed = Typed(Signature((A,), ANSWER), message_bytes_max=64)
    message = typed.request
    message.a.append(1.0)
    _, request = typed.decode(message)
    assert request.encode is not None
    with pytest.raises(ResourceExhausted, match="message_bytes_max is 64"):
        request.encode(request, outputs(100, y=("FP64", np.zeros(100))), 0, 100)


@pytest.mark.parametrize(
    "signature", [None, Signature(()), Signature((A,)), Signature((A, A), ANSWER)]
)
def test_a_model_of_which_too_little_is_known_has_no_typed_service(
    signature: Signature | None,
) -> None:
    with pytest.raises(NoTypedService, match="has no typed service"):
        Typed(cast("Signature", signature))

"""Typed calls: a client that knows nothing but what reflection tells it, as grpcurl does."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from headrace.datatypes import DATATYPES, Datatype
from headrace.tensors import decode, encode

Tensors = Mapping[str, npt.NDArray[Any]]
TIMEOUT_S = 60.0


class TypedCaller:
    """The typed service of one model, as a server describes it now."""

    def __init__(self, channel: grpc.Channel, service: str) -> None:
        self._channel = channel
        self._pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        self.descriptor = self._pool.FindServiceByName(service)

    def request(self, method: str = "Predict") -> Any:
        """An empty message that *method* takes."""
        return GetMessageClass(self.descriptor.methods_by_name[method].input_type)()

    def filled(
        self, tensors: Tensors, *, is_row: bool = False, is_raw: bool = False, **params: Any
    ) -> Any:
        """A message that holds *tensors*, named as the model names its inputs."""
        message = self.request("PredictRow" if is_row else "Predict")
        fields = {field.json_name: field for field in message.DESCRIPTOR.fields}
        for name, array in tensors.items():
            _fill(message, fields[name], array, is_row=is_row, is_raw=is_raw)
        self.fill_params(message, params)
        return message

    def fill_params(self, message: Any, params: Mapping[str, Any]) -> None:
        """Give *message* parameters, named as in JSON."""
        if params:
            json_format.ParseDict(dict(params), message.params)

    def call(self, message: Any, **options: Any) -> Any:
        """The answer to *message*; which method it is for is told by its type."""
        for method in self.descriptor.methods:
            if method.input_type.full_name == message.DESCRIPTOR.full_name:
                answer = GetMessageClass(method.output_type)
                path = f"/{self.descriptor.full_name}/{method.name}"
                call: Any = self._channel.unary_unary(
                    path, lambda each: each.SerializeToString(), answer.FromString
                )
                return call(message, **{"timeout": TIMEOUT_S, **options})
        raise AssertionError(message)


def values_of(answer: Any, name: str) -> Any:
    """What *answer* holds for the output *name*, as plain Python values."""
    for field in answer.DESCRIPTOR.fields:
        if field.json_name == name:
            value = getattr(answer, field.name)
            if field.message_type is None or not field.is_repeated:
                return _plain(value, field)
            return [_plain(each, field) for each in value]
    raise AssertionError(name)


def _fill(
    message: Any, field: FieldDescriptor, array: npt.NDArray[Any], *, is_row: bool, is_raw: bool
) -> None:
    kind = None if field.message_type is None else field.message_type.name
    if kind is None:
        values = [_scalar(each, field) for each in array.tolist()]
    elif kind.endswith("Tensor"):
        tensor = getattr(message, field.name)
        rows = array[0] if is_row else array
        tensor.shape.extend(rows.shape)
        if is_raw:
            tensor.raw = bytes(encode(rows, _datatype(kind)))
        else:
            tensor.values.extend(
                each.decode() if isinstance(each, bytes) else each for each in rows.ravel().tolist()
            )
        return
    else:
        assert field.message_type is not None
        # The class of this pool, which need not be that of the imported module.
        made = GetMessageClass(field.message_type)
        values = [made.FromString(each) for each in _encoded(kind, array.tolist(), made)]
    if not is_row:
        getattr(message, field.name).extend(values)
    elif kind is None:
        setattr(message, field.name, values[0])
    else:
        getattr(message, field.name).CopyFrom(values[0])


def _encoded(kind: str, cells: list[Any], made: Any) -> Iterator[bytes]:
    """The messages of *cells*: nanoseconds, or JSON."""
    for cell in cells:
        if kind == "Timestamp":
            moment = Timestamp()
            moment.FromNanoseconds(cell)
            yield moment.SerializeToString()
        elif kind == "Value":
            yield json_format.ParseDict(json.loads(cell), Value()).SerializeToString()
        elif json.loads(cell) is None:
            yield made(is_null=True).SerializeToString()
        else:
            yield made(values=json.loads(cell)).SerializeToString()


def _scalar(value: Any, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return value if isinstance(value, bytes) else value.encode()
    return value.decode() if isinstance(value, bytes) else value


def _plain(value: Any, field: FieldDescriptor) -> Any:
    kind = None if field.message_type is None else field.message_type.name
    if kind is None:
        return list(value) if field.is_repeated else value
    if kind == "Value":
        return json_format.MessageToDict(value)
    if kind == "Timestamp":
        return value.ToNanoseconds()
    shape = tuple(value.shape)
    flat = list(value.values)
    if value.raw:
        flat = decode(value.raw, _datatype(kind), shape).ravel().tolist()
    assert len(flat) == math.prod(shape)
    return np.array(flat, object).reshape(shape).tolist()


def _datatype(message: str) -> Datatype:
    """That of a tensor's message, such as Float32Tensor."""
    name = message.removesuffix("Tensor").upper()
    names = {"FLOAT": "FP", "BFLOAT": "BF", "STRING": "BYTES"}
    letters = name.rstrip("0123456789")
    return DATATYPES[names.get(letters, letters) + name[len(letters) :]]

"""Descriptor: a typed service as protobuf's own description of a .proto file."""

from collections.abc import Iterable, Sequence
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from .description import (
    ELEMENT_OF_ARRAY,
    ELEMENT_OF_TENSOR,
    PARAMS_FIELD,
    PARAMS_NUMBER,
    TIMESTAMP,
    VALUE,
    VERSION_FIELD,
    VERSION_NUMBER,
    Item,
    Kind,
    Retired,
    TypedService,
)
from .names import java_package

_DEPENDENCIES: Final = {
    TIMESTAMP: "google/protobuf/timestamp.proto",
    VALUE: "google/protobuf/struct.proto",
}
_SCALARS: Final = {
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "float": FieldDescriptorProto.TYPE_FLOAT,
    "sfixed32": FieldDescriptorProto.TYPE_SFIXED32,
    "sfixed64": FieldDescriptorProto.TYPE_SFIXED64,
    "fixed32": FieldDescriptorProto.TYPE_FIXED32,
    "fixed64": FieldDescriptorProto.TYPE_FIXED64,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
}
# Fields of the messages that hold a tensor or a list.
SHAPE: Final = ("shape", 1)
VALUES: Final = ("values", 2)
RAW: Final = ("raw", 3)
IS_NULL: Final = ("is_null", 1)


def file_of(service: TypedService) -> FileDescriptorProto:
    """The .proto file of *service*, as its compiler would describe it, without comments."""
    file = FileDescriptorProto(name=service.file, package=service.package, syntax="proto3")
    file.options.go_package = service.package.replace(".", "/")
    file.options.java_multiple_files = True
    file.options.java_package = java_package(service.package)
    items = (*service.inputs, *service.outputs, *service.params)
    used = {item.type for item in items}
    file.dependency.extend(path for name, path in sorted(_DEPENDENCIES.items()) if name in used)
    _add_service(file, service)
    has_params = bool(service.params)
    inputs = (*service.inputs, *service.masks)
    _add_message(file, service, service.request, inputs, service.retired_inputs, params=has_params)
    _add_message(
        file, service, service.response, service.outputs, service.retired_outputs, version=True
    )
    if service.has_rows:
        _add_message(
            file,
            service,
            service.row,
            inputs,
            service.retired_inputs,
            is_row=True,
            params=has_params,
        )
        _add_message(
            file,
            service,
            service.prediction,
            service.outputs,
            service.retired_outputs,
            is_row=True,
            version=True,
        )
    if has_params:
        _add_params(file, service)
    for name, element in ELEMENT_OF_ARRAY.items():
        if name in used:
            _add_array(file.message_type.add(name=name), element)
    for name, element in ELEMENT_OF_TENSOR.items():
        if name in used:
            _add_tensor(file.message_type.add(name=name), element)
    return file


def _add_service(file: FileDescriptorProto, service: TypedService) -> None:
    added = file.service.add(name=service.service)
    methods = [("Predict", service.request, service.response)]
    if service.has_rows:
        methods.append(("PredictRow", service.row, service.prediction))
    for name, taken, given in methods:
        added.method.add(
            name=name,
            input_type=f".{service.package}.{taken}",
            output_type=f".{service.package}.{given}",
        )


def _add_message(
    file: FileDescriptorProto,
    service: TypedService,
    name: str,
    items: Sequence[Item],
    retired: Sequence[Retired],
    *,
    is_row: bool = False,
    params: bool = False,
    version: bool = False,
) -> None:
    message = file.message_type.add(name=name)
    for item in _by_number(items):
        is_repeated = not is_row and item.kind is not Kind.TENSOR
        _add_field(message, service.package, item, is_repeated=is_repeated, has_presence=is_row)
    if params:
        message.field.add(
            name=PARAMS_FIELD,
            json_name=PARAMS_FIELD,
            number=PARAMS_NUMBER,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
            type=FieldDescriptorProto.TYPE_MESSAGE,
            type_name=f".{service.package}.{service.params_message}",
        )
    if version:
        message.field.add(
            name=VERSION_FIELD,
            json_name=VERSION_FIELD,
            number=VERSION_NUMBER,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
            type=FieldDescriptorProto.TYPE_STRING,
        )
    _reserve(message, retired)


def _add_params(file: FileDescriptorProto, service: TypedService) -> None:
    message = file.message_type.add(name=service.params_message)
    for item in _by_number(service.params):
        _add_field(message, service.package, item, is_repeated=item.is_list, has_presence=True)
    _reserve(message, service.retired_params)


def _add_field(
    message: DescriptorProto, package: str, item: Item, *, is_repeated: bool, has_presence: bool
) -> None:
    field = message.field.add(
        name=item.field,
        json_name=item.json,
        number=item.number,
        label=(
            FieldDescriptorProto.LABEL_REPEATED
            if is_repeated
            else FieldDescriptorProto.LABEL_OPTIONAL
        ),
    )
    scalar = _SCALARS.get(item.type)
    if scalar is None:
        field.type = FieldDescriptorProto.TYPE_MESSAGE
        is_known = item.type in _DEPENDENCIES
        field.type_name = f".{item.type}" if is_known else f".{package}.{item.type}"
        return
    field.type = scalar
    if has_presence and not is_repeated:
        # What the word "optional" becomes.
        field.proto3_optional = True
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{item.field}")


def _add_array(message: DescriptorProto, element: str) -> None:
    name, number = IS_NULL
    _add_plain(message, name, number, "bool")
    _add_plain(message, *VALUES, element, is_repeated=True)


def _add_tensor(message: DescriptorProto, element: str) -> None:
    _add_plain(message, *SHAPE, "int64", is_repeated=True)
    _add_plain(message, *VALUES, element, is_repeated=True)
    _add_plain(message, *RAW, "bytes")


def _add_plain(
    message: DescriptorProto, name: str, number: int, kind: str, *, is_repeated: bool = False
) -> None:
    message.field.add(
        name=name,
        json_name="isNull" if name == IS_NULL[0] else name,
        number=number,
        type=_SCALARS[kind],
        label=(
            FieldDescriptorProto.LABEL_REPEATED
            if is_repeated
            else FieldDescriptorProto.LABEL_OPTIONAL
        ),
    )


def _reserve(message: DescriptorProto, retired: Iterable[Retired]) -> None:
    for one in retired:
        message.reserved_range.add(start=one.number, end=one.number + 1)
    message.reserved_name.extend(dict.fromkeys(one.field for one in retired if one.field))


def _by_number(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda item: item.number)

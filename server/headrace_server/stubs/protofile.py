"""Protofile: the .proto file of a typed service, as text for other languages' compilers.

Compiled, it is the descriptor that the daemon publishes by reflection.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

from headrace.typed import Item, TypedService, file_of

from .layout import INDENT, shown
from .telling import of_mask, of_param, of_tensor

_SCALARS: Final = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in FieldDescriptorProto.Type.items()
    if name not in {"TYPE_MESSAGE", "TYPE_GROUP", "TYPE_ENUM"}
}
_METHODS: Final = {
    "Predict": "Answers rows; every field has a value per row.",
    "PredictRow": "Answers a single row.",
}


def proto_of(service: TypedService, *, version: str = "") -> str:
    """The .proto file of *service*.

    Args:
        service: What `describe` says of a signature.
        version: The version that it is of; empty for one that has no number.
    """
    file = file_of(service)
    of = f", version {version}" if version else ""
    lines = [
        f"// The typed service of the model {shown(service.model)}{of}.",
        "// Written by `headrace stub --proto`. Numbers stay as they are from version to version.",
        "",
        f'syntax = "{file.syntax}";',
        "",
        f"package {file.package};",
        "",
    ]
    if file.dependency:
        lines += [*(f'import "{path}";' for path in file.dependency), ""]
    lines += [*_options(file), ""]
    for described in file.service:
        lines += [*_service(described), ""]
    for message in file.message_type:
        lines += [*_message(message, file.package, _told(service, message.name)), ""]
    return "\n".join(lines)


def _options(file: FileDescriptorProto) -> Iterator[str]:
    for field, value in file.options.ListFields():
        text = _quoted(value) if isinstance(value, str) else str(value).lower()
        yield f"option {field.name} = {text};"


def _service(service: ServiceDescriptorProto) -> Iterator[str]:
    yield f"service {service.name} {{"
    for method in service.method:
        taken, given = (name.rpartition(".")[2] for name in (method.input_type, method.output_type))
        yield f"{INDENT}// {_METHODS[method.name]}"
        yield f"{INDENT}rpc {method.name}({taken}) returns ({given});"
    yield "}"


def _message(message: DescriptorProto, package: str, told: Mapping[str, str]) -> Iterator[str]:
    yield f"message {message.name} {{"
    ranges = [_range(one.start, one.end - 1) for one in message.reserved_range]
    if ranges:
        yield f"{INDENT}reserved {', '.join(ranges)};"
    if message.reserved_name:
        yield f"{INDENT}reserved {', '.join(map(_quoted, message.reserved_name))};"
    for field in message.field:
        if field.name in told:
            yield f"{INDENT}// {told[field.name]}"
        yield f"{INDENT}{_field(field, package)}"
    yield "}"


def _field(field: FieldDescriptorProto, package: str) -> str:
    label = ""
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        label = "repeated "
    elif field.proto3_optional:
        label = "optional "
    name = _SCALARS.get(field.type) or field.type_name.removeprefix(f".{package}.").lstrip(".")
    option = ""
    if field.json_name != _json_name(field.name):
        option = f" [json_name = {_quoted(field.json_name)}]"
    return f"{label}{name} {field.name} = {field.number}{option};"


def _told(service: TypedService, message: str) -> dict[str, str]:
    """What is said of the fields of a message."""
    groups: Mapping[str, Sequence[Item]] = {
        service.request: service.inputs,
        service.row: service.inputs,
        service.response: service.outputs,
        service.prediction: service.outputs,
        service.params_message: service.params,
    }
    is_row = message in {service.row, service.prediction}
    told = {}
    for item in groups.get(message, ()):
        if message == service.params_message:
            text = of_param(item.param)
        else:
            text = of_tensor(item.tensor, is_row=is_row)
        if item.field != item.name:
            text += f" Called {shown(item.name)} by the model."
        told[item.field] = text
    if message in {service.request, service.row}:
        for mask in service.masks:
            told[mask.field] = of_mask(mask.name, is_row=message == service.row)
    return told


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _json_name(field: str) -> str:
    """The name in JSON that a compiler gives a field by itself."""
    return re.sub(r"_+(.?)", lambda match: match[1].upper(), field)


def _quoted(text: str) -> str:
    """A string of the .proto language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\{ord(match[0]):03o}", escaped) + '"'

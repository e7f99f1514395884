"""Reflection: what a caller without our .proto files can ask the server about itself.

Descriptors come from a pool of our own that holds the standard's names. The process's default pool
never sees package "inference", so other libraries that define it can live beside us.
"""

from importlib.resources import files
from typing import Any

import grpc
from google.protobuf import struct_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from headrace.typed import PACKAGE

from .typed.directory import TypedDirectory

INFERENCE = "inference.GRPCInferenceService"
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
# Version 1 is version 1alpha in another package, field by field. Clients ask for either or both.
_V1, _ALPHA = "grpc.reflection.v1", "grpc.reflection.v1alpha"
REFLECTION, REFLECTION_ALPHA = f"{_V1}.ServerReflection", f"{_ALPHA}.ServerReflection"


def descriptor_pool() -> DescriptorPool:
    """A fresh pool with every service this server has."""
    pool = DescriptorPool()
    packed = files("headrace.oip").joinpath("inference.binpb").read_bytes()
    for file in FileDescriptorSet.FromString(packed).file:
        pool.Add(file)
    for module in (health_pb2, reflection_pb2, struct_pb2, timestamp_pb2):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        pool.Add(file)
    pool.Add(_version_1())
    return pool


def reflection_handlers(typed: TypedDirectory) -> "tuple[grpc.GenericRpcHandler, ...]":
    """What handles grpc.reflection.v1, and v1alpha for older clients."""
    handler = grpc.stream_stream_rpc_method_handler(
        _LiveReflection(typed).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return tuple(
        grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": handler})
        for service in (REFLECTION, REFLECTION_ALPHA)
    )


def _version_1() -> FileDescriptorProto:
    """The file of grpc.reflection.v1, which grpcio-reflection does not bring."""
    file = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = f"{_V1.replace('.', '/')}/reflection.proto", _V1
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(_ALPHA, _V1)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(_ALPHA, _V1)
            method.output_type = method.output_type.replace(_ALPHA, _V1)
    return file


class _LiveReflection(ReflectionServicer):  # type: ignore[misc]
    """Knows the models' own services as they are when it is asked; its base freezes its list."""

    def __init__(self, typed: TypedDirectory) -> None:
        super().__init__((), pool=_LivePool(typed))
        self._typed = typed

    def _list_services(self, request: Any) -> Any:
        typed = [f"{each.service.package}.{each.service.service}" for each in self._typed.bindings]
        self._service_names = sorted((INFERENCE, HEALTH, REFLECTION, REFLECTION_ALPHA, *typed))
        return super()._list_services(request)


class _LivePool:
    """Finds descriptors in our pool, or in that of the model whose package they are in."""

    def __init__(self, typed: TypedDirectory) -> None:
        self._typed = typed
        self._pool = descriptor_pool()

    def FindFileByName(self, name: str) -> FileDescriptor:  # noqa: N802 - protobuf's names.
        return self._of(name.removesuffix(".proto").replace("/", ".")).FindFileByName(name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802
        pool = self._of(symbol)
        try:
            return pool.FindFileContainingSymbol(symbol)
        except KeyError:
            # Protobuf does not look for methods, which `grpcurl describe` asks for too.
            service, _, method = symbol.rpartition(".")
            found = pool.FindServiceByName(service)
            found.methods_by_name[method]
            return found.file

    def FindMessageTypeByName(self, full_name: str) -> Descriptor:  # noqa: N802
        return self._of(full_name).FindMessageTypeByName(full_name)

    def FindExtensionByNumber(self, message: Descriptor, number: int) -> FieldDescriptor:  # noqa: N802
        return self._pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Descriptor) -> list[FieldDescriptor]:  # noqa: N802
        return self._of(message.full_name).FindAllExtensions(message)

    def _of(self, name: str) -> DescriptorPool:
        binding = self._typed.binding_of(name) if name.startswith(f"{PACKAGE}.") else None
        return self._pool if binding is None else binding.pool

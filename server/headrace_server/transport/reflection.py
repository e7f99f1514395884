"""Reflection: what a caller without our .proto files can ask the server about itself.

Descriptors come from a pool of our own that holds the standard's names. The process's default pool
never sees package "inference", so other libraries that define it can live beside us.
"""

from importlib.resources import files

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION

INFERENCE = "inference.GRPCInferenceService"
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


def descriptor_pool() -> DescriptorPool:
    """A fresh pool with every service this server has."""
    pool = DescriptorPool()
    packed = files("headrace.oip").joinpath("inference.binpb").read_bytes()
    for file in FileDescriptorSet.FromString(packed).file:
        pool.Add(file)
    for module in (health_pb2, reflection_pb2):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        pool.Add(file)
    return pool


def reflection_servicer() -> ReflectionServicer:
    """The servicer of grpc.reflection.v1alpha."""
    names = (INFERENCE, HEALTH, REFLECTION)
    return ReflectionServicer(names, pool=descriptor_pool())

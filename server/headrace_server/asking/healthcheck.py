"""Healthcheck: asks a running server by the gRPC health protocol, as a container's probe does."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace_client.connection import connection_to
from headrace_client.security import call_metadata

from ..errors import UsageError
from .connecting import Connection

HEALTHY, UNHEALTHY = 0, 1


def check_health(connection: Connection, service: str = "", *, timeout_s: float = 5.0) -> int:
    """Print what the server says of its health, and give the status for the command's end.

    Args:
        connection: Where it is, and how to speak to it.
        service: A model's name; empty for the server as a whole.
        timeout_s: How long to wait for its answer.

    Returns:
        0 where it is SERVING, else 1, also where nobody answers.

    Raises:
        UsageError: An option cannot be used.
    """
    said = _asked(connection, service, timeout_s)
    print(said)  # noqa: T201 - the command's answer.
    return HEALTHY if said == "SERVING" else UNHEALTHY


def _asked(connection: Connection, service: str, timeout_s: float) -> str:
    try:
        to = connection_to(connection.server, tls=connection.tls_setting)
        metadata = call_metadata(connection.token)
    except ValueError as error:
        raise UsageError(str(error)) from None
    with to.open() as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                request, timeout=timeout_s, metadata=metadata
            )
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    said: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return said

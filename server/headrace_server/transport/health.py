"""Health: grpc.health.v1, the protocol by which load balancers and probes ask a gRPC server.

Ours, since that of grpcio-health-checking forgets all who watch a service when one of them leaves,
and keeps their streams open when the server ends. Used on the control loop alone.
"""

import asyncio
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """What is said of each service; unknown ones are NOT_FOUND, or watched until they are known."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        # Set and replaced with every change: who waits for it looks again.
        self._changed = asyncio.Event()
        self._is_closed = False

    def set(self, service: str, *, is_serving: bool) -> None:
        """Say from now on that *service* is SERVING, or NOT_SERVING."""
        status = health_pb2.HealthCheckResponse
        new = status.SERVING if is_serving else status.NOT_SERVING
        if self._statuses.get(service) != new:
            self._statuses[service] = new
            self._wake()

    def close(self) -> None:
        """End the streams of all who watch, once they have been told the last news."""
        self._is_closed = True
        self._wake()

    async def Check(  # noqa: N802 - the protocol's own name, as below.
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """What is said of a service now."""
        status = self._statuses.get(request.service)
        if status is None:
            service = request.service[:128]
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {service!r}")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """What is said of a service now, and whenever that changes."""
        unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        last = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, unknown)
            if status != last:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                last = status
            elif self._is_closed:
                return
            else:
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

"""Health: a real server and real callers, over a loopback connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace_server.transport.health import Health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@asynccontextmanager
async def serving(health: Health) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)
    await server.stop(None)


def request(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


def test_check_tells_what_was_last_said_of_a_service() -> None:
    async def main() -> None:
        health = Health()
        async with serving(health) as stub:
            with pytest.raises(grpc.aio.AioRpcError, match="unknown service 'iris'"):
                await stub.Check(request("iris"))
            health.set("iris", is_serving=True)
            assert (await stub.Check(request("iris"))).status == SERVING
            health.set("iris", is_serving=False)
            assert (await stub.Check(request("iris"))).status == NOT_SERVING

    asyncio.run(main())


def test_who_watches_hears_of_each_change_also_when_another_has_left() -> None:
    async def main() -> None:
        health = Health()
        async with serving(health) as stub:
            leaver, stayer = stub.Watch(request("iris")), stub.Watch(request("iris"))
            for watch in (leaver, stayer):
                assert (await watch.read()).status == SERVICE_UNKNOWN
            leaver.cancel()
            for is_serving, status in ((True, SERVING), (False, NOT_SERVING), (True, SERVING)):
                health.set("iris", is_serving=is_serving)
                assert (await stayer.read()).status == status

    asyncio.run(main())


def test_closing_ends_the_streams_after_the_last_news() -> None:
    async def main() -> None:
        health = Health()
        health.set("", is_serving=True)
        async with serving(health) as stub:
            watch = stub.Watch(request(""))
            assert (await watch.read()).status == SERVING
            health.set("", is_serving=False)
            health.close()
            assert (await watch.read()).status == NOT_SERVING
            assert await watch.read() is grpc.aio.EOF

    asyncio.run(main())

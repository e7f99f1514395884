"""A method of ours that raises: the caller is told an error id, the log has the rest."""

import asyncio
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from headrace.oip import open_inference_pb2 as oip
from headrace.oip.inference_service_pb2_grpc import GRPCInferenceServiceStub
from headrace_server.transport.grpcio import GrpcioTransport
from headrace_server.transport.typed.directory import TypedDirectory


class Broken:
    """A service, and its repository, in which everything but health fails."""

    is_ready = True
    is_leaving = False
    is_refusing = False
    generation = 0
    is_broken = False

    @property
    def repository(self) -> Any:
        return self

    @property
    def models(self) -> list[Any]:
        if self.is_broken:
            raise ZeroDivisionError("a secret of /etc/ours")
        return []

    served = models


async def index_of(service: Any) -> tuple[grpc.StatusCode, str | None]:
    """What a caller of RepositoryIndex is told.

    Not the exception itself: it would hold the server, which must not outlive its loop.
    """
    transport = GrpcioTransport(
        service, message_bytes_max=1024, typed=TypedDirectory(service, 1024)
    )
    port = transport.bind("127.0.0.1:0")
    try:
        await transport.start()
        service.is_broken = True
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=30)
            return caught.value.code(), caught.value.details()
    finally:
        await transport.close(0.0)


def test_a_method_that_raises_tells_an_error_id_and_nothing_else() -> None:
    with capture_logs() as lines:
        told = asyncio.run(index_of(Broken()))

    (line,) = (line for line in lines if line["event"] == "method_failed")
    assert told == (
        grpc.StatusCode.INTERNAL,
        f"an error of the server's own (error id {line['error_id']})",
    )
    assert line["method"] == "RepositoryIndex"
    assert line["exc_info"] is True

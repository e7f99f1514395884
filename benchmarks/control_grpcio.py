"""Control on grpcio: what `control.py` does, on grpc.aio. Usage: control_grpcio.py PORT."""

import asyncio
import sys

import grpc

from control import answer


async def infer(payload: bytes, _context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
    """One call."""
    return answer(payload)


async def main() -> None:
    """Serve until killed."""
    server = grpc.aio.server()
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())

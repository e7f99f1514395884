"""Grpcio: every method over grpc.aio, behind the native listener or instead of it.

Runs on the control loop. A call to ModelInfer waits on a future; answers come from the completions
thread and wake the loop once per batch.
"""

import asyncio
import threading
import time
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2_grpc

from headrace.timings import ASKED

from ..errors import HeadraceError
from ..service import Service
from ..types import Outputs, Request
from .encoder import Encoder
from .guard import Guard
from .health import Health
from .intake import Decode, Intake
from .reflection import INFERENCE, reflection_handlers
from .requestlog import RequestLog
from .security import TokenInterceptor
from .servicer import Context, InferenceServicer, handlers_of
from .status import abort
from .timings import trailing
from .typed.directory import TypedDirectory, method_of

# At the end: for how long no call must have come before the connections go, and how long that is
# waited for (seconds).
_QUIET_S = 0.1
_QUIET_S_MAX = 1.0

_OPTIONS = (
    # Answers have been measured when they are encoded.
    ("grpc.max_send_message_length", -1),
    # A second daemon on the same port must fail, not share its calls.
    ("grpc.so_reuseport", 0),
    # As the native listener: callers may ping as often as they like, also between calls; by default
    # gRPC sends one away that pings twice within five minutes.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 0),
    ("grpc.max_concurrent_streams", 1024),
    # Calls that wait for this server's loop: above these gRPC ends some, then all, as CANCELLED,
    # which says nothing and is counted nowhere. The queue's own bounds refuse.
    ("grpc.server.max_pending_requests", 2**31 - 1),
    ("grpc.server.max_pending_requests_hard_limit", 2**31 - 1),
    ("grpc.max_metadata_size", 16_384),
    ("grpc.absolute_max_metadata_size", 16_384),
)

# What a call to ModelInfer waits on. An error is a result: nobody may be left to retrieve it.
_Future: TypeAlias = "asyncio.Future[bytes | HeadraceError]"


class GrpcioTransport:
    """A grpc.aio server; a Reply to the requests it submits. Methods run on the control loop."""

    def __init__(
        self,
        service: Service,
        *,
        message_bytes_max: int,
        typed: TypedDirectory,
        guard: Guard | None = None,
        is_logging: bool = False,
    ) -> None:
        """Serve *service*; *guard* decides which calls may pass, None for all.

        *typed* are the models' own services.
        """
        self._typed = typed
        self._service = service
        self._log = RequestLog(self) if is_logging else None
        self._intake = Intake(service, self._log or self, message_bytes_max=message_bytes_max)
        self._encoder = Encoder(message_bytes_max)
        self._loop = asyncio.get_running_loop()
        # Whether calls of this turn of the loop are being gathered.
        self._is_gathering = False
        # Answers on their way to the loop.
        self._lock = threading.Lock()
        self._answers: list[tuple[_Future, bytes | HeadraceError]] = []
        self._health = Health()
        self._server = grpc.aio.server(
            interceptors=[TokenInterceptor(guard, service.on_failure)] if guard else None,
            options=[("grpc.max_receive_message_length", message_bytes_max), *_OPTIONS],
        )
        # ModelInfer takes and gives bytes: its tensors never enter protobuf.
        handlers = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),
            **handlers_of(InferenceServicer(service)),
        }
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(INFERENCE, handlers),
                _TypedHandlers(self),
                *reflection_handlers(typed),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def bind(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listen on *address* too ("host:port" or "unix:path"); the port.

        With *credentials* it speaks TLS there.

        Raises:
            RuntimeError: It cannot be bound.
        """
        if credentials is not None:
            return self._server.add_secure_port(address, credentials)
        return self._server.add_insecure_port(address)

    async def start(self) -> None:
        """Begin to take calls."""
        await self._server.start()
        await self.show_readiness()

    async def end_watches(self) -> None:
        """End the streams of those who watch health, once they have been told the last news."""
        self._health.close()

    async def close(self, grace_s: float) -> None:
        """Close every connection; calls that are open have *grace_s* to end.

        A caller that goes on sending is told for a moment to go elsewhere, since what is on its way
        when the connections go ends as cancelled.
        """
        await self.end_watches()
        # No event tells that nothing more will come.
        began = now = time.monotonic()
        while now < min(max(began, self._intake.refused_at) + _QUIET_S, began + _QUIET_S_MAX):
            await asyncio.sleep(_QUIET_S / 10)
            now = time.monotonic()
        await self._server.stop(grace_s)
        # When it is collected it ends once more on this loop: that must be while the loop runs.
        del self._server
        await asyncio.sleep(0)

    async def show_readiness(self) -> None:
        """Bring grpc.health.v1 in step with the repository."""
        service = self._service
        for name in ("", INFERENCE):
            self._health.set(name, is_serving=service.is_ready)
        typed = {model: name for name, model in self._typed.services.items()}
        for model in service.repository.served:
            is_serving = model.is_ready and not service.is_leaving
            self._health.set(model.name, is_serving=is_serving)
            if model.name in typed:
                self._health.set(typed[model.name], is_serving=is_serving)

    def answer(self, request: Request, outputs: Outputs, start: int, stop: int) -> None:
        """See `types.Reply`."""
        encode = request.encode or self._encoder.encode
        payload = encode(request, outputs, start, stop)
        if request.timing is not None:
            request.timing.trip = outputs.trip
        self._resolve(request, payload)

    def fail(self, request: Request, error: HeadraceError) -> None:
        """See `types.Reply`."""
        self._resolve(request, error)

    def _resolve(self, request: Request, result: bytes | HeadraceError) -> None:
        future: _Future = request.call  # type: ignore[assignment]
        # Answered: should the caller leave now, there is nothing left to take back.
        request.call = None
        with self._lock:
            is_first = not self._answers
            self._answers.append((future, result))
        if is_first:
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            answers, self._answers = self._answers, []
        for future, result in answers:
            if not future.done():
                future.set_result(result)

    def typed_handler(self, path: str) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """What handles the typed method at *path*; None where there is none."""
        method = method_of(path, self._typed.services)
        if method is None:
            return None
        model, is_row = method

        async def predict(payload: bytes, context: Context) -> bytes:
            metadata = context.invocation_metadata() or ()
            decode = self._typed.reader(model, metadata, is_row=is_row)
            return await self._infer(payload, context, decode, model)

        return grpc.unary_unary_rpc_method_handler(predict)

    async def _infer(
        self, payload: bytes, context: Context, decode: Decode | None = None, model: str = ""
    ) -> bytes:
        intake, log = self._intake, self._log
        if not self._is_gathering:
            self._is_gathering = True
            intake.begin()
            # Calls that came together are handled in one turn of the loop; this runs after them.
            self._loop.call_soon(self._submit)
        future: _Future = self._loop.create_future()
        if log is not None:
            log.begin(future, context.peer())
        is_timed = ASKED in (context.invocation_metadata() or ())
        try:
            target, request = intake.take(
                payload, future, context.time_remaining(), is_timed=is_timed, decode=decode
            )
        except HeadraceError as error:
            result: bytes | HeadraceError = error
            if log is not None:
                log.refuse(future, payload, error, model)
        else:
            try:
                result = await future
            except asyncio.CancelledError:
                if request.call is not None:
                    target.cancel(request)
                    if log is not None:
                        log.leave(request)
                raise
        if isinstance(result, bytes):
            if is_timed:
                context.set_trailing_metadata(trailing(request))
            return result
        return await abort(context, result)

    def _submit(self) -> None:
        self._is_gathering = False
        self._intake.submit()


class _TypedHandlers(grpc.GenericRpcHandler):
    """The models' own services, as they are at the time of a call."""

    def __init__(self, transport: GrpcioTransport) -> None:
        self._transport = transport

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """See `grpc.GenericRpcHandler`."""
        return self._transport.typed_handler(handler_call_details.method)

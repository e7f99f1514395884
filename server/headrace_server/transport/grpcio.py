"""Grpcio: every method over grpc.aio, behind the native listener or instead of it.

Runs on the control loop. A call to ModelInfer waits on a future; answers come from the completions
thread and wake the loop once per batch.
"""

import asyncio
import threading
import time
from typing import Any, TypeAlias

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from headrace.oip import open_inference_pb2
from headrace.signature import TensorSpec

from .. import VERSION
from ..errors import Draining, HeadraceError, InternalError
from ..repository.model import ModelVersion
from ..service import Service
from ..types import Outputs, Request
from .codec import Decoder, Encoder
from .health import Health
from .reflection import INFERENCE, reflection_servicer
from .status import status_of

_INFINITY = float("inf")
# At the end: for how long no call must have come before the connections go, and how long that is
# waited for (seconds).
_QUIET_S = 0.1
_QUIET_S_MAX = 1.0
_EXTENSIONS = ("binary_tensor_data", "model_repository(index)")

_log = structlog.get_logger("headrace")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class GrpcioTransport:
    """A grpc.aio server; a Reply to the requests it submits. Methods run on the control loop."""

    def __init__(self, service: Service, *, message_bytes_max: int) -> None:
        self._service = service
        self._decoder = Decoder(service)
        self._encoder = Encoder()
        self._loop = asyncio.get_running_loop()
        # Answers on their way to the loop.
        self._lock = threading.Lock()
        self._answers: list[tuple[asyncio.Future[bytes], bytes | HeadraceError]] = []
        self._health = Health()
        # When a call was last refused because the daemon is about to end.
        self._refused_at = -_INFINITY
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", message_bytes_max),
                ("grpc.max_send_message_length", message_bytes_max),
                # A second daemon on the same port must fail, not share its calls.
                ("grpc.so_reuseport", 0),
            ]
        )
        # ModelInfer takes and gives bytes: its tensors never enter protobuf.
        handlers = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),
            **_handlers(InferenceServicer(service)),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(INFERENCE, handlers),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection_servicer(), self._server
        )

    def bind(self, address: str) -> int:
        """Listen on *address* too ("host:port" or "unix:path"); the port.

        Raises:
            RuntimeError: It cannot be bound.
        """
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
        self._refused_at = began = time.monotonic()
        # No event tells that nothing more will come.
        while time.monotonic() < min(  # noqa: ASYNC110
            self._refused_at + _QUIET_S, began + _QUIET_S_MAX
        ):
            await asyncio.sleep(_QUIET_S / 10)
        await self._server.stop(grace_s)

    async def show_readiness(self) -> None:
        """Bring grpc.health.v1 in step with the repository."""
        service = self._service
        for name in ("", INFERENCE):
            self._health.set(name, is_serving=service.is_ready)
        for model in service.repository.models:
            is_serving = model.is_ready and not service.is_leaving
            self._health.set(model.name, is_serving=is_serving)

    def answer(self, request: Request, outputs: Outputs, start: int, stop: int) -> None:
        """See `types.Reply`."""
        self._resolve(request, self._encoder.encode(request, outputs, start, stop))

    def fail(self, request: Request, error: HeadraceError) -> None:
        """See `types.Reply`."""
        self._resolve(request, error)

    def _resolve(self, request: Request, result: bytes | HeadraceError) -> None:
        future = request.call
        assert isinstance(future, asyncio.Future), "calls of this transport are futures"
        with self._lock:
            is_first = not self._answers
            self._answers.append((future, result))
        if is_first:
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            answers, self._answers = self._answers, []
        for future, result in answers:
            if future.done():
                continue
            if isinstance(result, HeadraceError):
                future.set_exception(result)
            else:
                future.set_result(result)

    async def _infer(self, payload: bytes, context: Context) -> bytes:
        if self._service.is_refusing:
            self._refused_at = time.monotonic()
            error = Draining("the server is about to end: retry elsewhere")
            self._service.on_failure(error.reason)
            await context.abort(status_of(error), error.message)
        now = time.monotonic()
        left_s = context.time_remaining()
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._decoder.begin_burst()
        try:
            plan, request = self._decoder.decode(
                payload, self, future, now, _INFINITY if left_s is None else now + left_s
            )
            self._service.submit(plan.target, (request,))
        except HeadraceError as error:
            self._service.on_failure(error.reason)
            await context.abort(status_of(error), error.message)
        except Exception:  # noqa: BLE001 - gRPC would tell the caller our exception's text.
            _log.exception("decode_failed")
            self._service.on_failure(InternalError.reason)
            await context.abort(grpc.StatusCode.INTERNAL, "an error of the server's own")
        try:
            return await future
        except asyncio.CancelledError:
            plan.target.cancel(request)
            raise
        except HeadraceError as error:
            await context.abort(status_of(error), error.message)
        raise AssertionError("abort always raises")


class InferenceServicer:
    """The methods of the Open Inference Protocol that run no model."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._repository = service.repository

    async def ServerLive(  # noqa: N802 - the protocol's own name, as below.
        self, request: open_inference_pb2.ServerLiveRequest, context: Context
    ) -> open_inference_pb2.ServerLiveResponse:
        """Whether the process answers at all."""
        return open_inference_pb2.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: open_inference_pb2.ServerReadyRequest, context: Context
    ) -> open_inference_pb2.ServerReadyResponse:
        """Whether requests can be served."""
        return open_inference_pb2.ServerReadyResponse(ready=self._service.is_ready)

    async def ModelReady(  # noqa: N802
        self, request: open_inference_pb2.ModelReadyRequest, context: Context
    ) -> open_inference_pb2.ModelReadyResponse:
        """Whether one model can be served; false for an unknown one."""
        try:
            model = self._repository.find(request.name, request.version)
            ready = model.is_ready and not self._service.is_leaving
        except HeadraceError:
            ready = False
        return open_inference_pb2.ModelReadyResponse(ready=ready)

    async def ServerMetadata(  # noqa: N802
        self, request: open_inference_pb2.ServerMetadataRequest, context: Context
    ) -> open_inference_pb2.ServerMetadataResponse:
        """Name, version and extensions."""
        return open_inference_pb2.ServerMetadataResponse(
            name="headrace", version=VERSION, extensions=_EXTENSIONS
        )

    async def ModelMetadata(  # noqa: N802
        self, request: open_inference_pb2.ModelMetadataRequest, context: Context
    ) -> open_inference_pb2.ModelMetadataResponse:
        """Inputs and outputs of a model; none where it has no signature."""
        try:
            model = self._repository.find(request.name, request.version)
            model.scheduler  # noqa: B018 - raises why there is nothing to tell.
        except HeadraceError as error:
            await context.abort(status_of(error), error.message)
        return _metadata(model)

    async def RepositoryIndex(  # noqa: N802
        self, request: open_inference_pb2.RepositoryIndexRequest, context: Context
    ) -> open_inference_pb2.RepositoryIndexResponse:
        """Every model held, with its state."""
        response = open_inference_pb2.RepositoryIndexResponse()
        for model in self._repository.models:
            if model.is_ready or not request.ready:
                response.models.add(
                    name=model.name,
                    version=model.version,
                    state=model.shown_state.value,
                    reason=model.trouble,
                )
        return response


def _handlers(servicer: InferenceServicer) -> dict[str, "grpc.RpcMethodHandler[Any, Any]"]:
    """Handlers for every method of *servicer*, whose messages are named after it."""
    return {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, name),
            request_deserializer=getattr(open_inference_pb2, f"{name}Request").FromString,
            response_serializer=getattr(open_inference_pb2, f"{name}Response").SerializeToString,
        )
        for name in vars(InferenceServicer)
        if not name.startswith("_")
    }


def _metadata(model: ModelVersion) -> open_inference_pb2.ModelMetadataResponse:
    response = open_inference_pb2.ModelMetadataResponse(
        name=model.name, versions=[model.version], platform=f"mlflow_{model.flavor}"
    )
    if model.signature is not None:
        for spec in model.signature.inputs:
            _describe(response.inputs.add(), spec)
        for spec in model.signature.outputs:
            _describe(response.outputs.add(), spec)
    return response


def _describe(
    tensor: open_inference_pb2.ModelMetadataResponse.TensorMetadata, spec: TensorSpec
) -> None:
    tensor.name = spec.name
    tensor.datatype = spec.datatype
    tensor.shape.extend(spec.shape)

"""Servicer: the methods of the Open Inference Protocol that run no model.

They are found by their names, which are the protocol's own: a method more is served by being here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from headrace.oip import open_inference_pb2

from .. import VERSION
from ..errors import HeadraceError, InvalidRequest
from ..faults import fault
from ..repository.model import ModelVersion
from ..service import Service
from .metadata import metadata_of
from .status import abort

_EXTENSIONS = ("binary_tensor_data", "model_repository")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Method: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
Parameters: TypeAlias = Mapping[str, open_inference_pb2.ModelRepositoryParameter]


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
            await abort(context, error)
        return metadata_of(model)

    async def RepositoryIndex(  # noqa: N802
        self, request: open_inference_pb2.RepositoryIndexRequest, context: Context
    ) -> open_inference_pb2.RepositoryIndexResponse:
        """Every version held, with its state."""
        try:
            _check_repository(request.repository_name)
            self._repository.check_known()
        except HeadraceError as error:
            await abort(context, error)
        response = open_inference_pb2.RepositoryIndexResponse()
        for model in self._repository.models:
            if model.is_ready or not request.ready:
                _index(response.models.add(), model)
        return response

    async def RepositoryModelLoad(  # noqa: N802
        self, request: open_inference_pb2.RepositoryModelLoadRequest, context: Context
    ) -> open_inference_pb2.RepositoryModelLoadResponse:
        """Load a model; answers when it is ready. A caller that leaves does not call it off."""
        try:
            _check_repository(request.repository_name)
            uri = _uri(request.parameters)
            await _ended(self._repository.begin_load(request.model_name, uri))
        except HeadraceError as error:
            await abort(context, error)
        return open_inference_pb2.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: open_inference_pb2.RepositoryModelUnloadRequest, context: Context
    ) -> open_inference_pb2.RepositoryModelUnloadResponse:
        """Unload a model; answers when it is gone."""
        try:
            _check_repository(request.repository_name)
            _check_known(request.parameters, ("unload_dependents",))
            await _ended(self._repository.begin_unload(request.model_name))
        except HeadraceError as error:
            await abort(context, error)
        return open_inference_pb2.RepositoryModelUnloadResponse()


def handlers_of(servicer: InferenceServicer) -> dict[str, "grpc.RpcMethodHandler[Any, Any]"]:
    """Handlers for every method of *servicer*, whose messages are named after it."""
    names = [name for name in vars(InferenceServicer) if not name.startswith("_")]
    return {
        name: grpc.unary_unary_rpc_method_handler(
            _guarded(name, getattr(servicer, name)),
            response_serializer=getattr(open_inference_pb2, f"{name}Response").SerializeToString,
        )
        for name in names
    }


def _guarded(name: str, method: Method) -> Method:
    """*method*, given bytes, but what it raises is told under an error id.

    gRPC would tell the exception, and call a message that cannot be read the server's fault.
    """
    read = getattr(open_inference_pb2, f"{name}Request").FromString

    async def guarded(payload: bytes, context: Context) -> Any:
        try:
            request = read(payload)
        except DecodeError:
            refusal = InvalidRequest(f"the message is not a {name}Request")
            await abort(context, refusal)
        try:
            return await method(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the caller gets a status of ours.
            error = fault("method_failed", method=name)
        return await abort(context, error)

    return guarded


def _check_repository(name: str) -> None:
    if name:
        raise InvalidRequest(f"repository_name {name[:128]!r}: expected none, there is only one")


def _check_known(parameters: Parameters, known: Sequence[str]) -> None:
    for name in parameters:
        if name not in known:
            raise InvalidRequest(
                f"unknown parameter {name[:128]!r}: known is {', '.join(map(repr, known))}"
            )


def _uri(parameters: Parameters) -> str:
    """The URI to load; empty where the parameters name none."""
    _check_known(parameters, ("uri",))
    if "uri" not in parameters:
        return ""
    value = parameters["uri"]
    if not value.string_param:
        raise InvalidRequest("parameter 'uri': expected a model URI as string_param")
    return value.string_param


async def _ended(work: Future[None]) -> None:
    """Wait for *work*, which goes on where nobody waits any more."""
    await asyncio.shield(asyncio.wrap_future(work))


def _index(
    entry: open_inference_pb2.RepositoryIndexResponse.ModelIndex, model: ModelVersion
) -> None:
    entry.name = model.name
    entry.version = model.version
    entry.state = model.shown_state
    entry.reason = model.trouble
    if model.device:
        entry.parameters["device"].string_param = model.device
    if workers := model.worker_names:
        entry.parameters["workers"].string_param = ",".join(workers)
    if model.is_ready:
        entry.parameters["batching"].string_param = model.batching.verdict
        entry.parameters["batching_reason"].string_param = model.batching.why
    if model.queue is not None:
        entry.parameters["rows"].int64_param = model.queue.instrument.rows

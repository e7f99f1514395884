"""A double of the server: the protocol over a real gRPC socket, with scripted models and failures.

It stands for headrace's daemon where only the client is under test. Requests are read by protobuf
alone, so that the client's own encoding is checked against an independent reader, and recorded.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from headrace.datatypes import DATATYPES, datatype_of
from headrace.oip import open_inference_pb2 as oip
from headrace.signature import TensorSpec
from headrace.tensors import decode, encode
from headrace.timings import ASKED, KEY

Tensors = dict[str, npt.NDArray[Any]]
Failure = tuple[grpc.StatusCode, str]

MESSAGE_BYTES_MAX = 64 * 1024 * 1024


@dataclass
class ServedModel:
    """A model of the double: its metadata and what it answers."""

    inputs: tuple[TensorSpec, ...]
    answer: Callable[[Tensors], Tensors]
    version: str = "1"
    outputs: tuple[TensorSpec, ...] = ()
    rows: int | None = None
    device: str = ""
    workers: tuple[str, ...] = ()
    batching: str = ""
    batching_reason: str = ""


@dataclass
class Double:
    """The double's script, to be changed while it runs, and its record.

    Attributes:
        models: What is served, by name; without an entry NOT_FOUND.
        failures: Statuses for the next calls to ModelInfer, before they are looked at.
        repository_failures: Statuses for the next calls to the repository.
        loads: (name, URI) of every RepositoryModelLoad request.
        unloads: The name in every RepositoryModelUnload request.
        infer_requests: Every ModelInfer request, read by protobuf.
        metadata_asked: (name, version) of every ModelMetadata request.
        left_s: Seconds that every call had left when it came.
        authorizations: What every call bore as its authorization; None where nothing.
        holding: While set, answers of ModelInfer are held back.
        release: What they wait for.
        timings: What a call to ModelInfer that asks for timings is told; empty for nothing.
        pushback_ms: What a failing ModelInfer says about being tried again; empty for nothing.
        timings_asked: Whether each call to ModelInfer asked.
    """

    models: dict[str, ServedModel] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    repository_failures: list[Failure] = field(default_factory=list)
    loads: list[tuple[str, str]] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    infer_requests: list[oip.ModelInferRequest] = field(default_factory=list)
    metadata_asked: list[tuple[str, str]] = field(default_factory=list)
    left_s: list[float] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    is_ready: bool = True
    is_holding: bool = False
    release: threading.Event = field(default_factory=threading.Event)
    timings: str = ""
    pushback_ms: str = ""
    timings_asked: list[bool] = field(default_factory=list)
    host: str = "127.0.0.1"
    port: int = 0

    @property
    def target(self) -> str:
        return f"{self.host}:{self.port}"

    def handlers(self) -> dict[str, Any]:
        def handler(method: Callable[[Any, grpc.ServicerContext], Any]) -> Any:
            name = method.__name__

            def recorded(request: Any, context: grpc.ServicerContext) -> Any:
                self.left_s.append(context.time_remaining())
                return method(request, context)

            return grpc.unary_unary_rpc_method_handler(
                recorded,
                request_deserializer=getattr(oip, f"{name}Request").FromString,
                response_serializer=getattr(oip, f"{name}Response").SerializeToString,
            )

        methods = (
            self.ServerReady,
            self.ModelReady,
            self.ModelMetadata,
            self.RepositoryIndex,
            self.RepositoryModelLoad,
            self.RepositoryModelUnload,
            self.ModelInfer,
        )
        return {method.__name__: handler(method) for method in methods}

    def ServerReady(  # noqa: N802 - the protocol's own name, as below.
        self, request: Any, context: grpc.ServicerContext
    ) -> Any:
        return oip.ServerReadyResponse(ready=self.is_ready)

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return oip.ModelReadyResponse(ready=self.is_ready and request.name in self.models)

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.metadata_asked.append((request.name, request.version))
        model = self._model(request.name, request.version, context)
        response = oip.ModelMetadataResponse(
            name=request.name,
            versions=[model.version],
            platform="mlflow_double",
            batching=model.batching,
            batching_reason=model.batching_reason,
        )
        for specs, tensors in ((model.inputs, response.inputs), (model.outputs, response.outputs)):
            for spec in specs:
                tensors.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return response

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if self.repository_failures:
            context.abort(*self.repository_failures.pop(0))
        response = oip.RepositoryIndexResponse()
        for name, model in self.models.items():
            entry = response.models.add(name=name, version=model.version, state="READY")
            if model.device:
                entry.parameters["device"].string_param = model.device
            if model.batching:
                entry.parameters["batching"].string_param = model.batching
                entry.parameters["batching_reason"].string_param = model.batching_reason
            if model.workers:
                entry.parameters["workers"].string_param = ",".join(model.workers)
            if model.rows is not None:
                entry.parameters["rows"].int64_param = model.rows
        response.models.add(name="broken", version="1", state="UNAVAILABLE", reason="no such file")
        return response

    def RepositoryModelLoad(  # noqa: N802
        self, request: Any, context: grpc.ServicerContext
    ) -> Any:
        self.loads.append((request.model_name, request.parameters["uri"].string_param))
        if self.is_holding:
            self.release.wait()
        if self.repository_failures:
            context.abort(*self.repository_failures.pop(0))
        return oip.RepositoryModelLoadResponse()

    def RepositoryModelUnload(  # noqa: N802
        self, request: Any, context: grpc.ServicerContext
    ) -> Any:
        self.unloads.append(request.model_name)
        if self.repository_failures:
            context.abort(*self.repository_failures.pop(0))
        return oip.RepositoryModelUnloadResponse()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.infer_requests.append(request)
        self.timings_asked.append(ASKED in context.invocation_metadata())
        if self.timings and self.timings_asked[-1]:
            context.set_trailing_metadata((("other", "x"), (KEY, self.timings)))
        if self.is_holding:
            self.release.wait()
        if self.failures:
            if self.pushback_ms:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", self.pushback_ms),))
            context.abort(*self.failures.pop(0))
        model = self._model(request.model_name, request.model_version, context)
        expected = {spec.name: spec.datatype for spec in model.inputs}
        given = {tensor.name: tensor.datatype for tensor in request.inputs}
        if expected and expected != given:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"expected {expected}, got {given}")
        outputs = model.answer(read_tensors(request))
        response = oip.ModelInferResponse(
            model_name=request.model_name, model_version=model.version, id=request.id
        )
        wanted = [output.name for output in request.outputs] or list(outputs)
        for name in wanted:
            datatype = datatype_of(outputs[name].dtype)
            response.outputs.add(name=name, datatype=datatype.name, shape=outputs[name].shape)
            response.raw_output_contents.append(bytes(encode(outputs[name], datatype)))
        return response

    def _model(self, name: str, version: str, context: grpc.ServicerContext) -> ServedModel:
        model = self.models.get(name)
        if model is None or version not in {"", model.version}:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {name!r} {version!r}".rstrip())
            raise AssertionError("abort raises")
        return model


def read_tensors(request: oip.ModelInferRequest) -> Tensors:
    return {
        tensor.name: decode(raw, DATATYPES[tensor.datatype], tuple(tensor.shape))
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }


class _Recorder(grpc.ServerInterceptor):
    """Writes down what calls bear."""

    def __init__(self, double: Double) -> None:
        self._double = double

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        borne = dict(handler_call_details.invocation_metadata)
        self._double.authorizations.append(borne.get("authorization"))
        return continuation(handler_call_details)


@contextmanager
def serving(
    models: dict[str, ServedModel],
    credentials: grpc.ServerCredentials | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
) -> Iterator[Double]:
    """A double that listens on *port* of this machine, or a free one, until the block ends.

    *host* may be a Unix socket, as in "unix:path".
    """
    double = Double(models=models, host=host)
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="double") as threads:
        server = grpc.server(
            threads,
            interceptors=[_Recorder(double)],
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ],
        )
        service = grpc.method_handlers_generic_handler(
            "inference.GRPCInferenceService", double.handlers()
        )
        server.add_generic_rpc_handlers((service,))
        address = host if host.startswith("unix:") else f"{host}:{port}"
        if credentials is None:
            double.port = server.add_insecure_port(address)
        else:
            double.port = server.add_secure_port(address, credentials)
        server.start()
        try:
            yield double
        finally:
            double.release.set()
            server.stop(grace=None).wait()


IRIS_COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")


def iris() -> ServedModel:
    """Four FP64 columns; answers which of them is the longest, and the row's sum."""

    def answer(tensors: Tensors) -> Tensors:
        matrix = np.stack([tensors[name].astype(np.float64).ravel() for name in IRIS_COLUMNS], 1)
        return {"longest": matrix.argmax(axis=1), "total": matrix.sum(axis=1)}

    return ServedModel(
        inputs=tuple(TensorSpec(name, "FP64", (-1,)) for name in IRIS_COLUMNS),
        answer=answer,
        outputs=(TensorSpec("longest", "INT64", (-1,)), TensorSpec("total", "FP64", (-1,))),
    )


def doubler() -> ServedModel:
    """One FP32 matrix; answers twice of it."""
    return ServedModel(
        inputs=(TensorSpec("x", "FP32", (-1, 3)),),
        answer=lambda tensors: {"y": tensors["x"] * np.float32(2)},
        outputs=(TensorSpec("y", "FP32", (-1, 3)),),
    )


def greeter() -> ServedModel:
    """A text, a number and a flag per row; answers the text."""

    def answer(tensors: Tensors) -> Tensors:
        return {"text": np.array([b"hi " + name for name in tensors["name"].tolist()], object)}

    return ServedModel(
        inputs=(
            TensorSpec("name", "BYTES", (-1,)),
            TensorSpec("age", "INT32", (-1,)),
            TensorSpec("is_new", "BOOL", (-1,)),
        ),
        answer=answer,
        outputs=(TensorSpec("text", "BYTES", (-1,)),),
    )

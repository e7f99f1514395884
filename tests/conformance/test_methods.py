"""Every method beside ModelInfer, over both transports."""

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from calling import Caller
from headrace.oip import open_inference_pb2 as oip
from headrace.oip.inference_service_pb2_grpc import GRPCInferenceServiceStub
from headrace_server import VERSION

pytestmark = pytest.mark.slow

SERVICE = "inference.GRPCInferenceService"
REFLECTION = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


@pytest.fixture
def stub(caller: Caller) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(caller.channel)


def test_the_server_is_live_ready_and_says_who_it_is(stub: GRPCInferenceServiceStub) -> None:
    about = stub.ServerMetadata(oip.ServerMetadataRequest())

    assert stub.ServerLive(oip.ServerLiveRequest()).live
    assert stub.ServerReady(oip.ServerReadyRequest()).ready
    assert (about.name, about.version) == ("headrace", VERSION)
    assert "binary_tensor_data" in about.extensions


@pytest.mark.parametrize(
    ("name", "version", "is_ready"),
    [
        ("graph", "", True),
        ("graph", "1", True),
        ("graph", "2", False),
        ("graph", "abc", False),
        ("broken", "", False),
        ("nothing", "", False),
    ],
)
def test_a_model_is_ready_or_not(
    stub: GRPCInferenceServiceStub, name: str, version: str, is_ready: bool
) -> None:
    request = oip.ModelReadyRequest(name=name, version=version)

    assert stub.ModelReady(request).ready is is_ready


def test_metadata_tells_names_datatypes_and_shapes(stub: GRPCInferenceServiceStub) -> None:
    about = stub.ModelMetadata(oip.ModelMetadataRequest(name="graph"))

    assert (about.name, list(about.versions), about.platform) == ("graph", ["1"], "mlflow_onnx")
    assert [(x.name, x.datatype, list(x.shape)) for x in about.inputs] == [("x", "FP32", [-1, 4])]
    assert [(y.name, y.datatype, list(y.shape)) for y in about.outputs] == [("y", "FP32", [-1, 3])]


def test_the_index_tells_every_model_and_why_one_failed(stub: GRPCInferenceServiceStub) -> None:
    index = stub.RepositoryIndex(oip.RepositoryIndexRequest()).models
    ready = stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=True)).models

    states = {model.name: model.state for model in index}
    (broken,) = (model for model in index if model.name == "broken")
    assert states.pop("broken") == "UNAVAILABLE"
    assert set(states.values()) == {"READY"}
    assert "pickled_model" in broken.reason or "model.pkl" in broken.reason
    assert {model.name for model in ready} == set(states)


def test_health_answers_check_and_watch(caller: Caller) -> None:
    health = health_pb2_grpc.HealthStub(caller.channel)
    response = health_pb2.HealthCheckResponse
    for service, expected in (
        ("", response.SERVING),
        (SERVICE, response.SERVING),
        ("graph", response.SERVING),
        ("broken", response.NOT_SERVING),
    ):
        request = health_pb2.HealthCheckRequest(service=service)
        assert health.Check(request, timeout=10).status == expected
        watch = health.Watch(request, timeout=10)
        assert next(iter(watch)).status == expected
        watch.cancel()
    unknown = health_pb2.HealthCheckRequest(service="nobody")
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(unknown, timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(unknown, timeout=10)
    assert next(iter(watch)).status == response.SERVICE_UNKNOWN
    watch.cancel()


def reflected(
    caller: Caller, package: str, **request: str
) -> reflection_pb2.ServerReflectionResponse:
    """What reflection of that version says; the messages of both are alike."""
    ask = caller.channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = ask(iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=10)
    return answer


@pytest.mark.parametrize("package", REFLECTION)
def test_reflection_tells_the_standard_service(caller: Caller, package: str) -> None:
    listed = reflected(caller, package, list_services="")
    described = reflected(caller, package, file_containing_symbol=SERVICE)

    names = {service.name for service in listed.list_services_response.service}
    assert names >= {
        SERVICE,
        "grpc.health.v1.Health",
        *(f"{p}.ServerReflection" for p in REFLECTION),
    }
    (file,) = described.file_descriptor_response.file_descriptor_proto
    assert b"ModelInferRequest" in file


@pytest.mark.parametrize("package", REFLECTION)
def test_reflection_describes_itself(caller: Caller, package: str) -> None:
    symbol = f"{package}.ServerReflection"
    described = reflected(caller, package, file_containing_symbol=symbol)

    (packed,) = described.file_descriptor_response.file_descriptor_proto
    file = FileDescriptorProto.FromString(packed)
    assert file.package == package
    assert file.service[0].method[0].input_type == f".{package}.ServerReflectionRequest"


@pytest.mark.parametrize("package", REFLECTION)
def test_reflection_finds_the_file_of_a_method(caller: Caller, package: str) -> None:
    described = reflected(caller, package, file_containing_symbol=f"{SERVICE}.ModelInfer")

    (file,) = described.file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(file).package == "inference"


@pytest.mark.parametrize("package", REFLECTION)
@pytest.mark.parametrize("symbol", ["no.Such", f"{SERVICE}.ModelTrain", "", "."])
def test_reflection_finds_nothing_by_another_name(
    caller: Caller, package: str, symbol: str
) -> None:
    unknown = reflected(caller, package, file_containing_symbol=symbol)

    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize(
    "method", [f"/{SERVICE}/ModelTrain", f"/{SERVICE}/", "/some.Service/Method", f"/{SERVICE}2/A"]
)
def test_what_there_is_not_is_unimplemented(caller: Caller, method: str) -> None:
    assert caller.call(method, b"").code == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    "method",
    [
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "RepositoryIndex",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "ModelInfer",
    ],
)
def test_bytes_that_are_no_message_are_refused_by_every_method(caller: Caller, method: str) -> None:
    told = caller.call(f"/{SERVICE}/{method}", b"\x0a\x40abc")

    assert told.code == "INVALID_ARGUMENT"
    assert told.details.startswith(f"the message is not a {method}Request")


def test_metadata_of_what_is_not_served_has_a_status_of_its_own(caller: Caller) -> None:
    def told(name: str, version: str = "") -> str:
        request = oip.ModelMetadataRequest(name=name, version=version)
        return caller.call(f"/{SERVICE}/ModelMetadata", request.SerializeToString()).code

    assert told("nothing") == "NOT_FOUND"
    assert told("graph", "77") == "NOT_FOUND"
    assert told("graph", "abc") == "INVALID_ARGUMENT"
    assert told("broken") == "FAILED_PRECONDITION"

"""Clients that we did not write, and the standard services beside the models."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import models
import strangers
from headrace_client import Client
from serving import Daemon

pytestmark = pytest.mark.slow

BOTH_CLIENTS = """
import asyncio
import sys

import numpy as np
{imports}

address, rows = sys.argv[1], np.arange(8, dtype=np.float32).reshape(2, 4)


def asked(module):
    wanted = module.InferInput("x", rows.shape, "FP32")
    wanted.set_data_from_numpy(rows)
    return dict(model_name="graph", inputs=[wanted], request_id="seven")


def checked(answer):
    assert answer.get_response().id == "seven", answer.get_response()
    return answer.as_numpy("y")


async def with_aio():
    async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        return checked(await client.infer(**asked(tritonclient.grpc.aio)))


with headrace_client.Client(address) as client:
    ours = client.infer("graph", dict(x=rows)).array
with tritonclient.grpc.InferenceServerClient(address) as client:
    assert client.is_server_live() and client.is_model_ready("graph")
    assert client.get_model_metadata("graph").inputs[0].name == "x"
    assert client.get_server_metadata().name == "headrace"
    theirs = checked(client.infer(**asked(tritonclient.grpc)))
    try:
        client.infer("nothing", asked(tritonclient.grpc)["inputs"])
    except tritonclient.utils.InferenceServerException as error:
        assert error.status() == "StatusCode.NOT_FOUND", error
    else:
        raise AssertionError("an unknown model answered")
np.testing.assert_array_equal(ours, theirs)
np.testing.assert_array_equal(ours, asyncio.run(with_aio()))
print("equal")
"""

IMPORTS = ("import headrace_client", "import tritonclient.grpc\nimport tritonclient.grpc.aio")


@strangers.needs_tritonclient
@pytest.mark.parametrize("order", [IMPORTS, IMPORTS[::-1]], ids=["ours first", "theirs first"])
def test_tritonclient_and_ours_live_in_one_process_and_agree(
    daemon: Daemon, order: tuple[str, str]
) -> None:
    """Two definitions of package `inference` in one process would fail at the second import."""
    script = BOTH_CLIENTS.format(imports="\n".join(order))

    assert strangers.run(script, daemon.address) == "equal\n"


@strangers.needs_tritonclient
def test_tritonclient_sends_and_reads_strings(daemon: Daemon) -> None:
    """BYTES both ways, through an encoder that is not ours."""
    import tritonclient.grpc as triton

    original = models.model("mixed_columns")
    tensors = original.rows(5)
    inputs = []
    for name, array in tensors.items():
        datatype = {"O": "BYTES", "i": "INT64", "f": "FP64"}[array.dtype.kind]
        inputs.append(triton.InferInput(name, array.shape, datatype))
        inputs[-1].set_data_from_numpy(array)
    labels = models.model("string_labels")
    flower = triton.InferInput("input-0", (3, 4), "FP64")
    flower.set_data_from_numpy(labels.rows(3)["input-0"])

    with triton.InferenceServerClient(daemon.address) as client:
        mixed = client.infer("mixed", inputs).as_numpy("output-0")
        named = client.infer("labels", [flower]).as_numpy("output-0")

    expected = original.expected(tensors)["output-0"]
    assert mixed.tolist() == pytest.approx(expected.ravel().tolist())
    wanted = labels.expected(labels.rows(3))["output-0"].tolist()
    assert [item.decode() for item in named.tolist()] == wanted


def test_health_answers_check_and_watch(daemon: Daemon) -> None:
    with grpc.insecure_channel(daemon.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        for service in ("", "inference.GRPCInferenceService", "iris"):
            request = health_pb2.HealthCheckRequest(service=service)
            assert stub.Check(request, timeout=10).status == serving
            watch = stub.Watch(request, timeout=10)
            assert next(iter(watch)).status == serving
            watch.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_tells_the_standard_service(daemon: Daemon) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="inference.GRPCInferenceService"
        ),
    ]

    with grpc.insecure_channel(daemon.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed, described = stub.ServerReflectionInfo(iter(requests), timeout=10)

    names = {service.name for service in listed.list_services_response.service}
    assert names >= {"inference.GRPCInferenceService", "grpc.health.v1.Health"}
    (file,) = described.file_descriptor_response.file_descriptor_proto
    assert b"ModelInferRequest" in file


def test_one_client_serves_many_threads(daemon: Daemon) -> None:
    from concurrent.futures import ThreadPoolExecutor

    tensors = models.model("iris_pipeline").rows(3)
    with Client(daemon.address) as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.infer("iris", tensors).array, range(64)))

    assert all(answer.tolist() == answers[0].tolist() for answer in answers)

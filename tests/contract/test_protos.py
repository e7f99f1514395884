"""The .proto files, what is generated from them, and the methods that they demand."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

import headrace_client
from headrace.oip import open_inference_pb2
from headrace_server.transport.guard import HEALTH as HEALTH_METHODS
from headrace_server.transport.guard import SCOPES_OF
from headrace_server.transport.reflection import HEALTH, INFERENCE, REFLECTION, REFLECTION_ALPHA
from headrace_server.transport.reflection import descriptor_pool as reflection_pool
from headrace_server.transport.servicer import InferenceServicer

ROOT = Path(__file__).parents[2]

# Method of the service -> what of the client stands for it.
CLIENT_METHODS = {
    "ServerLive": "ready",
    "ServerReady": "ready",
    "ModelReady": "ready",
    "ServerMetadata": None,
    "ModelMetadata": "metadata",
    "ModelInfer": "infer",
    "RepositoryIndex": "models",
    "RepositoryModelLoad": "load",
    "RepositoryModelUnload": "unload",
}


def service_methods() -> list[str]:
    packed = (ROOT / "protos/headrace/oip/inference.binpb").read_bytes()
    (file,) = FileDescriptorSet.FromString(packed).file
    (service,) = file.service
    return [method.name for method in service.method]


@pytest.mark.slow
def test_generated_files_are_in_step_with_the_protos() -> None:
    pytest.importorskip("grpc_tools", reason="the pinned grpcio-tools allows protobuf 6 alone")
    ran = subprocess.run(
        [sys.executable, str(ROOT / "protos/generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("method", service_methods())
def test_every_rpc_has_a_servicer_method_and_a_client_method(method: str) -> None:
    # ModelInfer takes bytes and is the transport's own.
    assert method == "ModelInfer" or callable(getattr(InferenceServicer, method))
    assert method in CLIENT_METHODS
    stands_for = CLIENT_METHODS[method]
    assert stands_for is None or callable(getattr(headrace_client.Client, stands_for))


def test_reflection_knows_the_standards_names_and_the_default_pool_does_not() -> None:
    service = reflection_pool().FindServiceByName(INFERENCE)
    assert service.methods_by_name["ModelInfer"].input_type.full_name == (
        "inference.ModelInferRequest"
    )
    # In a process of its own: other tests here import clients that do define the package.
    script = (
        "import headrace_client, headrace_server.daemon\n"
        "from google.protobuf import descriptor_pool\n"
        "pool = descriptor_pool.Default()\n"
        "for find in (pool.FindServiceByName, pool.FindMessageTypeByName):\n"
        "    for name in ('GRPCInferenceService', 'ModelInferRequest'):\n"
        "        try:\n"
        "            find('inference.' + name)\n"
        "        except KeyError:\n"
        "            continue\n"
        "        raise SystemExit(name)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_our_messages_have_the_standards_fields_and_numbers() -> None:
    """What goes over the wire is the same under either name."""
    pool = reflection_pool()
    for name, ours in open_inference_pb2.DESCRIPTOR.message_types_by_name.items():
        standard = pool.FindMessageTypeByName(f"inference.{name}")
        assert [(f.name, f.number, f.type) for f in ours.fields] == [
            (f.name, f.number, f.type) for f in standard.fields
        ]


def test_every_method_that_is_served_has_the_scopes_it_needs() -> None:
    """What is not in the table is not served where tokens are demanded."""
    pool = reflection_pool()
    served = {
        f"/{service}/{method.name}"
        for service in (INFERENCE, HEALTH, REFLECTION, REFLECTION_ALPHA)
        for method in pool.FindServiceByName(service).methods
    }

    assert served <= set(SCOPES_OF)
    assert set(SCOPES_OF) >= HEALTH_METHODS


def test_the_clients_public_names_are_pinned() -> None:
    assert sorted(headrace_client.__all__) == headrace_client.__all__
    assert {"Client", "AsyncClient", "Prediction", "HeadraceClientError"} <= set(
        headrace_client.__all__
    )

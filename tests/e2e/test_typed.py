"""Typed services of a real daemon: every kind of signature, over both transports."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from mlflow import MlflowClient

import models
import puppet
from calling import Caller, answers, ending, message
from headrace.signature import TensorSpec
from headrace.typed import SIGNATURE_KEY, SIGNATURE_PARAMETER, fingerprint, service_name
from headrace_client import Client
from headrace_server.librarian.mlmodel import describe, load
from serving import Daemon, untried
from typed_calls import TypedCaller, values_of

pytestmark = pytest.mark.slow

TRANSPORTS = ("native", "grpcio")
SERVED = (
    "iris_pipeline",
    "iris_forest",
    "mixed_columns",
    "string_labels",
    "two_towers",
    "onnx_named",
    "onnx_unnamed",
    "py_weigher",
    "py_hinted",
    "py_orders",
    "py_notes",
    "py_kinds",
    "py_planes",
    "py_unsigned",
)
TYPED = tuple(name for name in SERVED if name != "py_unsigned")
# Loaded while the daemon runs.
LATE = "onnx_columns"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What model `puppet` waits for when it is told to."""
    path = tmp_path_factory.mktemp("gate") / "gate"
    os.mkfifo(path)
    return path


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory, gate: Path) -> Iterator[dict[str, Caller]]:
    """A daemon of each transport with the models of SERVED."""
    folder = tmp_path_factory.mktemp("typed")
    served = [f"{name}={models.model(name).path}" for name in SERVED]
    served += [
        f"puppet={puppet.save_puppet(folder / 'puppet', gate)}",
        f"scaled={puppet.save_scaled(folder / 'scaled')}",
        f"masked={puppet.save_masked(folder / 'masked')}",
    ]
    settings = [
        'masked.bucket_by={"sizes": [4, 8], "mask": "real"}',
        "iris_pipeline.priority_levels=2",
        "server.request_log=true",
    ]
    options = [option for setting in settings for option in ("--set", setting)]
    options += untried(*SERVED, "puppet", "scaled", "masked")
    with ExitStack() as stack:
        made = {}
        for transport in TRANSPORTS:
            daemon = Daemon(
                *("--transport", transport, *options, *served), cwd=folder, cache=folder / "cache"
            )
            stack.callback(daemon.stop)
            # Each wait is bounded; all models together may take longer than one.
            for count in range(len(served)):
                daemon.wait("model_ready", count=count + 1)
            daemon.wait("ready")
            channel = stack.enter_context(grpc.insecure_channel(daemon.address))
            made[transport] = Caller(daemon, channel)
        yield made


@pytest.fixture(params=TRANSPORTS)
def caller(request: pytest.FixtureRequest, callers: dict[str, Caller]) -> Caller:
    return callers[request.param]


def typed(caller: Caller, model: str) -> TypedCaller:
    return TypedCaller(caller.channel, service_name(model))


def inferred(caller: Caller, model: str, tensors: models.Tensors) -> dict[str, Any]:
    """What the tensor protocol answers, as plain values."""
    found = answers(caller.ask(message(model, tensors)).response)
    return {
        name: [_text(each) for each in array.tolist()] if array.dtype == object else array.tolist()
        for name, array in found.items()
    }


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _json(values: Any) -> Any:
    """Texts of JSON as what they hold."""
    return [json.loads(each) if isinstance(each, str) else each for each in values]


def is_json(caller: TypedCaller, name: str) -> bool:
    fields = caller.descriptor.methods_by_name["Predict"].output_type.fields
    (field,) = (field for field in fields if field.json_name == name)
    return field.message_type is not None and field.message_type.name == "Value"


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", TYPED)
def test_rows_are_answered_as_by_the_tensor_protocol(caller: Caller, name: str, rows: int) -> None:
    service, tensors = typed(caller, name), models.model(name).rows(rows)
    answer = service.call(service.filled(tensors))
    for output, values in inferred(caller, name, tensors).items():
        expected = _json(values) if is_json(service, output) else values
        assert values_of(answer, output) == expected
    assert answer.model_version == "1"


@pytest.mark.parametrize("name", TYPED)
def test_a_single_row_is_answered_with_single_values(caller: Caller, name: str) -> None:
    service, tensors = typed(caller, name), models.model(name).rows(1)
    answer = service.call(service.filled(tensors, is_row=True))
    for output, values in inferred(caller, name, tensors).items():
        (expected,) = _json(values) if is_json(service, output) else values
        assert values_of(answer, output) == expected


@pytest.mark.parametrize("name", ["iris_forest", "two_towers", "onnx_named", "py_planes"])
def test_raw_tensors_are_answered_raw(caller: Caller, name: str) -> None:
    service, tensors = typed(caller, name), models.model(name).rows(3)
    answer = service.call(service.filled(tensors, is_raw=True))
    for output, values in inferred(caller, name, tensors).items():
        assert values_of(answer, output) == values


def test_a_shape_may_be_left_out_where_it_can_be_told(caller: Caller) -> None:
    service = typed(caller, "onnx_named")
    request = service.request()
    request.x.values.extend(range(8))
    assert service.call(request).y.shape == [2, 3]


def test_json_says_all_with_the_models_own_names(caller: Caller) -> None:
    service = typed(caller, "onnx_unnamed")
    request = json_format.ParseDict({"input-0": {"values": [1, 2, 3, 4]}}, service.request())
    answer = json_format.MessageToDict(service.call(request))
    assert answer["output-0"]["shape"] == ["1", "3"]


def test_parameters_are_completed_by_their_defaults(caller: Caller) -> None:
    service, tensors = typed(caller, "py_weigher"), models.model("py_weigher").rows(2)
    plain = service.call(service.filled(tensors))
    some = service.call(
        service.filled(tensors, scale=4.0, prefix="q", tags=["x"], since="2025-03-04T05:06:07.5Z")
    )
    assert values_of(plain, "label") == ["pa/b2024-01-02"] * 2
    assert values_of(some, "label") == ["qx2025-03-04T05:06:07.500000"] * 2
    with Client(caller.daemon.address) as client:
        told = client.predict("py_weigher", tensors, parameters={"scale": 4.0})
    assert values_of(some, "total") == told["total"].tolist()


def test_optional_columns_may_be_left_out(caller: Caller) -> None:
    service = typed(caller, "py_notes")
    answer = service.call(service.filled({"size": np.array([1.0, 2.0])}))
    assert (
        values_of(answer, "output-0")
        == inferred(caller, "py_notes", {"size": np.array([1.0, 2.0])})["output-0"]
    )
    row = service.call(service.filled({"size": np.array([1.0])}, is_row=True))
    assert "note" not in values_of(row, "output-0")


def refusal(service: TypedCaller, request: Any, **options: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        service.call(request, **options)
    error: Any = caught.value
    return error.code().name, error.details()


@pytest.mark.parametrize("is_row", [False, True])
def test_a_missing_column_is_named_and_never_taken_for_zero(caller: Caller, is_row: bool) -> None:
    service, tensors = typed(caller, "iris_pipeline"), models.model("iris_pipeline").rows(1)
    del tensors["petal_width"]
    code, said = refusal(service, service.filled(tensors, is_row=is_row))
    assert code == "INVALID_ARGUMENT"
    assert "missing input 'petal_width'" in said


def test_columns_of_different_lengths_are_named(caller: Caller) -> None:
    service, tensors = typed(caller, "iris_pipeline"), models.model("iris_pipeline").rows(2)
    tensors["petal_width"] = tensors["petal_width"][:1]
    code, said = refusal(service, service.filled(tensors))
    assert code == "INVALID_ARGUMENT"
    assert "'petal_width' has 1 rows, but 'sepal_length' has 2" in said


def test_json_of_another_type_is_named_by_its_place(caller: Caller) -> None:
    service, tensors = typed(caller, "py_kinds"), models.model("py_kinds").rows(2)
    tensors["owner"] = np.array(['{"id": 1.5, "seen": "2024-05-06"}'] * 2, object)
    code, said = refusal(service, service.filled(tensors))
    assert code == "INVALID_ARGUMENT"
    assert "input 'owner': row 0: expected long at '.id'" in said


def test_a_tensor_of_another_shape_is_named(caller: Caller) -> None:
    service = typed(caller, "onnx_named")
    code, said = refusal(service, service.filled({"x": np.zeros((2, 3), np.float32)}))
    assert code == "INVALID_ARGUMENT"
    assert "input 'x': expected shape [-1, 4], got [2, 3]" in said


@pytest.mark.parametrize(
    "payload", [b"\x09", b"\xff" * 12, b"\x0a\x7f\x00", b"\x0a\x03abc", b"\xba\x06\x00"]
)
def test_bytes_that_are_no_such_message_are_refused(caller: Caller, payload: bytes) -> None:
    path = f"/{service_name('iris_pipeline')}/Predict"
    found = caller.call(path, payload)
    assert found.code == "INVALID_ARGUMENT", found


def test_a_model_that_raises_is_told_as_by_the_tensor_protocol(caller: Caller) -> None:
    service = typed(caller, "puppet")
    code, said = refusal(service, service.filled({"input-0": np.full((1, 2), puppet.RAISE * 1.0)}))
    assert code == "INTERNAL"
    assert "ValueError" in said
    assert "/etc" not in said


def test_a_model_without_a_signature_has_no_typed_service(caller: Caller) -> None:
    found = caller.call(f"/{service_name('py_unsigned')}/Predict", b"")
    assert found.code == "UNIMPLEMENTED"
    assert "its inputs are not known" in found.details


def test_priority_is_a_header(caller: Caller) -> None:
    service, tensors = typed(caller, "iris_pipeline"), models.model("iris_pipeline").rows(1)
    request = service.filled(tensors)
    assert service.call(request, metadata=[("headrace-priority", "1")])
    code, said = refusal(service, request, metadata=[("headrace-priority", "9")])
    assert code == "INVALID_ARGUMENT"
    assert "from 0 to 2" in said


def test_the_time_of_each_step_is_told_on_request(caller: Caller) -> None:
    service, tensors = typed(caller, "iris_pipeline"), models.model("iris_pipeline").rows(1)
    request = service.filled(tensors)
    call: Any = caller.channel.unary_unary(f"/{service_name('iris_pipeline')}/Predict", None, None)
    _, done = call.with_call(
        request.SerializeToString(), timeout=60, metadata=[("headrace-timings", "1")]
    )
    trailing = dict(done.trailing_metadata())
    assert json.loads(trailing["headrace-timings"])["batch_rows"] == 1


def test_a_deadline_ends_a_typed_call(caller: Caller, gate: Path) -> None:
    service = typed(caller, "puppet")
    request = service.filled({"input-0": np.full((1, 2), puppet.WAIT * 1.0)})
    code, _ = refusal(service, request, timeout=0.5)
    assert code == "DEADLINE_EXCEEDED"
    # The model waits for a writer.
    gate.open("wb").close()


@pytest.mark.parametrize("name", ["scaled", "masked"])
def test_scalars_and_ragged_tensors_are_tensors_too(caller: Caller, name: str) -> None:
    tensors: models.Tensors = {
        "scaled": {"scale": np.array(2.0, np.float32), "x": np.ones((3, 2), np.float32)},
        "masked": {"x": np.ones((2, 3), np.float32)},
    }[name]
    service = typed(caller, name)
    answer = service.call(service.filled(tensors))
    for output, values in inferred(caller, name, tensors).items():
        assert values_of(answer, output) == values


def test_requests_are_counted_and_logged_with_those_of_the_tensor_protocol(caller: Caller) -> None:
    service, tensors = typed(caller, "mixed_columns"), models.model("mixed_columns").rows(2)
    before = caller.metric("headrace_requests_total", "mixed_columns")
    service.call(service.filled(tensors))
    assert caller.metric("headrace_requests_total", "mixed_columns") == before + 1
    refusal(service, service.request())
    for status in ("OK", "INVALID_ARGUMENT"):
        caller.daemon.wait_line("request", model="mixed_columns", status=status)


# What a stub was made for.


def signature_of(name: str) -> Any:
    path = models.model(name).path
    return describe(load(path, name), name).signature


def test_a_caller_made_for_this_signature_is_served(caller: Caller) -> None:
    sent = fingerprint(signature_of("iris_pipeline"))
    service, tensors = typed(caller, "iris_pipeline"), models.model("iris_pipeline").rows(1)
    assert service.call(service.filled(tensors), metadata=[(SIGNATURE_KEY, sent)])
    request = message("iris_pipeline", tensors)
    request.parameters[SIGNATURE_PARAMETER].string_param = sent
    assert caller.ask(request).code == "OK"


def test_a_caller_made_for_another_signature_is_told_what_has_changed(caller: Caller) -> None:
    now = signature_of("iris_pipeline")
    then = now.__class__((*now.inputs[1:], TensorSpec("color", "BYTES", (-1,), "string")))
    sent = fingerprint(then)
    service, tensors = typed(caller, "iris_pipeline"), models.model("iris_pipeline").rows(1)
    code, said = refusal(service, service.filled(tensors), metadata=[(SIGNATURE_KEY, sent)])
    request = message("iris_pipeline", tensors)
    request.parameters[SIGNATURE_PARAMETER].string_param = sent
    found = caller.ask(request)
    assert (code, said) == (found.code, found.details)
    assert code == "FAILED_PRECONDITION"
    assert "1 input is gone" in said
    assert "input 'sepal_length' is new, and not optional" in said


def test_what_is_no_fingerprint_is_refused(caller: Caller) -> None:
    service, tensors = typed(caller, "iris_pipeline"), models.model("iris_pipeline").rows(1)
    code, _ = refusal(service, service.filled(tensors), metadata=[(SIGNATURE_KEY, "abc")])
    assert code == "INVALID_ARGUMENT"


# Models that come and go.


def test_a_model_that_comes_later_is_served_and_published_until_it_goes(
    caller: Caller,
) -> None:
    name = f"late_{LATE}"
    path = f"/{service_name(name)}/Predict"
    assert caller.call(path, b"").code == "UNIMPLEMENTED"
    with Client(caller.daemon.address) as client:
        client.load(name, f"file://{models.model(LATE).path}")
        try:
            service, tensors = typed(caller, name), models.model(LATE).rows(2)
            answer = service.call(service.filled(tensors))
            assert values_of(answer, "y") == inferred(caller, name, tensors)["y"]
        finally:
            client.unload(name)
    found = caller.call(path, b"")
    assert (found.code, "unloaded" in found.details) == ("FAILED_PRECONDITION", True)
    with pytest.raises(KeyError):
        typed(caller, name)


def test_a_new_version_has_its_own_service_at_once(caller: Caller) -> None:
    name = "changing"
    with Client(caller.daemon.address) as client:
        client.load(name, f"file://{models.model('onnx_named').path}")
        try:
            first = typed(caller, name)
            client.load(name, f"file://{models.model(LATE).path}")
            second = typed(caller, name)
            tensors = models.model(LATE).rows(1)
            assert values_of(second.call(second.filled(tensors)), "y")
            # The number of what is gone belongs to no other.
            numbers = [field.number for field in second.request().DESCRIPTOR.fields]
            assert first.request().DESCRIPTOR.fields_by_name["x"].number not in numbers
            code, said = refusal(first, first.filled({"x": np.zeros((1, 4), np.float32)}))
            assert code == "INVALID_ARGUMENT"
            assert "was input 'x'" in said
        finally:
            client.unload(name)


def test_health_knows_typed_services(caller: Caller) -> None:
    from grpc_health.v1 import health_pb2

    request = health_pb2.HealthCheckRequest(service=service_name("iris_pipeline"))
    found = caller.call("/grpc.health.v1.Health/Check", request.SerializeToString())
    assert health_pb2.HealthCheckResponse.FromString(found.payload).status == 1


def test_a_call_can_be_taken_back(caller: Caller) -> None:
    service = typed(caller, "iris_pipeline")
    request = service.filled(models.model("iris_pipeline").rows(1))
    call: Any = caller.channel.unary_unary(f"/{service_name('iris_pipeline')}/Predict", None, None)
    running = call.future(request.SerializeToString(), timeout=60)
    running.cancel()
    assert ending(running).code in ("CANCELLED", "OK")


def test_services_stand_beside_the_standards_own(caller: Caller) -> None:
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    names = set(ProtoReflectionDescriptorDatabase(caller.channel).get_services())
    assert "inference.GRPCInferenceService" in names
    assert {service_name(name) for name in TYPED} <= names
    assert service_name("py_unsigned") not in names


def test_numbers_outlive_versions_and_daemons_by_a_tag_of_the_registered_model(
    tmp_path: Path,
) -> None:
    models.log("onnx_columns", tmp_path, "thing")
    uri = models.tracking_uri(tmp_path)
    numbers: list[dict[str, int]] = []
    for version in (1, 2):
        if version == 2:
            models.log("onnx_named", tmp_path, "thing")
        arguments = ("--tracking-uri", uri, f"models:/thing/{version}")
        daemon = Daemon(*arguments, cwd=tmp_path, cache=tmp_path / "cache")
        try:
            daemon.wait("ready")
            with grpc.insecure_channel(daemon.address) as channel:
                fields = TypedCaller(channel, service_name("thing")).request().DESCRIPTOR.fields
                numbers.append({field.name: field.number for field in fields})
        finally:
            daemon.stop()
    assert numbers == [{name: at for at, name in enumerate(models.IRIS_COLUMNS, 1)}, {"x": 5}]
    tags = MlflowClient(uri).get_registered_model("thing").tags
    assert json.loads(tags["headrace.fields"])["inputs"] == [
        *(f"double {name}" for name in models.IRIS_COLUMNS),
        "Float32Tensor x",
    ]


def test_a_token_for_inference_opens_typed_services(tmp_path: Path) -> None:
    tokens = {scope: secrets.token_urlsafe(32) for scope in ("inference", "repository")}
    lines = [
        f'[[token]]\nname = "{scope}"\nscopes = ["{scope}"]\n'
        f'hash = "sha256:{hashlib.sha256(token.encode()).hexdigest()}"\n'
        for scope, token in tokens.items()
    ]
    (tmp_path / "tokens.toml").write_text("\n".join(lines))
    served = f"iris={models.model('onnx_columns').path}"
    path = f"/{service_name('iris')}/PredictRow"
    for transport in TRANSPORTS:
        daemon = Daemon(
            *("--transport", transport, "--set", "auth.tokens=tokens.toml", served),
            cwd=tmp_path,
            cache=tmp_path / "cache",
        )
        try:
            daemon.wait("ready")
            with grpc.insecure_channel(daemon.address) as channel:
                call: Any = channel.unary_unary(path, None, None)
                codes = {}
                for scope, token in {**tokens, "none": ""}.items():
                    metadata = [("authorization", f"Bearer {token}")] if token else []
                    codes[scope] = ending(call.future(b"", timeout=60, metadata=metadata)).code
        finally:
            daemon.stop()
        # An empty message lacks its columns: whoever is told so was let in.
        assert codes == {
            "inference": "INVALID_ARGUMENT",
            "repository": "PERMISSION_DENIED",
            "none": "UNAUTHENTICATED",
        }


def test_models_whose_services_would_be_called_the_same_are_told(tmp_path: Path) -> None:
    path = models.model("onnx_named").path
    daemon = Daemon(f"a-b={path}", f"a_b={path}", cwd=tmp_path, cache=tmp_path / "cache")
    try:
        daemon.wait("ready")
        (line,) = daemon.events("typed_service_clash")
        assert line["model"] == "a_b"
        assert "a-b" in line["why"]
    finally:
        daemon.stop()

"""The .proto files that `headrace stub --proto` writes say what the daemon publishes."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from hypothesis import given

from headrace.signature import Signature, TensorSpec
from headrace.typed import FieldNumbers, TypedService, describe, file_of
from headrace_server.stubs import proto_of
from strategies import mlflow_signatures

grpc_tools = pytest.importorskip("grpc_tools.protoc")


def compiled(service: TypedService, text: str) -> FileDescriptorProto:
    with TemporaryDirectory() as directory:
        source = Path(directory, service.file)
        source.parent.mkdir(parents=True)
        source.write_text(text)
        out = Path(directory, "set.binpb")
        known = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
        arguments = [f"-I{directory}", f"-I{known}", f"--descriptor_set_out={out}", service.file]
        assert grpc_tools.main(["protoc", *arguments]) == 0
        (file,) = FileDescriptorSet.FromString(out.read_bytes()).file
    return file


@given(mlflow_signatures())
def test_a_compiled_file_is_the_descriptor_of_the_service(signature: Signature) -> None:
    service = describe("my-model", signature)

    assert compiled(service, proto_of(service)) == file_of(service)


def test_numbers_and_names_that_are_retired_stay_reserved() -> None:
    signature = Signature((TensorSpec("c", "FP64", (-1,), "double"),))
    service = describe("iris", signature, FieldNumbers(("double a", "double b", "double c")))
    text = proto_of(service, version="4")

    assert "    reserved 1, 2;\n" in text
    assert '    reserved "a", "b";\n' in text
    assert "repeated double c = 3;" in text
    assert compiled(service, text) == file_of(service)


def test_comments_say_what_a_field_is() -> None:
    signature = Signature(
        (
            TensorSpec("Note (de)", "BYTES", (-1,), "string", optional=True),
            TensorSpec("image", "UINT8", (-1, 4, 4)),
        )
    )

    text = proto_of(describe("iris", signature), version="4")

    assert "// string. May be left out. Called 'Note (de)' by the model." in text
    many, one = text.split("message IrisRow")
    assert "// In which rows 'Note (de)' has no value." in many
    field = 'bool Note_de_is_null = 200001 [json_name = "Note (de).is_null"];'
    assert f"repeated {field}" in many
    assert "// Whether 'Note (de)' has no value." in one
    assert f"optional {field}" in one
    assert "// UINT8, shape [-1, 4, 4]." in text
    assert "// UINT8, shape [4, 4]." in text

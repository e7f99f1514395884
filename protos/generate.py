"""Generator: write the Python modules and the reflection descriptors from the .proto files.

`python protos/generate.py` rewrites them in place; `--check` fails when they are out of step.
"""

import filecmp
import os
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).parent
OIP = "headrace/oip"
MESSAGES = f"{OIP}/open_inference.proto"
SERVICE = f"{OIP}/inference_service.proto"
DESCRIPTORS = f"{OIP}/inference.binpb"


def generate(target: Path) -> list[str]:
    """Write every generated file below *target* and return their names, relative to it."""
    _protoc(f"--python_out={target}", f"--mypy_out={target}", MESSAGES)
    # Only the gRPC half: the messages of package "inference" must never reach the default pool.
    _protoc(f"--grpc_python_out={target}", f"--mypy_grpc_out={target}", SERVICE)
    (target / DESCRIPTORS).write_bytes(_reflection_descriptors(target))
    return sorted(
        str(path.relative_to(target))
        for path in target.rglob("*")
        if "_pb2" in path.name or path.suffix == ".binpb"
    )


def _protoc(*arguments: str) -> None:
    # protoc looks for its plugins on the path; they lie beside this interpreter.
    beside = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([beside, os.environ.get("PATH", "")])
    if protoc.main(["protoc", f"-I{ROOT}", *arguments]) != 0:
        sys.exit("protoc failed")


def _reflection_descriptors(target: Path) -> bytes:
    """The service and its messages as the standard names them: package inference, one file."""
    raw = target / "all.binpb"
    _protoc(f"--descriptor_set_out={raw}", "--include_imports", SERVICE)
    files = {file.name: file for file in FileDescriptorSet.FromString(raw.read_bytes()).file}
    raw.unlink()
    merged = FileDescriptorProto()
    merged.CopyFrom(files[MESSAGES])
    merged.name = "inference/open_inference.proto"
    merged.package = "inference"
    merged.service.extend(files[SERVICE].service)
    text = merged.SerializeToString(deterministic=True)
    renamed = FileDescriptorProto.FromString(text)
    for message in renamed.message_type:
        _rename(message)
    for service in renamed.service:
        for method in service.method:
            method.input_type = _standard(method.input_type)
            method.output_type = _standard(method.output_type)
    return FileDescriptorSet(file=[renamed]).SerializeToString(deterministic=True)


def _rename(message: object) -> None:
    for field in message.field:  # type: ignore[attr-defined]
        if field.type_name:
            field.type_name = _standard(field.type_name)
    for nested in message.nested_type:  # type: ignore[attr-defined]
        _rename(nested)


def _standard(name: str) -> str:
    return name.replace(".headrace.oip.", ".inference.")


def main() -> None:
    """Regenerate in place, or compare when called with --check."""
    if "--check" not in sys.argv[1:]:
        print("\n".join(generate(ROOT)))  # noqa: T201 - a script that tells what it wrote.
        return
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        stale = [
            name
            for name in generate(fresh)
            if not (ROOT / name).exists()
            or not filecmp.cmp(fresh / name, ROOT / name, shallow=False)
        ]
    if stale:
        sys.exit(f"generated files are out of step, run `make protos`: {', '.join(stale)}")


if __name__ == "__main__":
    main()

"""What each process may import, seen in real processes rather than read from source."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import faulty

FRAMEWORKS = {"mlflow", "torch", "sklearn", "onnxruntime", "pandas", "scipy"}


def modules_after(statement: str) -> set[str]:
    """The top-level modules of a fresh interpreter once it has run *statement*."""
    script = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return {name.partition(".")[0] for name in json.loads(ran.stdout)}


@pytest.mark.slow
def test_a_worker_imports_the_standard_library_numpy_and_ours_alone() -> None:
    """The same code must run inside a model's own, older environment."""
    bare = modules_after("import numpy, numpy.random")

    loaded = modules_after(
        "import headrace_server.worker.__main__, headrace_server.worker.receiving"
    )

    foreign = loaded - bare - set(sys.stdlib_module_names) - {"headrace", "headrace_server"}
    assert {name for name in foreign if not name.startswith("_")} == set()


LOADS = """
from pathlib import Path

from headrace.signature import Signature, TensorSpec
from headrace_server.adapters import Artifact
from headrace_server.adapters.sklearn import SklearnAdapter
from headrace_server.devices import open_device

config = {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}
inputs = (TensorSpec("x", "FP64", (-1, 2)),)
artifact = Artifact(Path({path!r}), config, {"predict_fn": "predict"}, Signature(inputs, ()))
SklearnAdapter(artifact, open_device("cpu"))
"""


@pytest.mark.slow
def test_a_model_of_tensors_that_knows_no_framework_is_loaded_without_one(tmp_path: Path) -> None:
    """Which takes a third of a second."""
    path = str(faulty.save(tmp_path / "model"))

    assert not modules_after(LOADS.replace("{path!r}", repr(path))) & FRAMEWORKS


@pytest.mark.slow
def test_the_daemon_imports_no_framework_and_no_mlflow() -> None:
    assert not modules_after("import headrace_server.daemon") & FRAMEWORKS


@pytest.mark.slow
def test_the_client_needs_grpc_protobuf_and_numpy_alone() -> None:
    loaded = modules_after("import headrace_client")

    assert not loaded & (FRAMEWORKS | {"headrace_server", "typer", "rich", "pydantic"})


def test_imports_point_down() -> None:
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    assert lint_imports() == EXIT_STATUS_SUCCESS

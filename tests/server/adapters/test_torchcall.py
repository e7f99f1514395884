"""How torch models are run as the operator wants it: precision, layout, compiled, in graphs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrace_server.adapters import Artifact
from headrace_server.adapters.pytorch import PytorchAdapter
from headrace_server.adapters.torchcall import TorchCall
from headrace_server.devices import open_device

CPU = open_device("cpu")
X = torch.linspace(-1.0, 1.0, 64).reshape(4, 16)


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


class Seen(torch.nn.Module):
    """A convolution that remembers how its images lay."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 4, 3)
        self.were_last = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.were_last = x.is_contiguous(memory_format=torch.channels_last)
        result: torch.Tensor = self.layer(x)
        return result


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_and_answers_in_the_datatype_of_the_model(precision: str) -> None:
    module = net()
    expected = module(X)

    answer = TorchCall(module, CPU, {"precision": precision})(X)

    assert answer.dtype is torch.float32
    assert not torch.equal(answer, expected)
    torch.testing.assert_close(answer, expected, atol=0.02, rtol=0.02)


def test_what_a_model_answers_in_another_datatype_stays_so() -> None:
    def forward(x: torch.Tensor) -> dict[str, Any]:
        return {"first": x.argmax(1), "many": (x, [x.double(), "text"])}

    answer = TorchCall(forward, CPU, {"precision": "bf16"})(X)

    assert answer["first"].dtype is torch.int64
    assert answer["many"][1][0].dtype is torch.float64
    assert answer["many"][1][1] == "text"


def test_full_precision_is_the_models_own_answer() -> None:
    module = net()

    assert torch.equal(TorchCall(module, CPU, {})(X), module(X))


@pytest.mark.parametrize("is_last", [True, False])
def test_images_come_with_their_channels_last_where_that_is_wanted(is_last: bool) -> None:
    module, images = Seen(), torch.rand(2, 3, 8, 8)
    expected = module(images)

    answer = TorchCall(module, CPU, {"channels_last": is_last})(images)

    assert module.were_last == is_last
    torch.testing.assert_close(answer, expected)


# In a process of its own: the compiler's threads stay.
COMPILES = """
import json
import torch
from headrace_server.adapters.torchcall import TorchCall
from headrace_server.devices import open_device

module = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
x = torch.linspace(-1.0, 1.0, 64).reshape(4, 16)
call = TorchCall(module, open_device("cpu"), {"compile": "default"})
print(json.dumps([torch.allclose(call(x), module(x), atol=1e-5), call.notes]))
"""


def compiled(cache: Path, **environment: str) -> tuple[bool, list[str]]:
    """Whether a compiled model answers as it did before, and its notes."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILES],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), **environment},
        capture_output=True,
        check=True,
        timeout=100,
    )
    is_alike, notes = json.loads(done.stdout.splitlines()[-1])
    return is_alike, notes


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_a_compiled_model_answers_alike(tmp_path: Path) -> None:
    assert compiled(tmp_path) == (True, [])
    assert list(tmp_path.rglob("*.so"))


@pytest.mark.slow
def test_where_there_is_no_compiler_the_model_stays_as_it_is(tmp_path: Path) -> None:
    is_alike, notes = compiled(tmp_path, CXX=str(tmp_path / "nothing"))

    assert is_alike
    (note,) = notes
    assert note.startswith("not compiled: ")


def test_an_error_of_the_model_itself_is_no_reason_not_to_compile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, mode: call)
    call = TorchCall(net(), CPU, {"compile": "default"})

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        call(torch.ones(1, 5))

    assert call.notes == []


@pytest.mark.parametrize(
    ("tuning", "note"),
    [
        ({"cuda_graphs": True}, "cuda_graphs does not apply to cpu"),
        ({"precision": "tf32"}, "precision = tf32 does not apply to cpu"),
    ],
)
def test_what_only_a_gpu_has_is_noted_and_left_out(tuning: dict[str, Any], note: str) -> None:
    module = net()

    call = TorchCall(module, CPU, tuning)
    call.prepare(X)

    assert call.notes == [note]
    assert torch.equal(call(X), module(X))


def test_the_adapter_runs_by_its_artifacts_tuning(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    torch.save(net(), tmp_path / "data" / "model.pth")
    tuning = {"precision": "bf16", "cuda_graphs": True}
    artifact = Artifact(tmp_path, {"model_data": "data"}, {}, None, tuning=tuning)

    adapter = PytorchAdapter(artifact, CPU)
    adapter.prepare({"x": X.numpy()})
    (answer,) = adapter.predict({"x": X.numpy()}).values()

    assert adapter.notes == ["cuda_graphs does not apply to cpu"]
    expected = net()(X).detach().numpy()
    assert not np.array_equal(answer, expected)
    np.testing.assert_allclose(answer.astype(np.float32), expected, atol=0.02, rtol=0.02)

"""How texts become vectors."""

import functools
import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from headrace.signature import Signature, TensorSpec
from headrace_server.adapters import LoadError
from headrace_server.adapters.sentence_transformers import SentenceTransformersAdapter
from headrace_server.devices import open_device

# Not imported before a test asks: that takes seconds, in each process that only collects.
pytestmark = pytest.mark.skipif(
    not find_spec("sentence_transformers"), reason="needs sentence-transformers"
)

TEXTS: models.Tensors = {"input-0": np.array(["a good day", "bad cats"], object)}


@functools.cache
def opened(name: str) -> SentenceTransformersAdapter:
    return SentenceTransformersAdapter(models.model(name).artifact, open_device("cpu"))


def test_a_parameter_of_the_signature_is_an_option_of_encode() -> None:
    given = {"normalize_embeddings": False}
    unit = np.asarray(opened("st_unit").predict(TEXTS)["vector"], np.float64)
    plain = np.asarray(opened("st_unit").predict(TEXTS, given)["vector"], np.float64)

    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), [1.0, 1.0], rtol=1e-5)
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    assert not np.allclose(lengths, 1.0)
    np.testing.assert_allclose(plain / lengths, unit, rtol=1e-4, atol=1e-6)


def test_more_texts_than_encode_takes_at_once_run_together_where_that_is_shown_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many: models.Tensors = {"input-0": np.array(["a day", "the cat sat on a mat"] * 20, object)}
    sizes: list[int] = []
    model = opened("st_mean")._model
    encode = type(model).forward

    def counted(self: Any, features: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(features["input_ids"]))
        found = encode(self, features, *args, **kwargs)
        if is_blurred:
            found["sentence_embedding"] = found["sentence_embedding"] + len(features["input_ids"])
        return found

    monkeypatch.setattr(type(model), "forward", counted)
    is_blurred = False
    opened("st_mean").predict(many)
    assert sizes == [40]

    is_blurred = True
    adapter = SentenceTransformersAdapter(models.model("st_mean").artifact, open_device("cpu"))
    sizes.clear()
    adapter.predict(many)
    assert sizes == [32, 8]


def test_no_progress_bar_is_drawn(capfd: pytest.CaptureFixture[str]) -> None:
    adapter = opened("st_mean")
    capfd.readouterr()  # What saving and loading had to say.

    adapter.predict(TEXTS)

    assert capfd.readouterr() == ("", "")


def test_tensors_that_were_asked_for_become_arrays() -> None:
    answer = opened("st_mean").predict(TEXTS, {"convert_to_tensor": True})["output-0"]

    np.testing.assert_array_equal(answer, opened("st_mean").predict(TEXTS)["output-0"])


def test_another_method_can_be_asked_for() -> None:
    artifact = replace(models.model("st_mean").artifact, method="encode_query")
    adapter = SentenceTransformersAdapter(artifact, open_device("cpu"))

    assert adapter.predict(TEXTS)["output-0"].shape == (2, 16)
    with pytest.raises(LoadError, match=r"^a SentenceTransformer has no method 'shout'$"):
        SentenceTransformersAdapter(replace(artifact, method="shout"), open_device("cpu"))


def test_anything_but_one_input_of_texts_is_an_error_of_loading() -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1, 4)),))
    artifact = replace(models.model("st_mean").artifact, signature=signature)

    with pytest.raises(LoadError, match=r"takes one input of texts, not \['x FP32'\]$"):
        SentenceTransformersAdapter(artifact, open_device("cpu"))


def test_an_artifact_without_its_folder_does_not_load(tmp_path: Path) -> None:
    model = models.model("st_mean")
    shutil.copy(model.path / "MLmodel", tmp_path)

    with pytest.raises(LoadError, match=r"^the artifact lacks 'model.sentence_transformer'$"):
        SentenceTransformersAdapter(replace(model.artifact, path=tmp_path), open_device("cpu"))


@pytest.mark.parametrize("switch", ["true", "false"])
def test_code_that_a_model_names_is_run_only_where_code_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    shutil.copytree(models.model("st_mean").path, tmp_path / "model")
    folder = tmp_path / "model" / "model.sentence_transformer"
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = f"{tmp_path}--mod.Cls"
    (folder / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "mod.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nclass Cls: pass\n")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", switch)
    artifact = replace(models.model("st_mean").artifact, path=tmp_path / "model")

    with pytest.raises(LoadError):
        SentenceTransformersAdapter(artifact, open_device("cpu"))

    assert (tmp_path / "mark").exists() is (switch == "true")

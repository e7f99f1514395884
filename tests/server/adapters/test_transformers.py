"""What becomes of pipelines' answers, and where pipelines come from."""

import functools
import json
import shutil
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deep_models
import models
from headrace.signature import Signature
from headrace_server.adapters import LoadError
from headrace_server.adapters.base import default_params
from headrace_server.adapters.probe import probe
from headrace_server.adapters.proof import Verdict
from headrace_server.adapters.transformers import TransformersAdapter
from headrace_server.devices import open_device

pytestmark = pytest.mark.skipif(not find_spec("transformers"), reason="needs transformers")


@functools.cache
def opened(name: str) -> TransformersAdapter:
    return TransformersAdapter(models.model(name).artifact, open_device("cpu"))


@functools.cache
def by_mlflow(name: str) -> Any:
    import mlflow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlflow.pyfunc.load_model(str(models.model(name).path), suppress_warnings=True)


def texts(*values: str) -> models.Tensors:
    return {"input-0": np.array(values, object)}


def test_parameters_of_a_request_shape_a_generation_as_with_mlflow() -> None:
    given = texts("the cat", "a good day")

    for count in (1, 6):
        params = {"max_new_tokens": count, "do_sample": False}
        answer = opened("hf_generator").predict(given, params)

        expected = by_mlflow("hf_generator").predict(given["input-0"].tolist(), params)
        assert answer["output-0"].tolist() == expected


def test_a_generation_does_not_depend_on_longer_texts_beside_it() -> None:
    short, long = "a", "this is the day . a bad day on the mat"
    (alone,) = opened("hf_generator").predict(texts(short))["output-0"]

    beside, _ = opened("hf_generator").predict(texts(short, long))["output-0"]

    assert beside == alone


@pytest.mark.parametrize("name", ["hf_classifier", "hf_pairs", "hf_filler", "hf_tagger"])
def test_texts_are_padded_where_that_is_shown_to_change_nothing(name: str) -> None:
    assert opened(name)._is_padded


@pytest.mark.parametrize("name", ["hf_classifier", "hf_filler", "hf_tagger"])
def test_a_model_that_sees_its_padding_is_asked_text_by_text(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MLflow asks it: what is long beside it does not matter to a text."""
    import torch

    recipe = models.model(name)
    adapter = opened(name)
    module = adapter._pipeline.model
    forward = type(module).forward

    def blind(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        mask = None if attention_mask is None else torch.ones_like(attention_mask)
        return forward(self, *args, attention_mask=mask, **kwargs)

    monkeypatch.setattr(type(module), "forward", blind)
    adapter = TransformersAdapter(recipe.artifact, open_device("cpu"))
    tensors = recipe.rows(4)

    answer = adapter.predict(tensors)

    assert not adapter._is_padded
    for row in range(4):
        alone = adapter.predict({key: array[row : row + 1] for key, array in tensors.items()})
        for key, array in answer.items():
            assert array[row : row + 1].tolist() == pytest.approx(alone[key].tolist())


def test_an_option_of_the_pipeline_in_a_models_config_holds_for_every_request() -> None:
    """MLflow's model_config: all labels, one column per place."""
    artifact = models.model("hf_classifier").artifact
    config = {**artifact.pyfunc, "config": {"top_k": None}}
    adapter = TransformersAdapter(replace(artifact, pyfunc=config), open_device("cpu"))

    answer = adapter.predict(texts("a good day", "bad cats"))

    best = opened("hf_classifier").predict(texts("a good day", "bad cats"))
    assert list(answer) == ["0", "1", "2"]
    first = answer["0"].tolist()
    assert [cell["label"] for cell in first] == best["label"].tolist()
    assert [cell["score"] for cell in first] == pytest.approx(best["score"].tolist())


def test_whitespace_is_collapsed_where_a_models_config_says_so() -> None:
    artifact = models.model("hf_generator").artifact
    config = {**artifact.pyfunc, "config": {"collapse_whitespace": True}}
    adapter = TransformersAdapter(replace(artifact, pyfunc=config), open_device("cpu"))

    (plain,) = opened("hf_generator").predict(texts("a  cat\n sat"))["output-0"]
    (collapsed,) = adapter.predict(texts("a  cat\n sat"))["output-0"]

    assert "  " in plain
    assert collapsed == " ".join(plain.split())


def test_several_masks_of_a_text_are_a_list_whatever_stands_beside_it() -> None:
    several, one = "the [MASK] sat on [MASK]", "a [MASK]"

    answer = opened("hf_filler").predict(texts(one, several))["output-0"]

    expected = by_mlflow("hf_filler").predict([one, several])
    assert answer[0] == expected[0]
    assert json.loads(answer[1]) == expected[1]
    assert len(expected[1]) == 2


def test_pairs_of_texts_are_classified_as_pairs() -> None:
    tensors = models.model("hf_pairs").rows(3)

    answer = opened("hf_pairs").predict(tensors)

    expected = models.model("hf_pairs").expected(tensors)
    assert answer["label"].tolist() == expected["label"].tolist()
    assert answer["score"].tolist() == pytest.approx(expected["score"].tolist())
    alone = opened("hf_classifier").predict({"input-0": tensors["text"]})
    assert answer["score"].tolist() != pytest.approx(alone["score"].tolist())


def test_features_of_each_text_are_what_mlflow_says_of_the_text_alone() -> None:
    """MLflow says nothing of any text but the first."""
    given = texts("a good day", "the cat sat on a mat", "bad cats")

    (answer,) = opened("hf_features").predict(given).values()

    for text, found in zip(given["input-0"], answer, strict=True):
        expected = by_mlflow("hf_features").predict([text])
        np.testing.assert_allclose(np.array(json.loads(found)), expected, rtol=1e-5)


def test_a_prompt_template_stands_around_each_text() -> None:
    given = texts("the cat", "a day")

    answer = opened("hf_template").predict(given)["output-0"]

    expected = by_mlflow("hf_template").predict(given["input-0"].tolist())
    assert answer.tolist() == expected
    assert answer.tolist() != opened("hf_generator").predict(given)["output-0"].tolist()


def test_tasks_that_answer_with_more_rows_than_texts_are_answered_by_mlflow() -> None:
    tensors = models.model("hf_labels").rows(2)

    answer = opened("hf_labels").predict(tensors)

    expected = models.model("hf_labels").expected(tensors)
    assert list(answer) == ["sequence", "labels", "scores"]
    for name in ("sequence", "labels"):
        assert answer[name].tolist() == expected[name].tolist()
    assert answer["scores"].tolist() == pytest.approx(expected["scores"].tolist())
    found = probe(opened("hf_labels"), models.model("hf_labels").rows(1)).finding
    assert found.verdict is Verdict.WHOLE, found


@pytest.mark.parametrize("name", ["hf_classifier", "hf_generator", "hf_tagger", "hf_features"])
def test_made_up_rows_find_out_that_texts_may_be_batched(name: str) -> None:
    found = probe(opened(name)).finding
    assert found.verdict is Verdict.BATCHED, found


def test_a_model_without_a_signature_takes_one_text_per_row() -> None:
    artifact = replace(models.model("hf_classifier").artifact, signature=None)
    adapter = TransformersAdapter(artifact, open_device("cpu"))

    assert [(spec.name, spec.datatype) for spec in adapter.signature.inputs] == [
        ("input-0", "BYTES")
    ]
    assert list(adapter.predict(texts("a day"))) == ["label", "score"]


def test_a_model_whose_weights_are_in_the_hub_is_not_loaded_and_says_why() -> None:
    artifact = models.model("hf_classifier").artifact
    config = {k: v for k, v in artifact.config.items() if k != "model_binary"}
    config |= {"source_model_name": "someone/bert", "source_model_revision": "0a1b2c"}

    with pytest.raises(LoadError) as raised:
        TransformersAdapter(replace(artifact, config=config), open_device("cpu"))

    assert str(raised.value) == (
        "the artifact holds no weights, only the name 'someone/bert' in the Hugging Face Hub, and "
        "nothing is fetched from there: log the model with save_pretrained=True, or set "
        "HF_HUB_OFFLINE=0"
    )


def test_a_pipeline_has_no_methods() -> None:
    artifact = replace(models.model("hf_classifier").artifact, method="generate")

    with pytest.raises(LoadError, match=r"^a pipeline has no methods, so 'generate' cannot be"):
        TransformersAdapter(artifact, open_device("cpu"))


def test_components_of_unknown_classes_are_loaded_by_mlflow() -> None:
    """Such classes come as code with the model; here MLflow finds the one that its config names."""
    artifact = models.model("hf_classifier").artifact
    config = {**artifact.config, "pipeline_model_type": "OurBert"}

    adapter = TransformersAdapter(replace(artifact, config=config), open_device("cpu"))

    given = texts("a good day")
    assert adapter.predict(given) == opened("hf_classifier").predict(given)


def test_the_defaults_of_the_signature_are_the_models_own() -> None:
    signature = models.model("hf_generator").artifact.signature

    assert isinstance(signature, Signature)
    assert default_params(signature) == {"max_new_tokens": 4, "do_sample": False}
    assert "hf_generator" in deep_models.NAMES


@pytest.mark.parametrize(
    "config",
    [
        {"pipeline_model_type": "RagRetriever"},
        {"pipeline_model_type": "AutoTokenizer"},
        {"tokenizer_type": "RagRetriever"},
        {"tokenizer_type": "GPT2Model"},
        {"pipeline_model_type": "made_up"},
    ],
)
def test_other_classes_of_the_library_are_refused_where_code_is(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, str]
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    artifact = models.model("hf_classifier").artifact
    with pytest.raises(LoadError, match="more than a model and a tokenizer"):
        TransformersAdapter(
            replace(artifact, config={**artifact.config, **config}), open_device("cpu")
        )


def test_a_template_asks_for_the_prompt_alone_where_code_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    model = models.model("hf_template")
    assert TransformersAdapter(model.artifact, open_device("cpu"))
    shutil.copytree(model.path, tmp_path / "model")
    file = tmp_path / "model" / "MLmodel"
    file.write_text(file.read_text().replace("{prompt}", "{prompt.__class__}"))
    with pytest.raises(LoadError, match=r"asks for 'prompt.__class__'"):
        TransformersAdapter(replace(model.artifact, path=tmp_path / "model"), open_device("cpu"))

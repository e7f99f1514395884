"""What may be loaded: formats that are data, flavors that are allowed; judged without loading."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import models
from headrace_server.errors import LoadFailed
from headrace_server.librarian.mlmodel import Description, describe, load
from headrace_server.librarian.safety import Rules, judge

STRICT = Rules(pickle=False)

Files = Mapping[str, str]


def judged(
    directory: Path,
    flavor: str,
    config: Mapping[str, Any],
    files: Files = {},  # noqa: B006 - read only.
    *,
    pyfunc: Mapping[str, Any] | None = None,
    rules: Rules = STRICT,
) -> str:
    """What is told of such a model; empty where it may be loaded."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    entry = {"loader_module": f"mlflow.{flavor}"} if pyfunc is None else dict(pyfunc)
    has_code = bool(config.get("code") or entry.get("code"))
    described = Description(flavor, dict(config), entry, None, has_code, "3.17.2")
    try:
        judge(rules, described, directory, "it")
    except LoadFailed as refused:
        return str(refused)
    return ""


HF = {
    "model_binary": "model",
    "task": "text-classification",
    "pipeline_model_type": "BertForSequenceClassification",
}
HF_FILES = {
    "MLmodel": "",
    "requirements.txt": "",
    "model/config.json": '{"model_type": "bert"}',
    "model/model.safetensors": "",
    "components/tokenizer/tokenizer.json": "{}",
}
ST_FILES = {
    "MLmodel": "",
    "model.sentence_transformer/modules.json": json.dumps(
        [
            {"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Dense", "type": "sentence_transformers.models.Dense"},
        ]
    ),
    "model.sentence_transformer/1_Dense/config.json": json.dumps(
        {"activation_function": "torch.nn.modules.activation.Tanh"}
    ),
    "model.sentence_transformer/model.safetensors": "",
}
XGBOOST = {"data": "model.ubj", "model_class": "xgboost.sklearn.XGBClassifier"}
BOOSTER = {"data": "model.lgb", "model_class": "lightgbm.basic.Booster"}
CATBOOST = {"data": "model.cb", "model_type": "CatBoostRegressor", "save_format": "cbm"}
KERAS_FILES = {"data/model.keras": "", "data/keras_module.txt": "keras"}


@pytest.mark.parametrize(
    ("flavor", "config", "files"),
    [
        ("xgboost", XGBOOST, {"model.ubj": ""}),
        ("xgboost", {"data": "model.json"}, {"model.json": ""}),
        ("lightgbm", BOOSTER, {"model.lgb": ""}),
        ("catboost", CATBOOST, {"model.cb": ""}),
        ("transformers", HF, HF_FILES),
        ("sentence_transformers", {}, ST_FILES),
    ],
)
def test_a_format_that_is_data_is_accepted(
    tmp_path: Path, flavor: str, config: Mapping[str, Any], files: Files
) -> None:
    assert judged(tmp_path, flavor, config, files) == ""


@pytest.mark.parametrize(
    ("flavor", "config", "files", "told"),
    [
        ("sklearn", {"serialization_format": "skops"}, {}, "flavor 'sklearn' can execute code"),
        ("statsmodels", {}, {}, "flavor 'statsmodels' can execute code"),
        ("tensorflow", {}, {}, "flavor 'tensorflow' can execute code"),
        ("pyfunc", {}, {}, "flavor 'pyfunc' can execute code"),
        ("made_up", {}, {}, "flavor 'made_up' can execute code"),
        ("pytorch", {"model_data": "data"}, {"data/model.pth": ""}, "not exported as pt2"),
        ("pytorch", {"model_data": "m.pth"}, {"m.pth": ""}, "not exported as pt2"),
        (
            "pytorch",
            {"model_data": "data"},
            {"data/model.pt2": "", "data/model.pth": ""},
            "not exported as pt2",
        ),
        ("keras", {"data": "data"}, {"data/model.h5": ""}, "not a .keras file"),
        ("keras", {"data": "data", "save_exported_model": True}, KERAS_FILES, "not a .keras file"),
        ("keras", {"data": "data"}, {**KERAS_FILES, "data/custom_objects.pkl": ""}, "beside"),
        (
            "keras",
            {"data": "data"},
            {**KERAS_FILES, "data/keras_module.txt": "pwn_mod"},
            "another module than keras",
        ),
        ("xgboost", {**XGBOOST, "model_class": "os.system"}, {"model.ubj": ""}, "'os.system'"),
        ("xgboost", {**XGBOOST, "model_class": ["x"]}, {"model.ubj": ""}, "none of xgboost's own"),
        ("xgboost", {**XGBOOST, "data": "model.pkl"}, {"model.pkl": ""}, "neither ubj nor json"),
        (
            "lightgbm",
            {"data": "model.pkl", "model_class": "lightgbm.sklearn.LGBMClassifier"},
            {"model.pkl": ""},
            "only a Booster is text",
        ),
        ("catboost", {**CATBOOST, "save_format": "python"}, {"model.cb": ""}, "'python'"),
        ("catboost", {**CATBOOST, "model_type": "Evil"}, {"model.cb": ""}, "'Evil'"),
        ("onnx", {"data": "."}, {}, "outside"),
        ("onnx", {"data": "gone.onnx"}, {}, "it lacks 'gone.onnx'"),
        ("onnx", {"data": 3}, {}, "'data' names no file"),
        ("onnx", {"data": "m", "code": "code"}, {"m": ""}, "ships code of its own"),
        ("transformers", {"task": "x"}, HF_FILES, "not saved with it"),
        ("transformers", {**HF, "tokenizer_revision": "a"}, HF_FILES, "tokenizer_revision"),
        ("transformers", {**HF, "local_base_model_path": "/x"}, HF_FILES, "local_base_model_path"),
        (
            "transformers",
            HF,
            {**HF_FILES, "model/pytorch_model.bin": ""},
            "'model/pytorch_model.bin'",
        ),
        ("transformers", HF, {**HF_FILES, "model/modeling.py": ""}, "'model/modeling.py'"),
        (
            "transformers",
            HF,
            {**HF_FILES, "model/config.json": '{"model_type": "bert", "auto\\u005fmap": {}}'},
            "'auto_map' in 'model/config.json'",
        ),
        ("transformers", HF, {**HF_FILES, "model/config.json": "["}, "is no JSON"),
        ("transformers", HF, {"model/config.json": "[]"}, "'model/config.json' holds no table"),
        (
            "transformers",
            HF,
            {"model/config.json": '{"model_type": "bert"}'},
            "no safetensors weights",
        ),
        (
            "sentence_transformers",
            {},
            {
                **ST_FILES,
                "model.sentence_transformer/modules.json": '[{"path": "", "type": "os.X"}]',
            },
            "'os.X' that is none of those known to be inert",
        ),
        (
            "sentence_transformers",
            {},
            {
                **ST_FILES,
                "model.sentence_transformer/modules.json": (
                    '[{"path": "../..", "type": "sentence_transformers.models.Dense"}]'
                ),
            },
            "outside of the model",
        ),
        (
            "sentence_transformers",
            {},
            {
                **ST_FILES,
                "model.sentence_transformer/1_Dense/config.json": (
                    '{"activation_function": "os.abort"}'
                ),
            },
            "'activation_function'",
        ),
    ],
)
def test_what_may_execute_code_is_refused_by_name(
    tmp_path: Path, flavor: str, config: Mapping[str, Any], files: Files, told: str
) -> None:
    said = judged(tmp_path, flavor, config, files)

    assert told in said
    assert "allow_pickle = false" in said
    assert "accepted are onnx, pytorch (pt2)" in said
    loose = judged(tmp_path, flavor, config, files, rules=Rules())
    assert loose == ""


@pytest.mark.parametrize(
    "pyfunc",
    [
        {"loader_module": "pwn_mod"},
        {"loader_module": "mlflow.pyfunc.model"},
        {"loader_module": "mlflow.onnx", "code": "code"},
    ],
)
def test_a_foreign_loader_and_shipped_code_are_refused_beside_a_good_format(
    tmp_path: Path, pyfunc: Mapping[str, Any]
) -> None:
    assert judged(tmp_path, "onnx", {"data": "m"}, {"m": ""}, pyfunc=pyfunc)


def test_a_file_that_a_link_leads_out_of_the_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_text("")
    (tmp_path / "model" / "m.onnx").symlink_to(tmp_path / "secret")
    assert "outside of the model" in judged(tmp_path / "model", "onnx", {"data": "m.onnx"})


@pytest.mark.parametrize(
    ("flavor", "pyfunc", "allowed", "told"),
    [
        ("onnx", {"loader_module": "mlflow.onnx"}, ("onnx",), ""),
        ("onnx", {}, ("onnx",), ""),
        ("onnx", {"loader_module": "mlflow.onnx"}, ("sklearn", "keras"), "the flavor onnx"),
        ("onnx", {"loader_module": "pwn_mod"}, ("onnx",), "pyfunc, for its loader_module"),
        ("onnx", {"loader_module": "mlflow.sklearn"}, ("onnx",), "sklearn, for its loader_module"),
        ("onnx", {"loader_module": "mlflow.onnx", "code": "c"}, ("onnx",), "code that it ships"),
        ("onnx", {"loader_module": "mlflow.onnx", "code": "c"}, ("onnx", "pyfunc"), ""),
        ("pyfunc", {"loader_module": "mlflow.pyfunc.model"}, ("pyfunc",), ""),
        ("pyfunc", {"loader_module": "anything"}, ("pyfunc",), ""),
        ("made-up", {"loader_module": "made_up"}, ("pyfunc",), "the flavor made-up"),
        ("langchain", {"loader_module": "mlflow.langchain.model"}, ("langchain",), ""),
    ],
)
def test_only_flavors_that_are_allowed_are_loaded(
    tmp_path: Path, flavor: str, pyfunc: Mapping[str, Any], allowed: tuple[str, ...], told: str
) -> None:
    said = judged(tmp_path, flavor, {}, pyfunc=pyfunc, rules=Rules(flavors=allowed))

    assert told in said
    assert bool(said) == bool(told)
    assert not said or f"allow_flavors has {', '.join(allowed)}" in said


@pytest.mark.parametrize(
    ("name", "is_accepted"),
    [
        ("onnx_named", True),
        ("torch_pt2", True),
        ("two_towers_pt2", True),
        ("two_towers", False),
        ("torch_pickle", False),
        ("torch_script", False),
        ("iris_pipeline", False),
        ("iris_forest", False),
    ],
)
def test_models_as_mlflow_saves_them_are_judged_alike(name: str, is_accepted: bool) -> None:
    path = models.model(name).path
    described = describe(load(path, name), name)
    try:
        judge(STRICT, described, path, name)
    except LoadFailed:
        assert not is_accepted
    else:
        assert is_accepted

"""One suite for every adapter and every model of models.py and deep_models.py."""

import functools
import gc
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import deep_models
import models
from headrace.datatypes import datatype_of
from headrace_server.adapters import Adapter, LoadError, adapter_of
from headrace_server.adapters.base import default_params
from headrace_server.adapters.conforming import conform
from headrace_server.adapters.probe import Probe, probe
from headrace_server.adapters.proof import Verdict
from headrace_server.devices import open_device
from models import Tensors

# The adapter hides this one for its worker, but pytest resets filters before each test.
pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")

FRAMEWORKS = {
    *("sklearn", "torch", "onnxruntime", "onnx", "xgboost", "lightgbm", "catboost", "statsmodels"),
    *("pandas", "mlflow", "skops", "scipy"),
    *("keras", "tensorflow", "transformers", "sentence_transformers"),
}


def open_model(name: str) -> Adapter:
    model = models.model(name)
    return adapter_of(model.flavor)(model.artifact, open_device("cpu"))


# Loading is slow and adapters keep no state between calls: tests that only ask share them.
shared = functools.cache(open_model)


@functools.cache
def probed(name: str) -> Probe:
    return probe(shared(name))


def assert_same(answer: Tensors, expected: Tensors) -> None:
    assert list(answer) == list(expected)
    for name, array in answer.items():
        assert array.dtype == expected[name].dtype, name
        assert array.shape == expected[name].shape, name
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)
        else:
            assert array.tolist() == expected[name].tolist(), name


NAMES = (*models.NAMES, *deep_models.NAMES)
batchable = [name for name in NAMES if name != "torch_pt2_frozen"]


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("name", batchable)
def test_the_answer_is_that_of_mlflow_or_of_the_framework(name: str, rows: int) -> None:
    model = models.model(name)
    tensors = model.rows(rows)

    assert_same(shared(name).predict(tensors), model.expected(tensors))


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
@pytest.mark.parametrize("name", batchable)
def test_rows_together_answer_as_they_do_one_by_one(name: str, rows: int) -> None:
    adapter = shared(name)
    tensors = models.model(name).rows(rows)

    together = adapter.predict(tensors)

    singles = [
        adapter.predict({key: array[row : row + 1] for key, array in tensors.items()})
        for row in range(rows)
    ]
    assert_same(together, {key: np.concatenate([s[key] for s in singles]) for key in together})


@pytest.mark.parametrize("name", NAMES)
def test_stage_launch_and_finish_make_the_same_answer_as_predict(name: str) -> None:
    adapter = shared(name)
    tensors = models.model(name).rows(1)

    launched = adapter.launch(adapter.stage(tensors), default_params(adapter.signature))

    assert_same(adapter.finish(launched), adapter.predict(tensors))


@pytest.mark.parametrize("name", NAMES)
def test_read_only_and_strided_inputs_answer_as_plain_ones_do(name: str) -> None:
    adapter = shared(name)
    tensors = models.model(name).rows(1)
    strided = {}
    for key, array in tensors.items():
        wide = np.repeat(array, 2, axis=-1)
        wide.flags.writeable = False
        strided[key] = wide[..., ::2] if array.ndim > 1 else wide[:1]

    assert_same(adapter.predict(strided), adapter.predict(tensors))


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_says_what_goes_in_and_comes_out(name: str) -> None:
    model = models.model(name)
    tensors = model.rows(1)

    signature = probed(name).signature

    assert signature is not None
    assert [spec.name for spec in signature.inputs] == list(tensors)
    outputs = {spec.name: spec for spec in signature.outputs}
    answer, refused = conform(shared(name).predict(tensors), outputs)
    assert not refused
    assert [spec.name for spec in signature.outputs] == list(answer)
    for spec in signature.outputs:
        array = answer[spec.name]
        assert spec.datatype == datatype_of(array.dtype).name
        assert spec.shape[0] == -1
        assert len(spec.shape) == array.ndim


# Models of texts and categories that made-up rows do not have.
MADE_UP_TELLS_NOTHING = {
    "cat_mixed",
    "hf_filler",
    "lgb_categories",
    "mixed_columns",
    "text_classifier",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_probe_finds_out_whether_rows_may_be_batched(name: str) -> None:
    found = probed(name).finding

    if name in MADE_UP_TELLS_NOTHING:
        assert found.verdict is Verdict.UNPROVEN, found
    else:
        is_batched = found.verdict is Verdict.BATCHED
        assert is_batched == models.model(name).is_batchable, found


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("iris_forest", "RandomForestClassifier"),
        ("mixed_columns", "Pipeline"),
        ("torch_pickle", "Mlp"),
        ("torch_pt2", "torch.nn.parameter.Parameter"),
        ("onnx_named", "InferenceSession"),
        ("xgb_booster", "xgboost.core.Booster"),
        ("xgb_classifier", "xgboost.core.Booster"),
        ("lgb_classifier", "lightgbm.basic.Booster"),
        ("lgb_categories", "lightgbm.basic.Booster"),
        ("cat_mixed", "CatBoostRegressor"),
        ("ols_columns", "RegressionResultsWrapper"),
        ("hf_classifier", "torch.nn.parameter.Parameter"),
        ("st_mean", "torch.nn.parameter.Parameter"),
    ],
)
def test_a_closed_adapter_lets_go_of_the_model(name: str, kind: str) -> None:
    """Without a full collection, which would stop every instance of a worker."""

    def count() -> int:
        kinds = (type(item) for item in gc.get_objects())
        return sum(f".{one.__module__}.{one.__name__}".endswith(f".{kind}") for one in kinds)

    models.model(name)
    gc.freeze()  # Counting then passes over all that was there before.
    try:
        adapter = open_model(name)
        gc.collect()  # By the time a model goes it is old.
        while_open = count()
        adapter.close()
        gc.collect(1)
        afterwards = count()
    finally:
        gc.unfreeze()

    assert while_open >= 1
    assert afterwards == 0


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("iris_pipeline", "skops.io", "sklearn"),
        ("iris_forest", "sklearn", "sklearn"),
        ("torch_pickle", "torch", "torch"),
        ("torch_pt2", "torch", "torch"),
        ("onnx_named", "onnxruntime", "onnx"),
        ("xgb_booster", "xgboost", "xgboost"),
        ("xgb_classifier", "sklearn", "xgboost"),
        ("lgb_booster", "lightgbm", "lightgbm"),
        ("lgb_classifier", "skops.io", "lightgbm"),
        ("cat_species", "catboost", "catboost"),
        ("ols_columns", "statsmodels", "statsmodels"),
        ("keras_dense", "keras", "keras"),
        ("hf_classifier", "transformers", "transformers"),
        ("st_mean", "sentence_transformers", "sentence-transformers"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.model(name)
    for module in [m for m in sys.modules if m == package or m.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(LoadError) as raised:
        open_model(name)

    top = package.partition(".")[0]
    assert str(raised.value) == f'{top} is not installed: pip install "headrace[{extra}]"'


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("iris_pipeline", "pickled_model"),
        ("torch_pt2", "model_data"),
        ("onnx_named", "data"),
        ("xgb_booster", "data"),
        ("lgb_booster", "data"),
        ("lgb_classifier", "data"),
        ("cat_species", "data"),
        ("ols_columns", "data"),
        ("keras_dense", "data"),
        ("hf_classifier", "model_binary"),
    ],
)
def test_an_artifact_without_its_file_does_not_load(name: str, key: str) -> None:
    model = models.model(name)
    flavor = adapter_of(model.flavor)
    elsewhere = replace(model.artifact, config={**model.artifact.config, key: "gone"})
    unnamed = replace(model.artifact, config={})

    with pytest.raises(
        LoadError, match=r"^the artifact lacks 'gone', which its MLmodel file names"
    ):
        flavor(elsewhere, open_device("cpu"))
    with pytest.raises(LoadError, match=f"^the MLmodel file names no {key!r} for this flavor$"):
        flavor(unnamed, open_device("cpu"))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("iris_pipeline", "model.skops"),
        ("iris_forest", "model.pkl"),
        ("torch_pickle", "data/model.pth"),
        ("torch_pt2", "data/model.pt2"),
        ("onnx_named", "model.onnx"),
        ("xgb_booster", "model.ubj"),
        ("xgb_classifier", "model.ubj"),
        ("lgb_booster", "model.lgb"),
        ("lgb_classifier", "model.skops"),
        ("cat_species", "model.cb"),
        ("ols_columns", "model.statsmodels"),
        ("keras_dense", "data/model.keras"),
        ("hf_classifier", "model/model.safetensors"),
        ("st_mean", "model.sentence_transformer/modules.json"),
    ],
)
def test_a_file_of_something_else_does_not_load(name: str, file: str, tmp_path: Path) -> None:
    model = models.model(name)
    assert (model.path / file).exists()
    broken = tmp_path / file
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"not a model\n" * 10)

    with pytest.raises(LoadError, match=r"^the model does not load: \w+: [^\n]*\Z"):
        adapter_of(model.flavor)(replace(model.artifact, path=tmp_path), open_device("cpu"))


def test_adapters_import_no_framework_before_they_load() -> None:
    """A worker holds only the framework of its own models."""
    script = (
        "import json, sys\n"
        "from headrace_server.adapters import catboost, lightgbm, onnx, probe, pytorch\n"
        "from headrace_server.adapters import sklearn, statsmodels, xgboost\n"
        "from headrace_server.adapters import keras, tensorflow\n"
        "from headrace_server.adapters import sentence_transformers, transformers\n"
        "from headrace_server.devices import open_device\n"
        "open_device('cpu')\n"
        "print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    )

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)

    assert FRAMEWORKS.isdisjoint(json.loads(found.stdout))

"""How models of XGBoost, LightGBM and CatBoost are opened and asked; statsmodels beside them."""

import json
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import models
from headrace.signature import ParamSpec, Signature, TensorSpec
from headrace_server.adapters import Adapter, Artifact, LoadError, adapter_of
from headrace_server.adapters.probe import probe
from headrace_server.adapters.proof import Verdict
from headrace_server.adapters.statsmodels import StatsmodelsAdapter
from headrace_server.adapters.xgboost import XgboostAdapter
from headrace_server.devices import open_device
from models import Tensors

PICKLED = ["lgb_classifier", "ols_columns"]
UNPICKLED = ["xgb_booster", "xgb_classifier", "lgb_booster", "cat_species"]


def opened(name: str, threads: int = 1, **changes: Any) -> Any:
    model = models.model(name)
    return adapter_of(model.flavor)(replace(model.artifact, **changes), open_device("cpu", threads))


def framework_model(name: str) -> Any:
    (model,) = (
        value for key, value in models.recipe_of(name).arguments.items() if key.endswith("_model")
    )
    return model


@pytest.mark.parametrize("name", ["xgb_booster", "lgb_booster", "lgb_classifier", "cat_species"])
def test_numeric_columns_go_in_as_one_matrix(name: str) -> None:
    assert isinstance(opened(name).stage(models.model(name).rows(2)), np.ndarray)


@pytest.mark.parametrize("name", ["lgb_categories", "cat_mixed"])
def test_columns_with_categories_go_in_as_one_matrix(name: str) -> None:
    assert isinstance(opened(name).stage(models.model(name).rows(2)), np.ndarray)


@pytest.mark.parametrize(
    "name", ["xgb_classifier", "xgb_binary", "lgb_classifier", "lgb_binary", "cat_matrix"]
)
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_probabilities_are_those_of_the_framework(name: str, rows: int) -> None:
    tensors = models.model(name).rows(rows)
    given = pd.DataFrame(tensors) if len(tensors) > 1 else tensors["input-0"]

    (answer,) = opened(name, method="predict_proba").predict(tensors).values()

    expected = framework_model(name).predict_proba(given)
    assert (answer.dtype, answer.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(answer, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("xgb_classifier", "transform", r"^XGBClassifier has no method 'transform'$"),
        ("xgb_booster", "predict_proba", r"^a Booster answers by 'predict', not by 'predict_prob"),
        ("lgb_classifier", "transform", r"^LGBMClassifier has no method 'transform'$"),
        ("lgb_booster", "refit", r"^a Booster answers by 'predict', not by 'refit'$"),
        ("cat_mixed", "predict_proba", r"^CatBoostRegressor has no method 'predict_proba'$"),
        ("ols_columns", "predict_proba", r"has no method 'predict_proba'$"),
    ],
)
def test_a_method_that_the_model_lacks_is_an_error_of_loading(
    name: str, method: str, message: str
) -> None:
    with pytest.raises(LoadError, match=message):
        opened(name, method=method)


def test_a_method_without_a_quicker_call_is_asked_as_it_is() -> None:
    tensors = models.model("xgb_classifier").rows(3)

    (leaves,) = opened("xgb_classifier", method="apply").predict(tensors).values()

    expected = framework_model("xgb_classifier").apply(pd.DataFrame(tensors))
    assert leaves.tolist() == expected.tolist()


@pytest.mark.parametrize("name", UNPICKLED)
def test_formats_without_code_load_where_unpickling_is_forbidden_and_without_mlflow(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.model(name)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, f"mlflow.{models.model(name).flavor}", None)

    assert opened(name).predict(models.model(name).rows(1))


@pytest.mark.parametrize("name", PICKLED)
def test_mlflows_switch_against_unpickling_holds(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.model(name)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

    with pytest.raises(LoadError, match=r"^the model does not load: MlflowException: .*disallowed"):
        opened(name)


@pytest.mark.parametrize("name", ["xgb_booster", "xgb_classifier", "lgb_booster"])
def test_a_matrix_of_the_wrong_width_is_refused_by_the_framework(name: str) -> None:
    adapter = opened(name)
    wide = adapter.stage(models.model(name).rows(3)).repeat(2, axis=1)
    narrow = wide[:, :3].copy()

    for matrix in (wide, narrow):
        with pytest.raises(Exception, match=r"(?i)feature|column"):
            adapter.launch(matrix)
    assert adapter.predict(models.model(name).rows(3))


@pytest.mark.parametrize("name", ["xgb_booster", "xgb_classifier", "lgb_booster", "lgb_classifier"])
def test_a_column_that_was_left_out_is_one_of_missing_values(name: str) -> None:
    model = models.model(name)
    signature = model.artifact.signature
    assert signature is not None
    *others, last = signature.inputs
    optional = Signature((*others, replace(last, optional=True)), signature.outputs)
    tensors = model.rows(5)
    missing = {**tensors, last.name: np.full(5, np.nan)}
    adapter = opened(name, signature=optional)

    (answer,) = adapter.predict({spec.name: tensors[spec.name] for spec in others}).values()

    (expected,) = adapter.predict(missing).values()
    assert answer.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("xgb_unsigned", [*models.IRIS_COLUMNS]),
        ("lgb_unsigned", [*models.IRIS_COLUMNS]),
        ("cat_unsigned", [*models.IRIS_COLUMNS]),
        ("xgb_binary", ["input-0"]),
        ("lgb_binary", ["input-0"]),
        ("cat_matrix", ["input-0"]),
        ("ols_columns", [*models.IRIS_COLUMNS]),
        ("glm_matrix", ["input-0"]),
    ],
)
def test_without_a_signature_the_model_tells_its_features(name: str, inputs: list[str]) -> None:
    signature = opened(name, signature=None).signature

    assert signature is not None
    assert [spec.name for spec in signature.inputs] == inputs
    assert {spec.shape for spec in signature.inputs} == {(-1, 4) if len(inputs) == 1 else (-1,)}


@pytest.mark.parametrize("name", ["lgb_categories", "cat_mixed", "ols_formula"])
def test_features_that_are_no_plain_numbers_make_no_signature(name: str) -> None:
    assert opened(name, signature=None).signature is None


@pytest.mark.parametrize("name", ["ols_formula", "lgb_categories", "cat_mixed"])
def test_without_a_signature_they_take_columns_by_name(name: str) -> None:
    model = models.model(name)
    tensors = model.rows(3)

    (answer,) = opened(name, signature=None).predict(tensors).values()

    assert answer.tolist() == pytest.approx(next(iter(model.expected(tensors).values())).tolist())


def test_a_category_that_lightgbm_does_not_know_is_a_missing_value() -> None:
    tensors: Tensors = {"city": np.array(["Nowhere"], object), "area": np.array([25.0])}
    frame = pd.DataFrame({"city": pd.Categorical([None], ["Kyoto", "Lima", "Oslo"]), "area": 25.0})

    (answer,) = opened("lgb_categories").predict(tensors).values()

    assert answer.tolist() == framework_model("lgb_categories").predict(frame).tolist()


def test_xgboost_computes_with_the_devices_threads() -> None:
    adapter = opened("xgb_classifier", threads=3)

    config = json.loads(adapter._booster.save_config())
    assert config["learner"]["generic_param"]["nthread"] == "3"


@pytest.mark.parametrize("name", ["xgb_booster", "lgb_booster", "cat_matrix", "ols_columns"])
def test_models_run_on_the_host_where_their_framework_has_no_cuda(name: str) -> None:
    model = models.model(name)
    elsewhere: Any = types.SimpleNamespace(name="cuda:0", is_asynchronous=True, threads=1)

    adapter = adapter_of(model.flavor)(model.artifact, elsewhere)

    assert adapter.device.name == "cpu"
    assert adapter.predict(model.rows(1))


def test_xgboost_takes_parameters_of_the_signature_as_mlflow_does() -> None:
    model = models.model("xgb_booster")
    assert model.artifact.signature is not None
    params = (
        ParamSpec("output_margin", "boolean", default=False),
        ParamSpec("unknown", "long", 1),
    )
    adapter = opened("xgb_booster", signature=replace(model.artifact.signature, params=params))
    tensors = model.rows(3)

    (margin,) = adapter.predict(tensors, {"output_margin": True, "unknown": 2}).values()
    (probability,) = adapter.predict(tensors).values()

    assert probability.tolist() == pytest.approx((1 / (1 + np.exp(-margin))).tolist())
    assert probability.tolist() == next(iter(model.expected(tensors).values())).tolist()


def test_early_stopping_holds_for_models_of_the_scikit_learn_kind(tmp_path: Path) -> None:
    import xgboost

    features = np.arange(40.0).reshape(20, 2)
    labels = np.arange(20) % 2
    fitted = xgboost.XGBRegressor(n_estimators=20, early_stopping_rounds=2, n_jobs=1)
    fitted.fit(features, labels, eval_set=[(features, 1 - labels)], verbose=False)
    assert fitted.best_iteration < fitted.get_booster().num_boosted_rounds() - 1
    fitted.save_model(tmp_path / "model.ubj")
    config = {"data": "model.ubj", "model_class": "xgboost.sklearn.XGBRegressor"}

    adapter = XgboostAdapter(Artifact(tmp_path, config, {}, None), open_device("cpu"))

    (answer,) = adapter.predict({"input-0": features}).values()
    assert answer.tolist() == fitted.predict(features).tolist()


def test_a_softmax_objective_is_asked_in_mlflows_way(tmp_path: Path) -> None:
    """Its booster answers labels, as floats."""
    import xgboost

    features = np.arange(60.0).reshape(30, 2)
    fitted = xgboost.XGBClassifier(n_estimators=2, objective="multi:softmax", n_jobs=1)
    fitted.fit(features, np.arange(30) % 3)
    fitted.save_model(tmp_path / "model.ubj")
    config = {"data": "model.ubj", "model_class": "xgboost.sklearn.XGBClassifier"}

    adapter = XgboostAdapter(Artifact(tmp_path, config, {}, None), open_device("cpu"))

    (answer,) = adapter.predict({"input-0": features}).values()
    expected = fitted.predict(features)
    assert (answer.dtype, answer.tolist()) == (expected.dtype, expected.tolist())


def test_a_linear_booster_is_asked_by_a_matrix_of_its_own(tmp_path: Path) -> None:
    import xgboost

    features = np.arange(60.0).reshape(30, 2)
    fitted = xgboost.train({"booster": "gblinear"}, xgboost.DMatrix(features, features[:, 0]), 3)
    fitted.save_model(tmp_path / "model.ubj")

    artifact = Artifact(tmp_path, {"data": "model.ubj"}, {}, None)
    (answer,) = XgboostAdapter(artifact, open_device("cpu")).predict({"input-0": features}).values()

    assert answer.tolist() == fitted.predict(xgboost.DMatrix(features)).tolist()


def test_an_unknown_kind_of_catboost_model_is_an_error_of_loading() -> None:
    artifact = models.model("cat_species").artifact

    with pytest.raises(LoadError, match=r"^unknown model_type 'Later': expected one of CatBoost, "):
        opened("cat_species", config={**artifact.config, "model_type": "Later"})


@pytest.fixture(name="series")
def _series(tmp_path: Path) -> Callable[[], Adapter]:
    from statsmodels.tsa.arima.model import ARIMA

    def open_series() -> Adapter:
        fitted = ARIMA(np.arange(30.0) % 7, order=(1, 0, 0)).fit()
        fitted.save(tmp_path / "model.statsmodels")
        signature = Signature(
            (TensorSpec("start", "INT64", (-1,), "long"), TensorSpec("end", "INT64", (-1,), "long"))
        )
        artifact = Artifact(tmp_path, {"data": "model.statsmodels"}, {}, signature)
        return StatsmodelsAdapter(artifact, open_device("cpu"))

    return open_series


def test_a_time_series_answers_the_values_from_start_to_end(series: Callable[[], Adapter]) -> None:
    adapter: Any = series()

    (answer,) = adapter.predict({"start": np.array([28]), "end": np.array([32])}).values()

    assert answer.tolist() == adapter._model.predict(start=28, end=32).tolist()


def test_a_time_series_is_whole(series: Callable[[], Adapter]) -> None:
    found = probe(series()).finding

    assert found.verdict is Verdict.WHOLE, found

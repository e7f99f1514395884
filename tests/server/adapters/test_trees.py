"""How models of XGBoost, LightGBM and CatBoost are opened and asked; statsmodels beside them."""

import json
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema

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


MIXES: dict[str, Callable[[np.random.Generator, int], dict[str, Any]]] = {
    "long": lambda chance, n: {"a": near(2**53, chance, n), "b": near(2**24, chance, n)},
    "long double": lambda chance, n: {
        "a": near(2**60, chance, n) + chance.integers(-40, 40, n) * 2**36,
        "b": chance.normal(size=n),
    },
    "integer": lambda chance, n: {
        "a": near(2**24, chance, n).astype(np.int32),
        "b": near(2**25, chance, n).astype(np.int32),
    },
    "float double": lambda chance, n: {
        "a": chance.normal(size=n).astype(np.float32),
        "b": 2**24 + 10 * chance.normal(size=n),
    },
    "boolean long": lambda chance, n: {
        "a": chance.integers(0, 2, n) > 0,
        "b": near(2**24, chance, n),
    },
    "double": lambda chance, n: {"a": 1e4 * chance.normal(size=n), "b": chance.normal(size=n)},
}


def near(middle: int, chance: np.random.Generator, count: int) -> Any:
    return middle + chance.integers(-40, 40, count)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kind", ["xgb_booster", "xgb_model", "lgb", "cat"])
def test_numbers_of_all_kinds_reach_the_trees_as_from_mlflows_frame(
    kind: str, mix: str, tmp_path: Path
) -> None:
    """Bit by bit: trees that split between neighbouring numbers tell each rounding."""
    chance = np.random.default_rng(7)
    frame, rows = (pd.DataFrame(MIXES[mix](chance, count)) for count in (1000, 5000))
    model, flavor = fitted_trees(kind, frame, chance.normal(size=len(frame)))
    save(tmp_path / "model", model, flavor, infer_signature(frame, np.zeros(1)))

    adapter = opened_from(tmp_path / "model", flavor)
    tensors = {name: rows[name].to_numpy() for name in rows}
    (answer,) = adapter.predict(tensors).values()

    expected = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(rows)
    assert len(set(expected.tolist())) > 10
    assert answer.tolist() == expected.tolist()
    assert isinstance(adapter.stage(tensors), np.ndarray)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_a_booster_of_xgboost_refuses_what_its_own_matrix_refuses(value: float) -> None:
    tensors = models.model("xgb_booster").rows(2)
    tensors["sepal_width"][1] = value
    adapter = opened("xgb_booster")

    assert isinstance(adapter.stage(tensors), np.ndarray)
    with pytest.raises(Exception, match="Input data contains `inf` or a value too large"):
        adapter.predict(tensors)


def fitted_trees(kind: str, frame: pd.DataFrame, labels: Any) -> tuple[Any, str]:
    """A model of many splits, and its flavor."""
    if kind == "lgb":
        import lightgbm

        options = {"n_estimators": 20, "min_child_samples": 1, "max_bin": 5000, "verbose": -1}
        return lightgbm.LGBMRegressor(**options, n_jobs=1).fit(frame, labels), "lightgbm"
    if kind == "cat":
        import catboost

        options = {"iterations": 20, "border_count": 1000, "verbose": 0, "thread_count": 1}
        made = catboost.CatBoostRegressor(**options, allow_writing_files=False)
        return made.fit(frame, labels), "catboost"
    import xgboost

    if kind == "xgb_model":
        fitted = xgboost.XGBRegressor(n_estimators=20, max_depth=8, n_jobs=1)
        return fitted.fit(frame, labels), "xgboost"
    return xgboost.train({"max_depth": 8, "nthread": 1}, xgboost.DMatrix(frame, labels), 20), (
        "xgboost"
    )


def save(path: Path, model: Any, flavor: str, signature: Any) -> None:
    argument = {"xgboost": "xgb_model", "lightgbm": "lgb_model", "catboost": "cb_model"}[flavor]
    options = {"serialization_format": "cloudpickle"} if flavor == "lightgbm" else {}
    if type(model).__name__ == "Booster":
        options = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module(f"mlflow.{flavor}").save_model(
            path=str(path),
            signature=signature,
            pip_requirements=["numpy"],
            **{argument: model},
            **options,
        )


def opened_from(path: Path, flavor: str) -> Any:
    return adapter_of(flavor)(models.read_artifact(path, flavor), open_device("cpu"))


CATEGORIES: dict[str, list[Any]] = {
    "text": ["red", "blue", "green"],
    "integers": [10, 20, 30],
    "flags": [False, True],
}


@pytest.fixture(name="painted", scope="module")
def _painted() -> Callable[[str], tuple[pd.DataFrame, pd.DataFrame, Any]]:
    """Rows with a column of pandas' categories, the same with their values, and labels."""

    def painted(kind: str) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
        chance = np.random.default_rng(3)
        categories = CATEGORIES[kind]
        drawn = chance.integers(0, len(categories), 300)
        values = pd.Series([categories[at] for at in drawn])
        size = chance.normal(size=300)
        plain = pd.DataFrame({"paint": values, "size": size})
        # Not the order of their values, so that numbers of categories are not these.
        dtype = pd.CategoricalDtype(categories[::-1])
        return plain.assign(paint=values.astype(dtype)), plain, drawn * 3 % 5 + size

    return painted


@pytest.mark.parametrize(
    ("kind", "trees"),
    [
        *[(kind, trees) for kind in ("text", "integers") for trees in ("xgb", "lgb", "lgb_text")],
        ("text", "xgb_booster"),
        ("flags", "lgb"),
        ("flags", "lgb_text"),
    ],
)
@pytest.mark.parametrize("is_signed", [True, False])
def test_pandas_categories_answer_as_the_frameworks_own_call(
    kind: str, trees: str, is_signed: bool, painted: Any, tmp_path: Path
) -> None:
    """MLflow refuses them: it gives such a model its texts, or its integers."""
    frame, plain, labels = painted(kind)
    model, flavor, expected = with_categories(trees, frame, labels)
    signature = infer_signature(plain, labels) if is_signed else None
    save(tmp_path / "model", model, flavor, signature)
    rows = plain[:7]

    with pytest.raises(Exception, match=r"category|categorical"):
        mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(rows)
    adapter = opened_from(tmp_path / "model", flavor)

    (together,) = adapter.predict(tensors_of(rows)).values()
    singles = [next(iter(adapter.predict(tensors_of(rows[i : i + 1])).values())) for i in range(7)]
    assert together.tolist() == expected(frame[:7]).tolist()
    assert np.concatenate(singles).tolist() == together.tolist()


def with_categories(
    trees: str, frame: pd.DataFrame, labels: Any
) -> tuple[Any, str, Callable[[pd.DataFrame], Any]]:
    """A model fitted with pandas' categories, its flavor, and the framework's own call of it."""
    if trees.startswith("lgb"):
        import lightgbm

        fitted = lightgbm.LGBMRegressor(n_estimators=5, min_child_samples=5, verbose=-1, n_jobs=1)
        fitted.fit(frame, labels)
        model = fitted.booster_ if trees == "lgb_text" else fitted
        return model, "lightgbm", fitted.predict
    import xgboost

    if trees == "xgb":
        model = xgboost.XGBRegressor(n_estimators=5, enable_categorical=True, n_jobs=1)
        return model.fit(frame, labels), "xgboost", model.predict
    matrix = xgboost.DMatrix(frame, labels, enable_categorical=True)
    booster = xgboost.train({"nthread": 1}, matrix, 5)
    return (
        booster,
        "xgboost",
        lambda rows: booster.predict(xgboost.DMatrix(rows, enable_categorical=True)),
    )


def tensors_of(rows: pd.DataFrame) -> Tensors:
    return {
        name: rows[name].to_numpy(object if rows[name].dtype.kind in "OU" else None)
        for name in rows
    }


def test_integers_are_numbers_of_categories_to_a_booster_as_with_mlflow(
    painted: Any, tmp_path: Path
) -> None:
    frame, plain, labels = painted("integers")
    model, flavor, _ = with_categories("xgb_booster", frame, labels)
    save(tmp_path / "model", model, flavor, infer_signature(plain, labels))
    rows = plain[:7].assign(paint=[0, 1, 2, 0, 1, 2, 30])

    (answer,) = opened_from(tmp_path / "model", flavor).predict(tensors_of(rows)).values()

    expected = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(rows)
    assert len(set(expected[:6].tolist())) > 3
    assert answer.tolist() == expected.tolist()


def test_integers_beside_text_are_categories_to_a_booster_too(tmp_path: Path, painted: Any) -> None:
    frame, plain, labels = painted("text")
    plain["door"] = np.arange(300) % 3 * 10
    frame["door"] = plain["door"].astype("category")
    model, flavor, expected = with_categories("xgb_booster", frame, labels + plain["door"])
    save(tmp_path / "model", model, flavor, infer_signature(plain, labels))

    (answer,) = opened_from(tmp_path / "model", flavor).predict(tensors_of(plain[:7])).values()

    assert answer.tolist() == expected(frame[:7]).tolist()


@pytest.mark.parametrize(
    ("kind", "trees", "unknown"),
    [
        ("text", "xgb", ["zebra", "mauve"]),
        ("text", "xgb_booster", ["zebra", "mauve"]),
        ("integers", "xgb", [5, 15]),
    ],
)
def test_a_category_that_the_model_of_xgboost_does_not_know_is_refused(
    kind: str, trees: str, unknown: list[Any], painted: Any, tmp_path: Path
) -> None:
    """XGBoost takes one that sorts before the last that it knows for another, without a word."""
    frame, plain, labels = painted(kind)
    model, flavor, _ = with_categories(trees, frame, labels)
    save(tmp_path / "model", model, flavor, infer_signature(plain, labels))
    adapter = opened_from(tmp_path / "model", flavor)

    for value in unknown:
        with pytest.raises(
            ValueError, match=r"^column 'paint' has a category that the model does not know$"
        ):
            adapter.predict(tensors_of(plain[:2].assign(paint=[CATEGORIES[kind][0], value])))


def test_a_category_that_is_left_out_is_a_missing_value_to_xgboost(
    painted: Any, tmp_path: Path
) -> None:
    frame, plain, labels = painted("text")
    model, flavor, expected = with_categories("xgb", frame, labels)
    columns = [ColSpec("string", "paint", required=False), ColSpec("double", "size")]
    save(tmp_path / "model", model, flavor, ModelSignature(Schema(columns)))
    missing = frame[:3].assign(paint=pd.Series([None] * 3, dtype=frame["paint"].dtype))

    sizes = tensors_of(plain[["size"]][:3])
    (answer,) = opened_from(tmp_path / "model", flavor).predict(sizes).values()

    assert answer.tolist() == expected(missing).tolist()


def test_lightgbm_categories_that_are_texts_are_not_asked_with_numbers(
    painted: Any, tmp_path: Path
) -> None:
    """Each would be a missing value, without a word."""
    frame, plain, labels = painted("text")
    model, flavor, _ = with_categories("lgb", frame, labels)
    save(tmp_path / "model", model, flavor, infer_signature(plain.assign(paint=1), labels))

    with pytest.raises(
        LoadError, match=r"^input 'paint' is INT64, but the model's categories are texts$"
    ):
        opened_from(tmp_path / "model", flavor)


def test_lightgbm_categories_without_a_place_are_refused_by_name(
    painted: Any, tmp_path: Path
) -> None:
    """LightGBM tells nothing of a column that is the same in all rows."""
    frame, plain, labels = painted("integers")
    frame["paint"] = frame["paint"].where(frame["paint"] == 10, 10)
    model, flavor, _ = with_categories("lgb", frame, labels)
    save(tmp_path / "model", model, flavor, infer_signature(plain, labels))

    with pytest.raises(
        LoadError,
        match=r"fitted with 1 columns of pandas' categories, and which of \['paint', 'size'\] ",
    ):
        opened_from(tmp_path / "model", flavor)


@pytest.mark.parametrize("kind", ["text", "integers", "flags"])
@pytest.mark.parametrize("is_signed", [True, False])
def test_categorical_features_of_catboost_answer_as_with_mlflow(
    kind: str, is_signed: bool, painted: Any, tmp_path: Path
) -> None:
    import catboost

    _, plain, labels = painted(kind)
    options = {"iterations": 5, "verbose": 0, "thread_count": 1, "allow_writing_files": False}
    model = catboost.CatBoostRegressor(cat_features=["paint"], **options).fit(plain, labels)
    signature = infer_signature(plain, labels) if is_signed else None
    save(tmp_path / "model", model, "catboost", signature)
    rows = plain[:7].copy()
    if kind != "flags":
        rows.loc[0, "paint"] = {"text": "mauve", "integers": 2**60 + 1}[kind]

    (answer,) = opened_from(tmp_path / "model", "catboost").predict(tensors_of(rows)).values()

    expected = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(rows)
    assert answer.tolist() == expected.tolist()


def test_catboost_refuses_columns_in_another_order_as_with_mlflow(
    painted: Any, tmp_path: Path
) -> None:
    import catboost

    _, plain, labels = painted("integers")
    plain["age"] = plain["paint"] // 3
    options = {"iterations": 5, "verbose": 0, "thread_count": 1, "allow_writing_files": False}
    model = catboost.CatBoostRegressor(cat_features=["paint"], **options).fit(plain, labels)
    save(tmp_path / "model", model, "catboost", None)
    rows = tensors_of(plain[["age", "size", "paint"]][:2].astype({"size": int}))

    with pytest.raises(Exception, match="Feature age is Float in model but marked different"):
        opened_from(tmp_path / "model", "catboost").predict(rows)


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
    assert "must have exactly one row and include columns called start and end" in found.why

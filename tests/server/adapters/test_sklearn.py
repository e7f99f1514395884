"""How sklearn estimators are opened, and in which form they are handed their inputs."""

import pickle
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import threadpoolctl  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

import models
from headrace.signature import Signature, TensorSpec
from headrace_server.adapters import Artifact, LoadError
from headrace_server.adapters.probe import probe
from headrace_server.adapters.sklearn import SklearnAdapter
from headrace_server.devices import open_device
from models import Tensors

pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")

Opener = Callable[..., SklearnAdapter]

DATATYPES = {"double": "FP64", "float": "FP32", "boolean": "BOOL", "integer": "INT32"}
DTYPES = {
    "double": "float64",
    "float": "float32",
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
}


@pytest.fixture(name="open_estimator")
def _open_estimator(tmp_path: Path) -> Opener:
    def open_estimator(
        estimator: Any, signature: Signature | None = None, **fields: Any
    ) -> SklearnAdapter:
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(estimator))
        config = {"pickled_model": "model.pkl", "serialization_format": "pickle"}
        artifact = Artifact(tmp_path, config, fields.pop("pyfunc", {}), signature, **fields)
        return SklearnAdapter(artifact, open_device("cpu"))

    return open_estimator


def columns(**kinds: str) -> Signature:
    return Signature(
        tuple(
            TensorSpec(name, DATATYPES.get(kind, "INT64"), (-1,), kind)
            for name, kind in kinds.items()
        )
    )


class Echo(BaseEstimator):  # type: ignore[misc]
    """Returns what it was given, in the way it was told to."""

    def __init__(self, answer: str = "values") -> None:
        self.answer = answer

    def predict(self, given: Any) -> Any:
        match self.answer:
            case "list":
                return np.asarray(given)[:, 0].tolist()
            case "series":
                return pd.Series(np.asarray(given)[:, 0], name="first")
            case "by name":
                return given["b"].to_numpy() - given["a"].to_numpy()
            case "type":
                return np.full(len(given), type(given).__name__)
            case "dtype":
                return np.full(len(given), str(np.asarray(given).dtype))
            case "nulls":
                return np.full(len(given), f"{given['b'].dtype} {given['b'].isna().all()}")
            case "lengths":
                return given["path"].map(lambda path: len(path or "")).to_numpy()
            case "hour":
                return given["at"].dt.hour.to_numpy()
            case "picky":
                values = np.asarray(given)
                if not (values > 100).all():
                    raise ValueError("all values must be above 100")
                return values.sum(axis=1)
        return np.asarray(given)


class Reordering(BaseEstimator):  # type: ignore[misc]
    """Finds its columns by name in a frame, whatever their order; by position in a matrix."""

    def fit(self) -> "Reordering":
        self.feature_names_in_ = np.array(["a", "b"], object)
        return self

    def predict(self, given: Any) -> Any:
        if hasattr(given, "columns"):
            given = given[["a", "b"]]
        return np.asarray(given) @ [-1.0, 2.0]


TWO_ROWS: Tensors = {"a": np.array([1.0, 2.0]), "b": np.array([10.0, 30.0])}
A_B = columns(a="double", b="double")


def test_numeric_columns_go_in_as_one_matrix(open_estimator: Opener) -> None:
    fitted = LinearRegression().fit(pd.DataFrame(TWO_ROWS), [1.0, 2.0])

    staged = open_estimator(fitted, A_B).stage(TWO_ROWS)

    assert isinstance(staged, np.ndarray)
    assert staged.tolist() == [[1.0, 10.0], [2.0, 30.0]]


def test_columns_chosen_by_name_go_in_as_a_frame(open_estimator: Opener) -> None:
    frame = pd.DataFrame(TWO_ROWS)
    chooser = ColumnTransformer([("b", StandardScaler(), ["b"])]).fit(frame)
    adapter = open_estimator(chooser, A_B)

    assert isinstance(adapter.stage(TWO_ROWS), pd.DataFrame)
    assert adapter.predict(TWO_ROWS)["output-0"].tolist() == chooser.transform(frame).tolist()


def test_a_model_that_answers_differently_to_a_matrix_gets_its_frame(
    open_estimator: Opener,
) -> None:
    adapter = open_estimator(Echo("type"), A_B)

    assert adapter.predict(TWO_ROWS)["output-0"].tolist() == ["DataFrame", "DataFrame"]


def test_a_model_that_uses_names_gets_its_frame(open_estimator: Opener) -> None:
    adapter = open_estimator(Echo("by name"), A_B)

    assert adapter.predict(TWO_ROWS)["output-0"].tolist() == [9.0, 28.0]


def test_the_frame_is_kept_where_made_up_rows_prove_nothing(open_estimator: Opener) -> None:
    adapter = open_estimator(Echo("picky"), A_B)

    assert isinstance(adapter.stage(TWO_ROWS), pd.DataFrame)


def test_the_input_example_can_prove_what_made_up_rows_cannot(open_estimator: Opener) -> None:
    example: Tensors = {"a": np.array([101.0]), "b": np.array([102.0])}

    adapter = open_estimator(Echo("picky"), A_B, example=example)

    assert isinstance(adapter.stage(TWO_ROWS), np.ndarray)
    assert adapter.predict(example)["output-0"].tolist() == [203.0]


def test_large_integers_beside_floats_are_no_floats(open_estimator: Opener) -> None:
    """The ids of an encoder: as floats, 2^53 and 2^53 + 1 would be one."""
    ids = 2**53 + np.arange(4)
    frame = pd.DataFrame({"id": np.tile(ids, 10), "x": np.zeros(40)})
    encoder = OneHotEncoder(handle_unknown="ignore")
    model = make_pipeline(encoder, LogisticRegression(C=100)).fit(frame, frame["id"] % 2)
    example = {"id": np.array([1, 2, 3, 4]), "x": np.zeros(4)}
    rows: Tensors = {"id": ids, "x": np.zeros(4)}

    for known in (None, example):
        adapter = open_estimator(model, columns(id="long", x="double"), example=known)
        (answer,) = adapter.predict(rows).values()
        assert answer.tolist() == model.predict(pd.DataFrame(rows)).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "kinds",
    [
        {"a": "long", "b": "double"},
        {"a": "float", "b": "double"},
        {"a": "boolean", "b": "long"},
        {"a": "integer", "b": "long"},
    ],
)
def test_columns_of_several_datatypes_go_in_as_a_frame_that_keeps_them_apart(
    kinds: dict[str, str], open_estimator: Opener
) -> None:
    fitted = LinearRegression().fit(pd.DataFrame(TWO_ROWS), [1.0, 2.0])

    staged = open_estimator(fitted, columns(**kinds)).stage(
        {name: np.ones(2, DTYPES[kind]) for name, kind in kinds.items()}
    )

    assert [str(dtype) for dtype in staged.dtypes] == [DTYPES[kind] for kind in kinds.values()]


def test_integers_reach_an_estimator_of_another_package_as_from_a_frame(
    open_estimator: Opener,
) -> None:
    """LightGBM makes FP32 of a matrix of them."""
    import lightgbm

    chance = np.random.default_rng(0)
    drawn = 2**24 + chance.integers(-40, 40, (2, 1000))
    frame = pd.DataFrame({"a": drawn[0], "b": drawn[1]})
    options = {"n_estimators": 5, "min_child_samples": 1, "max_bin": 5000, "verbose": -1}
    model = make_pipeline(FunctionTransformer(), lightgbm.LGBMRegressor(**options, n_jobs=1))
    model.fit(frame, chance.normal(size=1000))

    (answer,) = (
        open_estimator(model, columns(a="long", b="long"))
        .predict({"a": drawn[0], "b": drawn[1]})
        .values()
    )

    assert answer.tolist() == model.predict(frame).tolist()
    assert answer.tolist() != model.predict(frame.to_numpy()).tolist()


def test_without_a_signature_columns_of_several_datatypes_are_kept_apart_too(
    open_estimator: Opener,
) -> None:
    ids = 2**53 + np.arange(4)
    encoder = OneHotEncoder(sparse_output=False).fit(np.stack([ids, ids % 1], axis=1))
    rows: Tensors = {"id": ids, "x": np.zeros(4)}

    with pytest.warns(UserWarning, match="fitted without feature names"):
        (answer,) = open_estimator(encoder, method="transform").predict(rows).values()

    assert answer[:, :4].tolist() == np.eye(4).tolist()


def test_columns_in_another_order_than_the_models_are_refused_as_by_mlflow(
    open_estimator: Opener,
) -> None:
    fitted = LinearRegression().fit(pd.DataFrame(TWO_ROWS), [1.0, 2.0])
    swapped = {"b": TWO_ROWS["b"], "a": TWO_ROWS["a"]}

    with pytest.raises(ValueError, match="must be in the same order as they were in fit"):
        open_estimator(fitted, columns(b="double", a="double")).predict(swapped)


def test_a_model_of_names_that_takes_any_order_gets_its_frame(open_estimator: Opener) -> None:
    adapter = open_estimator(Reordering().fit(), columns(b="double", a="double"))
    swapped = {"b": TWO_ROWS["b"], "a": TWO_ROWS["a"]}

    assert adapter.predict(swapped)["output-0"].tolist() == [19.0, 58.0]


def test_a_model_that_answers_all_rows_alike_gets_its_frame(open_estimator: Opener) -> None:
    """Nothing was shown of a matrix."""
    fitted = LinearRegression().fit(pd.DataFrame(TWO_ROWS), [1.0, 1.0])

    assert isinstance(open_estimator(fitted, A_B).stage(TWO_ROWS), pd.DataFrame)


@pytest.mark.parametrize(
    ("kinds", "dtype"),
    [
        ({"a": "long", "b": "long"}, "int64"),
        ({"a": "float", "b": "float"}, "float32"),
        ({"a": "long", "b": "double"}, "float64"),
        ({"a": "long", "b": "float"}, "float64"),
        # pandas makes these objects, which the model is then given in a DataFrame.
        ({"a": "boolean", "b": "double"}, "object"),
    ],
)
def test_mixed_columns_meet_in_the_type_that_pandas_gives_them(
    kinds: dict[str, str], dtype: str, open_estimator: Opener
) -> None:
    rows: Tensors = {name: np.ones(2, DTYPES[kind]) for name, kind in kinds.items()}

    answer = open_estimator(Echo("dtype"), columns(**kinds)).predict(rows)

    assert set(answer["output-0"].tolist()) == {dtype, str(pd.DataFrame(rows).to_numpy().dtype)}


def test_a_datetime_column_reaches_the_model_as_moments(open_estimator: Opener) -> None:
    adapter = open_estimator(Echo("hour"), columns(at="datetime"))
    moments = np.array(["2024-05-01T07:30", "2024-05-01T23:00"], "datetime64[ns]")

    assert adapter.predict({"at": moments.view("int64")})["output-0"].tolist() == [7, 23]


def test_a_column_that_was_left_out_is_one_of_nulls(open_estimator: Opener) -> None:
    """MLflow's pyfunc would leave it out, and the estimator fail."""
    frame = pd.DataFrame({"a": [1.0, 2.0, np.nan, 4.0], "b": [np.nan, 20.0, 30.0, 40.0]})
    model = make_pipeline(SimpleImputer(), LinearRegression()).fit(frame, [1, 2, 3, 4])
    specs = (
        TensorSpec("a", "FP64", (-1,), "double"),
        TensorSpec("b", "FP64", (-1,), "double", optional=True),
    )
    adapter = open_estimator(model, Signature(specs))
    rows = np.array([1.0, 5.0])

    (answer,) = adapter.predict({"a": rows}).values()

    expected = model.predict(pd.DataFrame({"a": rows, "b": [np.nan, np.nan]}))
    assert answer.tolist() == pytest.approx(expected.tolist())


def test_a_null_text_is_the_null_that_pandas_trained_with(open_estimator: Opener) -> None:
    frame = pd.DataFrame({"size": [1.0, 2.0, 3.0], "city": ["Oslo", "Lima", None]})
    columns_of = ColumnTransformer(
        [("city", OneHotEncoder(sparse_output=False), ["city"]), ("size", "passthrough", ["size"])]
    )
    specs = (
        TensorSpec("size", "FP64", (-1,), "double"),
        TensorSpec("city", "BYTES", (-1,), "string", optional=True),
    )
    adapter = open_estimator(columns_of.fit(frame), Signature(specs))

    (answer,) = adapter.predict({"size": np.array([9.0])}).values()

    # Of the three categories Lima, Oslo and null it is the last.
    assert answer.tolist() == [[0.0, 0.0, 1.0, 9.0]]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (TensorSpec("b", "INT64", (-1,), "datetime", optional=True), "datetime64[ns] True"),
        (TensorSpec("b", "INT64", (-1,), "long", optional=True), "float64 True"),
        (TensorSpec("b", "BYTES", (-1,), "binary", optional=True), "object True"),
        (TensorSpec("b", "BYTES", (-1,), "json", optional=True), "object True"),
    ],
)
def test_every_kind_has_its_null(open_estimator: Opener, spec: TensorSpec, told: str) -> None:
    signature = Signature((TensorSpec("a", "FP64", (-1,), "double"), spec))

    (answer,) = open_estimator(Echo("nulls"), signature).predict({"a": np.array([1.0])}).values()

    assert answer.tolist() == [told]


def test_json_columns_reach_the_estimator_as_python_objects(open_estimator: Opener) -> None:
    """As MLflow hands them over."""
    path = TensorSpec("path", "BYTES", (-1,), "json")
    adapter = open_estimator(Echo("lengths"), Signature((path, A_B.inputs[0])))
    rows = {"path": np.array(["[1, 2]", "[]"], object), "a": np.zeros(2)}

    assert adapter.predict(rows)["output-0"].tolist() == [2, 0]


def test_a_sparse_answer_comes_back_dense(open_estimator: Opener) -> None:
    encoder = OneHotEncoder().fit([["a"], ["b"]])
    signature = Signature((TensorSpec("input-0", "BYTES", (-1, 1)),))

    answer = open_estimator(encoder, signature).predict(
        {"input-0": np.array([["b"], ["a"]], object)}
    )

    assert answer["output-0"].tolist() == [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize(("answer", "name"), [("list", "output-0"), ("series", "first")])
def test_lists_and_series_are_outputs_of_a_value_per_row(
    answer: str, name: str, open_estimator: Opener
) -> None:
    named = open_estimator(Echo(answer), A_B).predict(TWO_ROWS)

    assert {key: array.tolist() for key, array in named.items()} == {name: [1.0, 2.0]}


def test_the_name_of_a_declared_output_goes_before_that_of_a_series(
    open_estimator: Opener,
) -> None:
    signature = Signature(A_B.inputs, (TensorSpec("declared", "FP64", (-1,), "double"),))

    assert list(open_estimator(Echo("series"), signature).predict(TWO_ROWS)) == ["declared"]


@pytest.mark.parametrize(
    ("fields", "method"),
    [
        ({}, "predict"),
        ({"pyfunc": {"predict_fn": "predict_proba"}}, "predict_proba"),
        ({"pyfunc": {"predict_fn": "predict"}, "method": "decision_function"}, "decision_function"),
    ],
)
def test_the_method_is_the_one_asked_for_else_mlflows(
    fields: dict[str, Any], method: str, open_estimator: Opener
) -> None:
    features = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    fitted = LogisticRegression().fit(features, [0, 1, 2])
    signature = Signature((TensorSpec("input-0", "FP64", (-1, 2)),))

    answer = open_estimator(fitted, signature, **fields).predict({"input-0": features})

    assert answer["output-0"].tolist() == getattr(fitted, method)(features).tolist()


def test_another_methods_outputs_replace_the_declared_ones(open_estimator: Opener) -> None:
    features = np.array([[0.0, 1.0], [1.0, 0.0]])
    fitted = LogisticRegression().fit(features, [0, 1])
    inputs = (TensorSpec("input-0", "FP64", (-1, 2)),)
    declared = Signature(inputs, (TensorSpec("label", "INT64", (-1,), "long"),))

    found = probe(open_estimator(fitted, declared, method="predict_proba"))

    assert found.signature == Signature(inputs, (TensorSpec("label", "FP64", (-1, 2)),))


def test_a_method_that_the_model_lacks_is_an_error_of_loading(open_estimator: Opener) -> None:
    fitted = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])

    with pytest.raises(LoadError, match=r"^LinearRegression has no method 'predict_proba'$"):
        open_estimator(fitted, method="predict_proba")


def test_fitted_feature_names_make_a_signature_of_columns(open_estimator: Opener) -> None:
    fitted = LinearRegression().fit(pd.DataFrame(TWO_ROWS), [1.0, 2.0])

    adapter = open_estimator(fitted)

    assert adapter.signature == A_B
    assert adapter.predict(TWO_ROWS)["output-0"] == pytest.approx([1.0, 2.0])


def test_a_fitted_number_of_features_makes_a_signature_of_one_matrix(
    open_estimator: Opener,
) -> None:
    fitted = LinearRegression().fit([[0.0, 1.0], [1.0, 0.0]], [0.0, 1.0])

    signature = open_estimator(fitted).signature

    assert signature == Signature((TensorSpec("input-0", "FP64", (-1, 2)),))


def test_features_that_do_not_take_numbers_make_no_signature(open_estimator: Opener) -> None:
    frame = pd.DataFrame({"size": [1.0, 2.0], "city": ["Oslo", "Lima"]})
    encoder = ColumnTransformer([("city", OneHotEncoder(), ["city"])], remainder="passthrough")
    adapter = open_estimator(encoder.fit(frame))

    answer = adapter.predict(
        {"city": np.array(["Lima", "Oslo"], object), "size": np.array([3.0, 4.0])}
    )

    assert adapter.signature is None
    assert answer["output-0"].tolist() == [[1.0, 0.0, 3.0], [0.0, 1.0, 4.0]]


def test_without_a_signature_texts_go_in_as_they_came(open_estimator: Opener) -> None:
    fitted = TfidfVectorizer().fit(["good day", "bad day"])
    texts = np.array(["good", "bad day", "day"], object)

    adapter = open_estimator(fitted)

    assert adapter.signature is None
    expected = fitted.transform(texts).toarray()
    assert adapter.predict({"anything": texts})["output-0"].tolist() == expected.tolist()


def test_without_a_signature_numbers_are_stacked(open_estimator: Opener) -> None:
    adapter = open_estimator(Echo())
    column = np.array([[7.0], [8.0]])

    assert adapter.predict({"x": column})["output-0"].tolist() == column.tolist()
    assert adapter.predict({"x": column[:, 0]})["output-0"].tolist() == column.tolist()
    both = adapter.predict({"x": column, "n": np.array([1, 2])})
    assert both["output-0"].tolist() == [[7.0, 1.0], [8.0, 2.0]]


def test_several_tensors_go_in_by_name(open_estimator: Opener) -> None:
    signature = Signature(
        (TensorSpec("x", "FP64", (-1, 2)), TensorSpec("y", "FP64", (-1, 1))),
    )
    adapter = open_estimator(Echo("by name"), signature)

    assert set(adapter.stage({"x": np.zeros((1, 2)), "y": np.zeros((1, 1))})) == {"x", "y"}


def test_it_runs_on_the_host_with_the_devices_threads(open_estimator: Opener) -> None:
    elsewhere: Any = types.SimpleNamespace(name="cuda:0", is_asynchronous=True, threads=1)
    artifact = open_estimator(Echo()).artifact

    adapter = SklearnAdapter(artifact, elsewhere)

    assert adapter.device.name == "cpu"
    assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {1}


def test_an_unknown_format_is_left_to_mlflow() -> None:
    model = models.model("iris_forest")
    config = {**model.artifact.config, "serialization_format": "later"}
    artifact = Artifact(model.path, config, {}, None)

    # MLflow reads the MLmodel file itself, where the format is one that it knows.
    assert SklearnAdapter(artifact, open_device("cpu")).signature is not None


@pytest.mark.parametrize("name", ["iris_pipeline", "iris_forest"])
def test_mlflows_switch_against_unpickling_holds(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.model(name)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

    with pytest.raises(LoadError, match=r"^the model does not load: MlflowException: .*disallowed"):
        SklearnAdapter(model.artifact, open_device("cpu"))


def test_types_that_the_artifact_does_not_trust_are_not_loaded(tmp_path: Path) -> None:
    import skops.io

    skops.io.dump(Echo(), tmp_path / "model.skops")
    config = {"pickled_model": "model.skops", "serialization_format": "skops"}

    with pytest.raises(LoadError, match=r"^the model does not load: UntrustedTypesFoundException"):
        SklearnAdapter(Artifact(tmp_path, config, {}, None), open_device("cpu"))


def test_a_model_whose_own_code_is_missing_names_the_module(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"cgone_module\nGone\n.")
    artifact = Artifact(tmp_path, {"pickled_model": "model.pkl"}, {}, None)

    with pytest.raises(LoadError, match=r"^the model needs the module 'gone_module', which is not"):
        SklearnAdapter(artifact, open_device("cpu"))

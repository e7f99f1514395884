"""Models: tiny ones, trained or built in a moment, saved as MLflow saves them.

`model(name)` is a saved model with rows to ask and the answers to expect; each is built once per
session. Those that only MLflow's python_function can load stand in pyfunc_models.py, those of the
frameworks of deep learning that take seconds to import in deep_models.py.
`log(name, ...)` registers the same model in a store, for tests that begin with a URI.
"""

import functools
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import cloudpickle
import mlflow
import pandas as pd
import torch
from mlflow.models import Model as MlflowModel
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import Schema
from mlflow.types import TensorSpec as MlflowTensorSpec

from headrace.datatypes import datatype_of
from headrace.signature import ParamSpec, Signature, TensorSpec
from headrace_server.adapters import Artifact
from headrace_server.librarian.mlmodel import describe

Tensors = dict[str, npt.NDArray[Any]]

logging.getLogger("mlflow").setLevel(logging.ERROR)
# Artifacts then hold the classes below themselves: a worker process does not know this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

IRIS_COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")


@dataclass(frozen=True)
class Recipe:
    """How to save one model.

    Attributes:
        flavor: The MLflow flavor key.
        arguments: For `save_model` and `log_model` alike.
        rows: Makes so many rows of input.
        answer: The framework's own answer to such rows; None where MLflow's pyfunc is asked.
        is_batchable: Whether it takes any number of rows.
    """

    flavor: str
    arguments: Mapping[str, Any]
    rows: Callable[[int], Tensors]
    answer: Callable[[Tensors], Tensors] | None = None
    is_batchable: bool = True


@dataclass(frozen=True, eq=False)
class Model:
    """One saved model."""

    name: str
    path: Path
    flavor: str
    artifact: Artifact
    recipe: Recipe

    @property
    def is_batchable(self) -> bool:
        return self.recipe.is_batchable

    def rows(self, count: int) -> Tensors:
        return self.recipe.rows(count)

    def expected(self, tensors: Tensors) -> Tensors:
        """The answer of MLflow's pyfunc, or of the framework where pyfunc cannot be asked."""
        if self.recipe.answer is not None:
            return self.recipe.answer(tensors)
        answer = _pyfunc(str(self.path)).predict(_pyfunc_input(tensors, self.artifact.signature))
        if isinstance(answer, Mapping):
            named = dict(answer)
        elif isinstance(answer, pd.DataFrame):
            named = {str(name): answer[name].to_numpy() for name in answer.columns}
        else:
            named = {"output-0": np.array(answer, object) if isinstance(answer, list) else answer}
        signature = self.artifact.signature
        if signature is not None and len(signature.outputs) == len(named):
            names = [spec.name for spec in signature.outputs]
            named = dict(zip(names, named.values(), strict=True))
        return named


# A recipe may ask for another model.
_saving = threading.RLock()


def model(name: str) -> Model:
    """The model called *name*, one of NAMES, saved on first use, by whichever thread."""
    with _saving:
        return _saved(name)


@functools.cache
def _saved(name: str) -> Model:
    path = _root() / name
    with warnings.catch_warnings():
        # MLflow, torch and scikit-learn have much to say to people who save models.
        warnings.simplefilter("ignore")
        recipe = recipe_of(name)
        import_module(f"mlflow.{recipe.flavor}").save_model(
            path=str(path), pip_requirements=["numpy"], **recipe.arguments
        )
    return Model(name, path, recipe.flavor, read_artifact(path, recipe.flavor), recipe)


def recipe_of(name: str) -> Recipe:
    """How to save the model called *name*."""
    if name in RECIPES:
        return RECIPES[name]()
    import deep_models
    import pyfunc_models

    return {**pyfunc_models.RECIPES, **deep_models.RECIPES}[name]()


def scratch() -> Path:
    """A fresh directory for the files that a recipe needs; it lives as long as the session."""
    return Path(tempfile.mkdtemp(dir=_root()))


def tracking_uri(store: Path) -> str:
    """The URI of the sqlite store in the directory *store*."""
    return f"sqlite:///{store}/mlflow.db"


def log(name: str, store: Path, registered_name: str) -> str:
    """Register the model called *name* in the store in the directory *store*.

    Returns:
        The new version of *registered_name*.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI", "")
    mlflow.set_tracking_uri(tracking_uri(store))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            recipe = recipe_of(name)
            # An experiment of its own: the default one keeps artifacts in the working directory.
            experiment = mlflow.get_experiment_by_name("models")
            experiment_id = (
                experiment.experiment_id
                if experiment is not None
                else mlflow.create_experiment("models", str(store / "artifacts"))
            )
            with mlflow.start_run(experiment_id=experiment_id):
                info = import_module(f"mlflow.{recipe.flavor}").log_model(
                    name=name,
                    registered_model_name=registered_name,
                    pip_requirements=["numpy"],
                    **recipe.arguments,
                )
    finally:
        mlflow.set_tracking_uri(before)
        if not before:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
    return str(info.registered_model_version)


def read_artifact(path: Path, flavor: str) -> Artifact:
    """What an adapter loads from, read from the MLmodel file at *path*."""
    found = MlflowModel.load(str(path))
    if flavor == "pyfunc":
        described = describe(found, str(path))
        return Artifact(path, described.config, described.pyfunc, described.signature)
    return Artifact(
        path=path,
        config=found.flavors[flavor],
        pyfunc=found.flavors.get("python_function", {}),
        signature=None if found.signature is None else _signature(found.signature),
    )


@functools.cache
def _pyfunc(path: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlflow.pyfunc.load_model(path, suppress_warnings=True)


@functools.cache
def _root() -> Path:
    # The cache keeps the object, and with it the directory, until the session ends.
    return Path(_directory().name)


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="headrace-models-")


def _signature(found: ModelSignature) -> Signature:
    params = () if found.params is None else tuple(map(_param, found.params.params))
    return Signature(_specs(found.inputs, "input"), _specs(found.outputs, "output"), params)


def _param(item: Any) -> ParamSpec:
    shape = None if item.shape is None else tuple(item.shape)
    return ParamSpec(item.name, item.dtype.name, item.default, shape)


def _specs(schema: Schema | None, prefix: str) -> tuple[TensorSpec, ...]:
    specs = []
    for index, item in enumerate(schema.inputs if schema is not None else ()):
        name = item.name if isinstance(item.name, str) else f"{prefix}-{index}"
        if isinstance(item, MlflowTensorSpec):
            specs.append(TensorSpec(name, datatype_of(item.type).name, tuple(item.shape)))
        else:
            datatype = datatype_of(np.dtype(item.type.to_numpy())).name
            specs.append(TensorSpec(name, datatype, (-1,), item.type.name, not item.required))
    return tuple(specs)


def _pyfunc_input(tensors: Tensors, signature: Signature | None) -> Any:
    if list(tensors) == ["input-0"] and tensors["input-0"].dtype == object:
        return tensors["input-0"].tolist()
    if signature is not None and all(spec.is_column for spec in signature.inputs):
        return pd.DataFrame(tensors)
    return next(iter(tensors.values())) if len(tensors) == 1 else tensors


def _iris() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    from sklearn.datasets import load_iris

    features, labels = load_iris(return_X_y=True)
    return features, labels


def _tiled(array: npt.NDArray[np.generic], rows: int) -> npt.NDArray[np.generic]:
    # 37 is prime to 150: neighbouring rows are of different species.
    return array[np.arange(rows) * 37 % len(array)]


def _iris_columns(rows: int) -> Tensors:
    features = _tiled(_iris()[0], rows)
    return {name: features[:, i].copy() for i, name in enumerate(IRIS_COLUMNS)}


def _iris_matrix(rows: int, dtype: str = "float64", name: str = "input-0") -> Tensors:
    return {name: _tiled(_iris()[0], rows).astype(dtype)}


# sklearn -----------------------------------------------------------------------------------------


def _iris_pipeline() -> Recipe:
    """Fitted on named columns, skops format."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = _iris()
    frame = pd.DataFrame(features, columns=list(IRIS_COLUMNS))
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, labels)
    signature = infer_signature(frame, fitted.predict(frame))
    return Recipe("sklearn", {"sk_model": fitted, "signature": signature}, _iris_columns)


def _iris_logistic() -> Recipe:
    """One estimator, fitted on named columns."""
    from sklearn.linear_model import LogisticRegression

    features, labels = _iris()
    frame = pd.DataFrame(features, columns=list(IRIS_COLUMNS))
    fitted = LogisticRegression(max_iter=500).fit(frame, labels)
    signature = infer_signature(frame, fitted.predict(frame))
    return Recipe("sklearn", {"sk_model": fitted, "signature": signature}, _iris_columns)


def _iris_forest() -> Recipe:
    """One tensor in, class probabilities out, cloudpickle format."""
    from sklearn.ensemble import RandomForestClassifier

    features, labels = _iris()
    fitted = RandomForestClassifier(n_estimators=5, random_state=0).fit(features, labels)
    return Recipe(
        "sklearn",
        {
            "sk_model": fitted,
            "signature": infer_signature(features, fitted.predict_proba(features)),
            "pyfunc_predict_fn": "predict_proba",
            "serialization_format": "cloudpickle",
        },
        _iris_matrix,
    )


def _mixed_columns() -> Recipe:
    """Columns chosen by name, one of them strings."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    def rows(count: int) -> Tensors:
        cities = np.array(["Oslo", "Lima", "Kyoto"], object)
        return {
            "city": _tiled(cities, count),
            "rooms": np.arange(count, dtype=np.int64) % 5,
            "area": 20.5 + np.arange(count) * 1.5,
        }

    frame = pd.DataFrame(rows(40))
    columns = ColumnTransformer(
        [("city", OneHotEncoder(), ["city"]), ("size", StandardScaler(), ["rooms", "area"])]
    )
    fitted = make_pipeline(columns, Ridge()).fit(frame, frame["area"] * 3 + frame["rooms"])
    return Recipe(
        "sklearn",
        {
            "sk_model": fitted,
            "signature": infer_signature(frame, fitted.predict(frame)),
            "serialization_format": "cloudpickle",
        },
        rows,
    )


def _scaler() -> Recipe:
    """A transformer, which MLflow's pyfunc cannot call."""
    from sklearn.preprocessing import StandardScaler

    features, _ = _iris()
    fitted = StandardScaler().fit(features)
    return Recipe(
        "sklearn",
        {"sk_model": fitted, "signature": infer_signature(features, fitted.transform(features))},
        _iris_matrix,
        answer=lambda tensors: {"output-0": fitted.transform(tensors["input-0"])},
    )


def _named_scaler() -> Recipe:
    """A transformer that returns a DataFrame, and declares no outputs."""
    from sklearn.preprocessing import StandardScaler

    frame = pd.DataFrame(_iris()[0], columns=list(IRIS_COLUMNS))
    fitted = StandardScaler().set_output(transform="pandas").fit(frame)

    def answer(tensors: Tensors) -> Tensors:
        scaled = fitted.transform(pd.DataFrame(tensors))
        return {name: scaled[name].to_numpy() for name in scaled.columns}

    arguments = {"sk_model": fitted, "signature": infer_signature(frame)}
    return Recipe("sklearn", arguments, _iris_columns, answer=answer)


def _string_labels() -> Recipe:
    from sklearn.linear_model import LogisticRegression

    features, labels = _iris()
    species = np.array(["setosa", "versicolor", "virginica"])[labels]
    fitted = LogisticRegression(max_iter=500).fit(features, species)
    signature = infer_signature(features, fitted.predict(features))
    return Recipe("sklearn", {"sk_model": fitted, "signature": signature}, _iris_matrix)


def _text_classifier() -> Recipe:
    """One column of strings, which a vectorizer wants as it is; pyfunc would walk over its name."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = np.array(["a good day", "a bad day", "good good", "bad bad day"], object)
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0])
    return Recipe(
        "sklearn",
        {
            "sk_model": fitted,
            "signature": infer_signature(pd.DataFrame({"text": texts}), np.array([1, 0])),
            "serialization_format": "cloudpickle",
        },
        lambda count: {"text": _tiled(texts, count)},
        answer=lambda tensors: {"output-0": fitted.predict(tensors["text"])},
    )


def _unsigned_iris() -> Recipe:
    """No signature; the estimator knows its columns' names."""
    from sklearn.linear_model import LogisticRegression

    features, labels = _iris()
    frame = pd.DataFrame(features, columns=list(IRIS_COLUMNS))
    fitted = LogisticRegression(max_iter=500).fit(frame, labels)
    return Recipe(
        "sklearn",
        {"sk_model": fitted},
        _iris_columns,
        answer=lambda tensors: {"output-0": fitted.predict(pd.DataFrame(tensors))},
    )


# pytorch -----------------------------------------------------------------------------------------


class Mlp(torch.nn.Module):
    """[rows, 4] to [rows, 3]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.layers(x)
        return hidden


class TwoTowers(torch.nn.Module):
    """[rows, 4] and [rows, 2] to "score" [rows] and "hidden" [rows, 3]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = torch.nn.Linear(4, 3), torch.nn.Linear(2, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.left(left) * self.right(right)
        return {"score": hidden.sum(1), "hidden": hidden}


def _tensor_signature(
    inputs: Mapping[str | None, tuple[int, ...]], outputs: Mapping[str | None, tuple[int, ...]]
) -> ModelSignature:
    def schema(shapes: Mapping[str | None, tuple[int, ...]]) -> Schema | None:
        specs = [MlflowTensorSpec(np.dtype("float32"), s, n) for n, s in shapes.items()]
        return Schema(specs) if specs else None

    return ModelSignature(schema(inputs), schema(outputs))


def _float_matrix(rows: int) -> Tensors:
    return _iris_matrix(rows, "float32")


def _torch_pickle() -> Recipe:
    return Recipe(
        "pytorch",
        {
            "pytorch_model": Mlp(),
            "signature": _tensor_signature({None: (-1, 4)}, {None: (-1, 3)}),
            "serialization_format": "pickle",
        },
        _float_matrix,
    )


def _torch_columns() -> Recipe:
    """Named double columns in front of a float32 module."""
    module = Mlp()
    frame = pd.DataFrame(_iris()[0], columns=list(IRIS_COLUMNS))

    def answer(tensors: Tensors) -> Tensors:
        matrix = pd.DataFrame(tensors).to_numpy(np.float32, copy=True)
        return {"output-0": module(torch.from_numpy(matrix)).detach().numpy()}

    arguments = {
        "pytorch_model": module,
        "signature": infer_signature(frame),
        "serialization_format": "pickle",
    }
    return Recipe("pytorch", arguments, _iris_columns, answer=answer)


def _torch_script() -> Recipe:
    return Recipe(
        "pytorch",
        {
            "pytorch_model": torch.jit.script(Mlp()),
            "signature": _tensor_signature({None: (-1, 4)}, {None: (-1, 3)}),
            "serialization_format": "pickle",
        },
        _float_matrix,
    )


def _pt2(example_rows: int) -> Recipe:
    return Recipe(
        "pytorch",
        {
            "pytorch_model": Mlp().eval(),
            "signature": _tensor_signature({None: (-1, 4)}, {None: (-1, 3)}),
            "input_example": _float_matrix(example_rows)["input-0"],
        },
        _float_matrix,
        is_batchable=example_rows > 1,
    )


def _two_towers(*, is_exported: bool) -> Recipe:
    """The signature's order is not that of `forward`, and no outputs are declared."""
    module = TwoTowers().eval()

    def rows(count: int) -> Tensors:
        features = _tiled(_iris()[0], count).astype(np.float32)
        return {"right": features[:, 2:].copy(), "left": features}

    def answer(tensors: Tensors) -> Tensors:
        given = {name: torch.from_numpy(array) for name, array in tensors.items()}
        return {name: tensor.detach().numpy() for name, tensor in module(**given).items()}

    example = rows(2)
    arguments: dict[str, Any] = {
        "pytorch_model": module,
        "signature": _tensor_signature({"right": (-1, 2), "left": (-1, 4)}, {}),
        "serialization_format": "pickle",
    }
    if is_exported:
        del arguments["serialization_format"]
        arguments["input_example"] = (example["left"], example["right"])
    return Recipe("pytorch", arguments, rows, answer=answer)


# onnx --------------------------------------------------------------------------------------------


def linear_graph(input_name: str = "x", output_name: str = "y") -> Any:
    """An ONNX graph, float32 [rows, 4] to [rows, 3]: x @ weights + bias."""
    from onnx import TensorProto, checker, helper, numpy_helper

    generator = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("Gemm", [input_name, "weights", "bias"], [output_name])],
        "linear",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, ["rows", 3])],
        [
            numpy_helper.from_array(generator.normal(size=(4, 3)).astype("float32"), "weights"),
            numpy_helper.from_array(generator.normal(size=3).astype("float32"), "bias"),
        ],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(built)
    return built


def _onnx(signature: ModelSignature | None, input_name: str) -> Recipe:
    return Recipe(
        "onnx",
        {"onnx_model": linear_graph(), "signature": signature},
        lambda count: _iris_matrix(count, "float32", input_name),
    )


def _onnx_columns() -> Recipe:
    """Named double columns in front of one float32 graph input; pyfunc would flatten the answer."""
    frame = pd.DataFrame(_iris()[0], columns=list(IRIS_COLUMNS))
    graph = linear_graph()

    def answer(tensors: Tensors) -> Tensors:
        from onnx.reference import ReferenceEvaluator

        matrix = pd.DataFrame(tensors).to_numpy(np.float32)
        return {"y": ReferenceEvaluator(graph).run(None, {"x": matrix})[0]}

    arguments = {"onnx_model": graph, "signature": infer_signature(frame)}
    return Recipe("onnx", arguments, _iris_columns, answer=answer)


# trees -------------------------------------------------------------------------------------------


def _tree(flavor: str, kind: str, form: str, *, classes: int = 3) -> Recipe:
    """A model of the class *kind*, fitted on iris.

    Its *form* is "columns", "matrix", or "unsigned": named columns without a signature.
    """
    features, species = _iris()
    labels = np.minimum(species, classes - 1)
    frame = pd.DataFrame(features, columns=list(IRIS_COLUMNS))
    given = features if form == "matrix" else frame
    fitted, ask = _fitted(flavor, kind, given, labels)
    arguments = {_MODEL_ARGUMENT[flavor]: fitted}
    if form == "unsigned":
        return Recipe(
            flavor,
            arguments,
            _iris_columns,
            answer=lambda tensors: {"output-0": ask(pd.DataFrame(tensors))},
        )
    arguments["signature"] = infer_signature(given, ask(given))
    return Recipe(flavor, arguments, _iris_matrix if form == "matrix" else _iris_columns)


_MODEL_ARGUMENT = {"xgboost": "xgb_model", "lightgbm": "lgb_model", "catboost": "cb_model"}


def _fitted(flavor: str, kind: str, given: Any, labels: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A model of three rounds, and what it answers by."""
    library = import_module(flavor)
    if flavor == "catboost":
        fitted = getattr(library, kind)(
            iterations=3, thread_count=1, verbose=0, allow_writing_files=False
        ).fit(given, labels)
    elif kind != "Booster":
        quiet = {"verbose": -1} if flavor == "lightgbm" else {}
        fitted = getattr(library, kind)(n_estimators=3, n_jobs=1, **quiet).fit(given, labels)
    elif flavor == "lightgbm":
        settings = {"objective": "binary", "num_threads": 1, "verbose": -1}
        fitted = library.train(settings, library.Dataset(given, labels), 3)
    else:
        settings = {"objective": "binary:logistic", "nthread": 1}
        fitted = library.train(settings, library.DMatrix(given, labels), 3)
        return fitted, lambda rows: fitted.predict(library.DMatrix(rows))
    return fitted, fitted.predict


def _lgb_categories() -> Recipe:
    """One column is of pandas' categories, which MLflow's pyfunc would hand over as text."""
    import lightgbm

    cities = np.array(["Oslo", "Lima", "Kyoto"], object)

    def rows(count: int) -> Tensors:
        return {"city": _tiled(cities, count), "area": 20.5 + np.arange(count) % 9 * 1.5}

    def frame(tensors: Tensors) -> pd.DataFrame:
        city = pd.Categorical(tensors["city"], categories=sorted(cities))
        return pd.DataFrame({"city": city, "area": tensors["area"]})

    given = frame(rows(90))
    target = given["area"] * 3 + (given["city"] == "Lima") * 50.0
    fitted = lightgbm.LGBMRegressor(n_estimators=5, n_jobs=1, verbose=-1, min_child_samples=3)
    fitted.fit(given, target)
    return Recipe(
        "lightgbm",
        {"lgb_model": fitted, "signature": infer_signature(given, fitted.predict(given))},
        rows,
        answer=lambda tensors: {"output-0": fitted.predict(frame(tensors))},
    )


def _cat_species() -> Recipe:
    """Labels that are text."""
    frame = pd.DataFrame(_iris()[0], columns=list(IRIS_COLUMNS))
    species = np.array(["setosa", "versicolor", "virginica"])[_iris()[1]]
    fitted, _ = _fitted("catboost", "CatBoostClassifier", frame, species)
    arguments = {"cb_model": fitted, "signature": infer_signature(frame)}
    return Recipe("catboost", arguments, _iris_columns)


def _cat_mixed() -> Recipe:
    """Categorical features of text and of integers."""
    import catboost

    cities = np.array(["Oslo", "Lima", "Kyoto"], object)

    def rows(count: int) -> Tensors:
        return {
            "city": _tiled(cities, count),
            "rooms": np.arange(count, dtype=np.int64) % 5,
            "area": 20.5 + np.arange(count) % 9 * 1.5,
        }

    frame = pd.DataFrame(rows(60))
    target = frame["area"] * 3 + (frame["city"] == "Lima") * 50 + frame["rooms"] % 2 * 20
    fitted = catboost.CatBoostRegressor(
        iterations=5,
        thread_count=1,
        verbose=0,
        allow_writing_files=False,
        cat_features=["city", "rooms"],
    ).fit(frame, target)
    signature = infer_signature(frame, fitted.predict(frame))
    return Recipe("catboost", {"cb_model": fitted, "signature": signature}, rows)


# statsmodels -------------------------------------------------------------------------------------


def _ols_columns() -> Recipe:
    import statsmodels.api as sm

    frame = pd.DataFrame(_iris()[0], columns=list(IRIS_COLUMNS))
    fitted = sm.OLS(_iris()[1].astype(float), frame).fit()
    signature = infer_signature(frame, fitted.predict(frame).to_numpy())
    arguments = {"statsmodels_model": fitted, "signature": signature}
    return Recipe("statsmodels", arguments, _iris_columns)


def _glm_matrix() -> Recipe:
    import statsmodels.api as sm

    features, labels = _iris()
    fitted = sm.GLM(labels.astype(float), features).fit()
    signature = infer_signature(features, fitted.predict(features))
    arguments = {"statsmodels_model": fitted, "signature": signature}
    return Recipe("statsmodels", arguments, _iris_matrix)


def _ols_formula() -> Recipe:
    """A formula takes its columns by name out of a DataFrame."""
    import statsmodels.formula.api as smf

    frame = pd.DataFrame(_iris()[0], columns=list(IRIS_COLUMNS))
    fitted = smf.ols("petal_width ~ petal_length * np.sqrt(sepal_width)", frame).fit()
    names = ["sepal_width", "petal_length"]

    def rows(count: int) -> Tensors:
        return {name: column for name, column in _iris_columns(count).items() if name in names}

    signature = infer_signature(frame[names], fitted.predict(frame).to_numpy())
    return Recipe("statsmodels", {"statsmodels_model": fitted, "signature": signature}, rows)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "iris_pipeline": _iris_pipeline,
    "iris_logistic": _iris_logistic,
    "iris_forest": _iris_forest,
    "mixed_columns": _mixed_columns,
    "scaler": _scaler,
    "named_scaler": _named_scaler,
    "string_labels": _string_labels,
    "text_classifier": _text_classifier,
    "unsigned_iris": _unsigned_iris,
    "torch_pickle": _torch_pickle,
    "torch_columns": _torch_columns,
    "torch_script": _torch_script,
    "torch_pt2": lambda: _pt2(2),
    "torch_pt2_frozen": lambda: _pt2(1),
    "two_towers": lambda: _two_towers(is_exported=False),
    "two_towers_pt2": lambda: _two_towers(is_exported=True),
    "onnx_named": lambda: _onnx(_tensor_signature({"x": (-1, 4)}, {"y": (-1, 3)}), "x"),
    "onnx_unnamed": lambda: _onnx(_tensor_signature({None: (-1, 4)}, {None: (-1, 3)}), "input-0"),
    "onnx_unsigned": lambda: _onnx(None, "x"),
    "onnx_columns": _onnx_columns,
    "xgb_booster": lambda: _tree("xgboost", "Booster", "columns", classes=2),
    "xgb_classifier": lambda: _tree("xgboost", "XGBClassifier", "columns"),
    "xgb_binary": lambda: _tree("xgboost", "XGBClassifier", "matrix", classes=2),
    "xgb_unsigned": lambda: _tree("xgboost", "XGBRegressor", "unsigned"),
    "lgb_booster": lambda: _tree("lightgbm", "Booster", "columns", classes=2),
    "lgb_classifier": lambda: _tree("lightgbm", "LGBMClassifier", "columns"),
    "lgb_binary": lambda: _tree("lightgbm", "LGBMClassifier", "matrix", classes=2),
    "lgb_unsigned": lambda: _tree("lightgbm", "LGBMRegressor", "unsigned"),
    "lgb_categories": _lgb_categories,
    "cat_species": _cat_species,
    "cat_matrix": lambda: _tree("catboost", "CatBoostClassifier", "matrix", classes=2),
    "cat_unsigned": lambda: _tree("catboost", "CatBoostRegressor", "unsigned"),
    "cat_mixed": _cat_mixed,
    "ols_columns": _ols_columns,
    "ols_formula": _ols_formula,
    "glm_matrix": _glm_matrix,
}

NAMES = tuple(RECIPES)

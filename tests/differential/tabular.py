"""Tabular: families of models that are fitted to tables; those of scikit-learn."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from mlflow.models import ModelSignature, infer_signature
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from .cases import (
    EXAMPLES,
    Case,
    Data,
    Family,
    any_of_these,
    as_mlflow_takes_it,
    columns_of,
    examples,
    marked,
    row_counts,
    save_flavor,
    schema_of,
    tables,
)

cloudpickle.register_pickle_by_value(sys.modules[__name__])

XZ: Final = "x:near z:near"
_TRAINED: Final = 60
_ARGUMENTS: Final = {
    "sklearn": "sk_model",
    "xgboost": "xgb_model",
    "lightgbm": "lgb_model",
    "catboost": "cb_model",
    "statsmodels": "statsmodels_model",
}


def fitted(
    name: str,
    flavor: str,
    inputs: str,
    fit: Callable[[pd.DataFrame], Any],
    *,
    example: str | None = None,
    rows: SearchStrategy[int] = row_counts,
    load: Callable[[str], Callable[[Data], Any]] | None = None,
    requests: SearchStrategy[Data] | None = None,
    **traits: Any,
) -> Family:
    """A family of models that *fit* makes of a table of the columns *inputs*.

    Args:
        name: Its name.
        flavor: Its flavor.
        inputs: Its columns and their kinds, as "x:near t:word".
        fit: Makes the model of rows to learn from.
        example: The kinds of an example's columns, where they are not those of *inputs*.
        rows: How many a request has.
        load: How the answers to compare with are had, where it is not MLflow's pyfunc.
        requests: What it is asked, where rows of *inputs* are not.
        **traits: Of the family.
    """
    columns = columns_of(inputs)

    @st.composite
    def cases(draw: DrawFn) -> Case:
        style = draw(st.sampled_from(EXAMPLES))
        # Where MLflow cannot ask the model, it cannot be asked for an answer to an example.
        has_example = requests is None and load is None
        declares = draw(st.booleans()) and has_example and flavor != "xgboost"
        further = draw(any_of_these())
        return Case(
            save=partial(
                _save,
                flavor=flavor,
                columns=columns,
                fit=fit,
                learnt=_learnt(columns, draw(st.integers(0, 999))),
                declares=declares,
                example=draw(examples(columns_of(example or inputs), style))
                if has_example
                else None,
            ),
            requests=tables(columns, rows) if requests is None else requests,
            told=f"example: {style}; outputs declared: {declares}",
            settings=further,
            load=load,
        )

    return Family(name, flavor, cases(), **traits)


def _save(
    path: str,
    *,
    flavor: str,
    columns: Mapping[str, str],
    fit: Callable[[pd.DataFrame], Any],
    learnt: pd.DataFrame,
    declares: bool,
    example: Any,
) -> None:
    """What *fit* makes of *learnt*."""
    model = fit(learnt)
    outputs = infer_signature(learnt, model.predict(learnt)).outputs if declares else None
    arguments = {_ARGUMENTS[flavor]: model}
    if flavor in {"sklearn", "lightgbm"}:
        arguments["serialization_format"] = "cloudpickle"
    save_flavor(
        path,
        flavor,
        signature=ModelSignature(schema_of(columns), outputs),
        input_example=example,
        **arguments,
    )


def _learnt(columns: Mapping[str, str], seed: int) -> pd.DataFrame:
    """Rows to learn from, in which all values differ as far as their kind lets them."""
    chance = np.random.default_rng(seed)
    made: dict[str, Any] = {
        "near": chance.normal(0, 10, _TRAINED),
        "gaps": np.where(chance.random(_TRAINED) < 0.1, np.nan, chance.normal(0, 10, _TRAINED)),
        "float": chance.normal(0, 10, _TRAINED).astype(np.float32),
        "small": chance.integers(0, 9, _TRAINED),
        "id": 2**53 + np.arange(_TRAINED) % 4,
        "boolean": chance.random(_TRAINED) < 0.5,
        "word": chance.choice(["red", "green", "blue", "a"], _TRAINED).astype(object),
        "colour": chance.choice(["red", "green", "blue"], _TRAINED).astype(object),
        "word!": np.array(["red", "green", "blue", "a", None], object)[
            chance.integers(0, 5, _TRAINED)
        ],
    }
    return pd.DataFrame({name: made[kind] for name, kind in columns.items()})


def labels(learnt: pd.DataFrame) -> list[str]:
    """Three labels, by the last column."""
    thirds = learnt.iloc[:, -1].rank(method="first") * 3 // (_TRAINED + 1)
    return [("low", "middle", "high")[int(third)] for third in thirds]


def numbers(learnt: pd.DataFrame) -> Any:
    """A number for each row."""
    numeric = learnt.select_dtypes("number").fillna(0.0)
    return np.sin(numeric.sum(axis=1).to_numpy() / 7.0) + np.arange(len(learnt)) % 3


def _words(name: str, *, sparse: bool = True) -> Any:
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=sparse)
    return ColumnTransformer([("words", encoder, [name])], remainder="passthrough")


def _minus_mean(given: Any) -> Any:
    return given - given.mean(axis=0)


def _ranks(given: Any) -> Any:
    return pd.DataFrame(given).rank().to_numpy()


def _scaled(path: str) -> Callable[[Data], Any]:
    """What a transformer makes of a table: MLflow's pyfunc cannot be asked."""
    model = mlflow.sklearn.load_model(path)
    return lambda data: model.transform(as_mlflow_takes_it(data))


FAMILIES: Final = (
    *marked(
        [
            fitted("a plane", "sklearn", XZ, lambda d: LinearRegression().fit(d, numbers(d))),
            fitted(
                "two planes",
                "sklearn",
                XZ,
                lambda d: LinearRegression().fit(d, np.stack([numbers(d), d["x"]], 1)),
            ),
            fitted(
                "labels in text",
                "sklearn",
                XZ,
                lambda d: LogisticRegression(max_iter=50).fit(d, labels(d)),
            ),
            fitted(
                "a forest",
                "sklearn",
                "n:small x:near",
                lambda d: RandomForestClassifier(5, random_state=0).fit(d, labels(d)),
            ),
            fitted(
                "neighbours",
                "sklearn",
                XZ,
                lambda d: KNeighborsRegressor(3).fit(d, numbers(d)),
            ),
            fitted(
                "clusters",
                "sklearn",
                XZ,
                lambda d: KMeans(3, n_init=1, random_state=0).fit(d),
            ),
            fitted(
                "words in one-hot",
                "sklearn",
                "t:word x:near",
                lambda d: make_pipeline(_words("t"), LogisticRegression()).fit(d, labels(d)),
            ),
            fitted(
                "32 bits, scaled",
                "sklearn",
                "f:float g:float",
                lambda d: make_pipeline(StandardScaler(), SVC()).fit(d, labels(d)),
            ),
        ],
        batches=True,
    ),
    fitted(
        "gaps in trees",
        "sklearn",
        "x:gaps z:near",
        lambda d: HistGradientBoostingRegressor(max_iter=5).fit(d, numbers(d)),
    ),
    fitted(
        "missing words in one-hot",
        "sklearn",
        "t:word! x:gaps",
        lambda d: make_pipeline(
            _words("t", sparse=False), HistGradientBoostingRegressor(max_iter=5)
        ).fit(d, numbers(d)),
    ),
    fitted(
        "missing words imputed",
        "sklearn",
        "t:word! x:near",
        lambda d: make_pipeline(
            ColumnTransformer(
                [
                    (
                        "words",
                        make_pipeline(
                            SimpleImputer(strategy="most_frequent"),
                            OneHotEncoder(handle_unknown="ignore"),
                        ),
                        ["t"],
                    )
                ],
                remainder="passthrough",
            ),
            LogisticRegression(),
        ).fit(d, labels(d)),
    ),
    fitted(
        "ids beyond 2**53 in one-hot",
        "sklearn",
        "n:id x:near",
        lambda d: make_pipeline(_words("n", sparse=False), LogisticRegression(C=100)).fit(
            d, d["n"] % 2
        ),
        example="n:small x:near",
    ),
    fitted(
        "ids beyond 2**53 alone",
        "sklearn",
        "n:id",
        lambda d: make_pipeline(_words("n"), DecisionTreeClassifier()).fit(d, d["n"]),
    ),
    fitted(
        "words counted",
        "sklearn",
        "t:word x:near",
        lambda d: make_pipeline(
            ColumnTransformer([("t", TfidfVectorizer(analyzer="char"), "t")]),
            LogisticRegression(),
        ).fit(d.assign(t=d["t"] + " z"), labels(d)),
    ),
    fitted(
        "outliers",
        "sklearn",
        XZ,
        lambda d: IsolationForest(n_estimators=5, random_state=0).fit(d.to_numpy()),
    ),
    fitted("a scaler alone", "sklearn", XZ, lambda d: StandardScaler().fit(d), load=_scaled),
    fitted(
        "a plane of what is left of the mean",
        "sklearn",
        XZ,
        lambda d: make_pipeline(FunctionTransformer(_minus_mean), LinearRegression()).fit(
            d, numbers(d)
        ),
    ),
    fitted(
        "a plane of ranks",
        "sklearn",
        XZ,
        lambda d: make_pipeline(FunctionTransformer(_ranks), LinearRegression()).fit(d, numbers(d)),
    ),
)

"""Churn: models of customers that lack values, as people save them, and such customers.

Text, truths and numbers are missing in training as when the model is asked.
"""

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROWS: Final = 30
_COUNTRIES: Final = ("de", "fr", "it", None)


def customers(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    """Customers, of whom some have no country, plan, age or spend."""
    chance = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "country": [_COUNTRIES[at] for at in chance.integers(0, 4, rows)],
            "plan": [("basic", "pro", "", None)[at] for at in chance.integers(0, 4, rows)],
            "age": chance.integers(18, 90, rows).astype(float),
            "spend": chance.normal(50, 20, rows).round(2),
        }
    )
    frame.loc[chance.random(rows) < 0.2, "age"] = np.nan
    frame.loc[chance.random(rows) < 0.2, "spend"] = np.nan
    # As they come from a file or a database, however few they are.
    return frame.astype({"country": "str", "plan": "str"})


def numbers(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    """The same customers by their numbers alone."""
    return customers(rows, seed)[["age", "spend"]]


def _left(frame: pd.DataFrame) -> "pd.Series[int]":
    """Who left: what is missing tells most."""
    noise = pd.Series(np.arange(len(frame)) % 5 == 0, frame.index)
    return (frame.isna().sum(axis=1) % 2 == 1).astype(int) ^ noise.astype(int)


def _pipeline(encoder: Any) -> tuple[Any, pd.DataFrame]:
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    frame = customers(400, seed=7)
    columns = make_column_transformer(
        (encoder, ["country", "plan"]),
        (SimpleImputer(strategy="median", add_indicator=True), ["age", "spend"]),
    )
    return make_pipeline(columns, LogisticRegression(max_iter=2000)).fit(frame, _left(frame)), frame


def _sklearn(fitted: Any, frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "sk_model": fitted,
        "signature": infer_signature(frame, fitted.predict_proba(frame)),
        "input_example": frame.dropna().head(4),
        "pyfunc_predict_fn": "predict_proba",
        "serialization_format": "cloudpickle",
    }


def _one_hot() -> dict[str, Any]:
    """What is missing is a category of its own, and any other that is unknown is an error."""
    from sklearn.preprocessing import OneHotEncoder

    return _sklearn(*_pipeline(OneHotEncoder()))


def _imputed() -> dict[str, Any]:
    """What is missing becomes the most frequent value."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    impute = SimpleImputer(strategy="most_frequent", add_indicator=False)
    return _sklearn(*_pipeline(make_pipeline(impute, OneHotEncoder(handle_unknown="ignore"))))


class Rules(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Rules of thumb, as a person writes them; what is missing is filled in by the others."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        frame = model_input.copy()
        usual = frame["country"].mode()
        frame["country"] = frame["country"].fillna(usual[0] if len(usual) else "de")
        risk = frame["plan"].isna() * 0.5 + (frame["country"] == "it") * 0.25
        return pd.DataFrame({"risk": risk + frame["age"].isna() * 0.125})


def _rules() -> dict[str, Any]:
    frame = customers()
    answer = Rules().predict(None, frame)
    return {"python_model": Rules(), "signature": infer_signature(frame, answer)}


class Seer(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Tells of each cell whether it is missing and what it is, and of each column its dtype."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        columns = [(name, model_input[name]) for name in model_input.columns]
        seen = [
            json.dumps(
                [
                    [name, str(column.dtype), bool(_is_missing(cell)), repr(cell)]
                    for name, column in columns
                    for cell in (column.iloc[row],)
                ]
            )
            for row in range(len(model_input))
        ]
        return pd.DataFrame({"seen": seen})


def _is_missing(cell: Any) -> bool:
    return not isinstance(cell, list | dict) and bool(pd.isna(cell))


SEEN: Final = Schema(
    [
        ColSpec(DataType.string, "name"),
        ColSpec(DataType.string, "note", required=False),
        ColSpec(DataType.boolean, "is_new"),
        ColSpec(DataType.boolean, "is_old", required=False),
        ColSpec(DataType.binary, "raw", required=False),
        ColSpec(DataType.datetime, "at"),
        ColSpec(DataType.double, "size"),
        ColSpec(DataType.float, "width", required=False),
        ColSpec(DataType.long, "rank"),
        ColSpec(DataType.integer, "place", required=False),
        ColSpec(Array(DataType.double), "path", required=False),
    ]
)


def _seer() -> dict[str, Any]:
    outputs = Schema([ColSpec(DataType.string, "seen")])
    return {"python_model": Seer(), "signature": ModelSignature(SEEN, outputs)}


def _lightgbm() -> dict[str, Any]:
    from lightgbm import LGBMClassifier

    frame = numbers(400, seed=7)
    fitted = LGBMClassifier(n_estimators=8, min_child_samples=5, verbose=-1)
    fitted.fit(frame, _left(frame))
    return {"lgb_model": fitted, "signature": infer_signature(frame, fitted.predict(frame))}


def _xgboost() -> dict[str, Any]:
    from xgboost import XGBRegressor

    frame = numbers(400, seed=7)
    fitted = XGBRegressor(n_estimators=8).fit(frame, _left(frame))
    return {"xgb_model": fitted, "signature": infer_signature(frame, fitted.predict(frame))}


def _catboost() -> dict[str, Any]:
    from catboost import CatBoostRegressor

    frame = numbers(400, seed=7)
    fitted = CatBoostRegressor(iterations=8, verbose=False, allow_writing_files=False)
    fitted.fit(frame, _left(frame))
    return {"cb_model": fitted, "signature": infer_signature(frame, fitted.predict(frame))}


# Served name -> flavor, and what is saved.
MODELS: Final[Mapping[str, tuple[str, Callable[[], dict[str, Any]]]]] = {
    "churn": ("sklearn", _one_hot),
    "imputed": ("sklearn", _imputed),
    "rules": ("pyfunc", _rules),
    "seer": ("pyfunc", _seer),
    "lightgbm": ("lightgbm", _lightgbm),
    "xgboost": ("xgboost", _xgboost),
    "catboost": ("catboost", _catboost),
}
# Those that take all of a customer, and those that take numbers.
OF_CUSTOMERS: Final = ("churn", "imputed", "rules")
OF_NUMBERS: Final = ("lightgbm", "xgboost", "catboost")


def save(folder: Path) -> dict[str, str]:
    """All models; their paths by their names."""
    paths = {}
    for name, (flavor, made) in MODELS.items():
        with warnings.catch_warnings():
            # MLflow and the frameworks have much to say to people who save models.
            warnings.simplefilter("ignore")
            import_module(f"mlflow.{flavor}").save_model(
                path=str(folder / name), pip_requirements=["numpy"], **made()
            )
        paths[name] = str(folder / name)
    return paths

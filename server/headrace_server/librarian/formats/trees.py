"""Trees: models of XGBoost, LightGBM and CatBoost in formats of their own.

Of these files their libraries read numbers, names of features, and how they were trained, which
nothing does again: none opens, imports or writes what a file names.
"""

from pathlib import Path
from typing import Final

from ..mlmodel import Description
from .common import Refused, check_entry, named

_XGBOOST_CLASSES: Final = (
    "xgboost.core.Booster",
    "xgboost.sklearn.XGBModel",
    "xgboost.sklearn.XGBClassifier",
    "xgboost.sklearn.XGBRegressor",
    "xgboost.sklearn.XGBRanker",
    "xgboost.sklearn.XGBRFClassifier",
    "xgboost.sklearn.XGBRFRegressor",
)
_BOOSTER: Final = "lightgbm.basic.Booster"
_CATBOOST_TYPES: Final = (
    "CatBoost",
    "CatBoostClassifier",
    "CatBoostRegressor",
    "CatBoostRanker",
)


def check_xgboost(model: Description, directory: Path) -> None:
    """Refuse classes that are none of xgboost's own, and other formats than ubj and json."""
    config = model.config
    check_entry(config, ("xgb_version", "data", "model_class", "model_format", "code"))
    model_class = config.get("model_class", _XGBOOST_CLASSES[0])
    if model_class not in _XGBOOST_CLASSES:
        raise Refused(f"its model_class {model_class!r} is none of xgboost's own")
    data = named(config, "data", directory)
    if data.suffix not in (".ubj", ".json"):
        raise Refused(f"its xgboost model {data.name!r} is neither ubj nor json")


def check_lightgbm(model: Description, directory: Path) -> None:
    """Refuse all but a Booster, which is text."""
    config = model.config
    known = ("lgb_version", "data", "model_class", "code", "serialization_format")
    check_entry(config, (*known, "skops_trusted_types"))  # Of the scikit-learn API's models.
    model_class = config.get("model_class", _BOOSTER)
    if model_class != _BOOSTER:
        raise Refused(f"its lightgbm model is a {model_class}: only a Booster is text")
    named(config, "data", directory)


def check_catboost(model: Description, directory: Path) -> None:
    """Refuse classes that are none of catboost's own, and other formats than cbm."""
    config = model.config
    check_entry(config, ("catboost_version", "data", "model_type", "save_format", "code"))
    model_type, save_format = config.get("model_type"), config.get("save_format", "cbm")
    if model_type not in _CATBOOST_TYPES:
        raise Refused(f"its model_type {model_type!r} is none of catboost's own")
    if save_format != "cbm":
        raise Refused(f"its catboost model is saved as {save_format!r}, not as cbm")
    named(config, "data", directory)

"""Boosted: families of XGBoost, LightGBM and CatBoost."""

from typing import Final

import catboost
import lightgbm
import numpy as np
import xgboost

from .cases import marked
from .tabular import XZ, fitted, labels, numbers

_SMALL_TREES: Final = {"n_estimators": 4, "max_depth": 3}
FAMILIES: Final = (
    *marked(
        [
            fitted(
                "xgboost numbers",
                "xgboost",
                XZ,
                lambda d: xgboost.XGBRegressor(**_SMALL_TREES).fit(d, numbers(d)),
            ),
            fitted(
                "xgboost labels",
                "xgboost",
                "n:small x:near",
                lambda d: xgboost.XGBClassifier(**_SMALL_TREES).fit(
                    d, np.unique(labels(d), return_inverse=True)[1]
                ),
            ),
            fitted(
                "a booster",
                "xgboost",
                XZ,
                lambda d: xgboost.train(
                    {"max_depth": 3}, xgboost.DMatrix(d, numbers(d)), num_boost_round=4
                ),
            ),
            fitted(
                "lightgbm numbers",
                "lightgbm",
                XZ,
                lambda d: lightgbm.LGBMRegressor(n_estimators=4, verbose=-1).fit(d, numbers(d)),
            ),
            fitted(
                "lightgbm labels in text",
                "lightgbm",
                "n:small x:near",
                lambda d: lightgbm.LGBMClassifier(n_estimators=4, verbose=-1).fit(d, labels(d)),
            ),
            fitted(
                "catboost numbers",
                "catboost",
                XZ,
                lambda d: catboost.CatBoostRegressor(
                    iterations=4, verbose=False, allow_writing_files=False
                ).fit(d, numbers(d)),
            ),
        ],
        batches=True,
    ),
    fitted(
        "a booster of classes",
        "xgboost",
        "f:float n:small",
        lambda d: xgboost.train(
            {"objective": "multi:softmax", "num_class": 3},
            xgboost.DMatrix(d, np.unique(labels(d), return_inverse=True)[1]),
            num_boost_round=3,
        ),
    ),
    fitted(
        "gaps in xgboost",
        "xgboost",
        "x:gaps z:near",
        lambda d: xgboost.XGBRegressor(**_SMALL_TREES).fit(d, numbers(d)),
    ),
    fitted(
        "ids beyond 2**53 in lightgbm",
        "lightgbm",
        "n:id x:near",
        lambda d: lightgbm.LGBMRegressor(n_estimators=4, verbose=-1).fit(d, numbers(d)),
    ),
    fitted(
        "whole numbers as categories",
        "lightgbm",
        "n:small b:boolean x:near",
        lambda d: lightgbm.LGBMRegressor(n_estimators=4, verbose=-1).fit(
            d, numbers(d), categorical_feature=["n"]
        ),
    ),
    fitted(
        "words in catboost",
        "catboost",
        "t:word n:small x:near",
        lambda d: catboost.CatBoostClassifier(
            iterations=4, verbose=False, allow_writing_files=False, cat_features=["t", "n"]
        ).fit(d, labels(d)),
    ),
)

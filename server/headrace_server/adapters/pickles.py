"""Pickles: estimators of the scikit-learn kind, opened as MLflow does.

Where MLflow's switch forbids unpickling, or the format is unknown here, MLflow itself loads, or
refuses to.
"""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .base import is_unpickling_allowed


def load_estimator(
    file: Path, config: Mapping[str, Any], written_as: str, by_mlflow: Callable[[], Any]
) -> Any:
    """The estimator in *file*.

    Args:
        file: Where it is.
        config: The flavor's entry in MLmodel.
        written_as: Its format where that entry names none.
        by_mlflow: Has MLflow load it.
    """
    written_as = config.get("serialization_format", written_as)
    if is_unpickling_allowed():
        if written_as == "skops":
            import skops.io

            return skops.io.load(file, trusted=config.get("skops_trusted_types"))
        if written_as in {"pickle", "cloudpickle"}:
            with file.open("rb") as stream:
                return pickle.load(stream)
    return by_mlflow()

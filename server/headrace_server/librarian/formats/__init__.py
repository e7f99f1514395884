"""Formats: whether a model is data, by flavor.

A model is data where nothing that it brings is unpickled, imported or run, and where all that it
says is known to be inert: it names no class but its library's own, and no file but its own.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ..mlmodel import Description
from .common import Refused
from .huggingface import check_transformers
from .keras import check_keras
from .onnx import check_onnx
from .pt2 import check_pytorch
from .sentences import check_sentence_transformers
from .trees import check_catboost, check_lightgbm, check_xgboost

ACCEPTED: Final = (
    "onnx, pytorch (pt2), keras (.keras), xgboost (ubj, json), lightgbm (Booster), catboost (cbm), "
    "transformers and sentence_transformers (safetensors)"
)

_CHECKS: Final[Mapping[str, Callable[[Description, Path], None]]] = {
    "onnx": check_onnx,
    "pytorch": check_pytorch,
    "keras": check_keras,
    "xgboost": check_xgboost,
    "lightgbm": check_lightgbm,
    "catboost": check_catboost,
    "transformers": check_transformers,
    "sentence_transformers": check_sentence_transformers,
}


def why_no_data(model: Description, directory: Path) -> str:
    """What *model*, whose files are in *directory*, has that is not known to be inert, in words.

    Empty where it is data.
    """
    check = _CHECKS.get(model.flavor)
    loader = model.pyfunc.get("loader_module")
    if model.has_code:
        return "it ships code of its own"
    if check is None:
        return f"models of the flavor {model.flavor!r} can execute code"
    if loader not in (None, f"mlflow.{model.flavor}"):
        return f"its loader_module is {loader!r}, not 'mlflow.{model.flavor}'"
    try:
        check(model, directory)
    except Refused as what:
        return str(what)
    return ""

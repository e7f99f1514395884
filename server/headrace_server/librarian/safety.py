"""Safety: which models may be loaded, judged by what lies in their directory before it is opened.

With `allow_pickle = false` a model is loaded only from a format that is data: nothing in it is
unpickled, imported or run. What is judged is the format, whichever adapter will load it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import LoadFailed
from .listed import listed
from .mlmodel import Description

ACCEPTED: Final = (
    "onnx, pytorch (pt2), keras (.keras), xgboost (ubj, json), lightgbm (Booster), catboost (cbm), "
    "transformers and sentence_transformers (safetensors)"
)

_XGBOOST_CLASSES = (
    "xgboost.core.Booster",
    "xgboost.sklearn.XGBModel",
    "xgboost.sklearn.XGBClassifier",
    "xgboost.sklearn.XGBRegressor",
    "xgboost.sklearn.XGBRanker",
    "xgboost.sklearn.XGBRFClassifier",
    "xgboost.sklearn.XGBRFRegressor",
)
_LIGHTGBM_BOOSTER = "lightgbm.basic.Booster"
_CATBOOST_TYPES = ("CatBoost", "CatBoostClassifier", "CatBoostRegressor", "CatBoostRanker")
# Weights, and what tells how to build the model and its tokenizer.
_HF_SUFFIXES = frozenset(
    {".safetensors", ".json", ".txt", ".model", ".tiktoken", ".jinja", ".md", ".yaml"}
)
_HF_NAMES = frozenset({"MLmodel", "registered_model_meta", "LICENSE", "NOTICE", ".gitattributes"})
_JSON_BYTES_MAX = 256 << 20
# What these name in a configuration is imported.
_HF_CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "trust_remote_code"})
_HF_ACTIVATIONS = frozenset({"activation_function", "activation_fn"})
_HF_ATTENTION = frozenset({"_attn_implementation", "attn_implementation"})


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator allows.

    Attributes:
        pickle: Whether a model may execute code while it loads.
        flavors: MLflow's flavor keys, "pyfunc" for python_function; empty for all.
        sources: Patterns of where models may come from; empty for anywhere.
    """

    pickle: bool = True
    flavors: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> "Rules":
        """Those that the daemon wrote."""
        said = json.loads(text)
        return cls(said["pickle"], tuple(said["flavors"]), tuple(said["sources"]))

    @property
    def allowed_sources(self) -> str:
        """What the setting holds, for a message."""
        return f"allow_sources has {listed(self.sources)}"

    @property
    def bound_places(self) -> bool:
        """Whether it matters where files really lie."""
        return bool(self.sources) or not self.pickle


class _Refused(Exception):
    """What the model has that is not accepted."""


def judge(rules: Rules, model: Description, directory: Path, source: str) -> None:
    """Hold *model*, whose files are in *directory* and came from *source*, against *rules*.

    Raises:
        LoadFailed: It may not be loaded; says what was refused and what would be accepted.
    """
    if rules.flavors:
        needed = _needed(model)
        refused = [flavor for flavor in needed if flavor not in rules.flavors]
        if refused:
            raise LoadFailed(
                f"{source} is refused: it needs {needed[refused[0]]}; allow_flavors has "
                f"{', '.join(rules.flavors)}"
            )
    if rules.pickle:
        return
    try:
        _check_code(model)
        _check_format(model, directory)
    except _Refused as what:
        raise LoadFailed(
            f"{source} is refused, since allow_pickle = false: {what}; accepted are {ACCEPTED}"
        ) from None


def is_data(model: Description, directory: Path) -> bool:
    """Whether *model*, whose files are in *directory*, can be loaded without executing any code."""
    try:
        _check_code(model)
        _check_format(model, directory)
    except _Refused:
        return False
    return True


def _needed(model: Description) -> dict[str, str]:
    """The flavors without which *model* does not load, each with what it is needed for."""
    needed = {model.flavor: f"the flavor {model.flavor}"}
    loader = model.pyfunc.get("loader_module")
    if loader is not None:
        parts = str(loader).split(".")
        flavor = parts[1] if parts[0] == "mlflow" and len(parts) > 1 else "pyfunc"
        needed.setdefault(flavor, f"{flavor}, for its loader_module {loader!r}")
    if model.has_code:
        needed.setdefault("pyfunc", "pyfunc, for the code that it ships")
    return needed


def _check_code(model: Description) -> None:
    if model.has_code:
        raise _Refused("it ships code of its own")
    loader = model.pyfunc.get("loader_module")
    if loader not in (None, f"mlflow.{model.flavor}") and model.flavor in _FORMATS:
        raise _Refused(f"its loader_module is {loader!r}, not 'mlflow.{model.flavor}'")


def _check_format(model: Description, directory: Path) -> None:
    check = _FORMATS.get(model.flavor)
    if check is None:
        raise _Refused(f"models of the flavor {model.flavor!r} can execute code")
    check(model.config, directory)


def _onnx(config: Mapping[str, Any], directory: Path) -> None:
    _named(config, "data", directory)


def _pytorch(config: Mapping[str, Any], directory: Path) -> None:
    data = _named(config, "model_data", directory)
    if not (data / "model.pt2").is_file() or (data / "model.pth").exists():
        raise _Refused("its pytorch model is pickled or TorchScript, not exported as pt2")


def _keras(config: Mapping[str, Any], directory: Path) -> None:
    data = _named(config, "data", directory)
    if config.get("save_exported_model") or not (data / "model.keras").is_file():
        raise _Refused("its keras model is not a .keras file")
    module = data / "keras_module.txt"
    if module.exists() and module.read_bytes().strip() != b"keras":
        raise _Refused("keras_module.txt names another module than keras")
    for path in _files(data):
        if path.name not in ("model.keras", "keras_module.txt"):
            raise _Refused(f"it holds {path.name!r} beside its .keras file")


def _xgboost(config: Mapping[str, Any], directory: Path) -> None:
    model_class = config.get("model_class", _XGBOOST_CLASSES[0])
    if model_class not in _XGBOOST_CLASSES:
        raise _Refused(f"its model_class {model_class!r} is none of xgboost's own")
    data = _named(config, "data", directory)
    if data.suffix not in (".ubj", ".json"):
        raise _Refused(f"its xgboost model {data.name!r} is neither ubj nor json")


def _lightgbm(config: Mapping[str, Any], directory: Path) -> None:
    model_class = config.get("model_class", _LIGHTGBM_BOOSTER)
    if model_class != _LIGHTGBM_BOOSTER:
        raise _Refused(f"its lightgbm model is a {model_class}: only a Booster is text")
    _named(config, "data", directory)


def _catboost(config: Mapping[str, Any], directory: Path) -> None:
    model_type, save_format = config.get("model_type"), config.get("save_format", "cbm")
    if model_type not in _CATBOOST_TYPES:
        raise _Refused(f"its model_type {model_type!r} is none of catboost's own")
    if save_format != "cbm":
        raise _Refused(f"its catboost model is saved as {save_format!r}, not as cbm")
    _named(config, "data", directory)


def _transformers(config: Mapping[str, Any], directory: Path) -> None:
    if "model_binary" not in config:
        raise _Refused("its weights are not saved with it")
    remote = sorted(key for key in config if key.endswith("_revision"))
    if remote or "local_base_model_path" in config:
        raise _Refused(f"{(*remote, 'local_base_model_path')[0]} names files that are not its own")
    if "peft_adaptor" in config:
        _named(config, "peft_adaptor", directory)
    _hugging_face(_named(config, "model_binary", directory), directory)


def _sentence_transformers(config: Mapping[str, Any], directory: Path) -> None:
    _hugging_face(
        _named({"data": "model.sentence_transformer", **config}, "data", directory), directory
    )


def _hugging_face(weights: Path, directory: Path) -> None:
    """Hold all files of a model that from_pretrained opens against what is data."""
    has_weights = False
    for path in _files(directory):
        name = path.relative_to(directory).as_posix()
        if path.suffix not in _HF_SUFFIXES and path.name not in _HF_NAMES:
            raise _Refused(f"it holds {name!r}: weights must be safetensors, and there be no code")
        has_weights |= path.suffix == ".safetensors" and path.is_relative_to(weights)
        if path.suffix == ".json":
            _check_json(path, name, weights)
    if not has_weights:
        raise _Refused("it holds no safetensors weights")


def _check_json(path: Path, name: str, weights: Path) -> None:
    """Refuse a configuration that has a class imported which is none of the library's."""

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, value in pairs:
            is_foreign = (
                (key in _HF_CODE_KEYS and value)
                or (key in _HF_ACTIVATIONS and "." in str(value) and not _is_of("torch.nn", value))
                or (key in _HF_ATTENTION and "/" in str(value))
            )
            if is_foreign:
                raise _Refused(f"{key!r} in {name!r} names code to load")
        return dict(pairs)

    if path.stat().st_size > _JSON_BYTES_MAX:
        raise _Refused(f"{name!r} is too large to be looked through")
    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=check)
    except (ValueError, RecursionError) as error:
        raise _Refused(f"{name!r} is no JSON that can be looked through") from error
    if path.name == "modules.json":
        _check_modules(found, name, weights)


def _check_modules(modules: Any, name: str, weights: Path) -> None:
    """sentence_transformers imports the class of each module by its name."""
    for module in modules if isinstance(modules, list) else [modules]:
        if not isinstance(module, dict) or not _is_of("sentence_transformers", module.get("type")):
            raise _Refused(f"{name!r} names a module that is none of sentence_transformers' own")
        _named(module, "path", weights, may_be_home=True)


def _is_of(package: str, name: object) -> bool:
    return isinstance(name, str) and name.startswith(f"{package}.")


def _named(
    config: Mapping[str, Any], key: str, directory: Path, *, may_be_home: bool = False
) -> Path:
    """What the entry *key* names, which must lie below *directory*."""
    name = config.get(key)
    if may_be_home and name in ("", "."):
        return directory
    if not isinstance(name, str) or not name:
        raise _Refused(f"its entry {key!r} names no file")
    path, home = (directory / name).resolve(), directory.resolve()
    if path == home or not path.is_relative_to(home):
        raise _Refused(f"its entry {key!r} names {name!r}, which is outside of the model")
    if not path.exists():
        raise _Refused(f"it lacks {name!r}, which its MLmodel file names")
    return directory / name


def _files(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.rglob("*")) if not path.is_dir()]


_FORMATS: Final[Mapping[str, Callable[[Mapping[str, Any], Path], None]]] = {
    "onnx": _onnx,
    "pytorch": _pytorch,
    "keras": _keras,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "catboost": _catboost,
    "transformers": _transformers,
    "sentence_transformers": _sentence_transformers,
}

"""Inside: what an MLmodel file names must lie in the model's own directory, whatever its flavor.

MLflow and the adapters join these names to the directory; a name with `..`, an absolute one, or one
that a link leads elsewhere would open a file of the host.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..errors import LoadFailed
from .mlmodel import Description

# Entries of any flavor that name a file or folder.
_PLACES: Final = (
    *("code", "data", "explainer", "model_binary", "model_data", "model_path", "parameters_path"),
    *("peft_adaptor", "pickled_model", "python_model", "saved_model_dir", "serialized_explainer"),
)
_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_within(path: Path, directory: Path) -> bool:
    """Whether *path* lies in *directory*, or is it, once all links are followed."""
    try:
        return path.resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError, ValueError):  # Links in a circle; a name that no file can have.
        return False


def check_inside(model: Description, directory: Path, source: str) -> None:
    """Hold what the MLmodel file of *model*, which came from *source*, names against *directory*.

    Raises:
        LoadFailed: Something lies elsewhere.
    """
    for entry, name in _named(model):
        if not is_within(directory / name, directory):
            raise LoadFailed(
                f"{source} is refused: its entry {entry!r} names {name!r}, which is outside of the "
                "model"
            )
    loader = model.pyfunc.get("loader_module")
    if loader is not None and not (isinstance(loader, str) and _MODULE.fullmatch(loader)):
        raise LoadFailed(f"{source} is refused: its loader_module {loader!r} is no module's name")


def _named(model: Description) -> Iterator[tuple[str, str]]:
    """What names a file or folder, and that name."""
    for config in (model.config, model.pyfunc):
        tables = [(entry, config.get(entry)) for entry in _PLACES]
        environment = config.get("env")
        if isinstance(environment, Mapping):
            tables += [(f"env.{kind}", place) for kind, place in environment.items()]
        else:
            tables.append(("env", environment))
        for entry in ("artifacts", "extra_files", "requirements_file"):
            tables += [(f"{entry}.path", place) for place in _paths(config.get(entry))]
        for entry, name in tables:
            if isinstance(name, str) and name:
                yield entry, name


def _paths(value: Any) -> Iterator[Any]:
    """The entries "path" of a table, and of tables in it."""
    if isinstance(value, Mapping):
        yield value.get("path")
        for item in value.values():
            yield from _paths(item)
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item)

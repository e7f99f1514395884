"""Sources of settings: headrace.toml, the environment and flags, laid over each other.

Each source gives a list of values that know where they were said; the last word counts. A key that
does not exist and a value out of range are a person's mistakes: one sentence that names the place.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from ..errors import UsageError
from .effective import Given, Layer, Settings
from .environment import CONFIG_VARIABLE, read_environment
from .file import read_file
from .flags import read_flags, read_sets
from .tables import AuthSettings, SandboxSettings, ServerSettings, TlsSettings
from .uris import absolute_tracking_uri, default_cache_dir, split_model

FILE: Final = "headrace.toml"
# Said to be empty, these are as if nothing was said.
_NEVER_EMPTY: Final = ("tracking_uri", "cache_dir", "uri")


def read_settings(
    *,
    config: str | None = None,
    flags: Mapping[str, str | Sequence[str] | None] | None = None,
    sets: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Everything that was said, laid over each other.

    Args:
        config: Path of the file; None for the environment's, else headrace.toml if it is here.
        flags: Setting of [server] -> the text that its flag was given; None where it was not.
        sets: `NAME.SETTING=VALUE` items.
        environ: The environment; None for this process's own.

    Raises:
        UsageError: A key does not exist, a value is out of range, or the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    path = config_path(config, environ)
    said_by_all = (
        *_surroundings(environ),
        *(read_file(path) if path is not None else ()),
        *read_environment(environ),
        *read_flags(flags or {}),
        *read_sets(sets),
    )
    given = _settled([item for item in said_by_all if item.value or item.key not in _NEVER_EMPTY])

    def said(table: str) -> dict[str, Any]:
        return {item.key: item.value for item in given if item.table == table}

    return Settings(
        ServerSettings.model_validate(said("server")),
        TlsSettings.model_validate(said("tls")),
        AuthSettings.model_validate(said("auth")),
        SandboxSettings.model_validate(said("sandbox")),
        _served(given),
        tuple(given),
    )


def config_path(config: str | None, environ: Mapping[str, str]) -> str | None:
    """The file to read: the one asked for, else headrace.toml if it is here, else None."""
    asked = config or environ.get(CONFIG_VARIABLE)
    if asked:
        return asked
    return FILE if os.path.exists(FILE) else None


def _surroundings(environ: Mapping[str, str]) -> list[Given]:
    """Defaults that depend on where the daemon runs."""
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    where = "MLFLOW_TRACKING_URI" if uri else "default"
    uri = absolute_tracking_uri(uri or "sqlite:///mlflow.db")
    return [
        Given("server", "tracking_uri", uri, Layer.DEFAULT, where),
        Given("server", "cache_dir", default_cache_dir(environ), Layer.DEFAULT, "default"),
    ]


def _settled(given: Sequence[Given]) -> list[Given]:
    """What was said, less what loses where the list and a `uri` name one model.

    The `uri` of a variable gets the model's name as the other sources write it.

    Raises:
        UsageError: One source says both, or a name cannot be served.
    """
    listed = next((i for i in reversed(given) if (i.table, i.key) == ("server", "models")), None)
    models = listed.value if listed is not None else ()
    names = {split_model(item)[0] for item in models}
    names |= {item.model for item in given if item.layer is not Layer.ENVIRONMENT}
    settled: list[Given] = []
    for item in given:
        if item.key != "uri":
            settled.append(item)
            continue
        name = next((name for name in sorted(names) if name and item.is_for(name)), item.model)
        _check_name(name, item)
        same = [each for each in models if split_model(each)[0] == name]
        if same and listed is not None:
            if item.layer == listed.layer:
                raise UsageError(
                    f"{item.origin} and {listed.origin} both say what to serve as {name!r}"
                )
            if item.layer < listed.layer:
                continue
            models = tuple(each for each in models if each not in same)
        settled.append(replace(item, model=name))
    return [replace(item, value=models) if item is listed else item for item in settled]


def _served(given: Sequence[Given]) -> tuple[str, ...]:
    """`[NAME=]URI` of all models: the list's, and those that have a `uri` of their own."""
    listed: tuple[str, ...] = ()
    own: dict[str, str] = {}
    for item in given:
        if (item.table, item.key) == ("server", "models"):
            listed = item.value
        elif item.key == "uri":
            own[item.model] = item.value
    return (*listed, *(f"{name}={uri}" for name, uri in own.items()))


def _check_name(name: str, item: Given) -> None:
    if not name or not name.isprintable() or any(mark in name for mark in ":/="):
        raise UsageError(
            f"{item.origin}: a model cannot be served as {name!r}: expected a name without "
            "colon, slash or equals sign"
        )

"""Shown: the settings that hold, each with where it was said, as headrace.toml or as JSON.

The text is a headrace.toml itself. Credentials never show.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from .effective import Given, Layer, Settings, folded
from .tables import TABLES, Table
from .uris import shown_uri, split_model
from .values import toml_value

# Comments stand in one column, unless a value is longer than this.
_COLUMN_MAX = 44
_SINGLE = tuple(table for table in TABLES if table != "models")


@dataclass(frozen=True, slots=True)
class Shown:
    """One setting: its value and where it was said."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Known:
    """A served model as the registry knows it.

    Attributes:
        name: Served name.
        version: Decimal number as text.
        tags: Its version's tags that begin with "headrace.".
    """

    name: str
    version: str
    tags: Mapping[str, str] = field(default_factory=dict)


def as_toml(settings: Settings, file: str | None, known: Iterable[Known] | None) -> str:
    """Everything as headrace.toml would have it, with a comment on where each value was said.

    Args:
        settings: What holds.
        file: The settings file that was read.
        known: The served models, as the registry knows them; None where it was not asked.
    """
    lines = [f"# settings file: {file or 'none'}"]
    models = {model.name: model for model in known or ()}
    if known is None:
        lines.append("# tags of model versions are not known here: --registry asks for them")
    for table in _SINGLE:
        lines += ["", f"[{table}]", *_rows(_table(settings, table))]
    for name in _names(settings, models):
        model = models.get(name, Known(name, ""))
        version = f"  # version {model.version}" if model.version else ""
        lines += ["", f"[models.{_key(name)}]{version}", *_rows(_model(settings, model))]
        for tag, why in settings.ignored_tags(name, model.tags).items():
            lines.append(_one_line(f"# tag {tag} is ignored: {why}"))
    if known is None:
        lines += ["", "# any other model"]
        lines += [f"# {row}" for row in _rows(_model(settings, Known("", "")))]
    return "\n".join(lines)


def as_json(settings: Settings, file: str | None, known: Iterable[Known] | None) -> str:
    """The same as JSON: table -> setting -> value and where it was said."""
    models = {model.name: model for model in known or ()}
    shown: dict[str, Any] = {"file": file, "registry": known is not None}
    for table in _SINGLE:
        shown[table] = _plain(_table(settings, table))
    shown["models"] = {
        name: _plain(_model(settings, models.get(name, Known(name, ""))))
        for name in _names(settings, models)
    }
    shown["ignored_tags"] = {
        name: settings.ignored_tags(name, model.tags) for name, model in models.items()
    }
    return json.dumps(shown, indent=2)


def _table(settings: Settings, table: str) -> dict[str, Shown]:
    said = [item for item in settings.given if item.table == table]
    return _shown(getattr(settings, table), said)


def _model(settings: Settings, model: Known) -> dict[str, Shown]:
    by_tags = settings.said_by_tags(model.name, model.tags)
    about = settings.about(model.name) if model.name else []
    shown = _shown(settings.for_model(model.name, model.tags), [*by_tags, *about])
    uris = [item for item in about if item.key == "uri"]
    if not uris:
        return shown
    return {"uri": Shown(_without_secrets("uri", uris[-1].value), uris[-1].origin), **shown}


def _shown(values: Table, said: Iterable[Given]) -> dict[str, Shown]:
    origins = {item.key: item.origin for item in said}
    return {
        key: Shown(_without_secrets(key, value), origins.get(key, "default"))
        for key, value in values
    }


def _without_secrets(key: str, value: Any) -> Any:
    if key in ("tracking_uri", "uri"):
        return shown_uri(value)
    if key == "models":
        return [
            f"{name}={shown_uri(uri)}" if name else shown_uri(uri)
            for name, uri in map(split_model, value)
        ]
    return value


def _names(settings: Settings, models: Mapping[str, Known]) -> list[str]:
    """Names of models: those the registry told, else those that were said."""
    if models:
        return list(models)
    names = [name for name, _ in map(split_model, settings.served) if name]
    about = [item for item in settings.given if item.table == "models"]
    names += [item.model for item in about if item.layer is not Layer.ENVIRONMENT]
    said = {folded(name) for name in names}
    names += [item.model for item in about if folded(item.model) not in said]
    return list(dict.fromkeys(names))


def _rows(settings: Mapping[str, Shown]) -> list[str]:
    pairs = [(f"{key} = {toml_value(item.value)}", item.origin) for key, item in settings.items()]
    width = max(len(text) for text, _ in pairs if len(text) <= _COLUMN_MAX)
    return [f"{text:<{width}}  # {_one_line(origin)}" for text, origin in pairs]


def _plain(settings: Mapping[str, Shown]) -> dict[str, dict[str, Any]]:
    return {
        key: {"value": _as_plain(item.value), "from": item.origin} for key, item in settings.items()
    }


def _as_plain(value: Any) -> Any:
    return value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value


def _key(name: str) -> str:
    is_bare = name.isascii() and name.replace("-", "_").isidentifier()
    return name if is_bare else toml_value(name)


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)

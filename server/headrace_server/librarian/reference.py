"""Reference: what a model URI asks for, read from its text alone.

No registry is asked here. Whether the thing exists is for resolving.py to find out.
"""

import os
import re
import urllib.parse
from dataclasses import dataclass
from typing import Final

from ..errors import InvalidRequest

FORMS: Final = (
    "expected models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/latest, models:/m-ID, "
    "runs:/RUN/NAME, mlflow-artifacts:/PATH, file:///PATH or the path of a directory"
)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Version:
    """A registered model's version by number."""

    name: str
    number: str


@dataclass(frozen=True, slots=True)
class Alias:
    """The version of a registered model that an alias points at."""

    name: str
    alias: str


@dataclass(frozen=True, slots=True)
class Latest:
    """A registered model's highest version."""

    name: str


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A logged model by its id, registered or not."""

    model_id: str


@dataclass(frozen=True, slots=True)
class RunModel:
    """A model that a run logged, by its name or by its path among the run's artifacts."""

    run_id: str
    path: str


@dataclass(frozen=True, slots=True)
class Artifacts:
    """A directory that a tracking server hands out."""

    uri: str


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory on this host, absolute."""

    path: str


Reference = Version | Alias | Latest | LoggedModel | RunModel | Artifacts | Directory


def parse(uri: str) -> Reference:
    """Read *uri*.

    Raises:
        InvalidRequest: It has none of the accepted forms; the message names them.
    """
    scheme = _SCHEME.match(uri)
    match scheme[1].lower() if scheme else "":
        case "models":
            return _models(uri, uri[len("models:") :])
        case "runs":
            found = re.fullmatch(r"runs:/([^/]+)/([^/].*?)/*", uri)
            if found:
                return RunModel(found[1], found[2])
        case "mlflow-artifacts":
            if uri.partition(":")[2].strip("/"):
                return Artifacts(uri.rstrip("/"))
        case "file" | "":
            path = local_path(uri) if scheme else os.path.abspath(uri)
            if uri and path is not None:
                return Directory(path)
    raise InvalidRequest(f"{uri!r} is no model URI: {FORMS}")


def local_path(source: str) -> str | None:
    """The absolute path that a `file:` URI or an absolute path names; None for anything else."""
    if source.startswith("/"):
        return os.path.abspath(source)
    parts = urllib.parse.urlsplit(source)
    is_here = parts.scheme == "file" and parts.netloc in ("", "localhost")
    if is_here and parts.path.startswith("/"):
        return os.path.abspath(urllib.parse.unquote(parts.path))
    return None


def name_of(location: str) -> str:
    """The last segment of a path or URI, with what a served name may not hold replaced."""
    segment = location.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", segment).strip("-.") or "model"


def _models(uri: str, rest: str) -> Reference:
    # `models://...` names a Databricks profile, which this does not speak to.
    name, slash, selector = rest.removeprefix("/").partition("/")
    if not rest.startswith("/") or not name or "/" in selector or (slash and not selector):
        raise InvalidRequest(f"{uri!r} is no model URI: {FORMS}")
    if selector.lower() == "latest":
        return Latest(name)
    if _NUMBER.fullmatch(selector):
        return Version(name, str(int(selector)))
    if selector:
        raise InvalidRequest(
            f"{uri!r} ends in {selector!r}, which is neither a version nor latest; "
            "of MLflow's stages, which are deprecated, none is followed: set an alias"
        )
    base, at, alias = name.rpartition("@")
    if at and base and alias:
        return Latest(base) if alias.lower() == "latest" else Alias(base, alias)
    if not at and name.startswith("m-"):
        return LoggedModel(name)
    raise InvalidRequest(f"{uri!r} does not say which version: {FORMS}")

"""URIs and paths in settings: names split off, relative ones made absolute, credentials hidden."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .values import is_path

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def split_model(item: str) -> tuple[str, str]:
    """NAME and URI of `[NAME=]URI`; an equals sign inside the URI is no separator."""
    name, equals, uri = item.partition("=")
    if equals and uri and name and not any(mark in name for mark in ":/"):
        return name, uri
    return "", item


def absolute_tracking_uri(uri: str, directory: str = "") -> str:
    """The registry's address, with a relative sqlite path or directory made absolute.

    It must not depend on the directory in which a child process runs.

    Args:
        uri: The address.
        directory: What a relative one is relative to; empty for the working directory.
    """
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{Path(directory, uri.removeprefix('sqlite:///')).absolute()}"
    if "://" not in uri and not uri.startswith(("databricks", "file:")):
        return str(Path(directory, uri).absolute())
    return uri


def shown_uri(uri: str) -> str:
    """The registry's address without its credentials."""
    scheme, colon, rest = uri.partition("://")
    if colon and not rest.startswith("/"):
        # The last @ ends them, though a password that holds a slash should have been quoted.
        _, at, host = rest.rpartition("@")
        rest = f"{'***@' if at else ''}{host}"
    rest, query, _ = rest.partition("?")
    return f"{scheme}{colon}{rest}{'?***' if query else ''}" if colon else uri.partition("?")[0]


def socket_path(host: str) -> str:
    """The path of `unix:PATH`; empty for an address or a host's name."""
    if not host.startswith("unix:"):
        return ""
    path = host.removeprefix("unix:")
    return path[2:] if path.startswith("///") else path


def default_cache_dir(environ: Mapping[str, str]) -> str:
    """Where fetched models are kept unless told otherwise: XDG's cache directory."""
    base = environ.get("XDG_CACHE_HOME") or os.path.join(Path.home(), ".cache")
    return os.path.join(base, "headrace")


def anchored(table: str, key: str, value: Any, directory: str) -> Any:
    """*value*, with paths in it made absolute; *directory* is what they are relative to."""
    if is_path(table, key):
        if isinstance(value, tuple):
            return tuple(_anchored_path(item, directory) for item in value)
        return _anchored_path(value, directory)
    match table, key:
        case "server", "tracking_uri":
            return absolute_tracking_uri(value, directory) if value else value
        case "server", "host" if path := socket_path(value):
            return f"unix:{Path(directory, Path(path).expanduser()).absolute()}"
        case "server", "models":
            return tuple(_anchored_model(item, directory) for item in value)
        case "server", "allow_sources":
            return tuple(
                item if _SCHEME.match(item) else str(Path(directory, item).absolute())
                for item in value
            )
        case "models", "uri":
            return _anchored_uri(value, directory) if value else value
    return value


def _anchored_path(path: str, directory: str) -> str:
    return str(Path(directory, Path(path).expanduser()).absolute()) if path else path


def _anchored_model(item: str, directory: str) -> str:
    name, uri = split_model(item)
    uri = _anchored_uri(uri, directory)
    return f"{name}={uri}" if name else uri


def _anchored_uri(uri: str, directory: str) -> str:
    # What is relative to the working directory stays as it was given.
    return uri if _SCHEME.match(uri) or not directory else str(Path(directory, uri))

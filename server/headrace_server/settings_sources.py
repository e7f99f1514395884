"""Sources of settings: headrace.toml, the environment and flags, read and laid over each other.

Each source gives a list of values that know where they were said; the last word counts. A key that
does not exist and a value out of range are a person's mistakes: one sentence that names the place.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .errors import UsageError
from .settings import (
    TABLES,
    AuthSettings,
    Given,
    Layer,
    ServerSettings,
    Settings,
    TlsSettings,
    absolute_tracking_uri,
    checked,
    default_cache_dir,
    folded,
    is_path,
    no_such,
    split_model,
)

FILE: Final = "headrace.toml"
PREFIX: Final = "HEADRACE_"
CONFIG_VARIABLE: Final = "HEADRACE_CONFIG"
# Variables of ours that are no settings of the server.
_OTHER_VARIABLES: Final = frozenset({CONFIG_VARIABLE, "HEADRACE_TOKEN"})
_NEVER_EMPTY: Final = ("tracking_uri", "cache_dir")

_SET_FORM = (
    "expected NAME.SETTING=VALUE, as in iris.rows_max=8, or server.SETTING=VALUE, as in "
    "server.drain_s=5"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_AT = re.compile(r" \(at line (\d+), column (\d+)\)$")
_HEADER = re.compile(r"\s*\[[^\[].*\]\s*(#.*)?")
_KEY = re.compile(r"\s*([\w.\"' -]+?)\s*=")
# What Kubernetes sets in every pod beside a service whose name begins with headrace.
_SERVICE_HOST = re.compile(r"HEADRACE_(\w+_)?SERVICE_(HOST|PORT(_\w+)?)")
_SERVICE_PORT = re.compile(r"HEADRACE_(\w+_)?PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")


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
        *_read_flags(flags or {}),
        *read_sets(sets),
    )
    # Said to be empty, these two are as if nothing was said: their defaults are no constants.
    given = [item for item in said_by_all if item.value or item.key not in _NEVER_EMPTY]

    def said(table: str) -> dict[str, Any]:
        return {item.key: item.value for item in given if item.table == table}

    return Settings(
        ServerSettings.model_validate(said("server")),
        TlsSettings.model_validate(said("tls")),
        AuthSettings.model_validate(said("auth")),
        _served(given),
        tuple(given),
    )


def config_path(config: str | None, environ: Mapping[str, str]) -> str | None:
    """The file to read: the one asked for, else headrace.toml if it is here, else None."""
    asked = config or environ.get(CONFIG_VARIABLE)
    if asked:
        return asked
    return FILE if os.path.exists(FILE) else None


# headrace.toml


def read_file(path: str) -> list[Given]:
    """What the file at *path* says.

    Raises:
        UsageError: It cannot be read, is no TOML, or holds a key or value that it must not.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: it is no text in UTF-8") from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = _AT.search(str(error))
        where = f"{path}:{at[1]}" if at else path
        why = f"{_AT.sub('', str(error))}{f' in column {at[2]}' if at else ''}"
        raise UsageError(f"{where}: it is no TOML: {why}") from None
    return _File(path, text).read(document)


class _File:
    """One file, with the lines on which its keys stand."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._directory = os.path.dirname(os.path.abspath(path))
        self._lines = _lines(text)

    def read(self, document: Mapping[str, Any]) -> list[Given]:
        """Its values, checked."""
        given: list[Given] = []
        for table, content in document.items():
            place = self._place(table)
            if table not in TABLES:
                raise UsageError(f"{place}: {_no_table(table)}")
            if not isinstance(content, dict):
                raise UsageError(f"{place}: expected a table [{table}], got a value")
            if table != "models":
                given += self._settings(table, "", content)
                continue
            for name, settings in content.items():
                if not isinstance(settings, dict):
                    raise UsageError(
                        f"{self._place(table, name)}: expected a table [models.NAME] for each model"
                    )
                given += self._settings(table, name, settings)
        return given

    def _settings(self, table: str, model: str, content: Mapping[str, Any]) -> list[Given]:
        given = []
        above = (table, model) if model else (table,)
        for key, value in content.items():
            place = self._place(*above, key)
            if key not in TABLES[table].model_fields:
                raise UsageError(f"{place}: {_no_setting(table, model, key)}")
            said = f"{place}: {'.'.join(above)}.{key}"
            good = checked(table, key, value, said, is_text=False)
            good = _anchored(table, key, good, self._directory)
            given.append(Given(table, key, good, Layer.FILE, place, model))
        return given

    def _place(self, *keys: str) -> str:
        """The file and, where it is plain to see, the line of the key or of what it stands in."""
        for depth in range(len(keys), 0, -1):
            if line := self._lines.get(keys[:depth]):
                return f"{self._path}:{line}"
        return self._path


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """The line of every header and of every key that begins one; from 1.

    A line inside a text of several lines may pass for a key that the document does not have, which
    no one will ask for.
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        key = _KEY.match(line)
        try:
            if _HEADER.fullmatch(line):
                table = _keys(tomllib.loads(line))
                lines.setdefault(table, number)
            elif key:
                lines.setdefault((*table, *_keys(tomllib.loads(f"{key[1]} = 0"))), number)
        except tomllib.TOMLDecodeError:
            continue
    return lines


def _keys(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The path to the one thing that *document* holds."""
    for key, value in document.items():
        return (key, *(_keys(value) if isinstance(value, dict) else ()))
    return ()


# The environment


def read_environment(environ: Mapping[str, str]) -> list[Given]:
    """What the variables `HEADRACE_TABLE__SETTING` and `HEADRACE_MODELS__NAME__SETTING` say.

    Raises:
        UsageError: A variable names no setting, or its value is out of range.
    """
    given = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable in _OTHER_VARIABLES:
            continue
        if _is_service_link(variable, text):
            continue
        table, model, key = _setting_of(variable)
        value = checked(table, key, text, variable, is_text=True)
        value = _anchored(table, key, value, "")
        given.append(Given(table, key, value, Layer.ENVIRONMENT, variable, model))
    return given


def _setting_of(variable: str) -> tuple[str, str, str]:
    """Table, model in lower case, and key of a variable's name."""
    first, _, rest = variable.removeprefix(PREFIX).partition("__")
    model, _, last = rest.rpartition("__") if first == "MODELS" else ("", "", rest)
    table, key = first.lower(), last.lower()
    is_known = table in TABLES and key in TABLES[table].model_fields
    if is_known and variable == variable.upper() and bool(model) == (table == "models"):
        return table, model.lower(), key
    raise UsageError(f"there is no variable {variable}{_near_variable(variable, model)}")


def _near_variable(variable: str, model: str) -> str:
    model = folded(model) or "NAME"
    known = {
        f"{PREFIX}{table}__{f'{model}__' if table == 'models' else ''}{key}".upper(): key.upper()
        for table, content in TABLES.items()
        for key in content.model_fields
    }
    said = variable.upper().removeprefix(PREFIX)
    same = [name for name, key in known.items() if said == key]
    near = same or difflib.get_close_matches(variable.upper(), known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return ": expected HEADRACE_TABLE__SETTING, as in HEADRACE_SERVER__PORT"


def _is_service_link(variable: str, text: str) -> bool:
    if _SERVICE_HOST.fullmatch(variable):
        return True
    match = _SERVICE_PORT.fullmatch(variable)
    return match is not None and (match[2] is not None or "://" in text)


# Flags


def read_sets(items: Iterable[str]) -> list[Given]:
    """What `--set NAME.SETTING=VALUE` items say.

    Raises:
        UsageError: An item has another form, names no setting, or has a value out of range.
    """
    given = []
    for item in items:
        left, equals, text = item.partition("=")
        above, dot, key = left.rpartition(".")
        if not (equals and dot and above and key):
            raise UsageError(f"--set {left}: {_SET_FORM}")
        if above in TABLES and above != "models":
            table, model = above, ""
        else:
            table, model = "models", above.removeprefix("models.")
        place = f"--set {left}"
        if key not in TABLES[table].model_fields:
            raise UsageError(f"{place}: {_no_setting(table, model, key)}")
        value = checked(table, key, text, place, is_text=True)
        value = _anchored(table, key, value, "")
        given.append(Given(table, key, value, Layer.FLAG, place, model))
    return given


def _read_flags(flags: Mapping[str, str | Sequence[str] | None]) -> list[Given]:
    given = []
    for key, said in flags.items():
        if said is None:
            continue
        place = "the command line" if key == "models" else f"--{key.replace('_', '-')}"
        value: Any = tuple(said)
        if isinstance(said, str):
            value = checked("server", key, said, place, is_text=True)
        value = _anchored("server", key, value, "")
        given.append(Given("server", key, value, Layer.FLAG, place))
    return given


# What they have in common


def _surroundings(environ: Mapping[str, str]) -> list[Given]:
    """Defaults that depend on where the daemon runs."""
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    where = "MLFLOW_TRACKING_URI" if uri else "default"
    uri = absolute_tracking_uri(uri or "sqlite:///mlflow.db")
    return [
        Given("server", "tracking_uri", uri, Layer.DEFAULT, where),
        Given("server", "cache_dir", default_cache_dir(), Layer.DEFAULT, "default"),
    ]


def _served(given: Sequence[Given]) -> tuple[str, ...]:
    """`[NAME=]URI` of all models: the list's, and those that have a `uri` of their own.

    Where both name one model the stronger source counts.
    """
    listed = next((i for i in reversed(given) if (i.table, i.key) == ("server", "models")), None)
    items = list(listed.value) if listed is not None else []
    exact = {split_model(item)[0] for item in items} | {
        item.model for item in given if item.layer is not Layer.ENVIRONMENT
    }
    own: dict[str, Given] = {}
    for item in given:
        if item.table == "models" and item.key == "uri":
            name = next((name for name in sorted(exact) if name and item.is_for(name)), item.model)
            _check_name(name, item)
            own[name] = item
    for item in list(items):
        name, _ = split_model(item)
        if listed is None or name not in own:
            continue
        if own[name].layer == listed.layer:
            raise UsageError(
                f"{own[name].origin} and {listed.origin} both say what to serve as {name!r}"
            )
        if own[name].layer > listed.layer:
            items.remove(item)
        else:
            del own[name]
    return (*items, *(f"{name}={item.value}" for name, item in own.items() if item.value))


def _check_name(name: str, item: Given) -> None:
    if not name or not name.isprintable() or any(mark in name for mark in ":/="):
        raise UsageError(
            f"{item.origin}: a model cannot be served as {name!r}: expected a name without "
            "colon, slash or equals sign"
        )


def _anchored(table: str, key: str, value: Any, directory: str) -> Any:
    """*value*, with paths in it made absolute; *directory* is what they are relative to."""
    if is_path(table, key):
        return str(Path(directory, value).absolute()) if value else value
    match table, key:
        case "server", "tracking_uri":
            return absolute_tracking_uri(value, directory) if value else value
        case "server", "models":
            return tuple(_anchored_model(item, directory) for item in value)
        case "models", "uri":
            return _anchored_uri(value, directory) if value else value
    return value


def _anchored_model(item: str, directory: str) -> str:
    name, uri = split_model(item)
    uri = _anchored_uri(uri, directory)
    return f"{name}={uri}" if name else uri


def _anchored_uri(uri: str, directory: str) -> str:
    # What is relative to the working directory stays as it was given.
    return uri if _SCHEME.match(uri) or not directory else str(Path(directory, uri))


def _no_table(name: str) -> str:
    homes = [f"[{table}]" for table, content in TABLES.items() if name in content.model_fields]
    if homes:
        return f"{name!r} stands in a table: {' or '.join(homes).replace('models', 'models.NAME')}"
    return no_such(f"table {name!r}", name, TABLES)


def _no_setting(table: str, model: str, key: str) -> str:
    home = f"[{table}.{model}]" if model else f"[{table}]"
    return no_such(f"setting {key!r} in {home}", key, TABLES[table].model_fields)

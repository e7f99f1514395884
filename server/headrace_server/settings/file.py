"""File: headrace.toml, read into values that know their line."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .effective import Given, Layer, read_given
from .tables import TABLES, ModelTable
from .values import no_setting, no_such

_AT = re.compile(r" \(at line (\d+), column (\d+)\)$")
_HEADER = re.compile(r"\s*\[[^\[].*\]\s*(#.*)?")
_KEY = re.compile(r"\s*([\w.\"' -]+?)\s*=")


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
                raise UsageError(f"{place}: {_no_table(table, content)}")
            if not isinstance(content, dict):
                raise UsageError(f"{place}: expected a table [{table}], got a value")
            if table != "models":
                given += self._settings(table, "", content)
                continue
            for name, settings in content.items():
                if not isinstance(settings, dict) or not name:
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
                raise UsageError(f"{place}: {no_setting(table, model, key)}")
            given.append(
                read_given(
                    table,
                    key,
                    value,
                    Layer.FILE,
                    place,
                    model=model,
                    said=f"{place}: {'.'.join(above)}.{key}",
                    directory=self._directory,
                )
            )
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
    for number, line in enumerate(text.split("\n"), 1):
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


def _no_table(name: str, content: object) -> str:
    homes = [f"[{table}]" for table, known in TABLES.items() if name in known.model_fields]
    if homes:
        return f"{name!r} stands in a table: {' or '.join(homes).replace('models', 'models.NAME')}"
    if isinstance(content, dict) and content.keys() & ModelTable.model_fields.keys():
        return f"there is no table {name!r}; the settings of a model stand in [models.{name}]"
    return no_such(f"table {name!r}", name, TABLES)

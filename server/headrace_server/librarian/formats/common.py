"""Common: looking through what a model brings, and refusing what is not known to be inert."""

import json
import os
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..inside import is_within

# What has the length of a file of weights is none that says how to use them.
JSON_BYTES_MAX: Final = 256 << 20
# The name of a thing within a library: neither a path, nor a place in a hub, nor an address.
_PLAIN: Final = re.compile(r"[\w.+ -]{0,100}")


class Refused(Exception):
    """What the model has that is not accepted."""


def words(text: str) -> frozenset[str]:
    """The words of *text*: names, of which there are many."""
    return frozenset(text.split())


def named(
    config: Mapping[str, Any], key: str, directory: Path, *, may_be_home: bool = False
) -> Path:
    """What the entry *key* names, which must lie below *directory*."""
    name = config.get(key)
    if may_be_home and name in ("", "."):
        return directory
    if not isinstance(name, str) or not name:
        raise Refused(f"its entry {key!r} names no file")
    path = directory / name
    if not is_within(path, directory) or path.resolve() == directory.resolve():
        raise Refused(f"its entry {key!r} names {name!r}, which is outside of the model")
    if not os.path.exists(path):
        raise Refused(f"it lacks {name!r}, which its MLmodel file names")
    return path


def files_in(directory: Path) -> list[Path]:
    """All files below *directory*."""
    return [path for path in sorted(directory.rglob("*")) if not path.is_dir()]


def check_keys(table: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse a key that is not among the *known*."""
    for key in table:
        if key not in known:
            raise Refused(f"{key!r} in {where} is not known to be inert")


def check_entry(config: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse what the flavor's entry of MLmodel says beyond the *known*."""
    check_keys(config, known, "its MLmodel file")


def check_choice(value: Any, choices: Collection[Any], what: str) -> None:
    """Refuse a *value* that is none of *choices*."""
    if not isinstance(value, str | int | float | None) or value not in choices:
        raise Refused(f"{what} is {value!r}, which is not known to be inert")


def check_plain(value: Any, keys: Collection[str], where: str) -> None:
    """Refuse what is more than numbers, names, and lists and tables of them.

    Keys of tables must be numbers, or among *keys*.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key not in keys and not key.isdecimal():
                raise Refused(f"{key!r} in {where} is not known to be inert")
            check_plain(item, keys, where)
    elif isinstance(value, list):
        for item in value:
            check_plain(item, keys, where)
    elif isinstance(value, str) and (not _PLAIN.fullmatch(value) or ".." in value):
        raise Refused(f"{value!r} in {where} is not known to be inert")


def read_json(content: bytes, name: str) -> Any:
    """What the JSON file *name* says; whoever reads it finds the same, since no key comes twice."""
    if len(content) > JSON_BYTES_MAX:
        raise Refused(f"{name!r} is too large to be looked through")
    try:
        return json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{name!r} is no JSON that can be looked through") from error


def read_table(content: bytes, name: str) -> dict[str, Any]:
    """As `read_json`, for what must be a table."""
    found = read_json(content, name)
    if not isinstance(found, dict):
        raise Refused(f"{name!r} holds no table")
    return found


def members(path: Path, where: str) -> Iterator[tuple[zipfile.ZipFile, zipfile.ZipInfo]]:
    """The files of the archive *path*, which any reader of archives must see alike.

    They are stored as they are, each under one name, and nothing comes before or after the archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(map(str.lower, names))) < len(names) or archive.comment:
                raise Refused(f"{where} is an archive that can be read in several ways")
            _check_ends(path, archive)
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                    raise Refused(f"{info.filename!r} in {where} is compressed, or encrypted")
                yield archive, info
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise Refused(f"{where} is no archive that can be looked through") from error


def _check_ends(path: Path, archive: zipfile.ZipFile) -> None:
    """The archive ends with its table of contents, whose places count from the beginning."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - 98, 0))
        tail = file.read()
    end, locator, long_end = tail[-22:], tail[-42:-22], tail[-98:-42]
    length, start = (int.from_bytes(end[at : at + 4], "little") for at in (12, 16))
    gap = 0
    if locator[:4] == b"PK\6\7":
        # The longer form, in which numbers have eight bytes. Both forms must say the same.
        gap = 76
        told = tuple(int.from_bytes(long_end[at : at + 8], "little") for at in (40, 48))
        at = int.from_bytes(locator[8:16], "little")
        if long_end[:4] != b"PK\6\6" or at != size - 98 or not _agree((length, start), told):
            raise zipfile.BadZipFile
        length, start = told[0], told[1]
    is_whole = end[:4] == b"PK\5\6" and start + length + gap + 22 == size
    if not is_whole or archive.start_dir != start:
        raise zipfile.BadZipFile


def _agree(short: tuple[int, ...], long: tuple[int, ...]) -> bool:
    return all(a in (b, 0xFFFFFFFF) for a, b in zip(short, long, strict=True))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key comes twice")
    return table

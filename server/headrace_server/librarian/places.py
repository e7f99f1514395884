"""Places: where models come from, held against the sources that the operator allows.

A pattern and a place are cut into segments at their slashes, and at the @ before an alias. A place
lies within a pattern whose segments begin its own; a star stands for any characters of one segment.
Directories of this host are compared as absolute paths without links.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from ..errors import LoadFailed
from .reference import local_path

# More is no model; a directory of links to directories can be endless.
_ENTRIES_MAX = 100_000
# What some readers of a URI end it at, or take for a slash, and others do not.
_AMBIGUOUS = re.compile(r"[?#\\]")


def is_allowed(place: str, patterns: Sequence[str]) -> bool:
    """Whether *place*, a URI or an absolute path, lies within one of *patterns*; none allow all."""
    if not patterns:
        return True
    segments = _segments(place)
    if segments is None:
        return False
    return any(_begins(_segments(pattern), segments) for pattern in patterns)


def links_out(directory: str, source: str) -> dict[str, str]:
    """The links below *directory* that lead out of it: their names there -> where they lead.

    Raises:
        LoadFailed: What lies there cannot be copied: its links go round in circles or lead
            nowhere, it holds pipes, sockets or devices, or more than a model has.
    """
    home = os.path.realpath(directory)
    found = {}
    for entry, is_link in _entries(directory, source):
        if is_link:
            target = os.path.realpath(entry)
            if target != home and not target.startswith(f"{home}{os.sep}"):
                found[os.path.relpath(entry, directory)] = target
    return found


def _entries(directory: str, source: str) -> Iterator[tuple[str, bool]]:
    """All that lies below *directory*, links followed; whether each is a link itself."""
    count = 0
    waiting = [(directory, frozenset({os.path.realpath(directory)}))]
    while waiting:
        folder, above = waiting.pop()
        with os.scandir(folder) as listing:
            entries = list(listing)
        for entry in entries:
            count += 1
            if count > _ENTRIES_MAX:
                raise LoadFailed(f"{source} holds more than {_ENTRIES_MAX} files: it is no model")
            name = os.path.relpath(entry.path, directory)
            try:
                is_directory, is_file = entry.is_dir(), entry.is_file()
            except OSError as error:
                raise LoadFailed(f"{source} cannot be read: {name!r}: {error.strerror}") from error
            if is_directory:
                real = os.path.realpath(entry.path)
                if real in above:
                    raise LoadFailed(f"{source} holds a link that leads back to itself: {name!r}")
                waiting.append((entry.path, above | {real}))
            elif not is_file:
                what = "a link that leads nowhere" if entry.is_symlink() else "no regular file"
                raise LoadFailed(f"{source} holds {name!r}, which is {what}")
            yield entry.path, entry.is_symlink()


def _segments(place: str) -> tuple[str, ...] | None:
    """None where readers of *place* may differ on where it lies."""
    directory = local_path(place)
    if directory is not None:
        return ("", *Path(os.path.realpath(directory)).parts[1:])
    scheme, _, rest = place.partition(":")
    host = ""
    if rest.startswith("//"):
        host, _, rest = rest[2:].partition("/")
    segments = [segment for segment in rest.split("/") if segment]
    if _AMBIGUOUS.search(place) or any(_climbs(segment) for segment in segments):
        return None
    if scheme.lower() == "models" and segments:
        name, at, alias = segments[0].rpartition("@")
        if at:
            segments[:1] = [name, f"@{alias}"]
    return (f"{scheme.lower()}:", host.lower(), *segments)


def _climbs(segment: str) -> bool:
    """Whether *segment* may lead up, or hide a slash, for a reader that decodes it."""
    while (decoded := unquote(segment)) != segment:
        segment = decoded
        if "/" in segment or _AMBIGUOUS.search(segment):
            return True
    return segment in (".", "..")


def _begins(pattern: tuple[str, ...] | None, segments: tuple[str, ...]) -> bool:
    if pattern is None or len(pattern) > len(segments):
        return False
    return all(map(_is_like, segments[: len(pattern)], pattern))


def _is_like(segment: str, pattern: str) -> bool:
    return bool(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), segment, re.DOTALL))

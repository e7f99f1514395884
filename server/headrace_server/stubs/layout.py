"""Layout: pieces of Python as ruff and Black would lay them out, 88 characters a line."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

WIDTH: Final = 88
INDENT: Final = "    "


def quoted(text: str) -> str:
    """A string literal: double quotes, unless single ones save escapes."""
    # Python's own escapes; a quote before them keeps it from choosing the other kind.
    body = repr('"' + text)[2:-1].replace("\\'", "'")
    if text.count('"') > text.count("'"):
        return "'" + body.replace("'", "\\'") + "'"
    return '"' + body.replace('"', '\\"') + '"'


def width_of(line: str) -> int:
    """The columns that *line* takes at most, as formatters count them.

    How wide other characters than ASCII's are depends on the version of Unicode. A line a piece is
    right in any case, so pieces that may be too long get it.
    """
    return len(line) + sum(not char.isascii() for char in line)


def bracketed(
    head: str, items: Sequence[str], tail: str, indent: str = "", *, around: int = 0
) -> list[str]:
    """*head*, *items* and *tail* in one line, or with an item a line where that is too long.

    Args:
        head: Up to the opening bracket, as in "f(".
        items: What stands between the brackets.
        tail: From the closing bracket on.
        indent: Before every line.
        around: Characters that the line will get besides: a further indent, a comma.
    """
    line = f"{indent}{head}{', '.join(items)}{tail}"
    if width_of(line) + around <= WIDTH and "\n" not in line:
        return [line]
    return exploded(head, items, tail, indent)


def exploded(head: str, items: Iterable[str], tail: str, indent: str = "") -> list[str]:
    """*head*, an item a line, and *tail*; items may be of several lines."""
    inner = indent + INDENT
    lines = (textwrap.indent(item, inner) for item in items)
    return [indent + head, *(f"{line}," for line in lines), indent + tail]


def tuple_of(
    items: Sequence[str], head: str = "", indent: str = "", *, around: int = 0
) -> list[str]:
    """*head* and a tuple of *items*; see `bracketed`."""
    if len(items) == 1:
        line = f"{indent}{head}({items[0]},)"
        is_short = width_of(line) + around <= WIDTH and "\n" not in line
        return [line] if is_short else exploded(f"{head}(", items, ")", indent)
    return bracketed(f"{head}(", items, ")", indent, around=around)


def docstring(
    first: str, sections: Iterable[tuple[str, Iterable[tuple[str, str]]]], indent: str = INDENT
) -> list[str]:
    """A docstring of a line and of sections.

    Args:
        first: The first line.
        sections: Heading and entries of each; an entry has a name and what is to be said of it.
            Those without entries are left out.
        indent: Before every line.
    """
    lines = []
    for heading, entries in sections:
        told = list(entries)
        if told:
            lines += ["", f"{indent}{heading}:"]
        for name, text in told:
            lines += textwrap.wrap(
                f"{name}: {text}",
                WIDTH,
                initial_indent=indent + INDENT,
                subsequent_indent=indent + 2 * INDENT,
                break_long_words=False,
                break_on_hyphens=False,
            )
    if not lines:
        return [f'{indent}"""{first}"""']
    return [f'{indent}"""{first}', *lines, f'{indent}"""']


def shown(name: str) -> str:
    """A model's own *name* for something, as a comment or a docstring can hold it."""
    return f"'{printable(name)}'"


def printable(text: str) -> str:
    """*text* in one line, without what would end a comment or a docstring, or escape in it."""
    plain = text.replace('"', "'").replace("\\", "/")
    return " ".join("".join(char if char.isprintable() else " " for char in plain).split())

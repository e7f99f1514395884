"""Report: how the benchmarks print what they measured, judge it, and store it."""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# Where nothing says how wide the output is: no column of ours is cut.
WIDTH = 120
RESULTS = Path(__file__).parent / "results"

# As stored: what, figure, wanted_max or wanted_min, is_met.
Claim = dict[str, object]
Row = Mapping[str, Any]


def is_whole(parser: argparse.ArgumentParser, arguments: argparse.Namespace, *free: str) -> bool:
    """Whether all arguments but those that are *free* have their defaults.

    The stored result is always a whole one.
    """
    said = vars(arguments).items()
    return all(value == parser.get_default(name) for name, value in said if name not in free)


def made_by(command: str, where: str = "server on one core, load on another") -> dict[str, str]:
    """The first lines of a stored result: what makes it, and on which machine it was made."""
    machine = f"{platform.machine()}, Python {platform.python_version()}, {where}"
    return {"command": command, "machine": machine}


def store(script: str, result: Mapping[str, Any]) -> Path:
    """Write the *result* of *script*, a file, to results/ under its name; where it is now."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{Path(script).stem}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def at_most(what: str, figure: float, wanted: float, digits: int = 3) -> Claim:
    """That *figure* is at most what is *wanted*."""
    return {
        "what": what,
        "figure": round(figure, digits),
        "wanted_max": round(wanted, digits),
        "is_met": figure <= wanted,
    }


def at_least(what: str, figure: float, wanted: float, digits: int = 3) -> Claim:
    """That *figure* is at least what is *wanted*."""
    return {
        "what": what,
        "figure": round(figure, digits),
        "wanted_min": round(wanted, digits),
        "is_met": figure >= wanted,
    }


def print_claims(claims: Iterable[Claim]) -> None:
    """A line per claim."""
    for claim in claims:
        bound = (
            f"at most {claim['wanted_max']}"
            if "wanted_max" in claim
            else f"at least {claim['wanted_min']}"
        )
        met = "met" if claim["is_met"] else "NOT MET"
        say(f"{claim['what']}: {claim['figure']}; wanted: {bound}; {met}")


def say(line: str) -> None:
    """Print *line* whole, however narrow the terminal is."""
    Console(soft_wrap=True).print(line, markup=False, highlight=False)


def cell(key: str, value: float | str) -> str:
    """*value* of the column *key* as a table shows it."""
    if isinstance(value, str | int):
        return str(value)
    return f"{value:,.0f}" if key == "requests_per_s" else f"{value:.4g}"


def print_figures(
    title: str,
    columns: Mapping[str, str],
    figures: Iterable[Row],
    *,
    cell: Callable[[str, Any], str] = cell,
    text: Sequence[str] = (),
    is_first: Callable[[Row], bool] = lambda _figure: False,
) -> None:
    """A table with a row per figure.

    Args:
        title: What stands above it.
        columns: Keys of the figures -> their titles.
        figures: The rows.
        cell: How a value is shown, by its key.
        text: Keys of the columns that are text.
        is_first: Whether a figure begins a section.
    """
    table = Table(title=title)
    for key, heading in columns.items():
        table.add_column(heading, justify="left" if key in text else "right", no_wrap=key in text)
    for figure in figures:
        if is_first(figure):
            table.add_section()
        table.add_row(*(cell(key, figure.get(key)) for key in columns))
    _show(table)


def print_turns(title: str, lines: Mapping[str, tuple[str, str]], turns: Mapping[str, Row]) -> None:
    """A table with a column per turn.

    Args:
        title: What stands above it.
        lines: Keys of the turns -> what it is, and the format of its values.
        turns: What stands above each column -> its values; None is shown as "-".
    """
    table = Table(title=title)
    table.add_column("")
    for heading in turns:
        table.add_column(heading, justify="right")
    for key, (what, form) in lines.items():
        values = (turn[key] for turn in turns.values())
        table.add_row(what, *("-" if value is None else format(value, form) for value in values))
    _show(table)


def _show(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)

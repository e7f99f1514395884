"""Report: what `headrace doctor` prints."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .finding import Finding, Status

_LINE_CHARS_MAX = 2000
_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.PROBLEM: "red"}


def as_json(findings: Sequence[Finding]) -> str:
    """A list of objects with name, status, text and remedy."""
    plain = [{**asdict(finding), "status": finding.status.value} for finding in findings]
    return json.dumps(plain, indent=2, ensure_ascii=False)


def print_table(findings: Sequence[Finding], out: TextIO) -> None:
    """A line for each finding, remedies below what they are for, and a sum."""
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        text = Text(finding.text)
        if finding.remedy:
            text.append(f"\nremedy: {finding.remedy}", style="bold")
        table.add_row(
            Text(finding.status.value, style=_STYLES[finding.status]), Text(finding.name), text
        )
    # Only a person's terminal needs lines to be broken, and can be coloured.
    width = None if out.isatty() else _LINE_CHARS_MAX
    console = Console(file=out, width=width, highlight=False, markup=False)
    with console.capture() as drawn:
        console.print(table)
    # rich fills lines with blanks.
    for line in drawn.get().splitlines():
        print(line.rstrip(), file=out)
    print(f"\n{_sum(findings)}", file=out)


def _sum(findings: Sequence[Finding]) -> str:
    counted = Counter(finding.status for finding in findings)
    problems, warnings = counted[Status.PROBLEM], counted[Status.WARNING]
    return f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"

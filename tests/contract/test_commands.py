"""Every command: its help ends with examples that can be typed, and a page tells of all of it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from headrace_server.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
ROOT: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = {"": ROOT, **ROOT.commands}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_ends_with_examples(name: str) -> None:
    ran = CliRunner().invoke(app, [*name.split(), "--help"], prog_name="headrace")

    assert ran.exit_code == 0, ran.output
    text, heading, examples = ran.output.partition("\n  Examples:\n")
    assert heading
    assert text.startswith("Usage: headrace")
    assert all(line.startswith("    ") for line in examples.splitlines())


def examples_of(command: Any) -> Iterator[str]:
    for line in (command.epilog or "").splitlines():
        if "headrace " in line:
            # A pipeline's other ends are no commands of ours.
            (ours,) = (part for part in line.split("|") if part.strip().startswith("headrace "))
            yield ours.strip()


@pytest.mark.parametrize(
    "line", [line for command in COMMANDS.values() for line in examples_of(command)]
)
def test_every_example_can_be_typed_as_it_stands(line: str) -> None:
    root = ROOT.make_context("headrace", shlex.split(line)[1:])
    # What the root leaves over: a command's name and its own arguments, which must all be known.
    left: list[str] = [*root._protected_args, *root.args]
    ROOT.commands[left[0]].make_context(left[0], left[1:], parent=root)


def section_of(name: str) -> str:
    """The page's section on a command, without those that follow."""
    heading = re.compile(rf"^## `headrace {re.escape(name)}`$", re.MULTILINE)
    found = heading.search(PAGE.read_text())
    assert found, f"{PAGE.name} has no section '## `headrace {name}`'"
    return PAGE.read_text()[found.end() :].partition("\n## ")[0]


def shared_sections(name: str) -> str:
    """The page's sections on flags that several commands share, this one among them."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    return "".join(
        section
        for section in sections
        if section.startswith("Flags of ") and f"`{name}`" in section.partition("\n")[0]
    )


@pytest.mark.parametrize("name", ROOT.commands)
def test_the_page_of_commands_names_every_option(name: str) -> None:
    section = section_of(name) + shared_sections(name)

    options = [
        option
        for parameter in COMMANDS[name].params
        for option in parameter.opts
        if option.startswith("--") and option != "--help"
    ]
    missing = [option for option in options if f"`{option}" not in section]
    assert not missing, f"the section on {name} says nothing of {', '.join(missing)}"


@pytest.mark.parametrize("name", ROOT.commands)
def test_the_page_of_commands_has_the_examples_of_the_help(name: str) -> None:
    section = section_of(name)

    missing = [line for line in examples_of(COMMANDS[name]) if line not in section]
    assert not missing

"""Flags: dataclasses that are spread over a command line."""

import inspect
from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from headrace_server.cli.flags import spread


@dataclass(frozen=True, kw_only=True)
class Place:
    city: Annotated[str, typer.Option(help="Where it is.", envvar="TEST_CITY")] = "Ulm"
    is_far: Annotated[bool, typer.Option("--far")] = False


@spread
def visit(
    name: Annotated[str, typer.Argument()] = "",
    *,
    place: Place,
    days: Annotated[int, typer.Option()] = 1,
) -> None:
    """Go there."""
    typer.echo(f"{name} {place} {days}")


app = typer.Typer(rich_markup_mode=None)
app.command()(visit)


def said(*arguments: str, **environment: str) -> str:
    result = CliRunner(env=environment).invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output.strip()


def test_a_command_gets_its_dataclass_of_the_flags_that_were_given() -> None:
    given = said("me", "--city", "Rome", "--far", "--days", "3")

    assert given == f"me {Place(city='Rome', is_far=True)} 3"


def test_flags_that_were_not_given_have_the_defaults_of_their_fields() -> None:
    assert said() == f"{Place()} 1"
    assert said(TEST_CITY="Bern") == f"{Place(city='Bern')} 1"


def test_flags_stand_where_their_dataclass_does() -> None:
    assert list(inspect.signature(visit).parameters) == ["name", "city", "is_far", "days"]
    text = said("--help")
    assert "Go there." in text
    assert text.index("--city") < text.index("--far") < text.index("--days")

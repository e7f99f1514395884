"""App: the command without a subcommand, and what its subcommands share."""

import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from .. import VERSION, exits
from ..errors import UsageError

app = typer.Typer(
    name="headrace",
    help="Serve MLflow models over gRPC, fast.",
    add_completion=True,
    pretty_exceptions_enable=False,
    # Plain text: it can be piped, and examples stay as they are to be typed.
    rich_markup_mode=None,
)


def examples(*lines: str) -> str:
    """The end of a command's help; each line can be typed as it stands."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])


@app.callback(
    invoke_without_command=True,
    epilog=examples("headrace serve", "headrace predict iris --input rows.csv"),
)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Serve MLflow models over gRPC, fast."""
    if version:
        print(f"headrace {VERSION}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(exits.USAGE)


def require(extra: str, *modules: str) -> None:
    """Say how to get what a command needs where only a smaller part was installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"this command needs packages that are not installed ({', '.join(missing)}): "
            f'pip install "headrace[{extra}]"'
        )

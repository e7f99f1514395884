"""Making: the commands that make something here: demo, token."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..transport.tokens import Scope
from .app import app, examples, require


@app.command(
    short_help="Make a token for callers.",
    epilog=examples(
        "headrace token shop --file tokens.toml",
        "headrace token ci --scope inference --scope repository --file tokens.toml",
    ),
)
def token(
    name: Annotated[str, typer.Argument(help="Who has it, for the file and the log.")],
    scopes: Annotated[
        list[Scope] | None,
        typer.Option(
            "--scope",
            help="What it is for; may be given again. inference asks models, repository loads and "
            "unloads them, admin may do everything.",
            show_default="inference",
        ),
    ] = None,
    file: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            envvar="HEADRACE_AUTH__TOKENS",
            show_default=False,
            help="The server's file of tokens, to which it is added; made if it is not there.",
        ),
    ] = "",
) -> None:
    """Make a token for callers: print it, this once, and keep its hash for the server.

    Without a file the entry that the server's file needs is printed to standard error.
    """
    from ..transport.tokens import append_entry, entry_of, make_token

    made = make_token()
    entry = entry_of(made, name, scopes or [Scope.INFERENCE])
    if file:
        append_entry(file, entry)
        print(
            f"headrace: {name} is in {file} now; the token itself is shown this once",
            file=sys.stderr,
        )
    else:
        print(f"headrace: add this to the server's file of tokens:\n\n{entry}", file=sys.stderr)
    print(made)


@app.command(
    short_help="Train three models, serve and ask them.",
    epilog=examples("headrace demo", "headrace demo --directory /tmp/demo --report figures.json"),
)
def demo(
    directory: Annotated[
        Path, typer.Option(help="Where the demo keeps its models; reused by the next run.")
    ] = Path("demo"),
    report: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")] = Path(
        "demo.json"
    ),
) -> None:
    """Train three real models, serve them, send them held-out rows, and print what came back."""
    require("demo", "pygrpc_native", "mlflow", "sklearn", "torch", "onnx", "onnxscript")
    from ..demo.run import run_demo

    run_demo(directory, report)

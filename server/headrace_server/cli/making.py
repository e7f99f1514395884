"""Making: the commands that make something here: stub, token, demo."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..asking.connecting import Connection
from ..transport.tokens import Scope
from .app import app, examples, require
from .asking import offer_models
from .flags import spread
from .serving import SERVER_PACKAGES


@app.command(
    short_help="Write a typed client of a model.",
    epilog=examples(
        "headrace stub iris -o iris_client.py",
        "headrace stub iris --proto -o iris.proto",
        "headrace stub iris --tracking-uri http://127.0.0.1:5000 -o iris_client.py",
        "headrace stub models:/iris@champion -o iris_client.py",
    ),
)
@spread
def stub(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="The name it is served by; or [NAME=]URI, which asks the registry.",
            autocompletion=offer_models,
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default=False,
            help="The file to write. Default: standard output.",
        ),
    ] = "",
    version: Annotated[
        str, typer.Option(help="A number or @alias; none for the one it is served by.")
    ] = "",
    *,
    connection: Connection,
    tracking_uri: Annotated[
        str,
        typer.Option(
            metavar="URI",
            show_default=False,
            help="Ask this registry, with no daemon running. Without it a URI is looked up in "
            "$MLFLOW_TRACKING_URI, else mlflow.db here.",
        ),
    ] = "",
    proto: Annotated[
        bool, typer.Option("--proto", help="Write the .proto file, for other languages.")
    ] = False,
) -> None:
    """Write a typed client of a model: a Python module that needs `pip install headrace` alone.

    Its signature comes from a running daemon, or from the registry. Equal signatures give equal
    files.
    """
    from ..stubs.known import is_uri
    from ..stubs.stub import stub as write_stub

    if tracking_uri or is_uri(model):
        require("server", *SERVER_PACKAGES)
    write_stub(
        model,
        version=version,
        output=output,
        is_proto=proto,
        tracking_uri=tracking_uri,
        connection=connection,
    )


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

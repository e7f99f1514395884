"""Command line: what a person types. Imports what a command needs when the command runs."""

import enum
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from . import VERSION
from .connecting import SERVER, Connection, Server, TlsCa, TlsCert, TlsKey, Token, UseTls
from .errors import UsageError
from .transport.tokens import Scope


class Output(enum.Enum):
    """How `predict` prints."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


app = typer.Typer(
    name="headrace",
    help="Serve MLflow models over gRPC, fast.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

_EXIT_USAGE = 2
_SERVER_PACKAGES = ("pygrpc_native", "grpc_health", "pydantic", "structlog", "mlflow")


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Serve MLflow models over gRPC, fast."""
    if version:
        print(f"headrace {VERSION}")
        raise typer.Exit


# What `serve` and `config` take. A flag that was not given says nothing: the settings file or the
# environment may, and settings.py holds the defaults.
_Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME=]URI...",
        help="Models to serve: models:/iris@champion, models:/iris/3, models:/iris/latest, "
        "models:/m-ID, runs:/ID/NAME or a directory. None, here and in the settings: every "
        "registered model, by its alias champion, else its latest version.",
        show_default=False,
    ),
]
_Config = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="The settings file. Default: $HEADRACE_CONFIG, else headrace.toml if it is here.",
    ),
]
_TrackingUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="Where the registry is. Default: $MLFLOW_TRACKING_URI, else mlflow.db here.",
    ),
]
_Host = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Address to listen on.", show_default="127.0.0.1"),
]
_Port = Annotated[
    str | None, typer.Option(metavar="N", help="gRPC port; 0 for any.", show_default="8001")
]
_MetricsPort = Annotated[
    str | None, typer.Option(metavar="N", help="Port of /metrics; 0 for any.", show_default="8002")
]
_Device = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.", show_default="auto"),
]
_Transport = Annotated[
    str | None,
    typer.Option(
        metavar="[auto|native|grpcio]",
        help="Listener; auto is native on loopback, else grpcio, which can do TLS.",
        show_default="auto",
    ),
]
_Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME.SETTING=VALUE",
        help="Any setting: iris.rows_max=8 of a model, server.drain_s=5 of the server.",
    ),
]


@app.command()
def serve(
    models: _Models = None,
    config: _Config = None,
    tracking_uri: _TrackingUri = None,
    host: _Host = None,
    port: _Port = None,
    metrics_port: _MetricsPort = None,
    device: _Device = None,
    transport: _Transport = None,
    sets: _Sets = None,
) -> None:
    """Load models and serve them until SIGTERM or Ctrl-C.

    Examples: `headrace serve` | `headrace serve models:/iris@champion --port 9000` |
    `headrace serve flowers=models:/iris/3 --set flowers.rows_max=16` |
    `headrace serve --config headrace.toml --set server.drain_s=5`
    """
    _require("server", *_SERVER_PACKAGES)
    from . import daemon
    from .settings import read_settings

    flags = {
        "models": models or None,
        "tracking_uri": tracking_uri,
        "host": host,
        "port": port,
        "metrics_port": metrics_port,
        "device": device,
        "transport": transport,
    }
    raise typer.Exit(daemon.run(read_settings(config=config, flags=flags, sets=sets or ())))


@app.command("config")
def show_config(
    models: _Models = None,
    config: _Config = None,
    tracking_uri: _TrackingUri = None,
    host: _Host = None,
    port: _Port = None,
    metrics_port: _MetricsPort = None,
    device: _Device = None,
    transport: _Transport = None,
    sets: _Sets = None,
    *,
    registry: Annotated[
        bool, typer.Option("--registry", help="Ask the registry for models and their tags.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the settings that `serve` would run with, and where each was said.

    What is printed is a headrace.toml itself.

    Examples: `headrace config` | `headrace config --registry` |
    `headrace config --config headrace.toml --port 9000 --json`
    """
    _require("server", *_SERVER_PACKAGES)
    from . import config as shown
    from .settings import read_settings

    flags = {
        "models": models or None,
        "tracking_uri": tracking_uri,
        "host": host,
        "port": port,
        "metrics_port": metrics_port,
        "device": device,
        "transport": transport,
    }
    settings = read_settings(config=config, flags=flags, sets=sets or ())
    print(shown.config(settings, config_file=config, is_json=as_json, asks_registry=registry))


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="The name it is served by.")],
    source: Annotated[
        str, typer.Option("--input", "-i", help="csv, json, jsonl or npy file; - for stdin.")
    ],
    version: Annotated[
        str, typer.Option(help="A number or @alias; none for the one it is served by.")
    ] = "",
    server: Server = SERVER,
    token: Token = "",
    tls: UseTls = False,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    output: Annotated[Output, typer.Option(help="How to print.")] = Output.TABLE,
    input_format: Annotated[
        str, typer.Option("--format", help="csv, json, jsonl or npy; else by the file's name.")
    ] = "",
) -> None:
    """Send the rows of a file through a served model and print the answers.

    Examples: `headrace predict iris --input rows.csv` |
    `cat rows.jsonl | headrace predict iris --input - --format jsonl --output csv`
    """
    from .predict import predict as predict_file

    predict_file(
        model,
        source,
        version=version,
        connection=Connection(
            server=server, token=token, tls=tls, tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key
        ),
        output=output.value,
        input_format=input_format,
    )


_Server = Annotated[str, typer.Option(help="host:port of the daemon.")]
_Wait = Annotated[
    float,
    typer.Option(min=0.0, metavar="SECONDS", help="How long to wait; the daemon goes on after it."),
]


@app.command()
def models(
    server: _Server = "127.0.0.1:8001",
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line a look.")] = False,
    interval: Annotated[
        float,
        typer.Option(min=0.05, metavar="SECONDS", help="Time between two looks; for rows/s too."),
    ] = 1.0,
) -> None:
    """Show what a running daemon holds: states, devices, workers, rows per second.

    Examples: `headrace models` | `headrace models --watch` | `headrace models --json`
    """
    from .modelsview import show_models

    show_models(server, watch=watch, as_json=as_json, interval_s=interval)


@app.command()
def load(
    name: Annotated[str, typer.Argument(help="The name to serve it by.")],
    uri: Annotated[
        str,
        typer.Option(
            metavar="URI",
            help="What to load. Default: what the name was loaded from, as where its alias has "
            "moved; else the registered model of that name.",
        ),
    ] = "",
    server: _Server = "127.0.0.1:8001",
    timeout: _Wait = 3600.0,
) -> None:
    """Have a running daemon load a model, and wait until it is ready; it goes on serving.

    Examples: `headrace load iris` | `headrace load iris --uri models:/iris/3` |
    `headrace load flowers --uri ./model`
    """
    from .modelsview import load_model

    load_model(name, uri, server=server, timeout_s=timeout)


@app.command()
def unload(
    name: Annotated[str, typer.Argument(help="The name it is served by.")],
    server: _Server = "127.0.0.1:8001",
    timeout: _Wait = 3600.0,
) -> None:
    """Have a running daemon answer what it has accepted for a model, then free it.

    Examples: `headrace unload iris`
    """
    from .modelsview import unload_model

    unload_model(name, server=server, timeout_s=timeout)


@app.command()
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

    Examples: `headrace token shop --file tokens.toml` |
    `headrace token ci --scope inference --scope repository --file tokens.toml`
    """
    from .transport.tokens import append_entry, entry_of, make_token

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


@app.command()
def demo(
    directory: Annotated[
        Path, typer.Option(help="Where the demo keeps its models; reused by the next run.")
    ] = Path("demo"),
    report: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")] = Path(
        "demo.json"
    ),
) -> None:
    """Train three real models, serve them, send them held-out rows, and print what came back."""
    _require("demo", "pygrpc_native", "mlflow", "sklearn", "torch", "onnx", "onnxscript")
    from .demo.run import run_demo

    run_demo(directory, report)


def _require(extra: str, *modules: str) -> None:
    """Say how to get what a command needs where only a smaller part was installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"this command needs packages that are not installed ({', '.join(missing)}): "
            f'pip install "headrace[{extra}]"'
        )


def main() -> None:
    """Entry point of `headrace`: a person's mistake is one sentence and exit status 2."""
    try:
        app()
    except UsageError as error:
        print(f"headrace: {error}", file=sys.stderr)
        sys.exit(_EXIT_USAGE)


if __name__ == "__main__":
    main()

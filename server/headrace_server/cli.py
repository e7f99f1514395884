"""Command line: what a person types. Imports what a command needs when the command runs."""

import enum
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from . import VERSION
from .errors import UsageError


class Transport(enum.Enum):
    """Which listener takes calls."""

    AUTO = "auto"
    NATIVE = "native"
    GRPCIO = "grpcio"


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


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Serve MLflow models over gRPC, fast."""
    if version:
        print(f"headrace {VERSION}")
        raise typer.Exit


@app.command()
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]URI...",
            help="Models to serve: models:/iris@champion, models:/iris/3, models:/iris/latest, "
            "models:/m-ID, runs:/ID/NAME or a directory. None: every registered model, by its "
            "alias champion, else its latest version.",
        ),
    ] = None,
    tracking_uri: Annotated[
        str,
        typer.Option(
            help="Where the registry is. Default: $MLFLOW_TRACKING_URI, else mlflow.db here."
        ),
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0 for any.")] = 8001,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of /metrics; 0 for any.")
    ] = 8002,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    transport: Annotated[
        Transport,
        typer.Option(help="Listener; auto is native on loopback, else grpcio, which can do TLS."),
    ] = Transport.AUTO,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME.SETTING=VALUE", help="As in iris.rows_max=8."),
    ] = None,
) -> None:
    """Load models and serve them until SIGTERM or Ctrl-C.

    Examples: `headrace serve` | `headrace serve models:/iris@champion --port 9000` |
    `headrace serve flowers=models:/iris/3 --set flowers.rows_max=16`
    """
    _require("server", "pygrpc_native", "grpc_health", "pydantic", "structlog", "mlflow")
    from . import daemon
    from .settings import (
        ServerSettings,
        absolute_tracking_uri,
        check_device,
        default_cache_dir,
        parse_overrides,
    )

    settings = ServerSettings(
        models=tuple(models or ()),
        tracking_uri=absolute_tracking_uri(tracking_uri),
        host=host,
        port=port,
        metrics_port=metrics_port,
        device=check_device(device),
        transport=transport.value,
        cache_dir=default_cache_dir(),
        overrides=parse_overrides(overrides or ()),
    )
    raise typer.Exit(daemon.run(settings))


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="The name it is served by.")],
    source: Annotated[
        str, typer.Option("--input", "-i", help="csv, json, jsonl or npy file; - for stdin.")
    ],
    version: Annotated[
        str, typer.Option(help="A number or @alias; none for the one it is served by.")
    ] = "",
    server: Annotated[str, typer.Option(help="host:port of the daemon.")] = "127.0.0.1:8001",
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
        server=server,
        output=output.value,
        input_format=input_format,
    )


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

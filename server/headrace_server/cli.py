"""Command line: what a person types. Imports what a command needs when the command runs."""

import enum
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from . import VERSION, exits
from .errors import UsageError


class Output(enum.Enum):
    """How `predict` prints."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


app = typer.Typer(
    name="headrace",
    help="Serve MLflow models over gRPC, fast.",
    add_completion=True,
    pretty_exceptions_enable=False,
    # Plain text: it can be piped, and examples stay as they are to be typed.
    rich_markup_mode=None,
)

_SERVER_PACKAGES = ("pygrpc_native", "grpc_health", "pydantic", "structlog", "mlflow")


def _examples(*lines: str) -> str:
    """The end of a command's help; each line can be typed as it stands."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])


@app.callback(
    invoke_without_command=True,
    epilog=_examples("headrace serve", "headrace predict iris --input rows.csv"),
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


@app.command(
    epilog=_examples(
        "headrace serve",
        "headrace serve models:/iris@champion --port 9000",
        "headrace serve flowers=models:/iris/3 --set flowers.rows_max=16",
        "headrace serve --config headrace.toml --set server.drain_s=5",
    )
)
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
    """Load models and serve them until SIGTERM or Ctrl-C."""
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


@app.command(
    "config",
    short_help="Print the settings that hold, and where each was said.",
    epilog=_examples(
        "headrace config",
        "headrace config --registry",
        "headrace config --config headrace.toml --port 9000 --json",
    ),
)
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


@app.command(
    short_help="Look for what keeps this machine from serving.",
    epilog=_examples(
        "headrace doctor",
        "headrace doctor --tracking-uri http://127.0.0.1:5000",
        "headrace doctor --json",
    ),
)
def doctor(
    config: _Config = None,
    tracking_uri: _TrackingUri = None,
    host: _Host = None,
    port: _Port = None,
    metrics_port: _MetricsPort = None,
    device: _Device = None,
    transport: _Transport = None,
    sets: _Sets = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at Python, packages, GPUs, registry, ports, memory and cache; name what to mend.

    The exit status is 1 where there is a problem.
    """
    from .doctor.doctor import doctor as examine

    flags = {
        "tracking_uri": tracking_uri,
        "host": host,
        "port": port,
        "metrics_port": metrics_port,
        "device": device,
        "transport": transport,
    }
    raise typer.Exit(examine(config=config, flags=flags, sets=sets or (), is_json=as_json))


def _offer_models(context: typer.Context, incomplete: str) -> list[str]:
    from .completion import model_names

    return model_names(context, incomplete)


def _offer_formats(incomplete: str) -> list[str]:
    from .rowfiles import READERS

    return [name for name in READERS if name.startswith(incomplete)]


@app.command(
    short_help="Send rows of a file through a served model.",
    epilog=_examples(
        "headrace predict iris --input rows.csv",
        "headrace predict iris --version @champion --input rows.parquet --output json",
        "cat rows.jsonl | headrace predict iris --input - --format jsonl --output csv",
    ),
)
def predict(
    model: Annotated[
        str, typer.Argument(help="The name it is served by.", autocompletion=_offer_models)
    ],
    source: Annotated[
        str,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="A csv, json, jsonl, npy or parquet file; - for standard input.",
        ),
    ],
    version: Annotated[
        str, typer.Option(help="A number or @alias; none for the one it is served by.")
    ] = "",
    server: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the server listens.")
    ] = "127.0.0.1:8001",
    output: Annotated[Output, typer.Option(help="How to print.")] = Output.TABLE,
    input_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="csv, json, jsonl, npy or parquet; else by the file's name.",
            autocompletion=_offer_formats,
        ),
    ] = "",
) -> None:
    """Send the rows of a file through a served model and print the answers.

    A table shows the first rows beside their inputs; csv and json hold all answers, in the order
    of the rows.
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


@app.command(
    short_help="Train three models, serve and ask them.",
    epilog=_examples("headrace demo", "headrace demo --directory /tmp/demo --report figures.json"),
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
    """Entry point of `headrace`."""
    sys.exit(exits.run(lambda: app(prog_name="headrace", standalone_mode=False)))


if __name__ == "__main__":
    main()

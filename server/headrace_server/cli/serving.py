"""Serving: the commands that take the server's settings: serve, config, doctor."""

from typing import Annotated

import typer

from .app import app, examples, require

SERVER_PACKAGES = ("pygrpc_native", "grpc_health", "pydantic", "structlog", "mlflow")

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
    epilog=examples(
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
    require("server", *SERVER_PACKAGES)
    from .. import daemon
    from ..settings import read_settings

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
    epilog=examples(
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
    require("server", *SERVER_PACKAGES)
    from .. import config as shown
    from ..settings import read_settings

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
    epilog=examples(
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
    from ..doctor.doctor import doctor as examine

    flags = {
        "tracking_uri": tracking_uri,
        "host": host,
        "port": port,
        "metrics_port": metrics_port,
        "device": device,
        "transport": transport,
    }
    raise typer.Exit(examine(config=config, flags=flags, sets=sets or (), is_json=as_json))

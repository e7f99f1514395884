"""Serving: the commands that take the server's settings: serve, config, doctor."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from .app import app, examples, require
from .flags import spread

if TYPE_CHECKING:
    from ..settings import Settings

SERVER_PACKAGES = ("pygrpc_native", "grpc_health", "pydantic", "structlog", "mlflow")

# What `serve` and `config` take.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the command line says of settings; None where it says nothing.

    The settings file or the environment may say it then, and settings/tables.py has the defaults.
    """

    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The settings file. Default: $HEADRACE_CONFIG, else headrace.toml if it is here.",
        ),
    ] = None
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Where the registry is. Default: $MLFLOW_TRACKING_URI, else mlflow.db here.",
        ),
    ] = None
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on, or unix:PATH.",
            show_default="127.0.0.1",
        ),
    ] = None
    port: Annotated[
        str | None, typer.Option(metavar="N", help="gRPC port; 0 for any.", show_default="8001")
    ] = None
    metrics_port: Annotated[
        str | None,
        typer.Option(metavar="N", help="Port of /metrics; 0 for any.", show_default="8002"),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.", show_default="auto"),
    ] = None
    transport: Annotated[
        str | None,
        typer.Option(
            metavar="[auto|native|grpcio]",
            help="Listener; auto is native on loopback and Unix sockets, else grpcio, which can do "
            "TLS.",
            show_default="auto",
        ),
    ] = None
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME.SETTING=VALUE",
            help="Any setting: iris.rows_max=8 of a model, server.drain_s=5 of the server.",
        ),
    ] = None

    def flags(self) -> dict[str, str | None]:
        """The settings that have a flag of their own, by name."""
        return {
            "tracking_uri": self.tracking_uri,
            "host": self.host,
            "port": self.port,
            "metrics_port": self.metrics_port,
            "device": self.device,
            "transport": self.transport,
        }

    def read(self, models: list[str] | None) -> "Settings":
        """The settings that hold where *models* are named."""
        from ..settings import read_settings

        return read_settings(
            config=self.config,
            flags={"models": models or None, **self.flags()},
            sets=self.sets or (),
        )


@app.command(
    epilog=examples(
        "headrace serve",
        "headrace serve models:/iris@champion --port 9000",
        "headrace serve flowers=models:/iris/3 --set flowers.rows_max=16",
        "headrace serve --config headrace.toml --set server.drain_s=5",
    )
)
@spread
def serve(models: _Models = None, *, said: Said) -> None:
    """Load models and serve them until SIGTERM or Ctrl-C."""
    require("server", *SERVER_PACKAGES)
    from .. import daemon

    raise typer.Exit(daemon.run(said.read(models)))


@app.command(
    "config",
    short_help="Print the settings that hold, and where each was said.",
    epilog=examples(
        "headrace config",
        "headrace config --registry",
        "headrace config --config headrace.toml --port 9000 --json",
    ),
)
@spread
def show_config(
    models: _Models = None,
    *,
    said: Said,
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

    settings = said.read(models)
    print(shown.config(settings, config_file=said.config, is_json=as_json, asks_registry=registry))


@app.command(
    short_help="Look for what keeps this machine from serving.",
    epilog=examples(
        "headrace doctor",
        "headrace doctor --tracking-uri http://127.0.0.1:5000",
        "headrace doctor --json",
    ),
)
@spread
def doctor(
    *,
    said: Said,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at Python, packages, GPUs, registry, ports, memory and cache; name what to mend.

    The exit status is 1 where there is a problem.
    """
    from ..doctor.doctor import doctor as examine

    raise typer.Exit(
        examine(config=said.config, flags=said.flags(), sets=said.sets or (), is_json=as_json)
    )

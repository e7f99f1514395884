"""Asking: the commands that speak to a running daemon: predict, models, health, load, unload."""

import enum
from typing import Annotated

import typer

from ..asking.connecting import Connection
from ..errors import UsageError
from .app import app, examples, require
from .flags import spread


class Output(enum.Enum):
    """How `predict` prints."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def offer_models(context: typer.Context, incomplete: str) -> list[str]:
    """Names that the shell offers."""
    from ..asking.completion import model_names

    return model_names(context, incomplete)


def _offer_formats(incomplete: str) -> list[str]:
    from ..asking.rowfiles import READERS

    return [name for name in READERS if name.startswith(incomplete)]


@app.command(
    short_help="Send rows of a file through a served model.",
    epilog=examples(
        "headrace predict iris --input rows.csv",
        "headrace predict iris --version @champion --input rows.parquet --output json",
        "cat rows.jsonl | headrace predict iris --input - --format jsonl --output csv",
        "headrace predict iris --input rows.csv --timings",
    ),
)
@spread
def predict(
    model: Annotated[
        str, typer.Argument(help="The name it is served by.", autocompletion=offer_models)
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
    *,
    connection: Connection,
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
    timings: Annotated[
        bool, typer.Option("--timings", help="Say where the time of the requests went.")
    ] = False,
) -> None:
    """Send the rows of a file through a served model and print the answers.

    A table shows the first rows beside their inputs; csv and json hold all answers, in the order
    of the rows.
    """
    from ..asking.predict import predict as predict_file

    predict_file(
        model,
        source,
        version=version,
        connection=connection,
        output=output.value,
        input_format=input_format,
        timings=timings,
    )


def _as_timeout(given: float) -> float:
    from headrace_client.deadlines import check_seconds

    try:
        return check_seconds("--timeout", given)
    except ValueError as error:
        raise UsageError(str(error)) from None


_Wait = Annotated[
    float,
    typer.Option(
        callback=_as_timeout,
        metavar="SECONDS",
        help="How long to wait; the daemon goes on after it.",
    ),
]


@app.command(
    short_help="Show what a running daemon holds.",
    epilog=examples(
        "headrace models",
        "headrace models --watch",
        "headrace models --json",
    ),
)
@spread
def models(
    *,
    connection: Connection,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line a look.")] = False,
    interval: Annotated[
        float,
        typer.Option(min=0.05, metavar="SECONDS", help="Time between two looks; for rows/s too."),
    ] = 1.0,
) -> None:
    """Show what a running daemon holds: states, devices, workers, rows per second."""
    from ..asking.modelsview import show_models

    show_models(
        connection,
        watch=watch,
        as_json=as_json,
        interval_s=interval,
    )


@app.command(
    short_help="Ask a running daemon whether it serves.",
    epilog=examples(
        "headrace health",
        "headrace health iris --timeout 1",
    ),
)
@spread
def health(
    model: Annotated[
        str,
        typer.Argument(help="A model; none for the daemon.", autocompletion=offer_models),
    ] = "",
    *,
    connection: Connection,
    timeout: Annotated[
        float,
        typer.Option(
            callback=_as_timeout, metavar="SECONDS", help="How long to wait for its answer."
        ),
    ] = 5.0,
) -> int:
    """Ask a running daemon by the gRPC health protocol; the exit status is 0 where it serves."""
    require("server", "grpc_health")
    from ..asking.healthcheck import check_health

    return check_health(
        connection,
        model,
        timeout_s=timeout,
    )


@app.command(
    short_help="Have a running daemon load a model.",
    epilog=examples(
        "headrace load iris",
        "headrace load iris --uri models:/iris/3",
        "headrace load flowers --uri ./model",
    ),
)
@spread
def load(
    name: Annotated[
        str, typer.Argument(help="The name to serve it by.", autocompletion=offer_models)
    ],
    uri: Annotated[
        str,
        typer.Option(
            metavar="URI",
            help="What to load. Default: what the name was loaded from, as where its alias has "
            "moved; else the registered model of that name.",
        ),
    ] = "",
    *,
    connection: Connection,
    timeout: _Wait = 3600.0,
) -> None:
    """Have a running daemon load a model, and wait until it is ready; it goes on serving."""
    from ..asking.modelsview import load_model

    load_model(
        name,
        uri,
        connection=connection,
        timeout_s=timeout,
    )


@app.command(
    short_help="Have a running daemon free a model.",
    epilog=examples(
        "headrace unload iris",
    ),
)
@spread
def unload(
    name: Annotated[
        str, typer.Argument(help="The name it is served by.", autocompletion=offer_models)
    ],
    *,
    connection: Connection,
    timeout: _Wait = 3600.0,
) -> None:
    """Have a running daemon answer what it has accepted for a model, then free it."""
    from ..asking.modelsview import unload_model

    unload_model(
        name,
        connection=connection,
        timeout_s=timeout,
    )

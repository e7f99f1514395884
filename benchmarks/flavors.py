"""Flavors: what one row costs by every flavor: native, through its adapter, by pyfunc, and served.

The calls are measured in a process of their own per flavor (flavor_calls.py), in turns. Then one
daemon serves a model of each flavor, and its CPU time per request, workers included, is taken with
1 and with 128 requests in flight. Flavors whose framework is not installed are left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

import h2load
import report
import servers

CALLS = Path(__file__).parent / "flavor_calls.py"

IN_FLIGHT = (1, 128)
# How much cheaper than pyfunc an adapter's call on one row of named columns must be.
RATIOS_MIN = {"sklearn": 5.0, "lightgbm": 5.0, "onnx": 3.0}
# Requests by which the rate is guessed and the server warmed up, and what a turn has at least.
WARM_REQUESTS = {1: 100, 128: 1280}
CALLS_S_MAX = 120

COLUMNS = {
    "native_us": "native",
    "adapter_us": "adapter",
    "pyfunc_us": "pyfunc",
    "ratio": "ratio",
    "served_1_us": "at 1",
    "served_128_us": "at 128",
}

Figures = dict[str, dict[str, float]]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a load (default 3)")
    parser.add_argument("--flavor", nargs="*", default=[], help="these alone (default all)")
    arguments = parser.parse_args()
    h2load.require()
    server_core, load_core = servers.cores()
    with (
        tempfile.TemporaryDirectory(prefix="headrace-flavors-") as name,
        Progress(console=Console(stderr=True)) as progress,
    ):
        folder = Path(name)
        recipes: dict[str, str] = json.loads(_run(server_core, "--list"))
        asked = {f: r for f, r in recipes.items() if f in (arguments.flavor or recipes)}
        task = progress.add_task("measuring", total=len(asked) * (1 + len(IN_FLIGHT)))
        figures: Figures = {}
        for flavor, recipe in asked.items():
            (folder / flavor).mkdir()
            progress.update(task, description=f"{flavor}: calls")
            figures[flavor] = json.loads(_run(server_core, recipe, str(folder / flavor)))
            progress.advance(task)
        with _daemon(folder, list(asked), server_core) as server:
            for flavor in asked:
                progress.update(task, description=f"{flavor}: served")
                payload = (folder / flavor / "request").read_bytes()
                for in_flight in IN_FLIGHT:
                    figures[flavor][f"served_{in_flight}_us"] = _served_us(
                        server, flavor, payload, in_flight, load_core, arguments.seconds
                    )
                    progress.advance(task)
    claims = _claims(figures)
    _print(figures, claims)
    if not report.is_whole(parser, arguments):
        return  # The stored result is always a whole one.
    result = {
        **report.made_by("make bench-flavors"),
        "seconds": arguments.seconds,
        "cpu_us_per_row": {
            flavor: {key: round(value, 2) for key, value in one.items()}
            for flavor, one in figures.items()
        },
        "claims": claims,
    }
    report.store(__file__, result)


def _run(core: int, *arguments: str) -> str:
    """The last line that flavor_calls.py prints, on the server's core with one thread."""
    command = [*servers.pin(core), sys.executable, str(CALLS), *arguments]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=CALLS_S_MAX,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_LOGGING_LEVEL": "ERROR"},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout.splitlines()[-1]


def _daemon(folder: Path, flavors: list[str], core: int):  # noqa: ANN202 - as servers.daemon's.
    return servers.daemon(
        core,
        f"sqlite:///{folder}/mlflow.db",
        [f"{flavor}={folder / flavor / 'model'}" for flavor in flavors],
        "native",
    )


def _served_us(
    server: servers.Server, flavor: str, payload: bytes, in_flight: int, core: int, seconds: float
) -> float:
    """CPU time of all the server's processes per request (microseconds)."""
    payload = _named(payload, flavor)
    answer = len(servers.ask(server, payload))

    def load(requests: int) -> h2load.Load:
        return h2load.run(
            server.port, payload, answer, in_flight=in_flight, requests=requests, core=core
        )

    least = WARM_REQUESTS[in_flight]
    requests = max(least, int(load(least).requests_per_s * seconds))
    before = server.cpu_s()
    load(requests)
    return (server.cpu_s() - before) / requests * 1e6


def _named(payload: bytes, model: str) -> bytes:
    request = servers.ModelInferRequest.FromString(payload)
    request.model_name = model
    return request.SerializeToString()


def _claims(figures: Figures) -> list[report.Claim]:
    """Whether the adapters are as much cheaper as is wanted."""
    return [
        report.at_least(
            f"{flavor}, one row of named columns, CPU of pyfunc.predict to the adapter's",
            figures[flavor]["ratio"],
            least,
            digits=2,
        )
        for flavor, least in RATIOS_MIN.items()
        if flavor in figures
    ]


def _print(figures: Figures, claims: list[report.Claim]) -> None:
    report.print_figures(
        "CPU microseconds of one row; served: at 1 and 128 in flight",
        {"flavor": "flavor", **COLUMNS},
        ({"flavor": flavor, **one} for flavor, one in figures.items()),
        cell=_cell,
        text=("flavor",),
    )
    report.print_claims(claims)


def _cell(key: str, value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:.1f}" if key == "ratio" or value < 100 else f"{value:,.0f}"


if __name__ == "__main__":
    main()

"""Large: what a request of 602 kB costs the server, one image of 3x224x224 float32.

One model answers one mean per image, one the image itself. A server, with all its processes, has
one core, h2load another. Beside each stands the bare transport, which answers as many values and
has no model, and what the model alone costs. All take turns; figures are medians over the turns.
"""

import argparse
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

import h2load
import models
import report
import servers

IN_FLIGHT = (1, 8, 32)
# Wanted of the server's CPU time per request to the mean, the model's own included.
CPU_MS_MAX = 0.6


@dataclass(frozen=True)
class Subject:
    """A server under measurement.

    Attributes:
        name: As it is printed and stored.
        model: The model that is asked; a control is sent the same message.
        values: How many values a control answers with; None for a daemon.
    """

    name: str
    model: str
    values: int | None = None


VALUES = 3 * 224 * 224
SUBJECTS = (
    Subject("control of mean", "image-mean", 1),
    Subject("mean", "image-mean"),
    Subject("control of identity", "image-identity", VALUES),
    Subject("identity", "image-identity"),
)

Turn = dict[str, dict[str, float]]
Figure = dict[str, float | int | str]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="turns per figure (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn (default 2)")
    parser.add_argument("--in-flight", type=int, nargs="*", default=list(IN_FLIGHT))
    arguments = parser.parse_args()
    h2load.require()
    figures = _measure(arguments)
    alone = _alone(figures, arguments.seconds)
    _print(figures, alone)
    if not report.is_whole(parser, arguments, "pairs", "seconds"):
        return  # The stored result is always a whole one.
    result = {
        **report.made_by("make bench"),
        "pairs": arguments.pairs,
        "seconds": arguments.seconds,
        "wanted_cpu_ms_max": CPU_MS_MAX,
        "figures": figures,
        "models_alone_cpu_ms": alone,
    }
    report.store(__file__, result)


def _measure(arguments: argparse.Namespace) -> list[Figure]:
    server_core, load_core = servers.cores()
    uri = models.prepare().tracking_uri
    payloads = {one.name: servers.body(one.model, models.image()) for one in SUBJECTS}
    figures: list[Figure] = []
    with ExitStack() as stack, Progress(console=Console(stderr=True)) as progress:
        running = {}
        for one in SUBJECTS:
            server = (
                servers.daemon(server_core, uri, [f"models:/{one.model}@champion"], "native")
                if one.values is None
                else servers.control(server_core, "native", str(one.values))
            )
            running[one.name] = stack.enter_context(server)
        answers = {
            name: len(servers.ask(server, payloads[name])) for name, server in running.items()
        }
        task = progress.add_task(
            "measuring", total=len(arguments.in_flight) * (1 + arguments.pairs)
        )
        for in_flight in arguments.in_flight:
            # The first turn is short, and says how many requests fill one.
            sizes = dict.fromkeys(running, max(200, 4 * in_flight))
            taken: list[Turn] = []
            for _ in range(1 + arguments.pairs):
                turn: Turn = {}
                for name, server in running.items():
                    turn[name] = _ask_many(
                        server, payloads[name], answers[name], in_flight, sizes[name], load_core
                    )
                taken.append(turn)
                if len(taken) == 1:
                    sizes = {
                        name: max(200, int(turn[name]["requests_per_s"] * arguments.seconds))
                        for name in running
                    }
                progress.advance(task)
            figures += _figures(in_flight, taken[1:])
    return figures


def _ask_many(
    server: servers.Server, payload: bytes, answer: int, in_flight: int, requests: int, core: int
) -> dict[str, float]:
    rows, batches = server.run_so_far()
    before = server.cpu_s()
    load = h2load.run(
        server.port, payload, answer, in_flight=in_flight, requests=requests, core=core
    )
    cpu_s = server.cpu_s() - before
    rows_after, batches_after = server.run_so_far()
    return {
        "requests_per_s": load.requests_per_s,
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "rows_per_batch": (rows_after - rows) / max(1, batches_after - batches),
        "cpu_ms": cpu_s / load.requests * 1e3,
    }


def _figures(in_flight: int, taken: list[Turn]) -> list[Figure]:
    figures: list[Figure] = []
    for name in taken[0]:
        figure: Figure = {"in_flight": in_flight, "server": name}
        for key in taken[0][name]:
            figure[key] = round(statistics.median(turn[name][key] for turn in taken), 4)
        figures.append(figure)
    return figures


def _alone(figures: list[Figure], seconds: float) -> dict[str, dict[int, float]]:
    """CPU ms per image that onnxruntime alone takes, by subject and by rows of a batch."""
    core, _ = servers.cores()
    script = str(Path(__file__).parent / "bare.py")
    found: dict[str, dict[int, float]] = {}
    for one in SUBJECTS:
        if one.values is not None:
            continue
        sizes = {
            max(1, round(float(figure["rows_per_batch"])))
            for figure in figures
            if figure["server"] == one.name
        }
        found[one.name] = {}
        for rows in sorted(sizes):
            command = ["taskset", "-c", str(core), sys.executable, script]
            output = subprocess.run(
                [*command, one.model, str(rows), str(seconds)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            found[one.name][rows] = round(float(output), 4)
    return found


def _print(figures: list[Figure], alone: dict[str, dict[int, float]]) -> None:
    columns = {
        "in_flight": "in flight",
        "server": "server",
        "requests_per_s": "requests/s",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "rows_per_batch": "rows/batch",
        "cpu_ms": "CPU ms",
    }
    report.print_figures(
        "One image of 602 kB a request; server on one core, load on another",
        columns,
        figures,
        text=("server",),
        is_first=lambda figure: figure["server"] == SUBJECTS[0].name,
    )
    for name, by_rows in alone.items():
        for rows, cpu_ms in by_rows.items():
            report.say(
                f"{name}: the model alone takes {cpu_ms:.3f} CPU ms an image in batches of {rows}"
            )
    report.print_claims(
        report.at_most(
            f"mean, {figure['in_flight']} in flight, CPU ms a request",
            float(figure["cpu_ms"]),
            CPU_MS_MAX,
        )
        for figure in figures
        if figure["server"] == "mean"
    )


if __name__ == "__main__":
    main()

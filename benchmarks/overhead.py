"""Overhead: what a request costs beside the bare transport, in one run.

The server, with all its processes, has one core, h2load another. Control, iris and mlp take turns
at every number of requests in flight; figures are medians over several turns, and the ratios are
medians of each turn's own ratio, since the machine's speed drifts between turns.
"""

import argparse
import json
import platform
import statistics
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import h2load
import models
import servers

RESULT = Path(__file__).parent / "results" / "overhead.json"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="turns per figure (default 5)")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn (default 1.5)")
    parser.add_argument("--in-flight", type=int, nargs="*", default=list(h2load.IN_FLIGHT))
    arguments = parser.parse_args()
    h2load.require()
    server_core, load_core = servers.cores()
    store = models.prepare()
    payloads = {
        "control": servers.body("iris", models.iris_row()),
        "iris": servers.body("iris", models.iris_row()),
        "mlp": servers.body("mlp", models.mlp_row()),
    }
    with ExitStack() as stack:
        running = {"control": stack.enter_context(servers.control(server_core))}
        for name in ("iris", "mlp"):
            started = servers.daemon(server_core, store.tracking_uri, [f"models:/{name}@champion"])
            running[name] = stack.enter_context(started)
        answers = {
            name: len(servers.ask(server, payloads[name])) for name, server in running.items()
        }
        turns = _turns(running, payloads, answers, load_core, arguments)
        memory = {name: server.resident_bytes() for name, server in running.items()}
        ready = {name: server.ready_s for name, server in running.items() if server.ready_s}
    figures = _figures(turns)
    _print(figures, memory, ready)
    result = {
        "command": "make bench",
        "machine": f"{platform.machine()}, Python {platform.python_version()}, "
        "server on one core, load on another",
        "pairs": arguments.pairs,
        "seconds": arguments.seconds,
        "figures": figures,
        "daemon_resident_mb": {k: round(v / 1e6, 1) for k, v in memory.items() if k != "control"},
        "ready_s": {name: round(seconds, 2) for name, seconds in ready.items()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


Turn = dict[str, dict[str, float]]


def _turns(
    running: dict[str, servers.Server],
    payloads: dict[str, bytes],
    answers: dict[str, int],
    core: int,
    arguments: argparse.Namespace,
) -> dict[int, list[Turn]]:
    """Per number of requests in flight, what each turn showed of each server."""
    turns: dict[int, list[Turn]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        total = len(arguments.in_flight) * arguments.pairs
        task = progress.add_task("measuring", total=total)
        for in_flight in arguments.in_flight:
            sizes = {
                name: _requests_for(
                    server, payloads[name], answers[name], in_flight, core, arguments.seconds
                )
                for name, server in running.items()
            }
            turns[in_flight] = []
            for _ in range(arguments.pairs):
                turn: Turn = {}
                for name, server in running.items():
                    before = server.cpu_s()
                    load = h2load.run(
                        server.port,
                        payloads[name],
                        answers[name],
                        in_flight=in_flight,
                        requests=sizes[name],
                        core=core,
                    )
                    turn[name] = {
                        "requests_per_s": load.requests_per_s,
                        "p50_ms": load.p50_ms,
                        "p99_ms": load.p99_ms,
                        "cpu_s_per_1000": (server.cpu_s() - before) / load.requests * 1000,
                    }
                turns[in_flight].append(turn)
                progress.advance(task)
    return turns


def _requests_for(
    server: servers.Server, payload: bytes, answer: int, in_flight: int, core: int, seconds: float
) -> int:
    """How many requests fill *seconds*; also warms the server up at this load."""
    guess = h2load.run(
        server.port,
        payload,
        answer,
        in_flight=in_flight,
        requests=max(500, 20 * in_flight),
        core=core,
    )
    return max(500, int(guess.requests_per_s * seconds))


def _figures(turns: dict[int, list[Turn]]) -> list[dict[str, float | int | str]]:
    figures: list[dict[str, float | int | str]] = []
    for in_flight, taken in turns.items():
        for name in taken[0]:
            figure: dict[str, float | int | str] = {"in_flight": in_flight, "server": name}
            for key in taken[0][name]:
                figure[key] = round(statistics.median(turn[name][key] for turn in taken), 4)
            figure["cpu_ratio_to_control"] = round(
                statistics.median(
                    turn[name]["cpu_s_per_1000"] / turn["control"]["cpu_s_per_1000"]
                    for turn in taken
                ),
                2,
            )
            figures.append(figure)
    return figures


def _print(
    figures: list[dict[str, float | int | str]], memory: dict[str, int], ready: dict[str, float]
) -> None:
    console = Console()
    table = Table(title="One row a request; server on one core, load on another")
    columns = {
        "in_flight": "in flight",
        "server": "server",
        "requests_per_s": "requests/s",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "cpu_s_per_1000": "CPU s / 1000",
        "cpu_ratio_to_control": "ratio",
    }
    for title in columns.values():
        table.add_column(title, justify="left" if title == "server" else "right")
    for figure in figures:
        if figure["server"] == "control":
            table.add_section()
        table.add_row(*(_cell(key, figure[key]) for key in columns))
    console.print(table)
    for name, seconds in ready.items():
        console.print(
            f"{name}: ready after {seconds:.1f} s, daemon process {memory[name] / 1e6:.0f} MB"
        )


def _cell(key: str, value: float | str) -> str:
    if isinstance(value, str) or key == "in_flight":
        return str(value)
    return f"{value:,.0f}" if key == "requests_per_s" else f"{value:.4g}"


if __name__ == "__main__":
    main()

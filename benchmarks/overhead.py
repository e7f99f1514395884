"""Overhead: what a request costs beside the bare transport, in one run.

A server, with all its processes, has one core, h2load another. Every server and the control of its
transport take turns at every number of requests in flight; figures are medians over several turns,
and the ratios are medians of each turn's own ratio, since the machine's speed drifts between turns.
"""

import argparse
import json
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

IN_FLIGHT = (1, 8, 32, 128, 256)
OWN_CALL = Path(__file__).parent / "own_call.py"
OWN_CALLS = {"iris", "mlp"}
# The default rows_max, of which most batches are full at 256 in flight.
ROWS_MAX = 128
# What is wanted of the native transport: CPU at 256 in flight and the median time at one, to the
# control's; and what a model may take beyond identity's time and its own call (ms).
CPU_RATIO_MAX = 1.6
P50_RATIO_MAX = 2.0
HANDOVER_MS_MAX = 0.05
# What the daemon on grpcio must reach of a bare grpc.aio echo's requests/s, and where.
GRPCIO_RATE_RATIO_MIN = 0.75
GRPCIO_IN_FLIGHT = 32


@dataclass(frozen=True)
class Subject:
    """A server under measurement.

    Attributes:
        name: As it is printed and stored.
        model: The model that is asked; a control is sent the same message.
        transport: "native" or "grpcio".
        is_control: Whether it is the bare transport, which stands before those measured by it.
    """

    name: str
    model: str
    transport: str
    is_control: bool = False


SUBJECTS = (
    Subject("control", "iris", "native", is_control=True),
    Subject("identity", "identity", "native"),
    Subject("iris", "iris", "native"),
    Subject("mlp", "mlp", "native"),
    Subject("control grpcio", "iris", "grpcio", is_control=True),
    Subject("iris grpcio", "iris", "grpcio"),
    Subject("mlp grpcio", "mlp", "grpcio"),
)
CONTROLS = {subject.transport: subject.name for subject in SUBJECTS if subject.is_control}
# The name of each server's control; a control is its own.
CONTROL_OF = {subject.name: CONTROLS[subject.transport] for subject in SUBJECTS}

Turn = dict[str, dict[str, float]]
Figure = dict[str, float | int | str]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="turns per figure (default 7)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a turn (default 3)")
    parser.add_argument("--in-flight", type=int, nargs="*", default=list(IN_FLIGHT))
    parser.add_argument(
        "--transport", choices=list(CONTROLS), nargs="*", default=list(CONTROLS), help="both"
    )
    arguments = parser.parse_args()
    h2load.require()
    subjects = [subject for subject in SUBJECTS if subject.transport in arguments.transport]
    turns, started = _measure(subjects, arguments)
    figures = _figures(turns)
    own = _own_calls(subjects)
    _print(figures, started)
    claims = _claims(figures, own)
    report.print_claims([*claims, *_grpcio_claims(figures)])
    if not report.is_whole(parser, arguments, "pairs", "seconds"):
        return  # The stored result is always a whole one.
    result = {
        **report.made_by("make bench"),
        "pairs": arguments.pairs,
        "seconds": arguments.seconds,
        "figures": figures,
        "own_calls": own,
        "claims": claims,
        "daemon_resident_mb": {name: one.resident_mb for name, one in started.items()},
        "ready_s": {name: one.ready_s for name, one in started.items()},
    }
    report.store(__file__, result)


@dataclass(frozen=True)
class Started:
    """What a daemon took: seconds to readiness, and memory of its first process after the load."""

    ready_s: float
    resident_mb: float


def _measure(
    subjects: list[Subject], arguments: argparse.Namespace
) -> tuple[dict[int, list[Turn]], dict[str, Started]]:
    server_core, load_core = servers.cores()
    uri = models.prepare().tracking_uri
    rows = {
        "identity": models.identity_row(),
        "iris": models.iris_row(),
        "mlp": models.mlp_row(),
    }
    payloads = {one.name: servers.body(one.model, rows[one.model]) for one in subjects}
    with ExitStack() as stack:
        running = {}
        for one in subjects:
            uris = [f"models:/{one.model}@champion"]
            server = (
                servers.control(server_core, one.transport)
                if one.is_control
                else servers.daemon(server_core, uri, uris, one.transport)
            )
            running[one.name] = stack.enter_context(server)
        answers = {
            name: len(servers.ask(server, payloads[name])) for name, server in running.items()
        }
        turns = _turns(running, payloads, answers, load_core, arguments)
        started = {
            name: Started(round(server.ready_s, 2), round(server.resident_bytes() / 1e6, 1))
            for name, server in running.items()
            if server.ready_s is not None
        }
    return turns, started


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


def _figures(turns: dict[int, list[Turn]]) -> list[Figure]:
    figures: list[Figure] = []
    for in_flight, taken in turns.items():
        for name in taken[0]:
            figure: Figure = {"in_flight": in_flight, "server": name}
            for key in taken[0][name]:
                figure[key] = round(statistics.median(turn[name][key] for turn in taken), 4)
            figure["cpu_ratio_to_control"] = _ratio(taken, name, "cpu_s_per_1000")
            figure["rate_ratio_to_control"] = _ratio(taken, name, "requests_per_s")
            figures.append(figure)
    return figures


def _ratio(taken: list[Turn], name: str, key: str) -> float:
    control = CONTROL_OF[name]
    return round(statistics.median(turn[name][key] / turn[control][key] for turn in taken), 2)


def _own_calls(subjects: list[Subject]) -> dict[str, dict[str, float]]:
    """What the models that compute take by themselves, on the servers' core; see own_call.py."""
    server_core, _ = servers.cores()
    uri = models.prepare().tracking_uri
    own = {}
    for name in sorted({one.model for one in subjects if not one.is_control} & OWN_CALLS):
        command = ["taskset", "-c", str(server_core), sys.executable, str(OWN_CALL), uri, name]
        done = subprocess.run([*command, str(ROWS_MAX)], capture_output=True, text=True, check=True)
        measured = json.loads(done.stdout.splitlines()[-1])
        own[name] = {key: round(value, 4) for key, value in measured.items()}
    return own


def _claims(figures: list[Figure], own: dict[str, dict[str, float]]) -> list[report.Claim]:
    """What is wanted of the native transport, where it was measured, and whether it is so."""
    found = {(figure["server"], figure["in_flight"]): figure for figure in figures}
    claims: list[report.Claim] = []

    def claim(what: str, figure: float, wanted_max: float) -> None:
        claims.append(report.at_most(what, figure, wanted_max))

    if ("iris", 256) in found:
        control = float(found["control", 256]["cpu_s_per_1000"])
        claim(
            "iris, 256 in flight, CPU to the control's",
            float(found["iris", 256]["cpu_ratio_to_control"]),
            CPU_RATIO_MAX,
        )
        claim(
            "mlp, 256 in flight, CPU to the control's (wanted: plus the model's own)",
            float(found["mlp", 256]["cpu_ratio_to_control"]),
            CPU_RATIO_MAX + own["mlp"]["row_cpu_us"] / 1e3 / control,
        )
    if ("identity", 1) in found:
        control, identity = (float(found[name, 1]["p50_ms"]) for name in ("control", "identity"))
        claim("identity, one in flight, p50 ms", identity, P50_RATIO_MAX * control)
        claim(
            "iris, one in flight, p50 ms",
            float(found["iris", 1]["p50_ms"]),
            identity + own["iris"]["one_row_ms"] + HANDOVER_MS_MAX,
        )
    return claims


def _grpcio_claims(figures: list[Figure]) -> list[report.Claim]:
    """What is wanted of the daemon on grpcio, where it was measured."""
    return [
        report.at_least(
            f"iris grpcio, {GRPCIO_IN_FLIGHT} in flight, requests/s to a bare grpc.aio echo's",
            float(figure["rate_ratio_to_control"]),
            GRPCIO_RATE_RATIO_MIN,
        )
        for figure in figures
        if (figure["server"], figure["in_flight"]) == ("iris grpcio", GRPCIO_IN_FLIGHT)
    ]


def _print(figures: list[Figure], started: dict[str, Started]) -> None:
    columns = {
        "in_flight": "in flight",
        "server": "server",
        "requests_per_s": "requests/s",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "cpu_s_per_1000": "CPU s / 1000",
        "cpu_ratio_to_control": "CPU ratio",
        "rate_ratio_to_control": "rate ratio",
    }
    report.print_figures(
        "One row a request; server on one core, load on another",
        columns,
        figures,
        text=("server",),
        is_first=lambda figure: figure["server"] in CONTROLS.values(),
    )
    for name, one in started.items():
        report.say(
            f"{name}: ready after {one.ready_s:.1f} s, daemon process {one.resident_mb:.0f} MB"
        )


if __name__ == "__main__":
    main()

"""Cnn: a network that is the bottleneck, served at saturation beside a loop that calls it directly.

Both have the same one core, in turns, at the batch size that is best for the loop; the load has
another core. What the server reaches of the loop's rows/s is what requests leave of the core. Every
turn has processes of its own, which differ by a few hundredths in where their memory lies.

malloc is told to keep what it has, in the loop and in the server: left to itself it does or does
not, by what a process happened to free before, and the same loop is faster or slower by a sixth.
"""

import argparse
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

import h2load
import models
import report
import servers

SIZES = (1, 2, 4, 8, 16, 32, 64)
# Pieces up to 1 GB come from a heap of which 4 GB may be unused.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(10**9), "MALLOC_TRIM_THRESHOLD_": str(4 * 10**9)}

TRIALS = 3
TRIAL_S = 1.0
# Requests of one row in flight, in batches.
BATCHES_IN_FLIGHT = 4
WARM_BATCHES = 20

# What the server must reach of the loop's rows/s.
RATIO_MIN = 0.92


@dataclass(frozen=True)
class Pair:
    """One turn of each.

    Attributes:
        direct_rows_per_s: The loop's.
        server_rows_per_s: The server's.
        ratio: The server's to the loop's.
        rows_mean: Mean rows of the server's batches.
        batch_ms: The network's own call in the server, mean of all batches.
        direct_batch_ms: The loop's call.
        cpu_share: CPU time of all the server's processes, as a share of the time.
        cpu_us_per_row: The same per row.
        direct_us_per_row: The loop's time per row.
        p99_ms: 99 of 100 requests took at most this long.
    """

    direct_rows_per_s: float
    server_rows_per_s: float
    ratio: float
    rows_mean: float
    batch_ms: float
    direct_batch_ms: float
    cpu_share: float
    cpu_us_per_row: float
    direct_us_per_row: float
    p99_ms: float


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--pairs", type=int, default=7, help="pairs of turns (default 7)")
    parser.add_argument(
        "-s", "--seconds", type=float, default=8.0, help="length of a turn (default 8)"
    )
    parser.add_argument(
        "-t", "--transport", choices=("native", "grpcio"), default="native", help="native"
    )
    arguments = parser.parse_args()
    h2load.require()
    rates, size, pairs = _measure(arguments)
    columns = [asdict(pair) for pair in pairs]
    medians = {
        name: round(statistics.median(column[name] for column in columns), 4) for name in columns[0]
    }
    _print(rates, size, columns, medians)
    if not report.is_whole(parser, arguments):
        return  # The stored result is always a whole one.
    result = {
        **report.made_by("make bench"),
        "seconds": arguments.seconds,
        "rows_max": size,
        "in_flight": BATCHES_IN_FLIGHT * size,
        "direct_rows_per_s": {rows: round(rate, 1) for rows, rate in rates.items()},
        "medians": medians,
        "pairs": [{name: round(one[name], 4) for name in one} for one in columns],
    }
    report.store(__file__, result)


def _measure(arguments: argparse.Namespace) -> tuple[dict[int, float], int, list[Pair]]:
    """The loop's rate per batch size, the best of these, and the pairs at it."""
    server_core, load_core = servers.cores()
    uri = models.prepare().tracking_uri
    with Progress(console=Console(stderr=True), auto_refresh=False) as progress:
        rates = {
            rows: statistics.median(
                _direct_rows_per_s(server_core, uri, rows, TRIAL_S) for _ in range(TRIALS)
            )
            for rows in progress.track(SIZES, description="batch sizes")
        }
        size = max(rates, key=lambda rows: rates[rows])
        pairs = []
        for _ in progress.track(range(arguments.pairs), description="pairs"):
            direct_rate = _direct_rows_per_s(server_core, uri, size, arguments.seconds)
            with servers.daemon(
                server_core,
                uri,
                ["models:/cnn@champion"],
                arguments.transport,
                [f"cnn.rows_max={size}"],
                MALLOC,
            ) as server:
                pairs.append(_served(server, direct_rate, size, load_core, arguments.seconds))
    return rates, size, pairs


def _direct_rows_per_s(core: int, tracking_uri: str, rows: int, seconds: float) -> float:
    """The loop's rate at batches of *rows*, over *seconds*."""
    script = str(Path(__file__).with_name("cnn_direct.py"))
    command = [*servers.pin(core), sys.executable, script, tracking_uri, str(rows), str(seconds)]
    # As many threads as a worker has on one core.
    environment = {**os.environ, **MALLOC, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    return float(done.stdout)


def _served(
    server: servers.Server, direct_rate: float, size: int, core: int, seconds: float
) -> Pair:
    """Load *server* for as long as it took the loop at *direct_rate*, and compare."""
    payload = servers.body("cnn", models.cnn_rows(1))
    answer_bytes = len(servers.ask(server, payload))
    in_flight = BATCHES_IN_FLIGHT * size

    def load(requests: int) -> h2load.Load:
        return h2load.run(
            server.port, payload, answer_bytes, in_flight=in_flight, requests=requests, core=core
        )

    load(WARM_BATCHES * size)
    before, cpu_before_s = server.counts(), server.cpu_s()
    took = load(max(in_flight, round(direct_rate * seconds)))
    cpu_s, after = server.cpu_s() - cpu_before_s, server.counts()
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    return _pair(direct_rate, size, took, grown, cpu_s)


def _pair(
    direct_rate: float, size: int, took: h2load.Load, grown: dict[str, float], cpu_s: float
) -> Pair:
    """What a turn of each showed, by the daemon's numbers and what they grew by."""
    batches, computed_s = grown["headrace_batches_total"], grown["headrace_compute_seconds_sum"]
    return Pair(
        direct_rows_per_s=direct_rate,
        server_rows_per_s=took.requests_per_s,
        ratio=took.requests_per_s / direct_rate,
        rows_mean=grown["headrace_rows_total"] / batches,
        batch_ms=computed_s / batches * 1e3,
        direct_batch_ms=size / direct_rate * 1e3,
        cpu_share=cpu_s * took.requests_per_s / took.requests,
        cpu_us_per_row=cpu_s / took.requests * 1e6,
        direct_us_per_row=1e6 / direct_rate,
        p99_ms=took.p99_ms,
    )


def _print(
    rates: dict[int, float],
    size: int,
    columns: list[dict[str, float]],
    medians: dict[str, float],
) -> None:
    by_rows = ", ".join(f"{rows}: {rate:,.0f}" for rows, rate in rates.items())
    report.say(f"called directly, rows/s by rows of a batch: {by_rows}")
    lines = {
        "direct_rows_per_s": ("called directly, rows/s", ",.0f"),
        "server_rows_per_s": ("served, rows/s", ",.0f"),
        "ratio": ("  ratio", ".3f"),
        "rows_mean": ("rows of a batch, mean", ".1f"),
        "batch_ms": ("the network's call, mean ms", ".2f"),
        "direct_batch_ms": ("  called directly", ".2f"),
        "cpu_us_per_row": ("CPU of the server, us a row", ".0f"),
        "direct_us_per_row": ("  called directly", ".0f"),
        "cpu_share": ("  share of the time", ".3f"),
        "p99_ms": ("p99 ms", ".1f"),
    }
    report.print_turns(
        f"Batches of {size} rows, {BATCHES_IN_FLIGHT * size} requests of one row in flight",
        lines,
        {**{f"pair {n}": column for n, column in enumerate(columns, 1)}, "median": medians},
    )
    report.print_claims(
        [report.at_least("served, of the rows/s of direct calls", medians["ratio"], RATIO_MIN)]
    )


if __name__ == "__main__":
    main()

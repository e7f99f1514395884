"""Threads: how many one call may use, where several workers share the cores.

As many processes as there may be workers call the CNN in a loop, each with so many threads. The
default of `[server] threads` is the cores divided by the workers: it is held against the others.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from rich.progress import track

import models
import report

ROWS = 8
# The default may cost so much of the best rate.
OF_THE_BEST_MIN = 0.95


def main() -> None:
    """Measure every combination in turn, several times over; print and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    uri = models.prepare().tracking_uri
    cores = len(os.sched_getaffinity(0))
    counts = sorted({1, cores})
    combinations = [
        (workers, threads)
        for workers in counts
        for threads in sorted({1, max(1, cores // workers), cores, 2 * cores})
    ]
    rates: dict[tuple[int, int], list[float]] = {each: [] for each in combinations}
    for workers, threads in track(combinations * arguments.turns, "measuring"):
        rates[workers, threads].append(rows_per_s(uri, workers, threads, arguments.seconds))
    medians = {each: sorted(found)[len(found) // 2] for each, found in rates.items()}
    shown = []
    for (workers, threads), rate in medians.items():
        best = max(other for (w, _), other in medians.items() if w == workers)
        shown.append(
            {
                "workers": workers,
                "threads": threads,
                "rows_per_s": rate,
                "of_the_best": rate / best,
                "is_default": threads == max(1, cores // workers),
            }
        )
    report.print_figures(
        f"The CNN in batches of {ROWS} rows, called by several processes at once",
        {
            "workers": "workers",
            "threads": "threads each",
            "is_default": "",
            "rows_per_s": "rows/s",
            "of_the_best": "of the best",
        },
        shown,
        cell=_cell,
    )
    worst = min(each["of_the_best"] for each in shown if each["is_default"])
    report.print_claims([report.at_least("the default, of the best", worst, OF_THE_BEST_MIN)])
    if report.is_whole(parser, arguments):
        report.store(__file__, {"cores": cores, "rows": ROWS, "rates": shown})


def _cell(key: str, value: float) -> str:
    if key == "is_default":
        return "default" if value else ""
    return f"{value:.2f}" if key == "of_the_best" else f"{value:,.0f}"


def rows_per_s(uri: str, workers: int, threads: int, seconds: float) -> float:
    """Rows/s of all *workers* together."""
    script = str(Path(__file__).parent / "cnn_direct.py")
    command = [sys.executable, script, uri, str(ROWS), str(seconds), str(threads)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    return sum(float(process.communicate()[0]) for process in running)


if __name__ == "__main__":
    main()

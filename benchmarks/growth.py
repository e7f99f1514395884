"""Growth: requests/s as requests in flight and loaded models grow; flat is what is wanted.

A server, with all its processes, has one core, h2load another. The model is ONNX's Identity, loaded
once or under many names. Either one of the names is asked, or all of them alike: then one h2load
per name shares the load core, and as many load the control, so that what they cost shows. All
servers take turns; figures are medians over the turns, ratios are medians of each turn's own.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress

import h2load
import models
import report
import servers

MODELS = (1, 10, 100)
# With fewer requests in flight a server waits for its callers: it is not saturated.
SATURATED_IN_FLIGHT = 64
# Of the requests/s of one model that is loaded alone; of it, those with 64 in flight.
RATE_RATIO_MIN = 0.8


@dataclass(frozen=True)
class Subject:
    """A load of a server.

    Attributes:
        loaded: How many models it holds; 0 for the bare transport.
        asked: How many of them are asked; how many h2load there are.
    """

    loaded: int
    asked: int

    @property
    def control(self) -> "Subject":
        """The same load of the bare transport."""
        return Subject(0, self.asked)


Turn = dict[Subject, dict[str, float]]
Figure = dict[str, float | int]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="turns per figure (default 5)")
    parser.add_argument("--seconds", type=float, default=2.5, help="length of a turn (default 2.5)")
    parser.add_argument("--in-flight", type=int, nargs="*", default=list(h2load.GROWING))
    parser.add_argument("--models", type=int, nargs="*", default=list(MODELS))
    arguments = parser.parse_args()
    h2load.require()
    figures = _figures(_measure(arguments))
    claims = _claims(figures)
    _print(figures, claims)
    if not report.is_whole(parser, arguments, "pairs", "seconds"):
        return  # The stored result is always a whole one.
    result = {
        **report.made_by("make bench"),
        "pairs": arguments.pairs,
        "seconds": arguments.seconds,
        "wanted_min": RATE_RATIO_MIN,
        "claims": claims,
        "figures": figures,
    }
    report.store(__file__, result)


def _measure(arguments: argparse.Namespace) -> dict[int, list[Turn]]:
    """Per number of requests in flight, what each turn showed of each subject."""
    server_core, load_core = servers.cores()
    uri = models.prepare().tracking_uri
    turns: dict[int, list[Turn]] = {}
    with ExitStack() as stack, Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("loading models", total=len(arguments.models))
        running = {0: stack.enter_context(servers.control(server_core, "native"))}
        for count in arguments.models:
            uris = [f"{name}=models:/identity@champion" for name in _names(count)]
            running[count] = stack.enter_context(servers.daemon(server_core, uri, uris, "native"))
            progress.advance(task)
        progress.remove_task(task)
        task = progress.add_task(
            "measuring", total=len(arguments.in_flight) * (1 + arguments.pairs)
        )
        for in_flight in arguments.in_flight:
            subjects = list(_subjects(arguments.models, in_flight))
            # The first turn is short, and says how many requests fill one.
            sizes = {one: max(1000, 4 * in_flight, 500 * one.asked) for one in subjects}
            guess = _turn(running, sizes, in_flight, load_core)
            sizes = {one: int(guess[one]["requests_per_s"] * arguments.seconds) for one in subjects}
            progress.advance(task)
            turns[in_flight] = []
            for _ in range(arguments.pairs):
                turns[in_flight].append(_turn(running, sizes, in_flight, load_core))
                progress.advance(task)
    return turns


def _names(count: int) -> list[str]:
    """Names of one length, so that all answers have one."""
    return [f"identity-{index:03}" for index in range(count)]


def _subjects(loaded: Sequence[int], in_flight: int) -> Iterator[Subject]:
    """What is measured at *in_flight*: all models are asked only where each has one in flight."""
    for asked in (1, *(count for count in loaded if 1 < count <= in_flight)):
        yield Subject(0, asked)
        for count in loaded:
            if asked in {1, count}:
                yield Subject(count, asked)


def _turn(
    running: dict[int, servers.Server], sizes: dict[Subject, int], in_flight: int, core: int
) -> Turn:
    turn: Turn = {}
    for one, requests in sizes.items():
        server = running[one.loaded]
        payloads = [servers.body(name, models.identity_row()) for name in _names(one.asked)]
        answer = len(servers.ask(server, payloads[0]))
        rows, batches = server.run_so_far()
        before = server.cpu_s()
        load = h2load.run_spread(
            server.port, payloads, answer, in_flight=in_flight, requests=requests, core=core
        )
        cpu_s = server.cpu_s() - before
        rows_after, batches_after = server.run_so_far()
        turn[one] = {
            "requests_per_s": load.requests_per_s,
            "p50_ms": load.p50_ms,
            "p99_ms": load.p99_ms,
            "cpu_s_per_1000": cpu_s / load.requests * 1000,
            "rows_per_batch": (rows_after - rows) / max(1, batches_after - batches),
        }
    return turn


def _figures(turns: dict[int, list[Turn]]) -> list[Figure]:
    figures: list[Figure] = []
    for in_flight, taken in turns.items():
        for one in taken[0]:
            figure: Figure = {"in_flight": in_flight, "loaded": one.loaded, "asked": one.asked}
            for key in taken[0][one]:
                figure[key] = round(statistics.median(turn[one][key] for turn in taken), 4)
            figure["rate_ratio_to_control"] = _ratio(taken, one, one.control, "requests_per_s")
            figure["cpu_ratio_to_control"] = _ratio(taken, one, one.control, "cpu_s_per_1000")
            figures.append(figure)
    return figures


def _ratio(taken: list[Turn], one: Subject, other: Subject, key: str) -> float:
    return round(statistics.median(turn[one][key] / turn[other][key] for turn in taken), 3)


def _claims(figures: list[Figure]) -> dict[str, float]:
    """What part of its reference each saturated rate is."""
    rates = {
        (figure["in_flight"], figure["loaded"], figure["asked"]): figure["requests_per_s"]
        for figure in figures
    }
    claims: dict[str, float] = {}
    first = rates.get((SATURATED_IN_FLIGHT, 1, 1))
    for (in_flight, loaded, asked), rate in rates.items():
        if loaded == 0 or in_flight // asked < SATURATED_IN_FLIGHT:
            continue
        alone = rates.get((in_flight, 1, 1))
        if loaded == 1 and in_flight != SATURATED_IN_FLIGHT and first is not None:
            claims[f"{in_flight} in flight beside {SATURATED_IN_FLIGHT}"] = round(rate / first, 3)
        if loaded > 1 and alone is not None:
            what = f"{loaded} loaded, {asked} asked, beside one, {in_flight} in flight"
            claims[what] = round(rate / alone, 3)
    return claims


def _print(figures: list[Figure], claims: dict[str, float]) -> None:
    columns = {
        "in_flight": "in flight",
        "loaded": "models",
        "asked": "asked",
        "requests_per_s": "requests/s",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "rows_per_batch": "rows/batch",
        "cpu_s_per_1000": "CPU s / 1000",
        "cpu_ratio_to_control": "CPU ratio",
        "rate_ratio_to_control": "rate ratio",
    }
    report.print_figures(
        "One row a request; server on one core, load on another",
        columns,
        figures,
        cell=_cell,
        is_first=lambda figure: figure["loaded"] == 0,
    )
    report.print_claims(
        report.at_least(f"{what}, of its requests/s", ratio, RATE_RATIO_MIN)
        for what, ratio in claims.items()
    )


def _cell(key: str, value: float) -> str:
    return "control" if key == "loaded" and value == 0 else report.cell(key, value)


if __name__ == "__main__":
    main()

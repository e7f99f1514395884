"""Flood: memory of the daemon while very many requests wait, and after their callers have left.

The model's worker is stopped, so that everything waits; a process of its own sends the calls and
then cancels them all. Memory is the resident memory of the daemon's first process. Beside it stands
the same flood of the bare transport, which holds each call with its message and has no queue.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
from rich.console import Console
from rich.progress import Progress

import h2load
import models
import report
import servers

SUBJECTS = ("control", "native", "grpcio")
MODEL = "identity"
ROWS_MAX = 64
CALLS = 60_000
FLOODS = 3
# Calls of one connection, below what the native front allows.
CALLS_PER_CHANNEL = 1000
SETTINGS = (
    f"{MODEL}.rows_max={ROWS_MAX}",
    f"{MODEL}.queue_rows_max=1000000",
    f"{MODEL}.exec_ms_max=3600000",
)
WAIT_S_MAX = 300.0
# Memory is read once it has not changed by more than this between two looks.
SETTLED_MB = 0.2
LOOK_S = 0.5
# How long the daemon takes to give memory back: it looks every ten seconds.
RETURN_S = 12.0

# Wanted: of each request that waits, of what the floods took, and from the second to the last.
REQUEST_KB_MAX = 16.0
KEPT_RATIO_MAX = 0.1
GROWTH_MB_MAX = 5.0


@dataclass(frozen=True)
class Flood:
    """Resident memory around one flood.

    Attributes:
        subject: The server: a transport of the daemon, or the control.
        number: 1 for the first.
        before_mb: Before it.
        peak_mb: While all calls wait.
        after_mb: Once all callers have left, and RETURN_S have passed.
        request_kb: What each call took beside its tensors.
    """

    subject: str
    number: int
    before_mb: float
    peak_mb: float
    after_mb: float
    request_kb: float


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS, help=f"per flood (default {CALLS})")
    parser.add_argument("--floods", type=int, default=FLOODS, help=f"(default {FLOODS})")
    parser.add_argument("--subject", choices=SUBJECTS, nargs="*", default=list(SUBJECTS))
    arguments = parser.parse_args()
    h2load.require()
    floods = list(_measure(arguments))
    _print(floods)
    if not report.is_whole(parser, arguments):
        return  # The stored result is always a whole one.
    result = {
        **report.made_by("make bench", "server on one core, callers on another"),
        "calls": arguments.calls,
        "wanted_request_kb_max": REQUEST_KB_MAX,
        "wanted_kept_ratio_max": KEPT_RATIO_MAX,
        "wanted_growth_mb_max": GROWTH_MB_MAX,
        "floods": [asdict(flood) for flood in floods],
    }
    report.store(__file__, result)


def _measure(arguments: argparse.Namespace) -> Iterator[Flood]:
    server_core, load_core = servers.cores()
    uri = models.prepare().tracking_uri
    row = models.identity_row()
    payload = servers.body(MODEL, row)
    tensor_bytes = sum(array.nbytes for array in row.values())
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("flooding", total=len(arguments.subject) * arguments.floods)
        for subject in arguments.subject:
            with ExitStack() as stack:
                if subject == "control":
                    server = stack.enter_context(servers.control(server_core, "holding"))
                    waiting = _held_by(server)
                else:
                    uris = [f"models:/{MODEL}@champion"]
                    server = stack.enter_context(
                        servers.daemon(server_core, uri, uris, subject, SETTINGS)
                    )
                    waiting = _queued_in(server)
                    _warm_up(server, payload, load_core)
                for number in range(1, arguments.floods + 1):
                    before = _settled_mb(server)
                    with _stopped(server.worker_pids()):
                        peak = _flood(server, payload, arguments.calls, waiting, load_core)
                    time.sleep(RETURN_S)
                    after = _settled_mb(server)
                    if subject != "control":
                        servers.ask(server, payload)
                    request_kb = (peak - before) * 1e3 / arguments.calls - tensor_bytes / 1e3
                    yield Flood(subject, number, before, peak, after, round(request_kb, 2))
                    progress.advance(task)


def _warm_up(server: servers.Server, payload: bytes, core: int) -> None:
    answer = len(servers.ask(server, payload))
    h2load.run(server.port, payload, answer, in_flight=256, requests=20_000, core=core)


def _queued_in(server: servers.Server) -> Callable[[], int]:
    """How many requests wait in a daemon, those of batches that a worker has not begun not."""
    return lambda: int(server.metric("headrace_queue_rows"))


def _held_by(server: servers.Server) -> Callable[[], int]:
    """How many calls the bare transport holds."""

    def held() -> int:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            method = "/inference.GRPCInferenceService/ServerLive"
            return int(channel.unary_unary(method)(b"", timeout=WAIT_S_MAX))

    return held


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    """Processes that do nothing for a while."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _flood(
    server: servers.Server, payload: bytes, calls: int, waiting: Callable[[], int], core: int
) -> float:
    """The server's resident memory while *calls* wait (MB); none does on return."""
    channels = -(-calls // CALLS_PER_CHANNEL)
    script = Path(__file__).parent / "flooding.py"
    command = ["taskset", "-c", str(core), sys.executable, str(script)]
    command += [str(server.port), str(calls), str(channels)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as callers:
        assert callers.stdin is not None
        assert callers.stdout is not None
        try:
            callers.stdin.write(len(payload).to_bytes(4, "big") + payload)
            callers.stdin.flush()
            _expect(callers.stdout.readline(), b"sent\n")
            # A batch that runs and one that is staged are out of the queue.
            _wait(lambda: waiting() >= calls - 2 * ROWS_MAX, "all calls to wait")
            peak = _settled_mb(server)
            callers.stdin.close()
            _expect(callers.stdout.readline(), b"cancelled\n")
            _wait(lambda: waiting() == 0, "all calls to be gone")
        finally:
            callers.kill()
    return peak


def _expect(line: bytes, expected: bytes) -> None:
    if line != expected:
        raise SystemExit(f"the callers said {line!r}, not {expected!r}")


def _wait(is_so: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WAIT_S_MAX
    while not is_so():
        if time.monotonic() > until:
            raise SystemExit(f"waited {WAIT_S_MAX} s for {what}")
        time.sleep(LOOK_S)


def _settled_mb(server: servers.Server) -> float:
    """Its resident memory, once that no longer changes."""
    last = 0.0
    now = server.resident_bytes() / 1e6
    while abs(now - last) > SETTLED_MB:
        time.sleep(LOOK_S)
        last, now = now, server.resident_bytes() / 1e6
    return round(now, 1)


def _print(floods: list[Flood]) -> None:
    columns = {
        "subject": "server",
        "number": "flood",
        "before_mb": "before MB",
        "peak_mb": "peak MB",
        "after_mb": "after MB",
        "request_kb": "kB a request",
    }
    report.print_figures(
        "Resident memory of the daemon process around floods of cancelled calls",
        columns,
        map(asdict, floods),
        cell=lambda key, value: f"{value:,.0f}" if key.endswith("_mb") else report.cell(key, value),
        text=("subject",),
        is_first=lambda flood: flood["number"] == 1,
    )
    for subject in dict.fromkeys(flood.subject for flood in floods):
        if subject != "control":
            report.print_claims(_claims(subject, [one for one in floods if one.subject == subject]))


def _claims(subject: str, floods: list[Flood]) -> Iterator[report.Claim]:
    first, last = floods[0], floods[-1]
    largest = max(flood.request_kb for flood in floods)
    yield report.at_most(f"{subject}: kB a request that waits", largest, REQUEST_KB_MAX)
    kept = last.after_mb - first.before_mb
    took = max(flood.peak_mb for flood in floods) - first.before_mb
    what = f"{subject}: of {took:.0f} MB kept after the last flood"
    yield report.at_most(what, kept / took, KEPT_RATIO_MAX)
    if len(floods) > 2:
        growth = last.after_mb - floods[1].after_mb
        what = f"{subject}: MB more after the last than the second"
        yield report.at_most(what, growth, GROWTH_MB_MAX)


if __name__ == "__main__":
    main()

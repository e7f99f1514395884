"""Soak: everything at once for minutes. Each request is accounted for, memory stays flat.

SOAK_S sets the seconds (300), SOAK_TRANSPORT the transport (native).
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import pytest
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import faulty
import models
from headrace_client import Client, HeadraceClientError
from serving import Daemon
from streams import Question, Stream
from watching import Growth, Watch

SOAK_S = float(os.environ.get("SOAK_S", "300"))
TRANSPORT = os.environ.get("SOAK_TRANSPORT", "native")

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SOAK_S + 300)]

SAMPLE_S = 1.0
# A worker is killed as often, one after the other, so that none dies three times in a minute.
KILL_S = 25.0
# How old a worker is when its memory counts.
GROWN_S = min(20.0, SOAK_S / 10)
RAISING_ONE_IN = 50
BIG_ROWS = 3000

# What a request of a model may end with that is loaded and unloaded all the time.
COMES_AND_GOES = frozenset({"NOT_FOUND", "FAILED_PRECONDITION", "UNAVAILABLE"})


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with models of two kinds in shared workers and two in their own."""
    copy = faulty.save(tmp_path / "faulty")
    settings = (
        *("odd.worker=own", "odd.priority_levels=3", "raising.worker=own"),
        # As in the documents: what it costs to find the guilty row grows with the batch.
        "raising.rows_max=8",
    )
    running = Daemon(
        *("--transport", TRANSPORT),
        *(word for setting in settings for word in ("--set", setting)),
        *(f"{name}={copy}" for name in ("calm", "odd", "raising")),
        f"iris={models.model('iris_pipeline').path}",
        cwd=tmp_path,
        cache=tmp_path / "cache",
    )
    running.wait("ready")
    yield running
    assert running.stop() == 0


def test_mixed_minutes_account_for_every_request_and_leave_memory_flat(
    daemon: Daemon, tmp_path: Path
) -> None:
    watch = Watch(daemon, grown_s=GROWN_S)
    with ExitStack() as stack:
        streams = [
            stack.enter_context(Stream(daemon.address, name, make, in_flight=in_flight))
            for name, (make, in_flight) in kinds().items()
        ]
        visits = stack.enter_context(Visits(daemon.address, "guest", tmp_path / "faulty"))
        kills = run(daemon, watch, streams)
    growths = watch.growths()
    report(streams, visits, growths, kills)

    assert [one for stream in streams for one in stream.wrong] == []
    assert visits.wrong == []
    assert all(stream.is_accounted and stream.answered for stream in streams)
    assert visits.done
    assert [growth for growth in growths if not growth.is_flat] == []


def kinds() -> dict[str, tuple[Callable[[int], Question], int]]:
    """Each stream's questions, and how many of them are in flight."""
    # One per stream: each is used by one thread.
    leaves, hurry, sizes = (np.random.default_rng(seed) for seed in range(3))
    flowers = models.model("iris_pipeline").rows(150)
    (species,) = models.model("iris_pipeline").expected(flowers).values()

    def echoed(model: str, n: int, **fields: object) -> Question:
        rows = np.array([[0.0, float(n)]])
        return Question(model, rows, rows, **fields)  # type: ignore[arg-type]

    def flower(n: int) -> Question:
        at = slice(n % 150, n % 150 + 1)
        return Question("iris", {key: all_[at] for key, all_ in flowers.items()}, species[at])

    def leaving(n: int) -> Question:
        is_leaving = bool(leaves.integers(2))
        codes = frozenset({"CANCELLED"} if is_leaving else ())
        return echoed("odd", n, leaves=is_leaving, codes=codes)

    def hurried(n: int) -> Question:
        rows = np.array([[faulty.TAKE_TIME, float(n)]])
        timeout = {"timeout": float(hurry.uniform(0.001, 0.2))}
        return Question("odd", rows, rows, timeout, frozenset({"DEADLINE_EXCEEDED"}))

    def sized(n: int) -> Question:
        rows = int(sizes.integers(1, BIG_ROWS))
        values = np.stack([np.zeros(rows), float(n) + np.arange(rows) / BIG_ROWS], axis=1)
        return Question("calm", values, values)

    def raising(n: int) -> Question:
        if n % RAISING_ONE_IN:
            # Who shares a batch with it fails with it, once the budget of more runs is spent.
            return echoed("raising", n, codes=frozenset({"INTERNAL"}))
        rows = np.array([[faulty.RAISE, float(n)]])
        return Question("raising", rows, rows, codes=frozenset({"INTERNAL"}), must_fail=True)

    def ranked(n: int) -> Question:
        return echoed("odd", n, options={"priority": 1 + n % 3, "timings": True})

    return {
        "steady": (lambda n: echoed("calm", n), 16),
        "flowers": (flower, 8),
        "small and big": (sized, 4),
        "leaving": (leaving, 16),
        "hurried": (hurried, 8),
        "raising": (raising, 8),
        "priorities, timings": (ranked, 16),
        "guest": (lambda n: echoed("guest", n, codes=COMES_AND_GOES), 4),
    }


class Visits:
    """A model is loaded, asked and unloaded, over and over, until the block ends.

    Attributes:
        done: How often.
        failed: Loads that failed as they may, by status.
        wrong: What went wrong; there must be nothing.
    """

    def __init__(self, target: str, name: str, folder: Path) -> None:
        self.done = 0
        self.failed: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._client = Client(target, timeout_s=60)
        self._name = name
        self._folder = folder
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="visits")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        rows = np.array([[0.0, 1.0]])
        while not self._is_over.is_set():
            try:
                self._client.load(self._name, str(self._folder))
                answer = self._client.predict(self._name, rows).array
                if not np.array_equal(answer, rows):
                    self.wrong.append(f"was answered {answer!r}")
                self._client.unload(self._name)
                self.done += 1
            except HeadraceClientError as error:
                # Its worker was killed while it was loading.
                if error.code == "UNAVAILABLE":
                    self.failed[error.code] += 1
                else:
                    self.wrong.append(f"visit failed: {error.code} {error.message}")


def run(daemon: Daemon, watch: Watch, streams: list[Stream]) -> int:
    """Sample and kill until the time is over; how many workers were killed."""
    kills = 0
    began = time.monotonic()
    tick = threading.Event()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("soaking", total=SOAK_S)
        while (now := time.monotonic() - began) < SOAK_S:
            watch.sample()
            if now > (kills + 0.5) * min(KILL_S, SOAK_S):
                kill(daemon, kills)
                kills += 1
            ended = sum(stream.answered + stream.failed.total() for stream in streams)
            wrong = sum(stream.wrong_count for stream in streams)
            progress.update(
                task, completed=now, description=f"{ended} requests ended, {wrong} wrong"
            )
            tick.wait(SAMPLE_S)
    return kills


def kill(daemon: Daemon, number: int) -> None:
    """End a worker, each in turn but the first one, which shows what grows over the whole time."""
    alive = {
        event["worker"]: event["pid"]
        for event in daemon.events("worker_started")
        if psutil.pid_exists(event["pid"])
    }
    _, *mortal = sorted(alive)
    os.kill(alive[mortal[number % len(mortal)]], signal.SIGKILL)


def report(streams: list[Stream], visits: Visits, growths: list[Growth], kills: int) -> None:
    """Print what happened."""
    console = Console(stderr=True)
    table = Table(title=f"{SOAK_S:g} s over {TRANSPORT}, {kills} workers killed")
    for title in ("stream", "sent", "answered", "failed as it may", "wrong"):
        table.add_column(title, justify="left" if title == "stream" else "right")
    for stream in streams:
        failed = ", ".join(f"{count} {code}" for code, count in stream.failed.items())
        table.add_row(
            stream.name, str(stream.sent), str(stream.answered), failed, str(stream.wrong_count)
        )
    console.print(table)
    console.print(f"{visits.done} loads and unloads, {dict(visits.failed)}")
    table = Table(title="Mean of the second and of the last fifth")
    for title in ("what", "second", "last", "wanted at most", ""):
        table.add_column(title, justify="left" if title == "what" else "right")
    for growth in growths:
        numbers = (growth.early, growth.late, growth.late_max)
        met = "met" if growth.is_flat else "NOT MET"
        table.add_row(growth.name, *(f"{number:.1f}" for number in numbers), met)
    console.print(table)

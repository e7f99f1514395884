"""Two models that share one worker process share its time."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import faulty
from load import Load
from serving import Daemon

pytestmark = pytest.mark.slow

ANSWERS = 5000


@pytest.fixture
def one_worker(tmp_path: Path, cache: Path) -> Iterator[Daemon]:
    """A daemon that serves two equal models from one worker: it has one core."""
    folder = faulty.save(tmp_path / "model")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        daemon = Daemon(f"one={folder}", f"other={folder}", cwd=tmp_path, cache=cache)
    finally:
        os.sched_setaffinity(0, cores)
    yield daemon
    daemon.stop()


def test_models_at_equal_load_in_one_worker_get_equal_shares(one_worker: Daemon) -> None:
    one_worker.wait("ready")
    assert len(one_worker.events("worker_started")) == 1

    with (
        Load(one_worker.address, "one") as one,
        Load(one_worker.address, "other") as other,
    ):
        before = one.answered, other.answered
        one.wait_answered(ANSWERS)
        other.wait_answered(ANSWERS)
        after = one.answered, other.answered

    share = (after[1] - before[1]) / (after[0] - before[0])
    assert 1 / 1.2 < share < 1.2, (before, after)

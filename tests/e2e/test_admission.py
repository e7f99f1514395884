"""Admission by deadline on real time: what cannot be answered in time is refused at once."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import faulty
from headrace_client import Client, DeadlineExceeded
from serving import Daemon

pytestmark = pytest.mark.slow

ROW = np.array([[faulty.TAKE_TIME, 1.0]])
# What the model takes for it.
TAKES_S = 0.02
AHEAD = 50


@pytest.fixture
def slow(tmp_path: Path, cache: Path) -> Iterator[Daemon]:
    folder = faulty.save(tmp_path / "slow")
    options = ("rows_max=1", "slots=1", "admission=deadline", "policy=adaptive", "p99_ms_max=50")
    sets = [argument for option in options for argument in ("--set", f"slow.{option}")]
    daemon = Daemon(f"slow={folder}", *sets, cwd=tmp_path, cache=cache)
    daemon.wait("ready")
    yield daemon
    daemon.stop()


def test_a_deadline_that_cannot_be_met_is_refused_before_it_passes(slow: Daemon) -> None:
    with Client(slow.address, timeout_s=60) as client:
        # It learns what a row takes.
        for _ in range(5):
            client.predict("slow", ROW)
        waiting = [client.submit("slow", ROW) for _ in range(AHEAD)]
        # All have come by then: of one burst, who has a deadline would go first.
        waiting[AHEAD // 10].result()

        began = time.monotonic()
        with pytest.raises(DeadlineExceeded) as told:
            client.predict("slow", ROW, timeout=AHEAD * TAKES_S / 2)
        refused_s = time.monotonic() - began
        in_time = client.submit("slow", ROW, timeout=100 * AHEAD * TAKES_S)

        assert [future.result().array.tolist() for future in waiting] == [ROW.tolist()] * AHEAD
        assert in_time.result().array.tolist() == ROW.tolist()
    assert "the answer is expected in" in told.value.message
    assert refused_s < AHEAD * TAKES_S / 4

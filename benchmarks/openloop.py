"""Openloop: requests sent at instants that were fixed before, whatever the server does.

A process of its own, on a core of its own, sends them over one connection. Latencies count from the
instant at which a request should have been sent, so that neither a late server nor a late sender
hides any.
"""

import select
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from barecalls import BareCalls
from servers import pin

Seconds = npt.NDArray[np.float64]

# From the start of the sender's loop to the origin of the schedule.
_LEAD_S = 0.1
# Where no answer comes for longer at the end, there is a failure.
_ANSWER_S_MAX = 60.0


@dataclass(frozen=True)
class Sent:
    """What one run showed, per request, shape [requests].

    Attributes:
        late_s: From the scheduled instant until it was sent.
        latency_s: From the scheduled instant until its answer was there.
    """

    late_s: Seconds
    latency_s: Seconds


def poisson(rate: float, seconds: float, seed: int) -> Seconds:
    """Ascending instants of a Poisson process of *rate* per second; their mean number, exactly."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, round(rate * seconds))
    return np.cumsum(gaps)


def run(port: int, payload: bytes, answer: bytes, schedule_s: Seconds, *, core: int) -> Sent:
    """Send *payload* at each instant of *schedule_s*, and check that *answer* comes each time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "payload").write_bytes(payload)
        (folder / "answer").write_bytes(answer)
        np.save(folder / "schedule.npy", schedule_s)
        command = [*pin(core), sys.executable, __file__, str(port), name]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit("the load ended with an error")
        return Sent(np.load(folder / "late.npy"), np.load(folder / "latency.npy"))


def main() -> None:
    """The sender: openloop.py PORT FOLDER."""
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    payload, answer = (folder / "payload").read_bytes(), (folder / "answer").read_bytes()
    with BareCalls(port, payload, answer) as calls:
        sent = _send(calls, np.load(folder / "schedule.npy").tolist())
    np.save(folder / "late.npy", sent.late_s)
    np.save(folder / "latency.npy", sent.latency_s)


def _send(calls: BareCalls, schedule_s: list[float]) -> Sent:
    count = len(schedule_s)
    late_s, latency_s = np.zeros(count), np.zeros(count)
    calls.send()
    while calls.flying:
        calls.receive()
    # The instant at which the call of each stream should have been sent.
    due_at: dict[int, tuple[int, float]] = {}
    origin = time.monotonic() + _LEAD_S
    index = 0
    while index < count or calls.flying:
        next_at = origin + schedule_s[index] if index < count else time.monotonic() + _ANSWER_S_MAX
        wait_s = max(0.0, next_at - time.monotonic())
        readable, _, _ = select.select((calls.socket,), (), (), wait_s)
        if readable:
            ended = calls.receive()
            now = time.monotonic()
            for stream in ended:
                number, at = due_at.pop(stream)
                latency_s[number] = now - at
        elif index == count:
            raise SystemExit(f"{len(calls.flying)} calls have no answer")
        if index < count and (late := time.monotonic() - next_at) >= 0:
            due_at[calls.send()] = (index, next_at)
            late_s[index] = late
            index += 1
    return Sent(late_s, latency_s)


if __name__ == "__main__":
    main()

"""Openloop: requests sent at instants that were fixed before, whatever the server does.

A process of its own, on a core of its own, sends them over one connection. Latencies count from the
instant at which a request should have been sent, so that neither a late server nor a late sender
hides any.
"""

import gc
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt

from servers import INFER, pin

Seconds = npt.NDArray[np.float64]

# From the start of the sender's loop to the origin of the schedule.
_LEAD_S = 0.1
# An answer that takes longer is a failure.
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
    port, folder = sys.argv[1], Path(sys.argv[2])
    schedule_s = np.load(folder / "schedule.npy")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        sent = _send(
            channel,
            (folder / "payload").read_bytes(),
            (folder / "answer").read_bytes(),
            schedule_s.tolist(),
        )
    np.save(folder / "late.npy", sent.late_s)
    np.save(folder / "latency.npy", sent.latency_s)


def _send(channel: grpc.Channel, payload: bytes, answer: bytes, schedule_s: list[float]) -> Sent:
    infer = channel.unary_unary(INFER)
    assert infer(payload, timeout=_ANSWER_S_MAX) == answer, "another answer than before"
    late_s, latency_s = np.zeros(len(schedule_s)), np.zeros(len(schedule_s))
    calls = []
    # The collector would stop the sender for as long as it walks over all calls.
    gc.collect()
    gc.disable()
    origin = time.monotonic() + _LEAD_S
    for index, at_s in enumerate(schedule_s):
        due_at = origin + at_s
        while (left_s := due_at - time.monotonic()) > 0:
            time.sleep(left_s)
        late_s[index] = -left_s

        def note(_call: object, index: int = index, due_at: float = due_at) -> None:
            latency_s[index] = time.monotonic() - due_at

        call = infer.future(payload, timeout=_ANSWER_S_MAX)
        call.add_done_callback(note)
        calls.append(call)
    for call in calls:
        assert call.result() == answer, "another answer than before"
    return Sent(late_s, latency_s)


if __name__ == "__main__":
    main()

"""Models that raise, exit, answer nonsense or never: the caller is told, the next one is served."""

import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest

from headrace_client import (
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    HeadraceClientError,
    Internal,
)
from serving import Daemon

pytestmark = pytest.mark.slow

FINE, RAISES, EXITS, DIES, TOO_FEW, NAN, MUTE, HUGE, WAITS, INTERRUPTED = range(10)

MLMODEL = """
flavors:
  sklearn:
    pickled_model: model.pkl
    serialization_format: cloudpickle
signature:
  inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]'
"""


class Misbehaving:
    """What it does is the first value of the first row; the second is its answer."""

    def __init__(self, gate: Path) -> None:
        # Whoever waits, waits for this FIFO to be opened for writing.
        self.gate = str(gate)

    def predict(self, rows: npt.NDArray[np.float64]) -> Any:
        match int(rows[0, 0]):
            case 1:
                raise ValueError("\udcff a secret lies in /etc/secret/file")
            case 2:
                sys.exit(3)
            case 3:
                os._exit(1)
            case 4:
                return rows[1:]
            case 5:
                return np.full_like(rows, np.nan)
            case 6:
                raise Mute
            case 7:
                return np.repeat(rows, 1_000_000, axis=1)
            case 8:
                with open(self.gate, "rb"):
                    return rows
            case 9:
                raise KeyboardInterrupt
            case _:
                return rows


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gate") / "gate"
    os.mkfifo(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, gate: Path) -> Path:
    """A misbehaving model, as MLflow would have saved it."""
    folder = tmp_path_factory.mktemp("models") / "odd"
    folder.mkdir()
    (folder / "MLmodel").write_text(MLMODEL)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    (folder / "model.pkl").write_bytes(cloudpickle.dumps(Misbehaving(gate)))
    return folder


def serve(folder: Path, cache: Path) -> Iterator[Daemon]:
    running = Daemon(str(folder), "--set", "odd.slots=1", cwd=folder, cache=cache)
    running.wait("ready")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def odd(folder: Path, cache: Path) -> Iterator[Daemon]:
    """A daemon that serves one misbehaving model, as `odd`: it outlives each of these tests."""
    yield from serve(folder, cache)


@pytest.fixture
def doomed(folder: Path, tmp_path: Path) -> Iterator[Daemon]:
    """Another one, with a cache of its own."""
    yield from serve(folder, tmp_path)


WIDE = 1500


class First:
    """Answers the first column."""

    def predict(self, rows: npt.NDArray[np.float64]) -> Any:
        return np.asarray(rows)[:, 0]


@pytest.fixture
def store_of_wide_models(tmp_path: Path) -> list[Path]:
    """Models of many named columns, whose frames are long."""
    columns = ", ".join(f'{{"type": "double", "name": "c{k}"}}' for k in range(WIDE))
    described = re.sub(r"inputs: .*", f"inputs: '[{columns}]'", MLMODEL)
    described = re.sub(r"\n  outputs: .*", "", described)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    folders = [tmp_path / f"wide{index}" for index in range(5)]
    for folder in folders:
        folder.mkdir()
        (folder / "MLmodel").write_text(described)
        (folder / "model.pkl").write_bytes(cloudpickle.dumps(First()))
    return folders


def ask(client: Client, what: int, value: float = 7.0, **options: Any) -> Any:
    return client.infer("odd", {"input-0": np.array([[what, value]])}, **options).array


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (RAISES, "ValueError"),
        (EXITS, "SystemExit"),
        (INTERRUPTED, "KeyboardInterrupt"),
        (MUTE, "Mute"),
    ],
)
def test_what_a_model_raises_is_told_and_the_next_request_is_served(
    odd: Daemon, what: int, told: str
) -> None:
    raised = len(odd.events("model_raised"))
    with Client(odd.address, timeout_s=30) as client:
        with pytest.raises(Internal, match=told) as caught:
            ask(client, what)

        assert ask(client, FINE).tolist() == [[0, 7]]
    assert "/etc" not in str(caught.value)
    assert "secret/file" not in str(caught.value)
    odd.wait("model_raised", count=raised + 1)
    assert len(odd.events("model_raised")) == raised + 1
    assert all(line.startswith("{") for line in odd.lines)


def test_an_answer_of_fewer_rows_is_the_models_own(odd: Daemon) -> None:
    with Client(odd.address) as client:
        assert ask(client, TOO_FEW).shape == (0, 2)
        assert ask(client, FINE).tolist() == [[0, 7]]


def test_nan_is_an_answer(odd: Daemon) -> None:
    with Client(odd.address) as client:
        assert np.isnan(ask(client, NAN)).all()


def test_a_request_that_kills_its_worker_twice_is_told_and_the_model_comes_back(
    odd: Daemon,
) -> None:
    ended = len(odd.events("worker_ended"))
    with Client(odd.address, timeout_s=60) as client:
        with pytest.raises(Internal, match=r"was run 2 times, alone; .* \(error id \w+\)"):
            ask(client, DIES)

        assert ask(client, FINE).tolist() == [[0, 7]]
    assert len(odd.events("worker_ended")) == ended + 2


def test_an_answer_larger_than_its_slot_arrives_and_small_ones_go_on(odd: Daemon) -> None:
    with Client(odd.address) as client:
        for _ in range(4):
            assert ask(client, HUGE).shape == (1, 2_000_000)
            assert ask(client, FINE).tolist() == [[0, 7]]


def test_a_deadline_is_told_while_every_slot_is_busy_and_is_counted(
    odd: Daemon, gate: Path
) -> None:
    before = failures(odd)
    with Client(odd.address) as client:
        slow = client.submit("odd", {"input-0": np.array([[WAITS, 1.0]])})
        wait_running(odd)
        late = [
            client.submit("odd", {"input-0": np.array([[FINE, 2.0]])}, timeout=0.5)
            for _ in range(5)
        ]
        for future in late:
            with pytest.raises(DeadlineExceeded):
                future.result()
        gate.open("wb").close()

        assert slow.result().array.tolist() == [[WAITS, 1]]
        assert ask(client, FINE).tolist() == [[0, 7]]
    # A caller's reset reaches the server after the caller has given up.
    until = time.monotonic() + 10
    wanted = before | {"deadline": before.get("deadline", 0) + 5}
    while failures(odd).get("deadline", 0) < wanted["deadline"] and time.monotonic() < until:
        pass
    assert failures(odd) == wanted


def test_a_caller_that_leaves_does_not_disturb_its_batch_mates(odd: Daemon, gate: Path) -> None:
    before = failures(odd).get("cancelled", 0)
    with Client(odd.address) as client:
        slow = client.submit("odd", {"input-0": np.array([[WAITS, 0.0]])})
        mates = [client.submit("odd", {"input-0": np.array([[FINE, float(k)]])}) for k in range(20)]
        for leaver in mates[::2]:
            assert leaver.cancel()
        gate.open("wb").close()

        slow.result()
        answers = [mate.result().array.tolist() for mate in mates[1::2]]
    assert answers == [[[0, k]] for k in range(1, 20, 2)]
    assert failures(odd).get("cancelled", 0) <= before + 10


def test_a_model_that_cannot_be_loaded_again_is_told_as_failed(doomed: Daemon) -> None:
    """Its files went away while it was served; then its worker died."""
    started = doomed.wait("worker_started")
    (cached,) = doomed.cache.rglob("model.pkl")
    cached.unlink()

    os.kill(started["pid"], signal.SIGKILL)
    doomed.wait("reload_failed")

    with Client(doomed.address, timeout_s=30) as client:
        with pytest.raises(HeadraceClientError) as caught:
            ask(client, FINE)
        (status,) = client.models()
    assert isinstance(caught.value, FailedPrecondition)
    assert status.state == "UNAVAILABLE"
    assert "model.pkl" in status.reason


def wait_running(daemon: Daemon) -> None:
    """Wait until a batch runs: calls may overtake each other on their way."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with urllib.request.urlopen(daemon.metrics) as response:  # noqa: S310 - our own daemon.
            text = response.read().decode()
        if re.search(r"^headrace_batches_in_flight\{.*\} 1\.0$", text, re.MULTILINE):
            return
    raise AssertionError("no batch runs")


def failures(daemon: Daemon) -> dict[str, int]:
    """Failed requests by reason."""
    with urllib.request.urlopen(daemon.metrics) as response:  # noqa: S310 - our own daemon.
        text = response.read().decode()
    found: Callable[[str], list[tuple[str, str]]] = re.compile(
        r'^headrace_requests_failed_total\{.*reason="(\w+)".*\} (\S+)$', re.MULTILINE
    ).findall
    return {reason: int(float(count)) for reason, count in found(text)}


@pytest.fixture
def wide(tmp_path: Path, cache: Path, store_of_wide_models: list[Path]) -> Iterator[Daemon]:
    """A daemon with wide models in shared workers, and one in a worker of its own, as `alone`."""
    named = [f"w{index}={path}" for index, path in enumerate(store_of_wide_models)]
    alone = ["--set", "alone.worker=own", f"alone={store_of_wide_models[0]}"]
    running = Daemon(*named, *alone, cwd=tmp_path, cache=cache)
    running.wait("ready")
    yield running
    assert running.stop() == 0


def test_a_stopped_worker_holds_up_no_other_model(
    wide: Daemon, store_of_wide_models: list[Path]
) -> None:
    """Frames for wide models fill the stopped worker's socket; the daemon must not wait on it."""
    columns = {f"c{k}": np.zeros(1) for k in range(WIDE)}
    ready = {line["model"]: line["workers"] for line in wide.events("model_ready")}
    pids = {line["worker"]: line["pid"] for line in wide.events("worker_started")}
    stopped = [pid for worker, pid in pids.items() if worker not in ready["alone"]]
    with Client(wide.address, timeout_s=60) as client:
        before = client.infer("alone", columns).array
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        held = [
            client.submit(f"w{k}", columns)
            for k in range(len(store_of_wide_models))
            for _ in range(6)
        ]
        try:
            assert client.infer("alone", columns, timeout=20).array.tolist() == before.tolist()
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        assert all(future.result().array.shape == (1,) for future in held)

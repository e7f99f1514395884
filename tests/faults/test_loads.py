"""Models that do harm while they load, beside one that serves a stream of requests."""

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import faulty
from headrace_client import Client, FailedPrecondition, HeadraceClientError
from load import Load
from serving import Daemon

pytestmark = [pytest.mark.slow, pytest.mark.long]

_MLMODEL = """
flavors:
  sklearn:
    pickled_model: model.pkl
    serialization_format: pickle
"""


class Does:
    """A model whose pickle calls a function when it is opened."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def pickled(folder: Path, model: object) -> Path:
    folder.mkdir()
    (folder / "MLmodel").write_text(_MLMODEL)
    (folder / "model.pkl").write_bytes(pickle.dumps(model))
    return folder


def described(folder: Path, text: str | None) -> Path:
    folder.mkdir()
    if text is not None:
        (folder / "MLmodel").write_text(text)
    return folder


HANG = Does(eval, "__import__('threading').Event().wait()")
# Ten times what the daemon and its model have, bit by bit.
SWALLOW = Does(eval, "[b'1' * 2**20 for _ in range(4000)]")

HARM: dict[str, tuple[Callable[[Path], Path], str]] = {
    "raises": (lambda p: pickled(p, Does(eval, "1 / 0")), "ZeroDivisionError"),
    "exits": (lambda p: pickled(p, Does(os._exit, 3)), "ended while it loaded"),
    "aborts": (lambda p: pickled(p, Does(os.abort)), "ended while it loaded"),
    "hangs": (lambda p: pickled(p, HANG), "did not load within load_s_max = 8 seconds"),
    "swallows": (lambda p: pickled(p, SWALLOW), "took more memory to load than load_bytes_max"),
    "empty": (lambda p: described(p, None), "no MLmodel file"),
    "unknown": (lambda p: described(p, "flavors:\n  abacus: {}\n"), "abacus"),
}


@pytest.fixture
def daemon(tmp_path: Path, cache: Path) -> Iterator[Daemon]:
    settings = {
        "hangs.load_s_max": "8",
        "swallows.load_bytes_max": str(400 << 20),
    }
    options = [item for key, value in settings.items() for item in ("--set", f"{key}={value}")]
    harmless = faulty.save(tmp_path / "odd")
    # Named at start, so that their settings are of models that are known; they fail at once.
    served = [
        f"{name}={make(tmp_path / name)}" for name, (make, _) in HARM.items() if name != "empty"
    ]
    running = Daemon(str(harmless), *served, *options, cwd=tmp_path, cache=cache)
    running.wait("model_ready")
    yield running
    assert running.stop() == 0


def test_each_is_told_in_the_index_and_the_stream_goes_on(daemon: Daemon, tmp_path: Path) -> None:
    empty = HARM["empty"][0](tmp_path / "empty")
    pid = daemon.wait("worker_started")["pid"]
    told: dict[str, HeadraceClientError] = {}

    with Load(daemon.address, "odd") as load, Client(daemon.address, timeout_s=120) as client:
        daemon.wait("ready")
        for name in HARM:
            with pytest.raises(HeadraceClientError) as caught:
                client.load(name, str(empty) if name == "empty" else "")
            told[name] = caught.value
        load.wait_answered(500)
        index = {status.name: status for status in client.models()}

    assert load.failed == {}
    assert daemon.events("worker_ended") == []
    assert psutil.pid_exists(pid)
    for name, (_, why) in HARM.items():
        assert why in told[name].message, name
        if name != "empty":
            assert isinstance(told[name], FailedPrecondition), name
            assert index[name].state == "UNAVAILABLE"
            assert why in index[name].reason

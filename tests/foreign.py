"""Foreign: daemons for clients in other languages, and the .proto files that these begin with."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import models
from headrace_client import Client
from headrace_server.cli import app
from serving import Daemon

TRANSPORTS = ("native", "grpcio")
GUIDES = Path(__file__).parents[1] / "docs" / "guides"
# What a compiler may take that has compiled nothing before.
BUILD_S_MAX = 300
# Every kind of field. Model of tests/models.py -> the name it is served by.
KINDS = {
    "iris_pipeline": "iris",
    "two_towers": "towers",
    "py_weigher": "weigher",
    "py_notes": "notes",
    "py_kinds": "kinds",
}
# What the model of every kind of column tells of its row, apart from what Python makes of each.
KINDS_SEEN = {
    "at": "2024-05-06T07:08:09.500000",
    "raw": "00ff",
    "small": 1.5,
    "path": [1.5, -2.0],
    "owner": {"id": 7, "seen": "2024-05-06T07:08:09", "tags": ["x", "ß"]},
    "flags": {"a": True, "b": False},
}
IRIS = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}


@contextmanager
def daemons(folder: Path, served: Mapping[str, str]) -> Iterator[dict[str, Daemon]]:
    """A daemon of each transport; *served* are models of tests/models.py and their names here."""
    named = [f"{name}={models.model(model).path}" for model, name in served.items()]
    # A trial in a process of its own takes seconds per model.
    options = [part for name in served.values() for part in ("--set", f"{name}.trial=false")]
    with ExitStack() as stack:
        running = {}
        for transport in TRANSPORTS:
            arguments = ("--transport", transport, *options, *named)
            running[transport] = Daemon(*arguments, cwd=folder, cache=folder / "cache")
            stack.callback(running[transport].stop)
            # Each wait is bounded; all models together may take longer than one.
            for count in range(len(named)):
                running[transport].wait("model_ready", count=count + 1)
            running[transport].wait("ready")
            assert running[transport].wait("listening")["transport"] == transport
        yield running
        codes = [daemon.stop() for daemon in running.values()]
    assert codes == [0, 0]


def write_proto(daemon: Daemon, model: str, folder: Path) -> Path:
    """What `headrace stub --proto` writes of the model that *daemon* serves as *model*."""
    file = folder / f"{model}.proto"
    options = ["--proto", "--server", daemon.address, "-o", str(file)]
    written = CliRunner().invoke(app, ["stub", model, *options], prog_name="headrace")
    assert written.exit_code == 0, written.output or written.exception
    return file


def blocks(guide: str, language: str) -> list[str]:
    """The code in *language* of the page docs/guides/*guide*, block by block."""
    page = (GUIDES / guide).read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def follow(commands: str, folder: Path, daemon: Daemon) -> str:
    """What *commands* of a guide print, run in *folder* with the address of *daemon*."""
    commands = commands.replace("127.0.0.1:8001", daemon.address)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return run(["bash", "-e", "-c", commands], folder, PATH=programs)


def run(command: Sequence[str], folder: Path, **environment: str) -> str:
    """What a command that ends well prints, with its errors where it does not."""
    ran = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_S_MAX,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def lines_of(printed: str) -> dict[str, str]:
    """What a program of every kind of field prints: a name and a text per line."""
    return dict(line.split(": ", 1) for line in printed.splitlines())


def check_guide(guide: str, language: str, program: Path, folder: Path, daemon: Daemon) -> None:
    """Follow a guide in *folder*: its one program, which is *program*, prints what it says."""
    (shown,) = blocks(guide, language)
    assert shown == program.read_text()
    (folder / program.name).write_text(shown)
    _, commands = blocks(guide, "bash")
    assert follow(commands, folder, daemon) in blocks(guide, "text")


def check_kinds_seen(answer: str) -> None:
    """Hold what the model of every kind of column answers against the row that it was sent."""
    seen = json.loads(answer)
    assert seen.pop("kinds")["at"] == "Timestamp"
    assert seen == KINDS_SEEN


def check_kinds(daemon: Daemon, told: Mapping[str, str]) -> None:
    """Hold what such a program prints, in any language, against what the models were sent."""
    assert told["plain"] == "5.25 pa/b2024-01-02"
    assert told["given"] == "13.25 px/y2024-05-06T07:08:09.500000"
    check_kinds_seen(told["messages"])
    left = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    right = np.arange(1, 5, dtype=np.float32).reshape(2, 2)
    with Client(daemon.address) as client:
        answer = client.predict("towers", {"left": left, "right": right})
    expected = [*answer["score"], *answer["hidden"].shape, *answer["hidden"].ravel()]
    numbers = [float(number) for number in re.findall(r"-?[\d.]+(?:[eE][-+]?\d+)?", told["values"])]
    assert numbers == pytest.approx(expected, rel=1e-5)
    assert told["raw"] == told["values"]

"""Foreign: daemons for clients in other languages, and the .proto files that these begin with."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from typer.testing import CliRunner

import models
from headrace_server.cli import app
from serving import Daemon

TRANSPORTS = ("native", "grpcio")
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

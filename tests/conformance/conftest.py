"""One daemon per transport, with the same models: whatever is tested is tested of both."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

import models
import puppet
from calling import MESSAGE_BYTES_MAX, Caller
from serving import Daemon, untried

TRANSPORTS = ("native", "grpcio")

# Model of tests/models.py -> the name it is served by.
SERVED = {
    "onnx_named": "graph",
    "iris_pipeline": "iris",
    "mixed_columns": "mixed",
    "string_labels": "labels",
    "torch_pt2": "net",
}


@pytest.fixture(scope="session")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What model `puppet` waits for when it is told to."""
    path = tmp_path_factory.mktemp("gate") / "gate"
    os.mkfifo(path)
    return path


@pytest.fixture(scope="session")
def callers(tmp_path_factory: pytest.TempPathFactory, gate: Path) -> Iterator[dict[str, Caller]]:
    """A connection to a daemon of each transport."""
    folder = tmp_path_factory.mktemp("conformance")
    served = [f"{name}={models.model(model).path}" for model, name in SERVED.items()]
    served += [
        f"puppet={puppet.save_puppet(folder / 'puppet', gate)}",
        f"echo={puppet.save_echo(folder / 'echo')}",
        f"scaled={puppet.save_scaled(folder / 'scaled')}",
        f"sized={puppet.save_sized(folder / 'sized')}",
        f"masked={puppet.save_masked(folder / 'masked')}",
        f"broken={puppet.save_broken(folder / 'broken')}",
    ]
    settings = (
        f"server.message_bytes_max={MESSAGE_BYTES_MAX}",
        "puppet.slots=1",
        "puppet.rows_max=64",
        "graph.rows_max=64",
        "puppet.priority_levels=3",
        # Both tell of their batches in their answers.
        "puppet.batched=true",
        "sized.batched=true",
        "sized.rows_allowed=4 8",
        'masked.bucket_by={"sizes": [4, 8], "mask": "real"}',
    )
    options = [option for setting in settings for option in ("--set", setting)]
    options += untried(*SERVED.values(), "puppet", "echo", "scaled", "sized", "masked", "broken")
    with ExitStack() as stack:
        made = {}
        daemons = {}
        for transport in TRANSPORTS:
            daemons[transport] = Daemon(
                "--transport", transport, *options, *served, cwd=folder, cache=folder / "cache"
            )
            stack.callback(daemons[transport].stop)
            # The next one then finds what was fetched.
            daemons[transport].wait("ready")
        for transport, daemon in daemons.items():
            assert daemon.wait("listening")["transport"] == transport
            channel = grpc.insecure_channel(
                daemon.address, [("grpc.max_receive_message_length", -1)]
            )
            made[transport] = Caller(daemon, stack.enter_context(channel))
        yield made
        codes = [daemon.stop() for daemon in daemons.values()]
    assert codes == [0, 0]


@pytest.fixture(params=TRANSPORTS)
def caller(request: pytest.FixtureRequest, callers: dict[str, Caller]) -> Caller:
    """A connection, once for each transport."""
    return callers[request.param]

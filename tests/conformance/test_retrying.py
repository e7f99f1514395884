"""What both transports say of trying again, and that gRPC's own retries follow it."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import grpc
import numpy as np
import pytest

import faulty
from alike import KINDS
from calling import Caller, ending, message
from headrace.oip.inference_service_pb2_grpc import GRPCInferenceServiceStub
from headrace.oip.open_inference_pb2 import ModelMetadataRequest
from headrace_client import Unavailable
from serving import Daemon

pytestmark = pytest.mark.slow

PUSHBACK = "grpc-retry-pushback-ms"
COLUMNS = {"input-0": np.array([[0.0, 1.0]])}
ENDS = {"input-0": np.array([[faulty.EXIT, 1.0]])}


class SlowToLoad(faulty.Faulty):
    """Is there once *gate* is."""

    def __init__(self, gate: Path) -> None:
        self.gate = str(gate)

    def __setstate__(self, state: dict[str, Any]) -> None:
        from pathlib import Path
        from time import sleep

        while not Path(state["gate"]).exists():
            sleep(0.01)
        self.__dict__.update(state)


def save_slow_to_load(folder: Path, gate: Path) -> Path:
    faulty.save(folder)
    # Neither module is known to a worker.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    (folder / "model.pkl").write_bytes(cloudpickle.dumps(SlowToLoad(gate)))
    return folder


@pytest.fixture(params=["native", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    transport: str = request.param
    return transport


@pytest.fixture
def serve(tmp_path: Path, transport: str) -> Iterator[Callable[..., Daemon]]:
    """Start daemons of the transport; they end with the test."""
    started = []

    def serve(*arguments: str) -> Daemon:
        options = ("--transport", transport, *arguments)
        started.append(Daemon(*options, cwd=tmp_path, cache=tmp_path / "cache"))
        return started[-1]

    yield serve
    for daemon in started:
        daemon.stop()


@pytest.fixture
def caller_of() -> Iterator[Callable[[Daemon], Caller]]:
    channels = []

    def caller_of(daemon: Daemon) -> Caller:
        channels.append(grpc.insecure_channel(daemon.address))
        return Caller(daemon, channels[-1])

    yield caller_of
    for channel in channels:
        channel.close()


def pushback(call: Any) -> str | bytes | None:
    """What *call*, which failed as UNAVAILABLE, was told of the next."""
    assert ending(call).code == "UNAVAILABLE"
    told: str | bytes | None = dict(call.trailing_metadata()).get(PUSHBACK)
    return told


def test_a_model_that_is_loading_says_how_long_to_wait(
    serve: Callable[..., Daemon],
    caller_of: Callable[[Daemon], Caller],
    tmp_path: Path,
    transport: str,
) -> None:
    gate = tmp_path / "gate"
    model = save_slow_to_load(tmp_path / "model", gate)
    daemon = serve(f"slow={model}")
    assert daemon.wait("listening")["transport"] == transport
    try:
        caller = caller_of(daemon)
        stub = GRPCInferenceServiceStub(caller.channel)
        told = pushback(stub.ModelMetadata.future(ModelMetadataRequest(name="slow"), timeout=60))
        assert told == "1000"
        told = pushback(caller.submit(message("slow", COLUMNS)))
        assert told == (None if transport == "native" else "1000")
        for kind in KINDS:
            with kind(daemon.address, timeout_s=60, attempts_max=2) as client:
                began = time.monotonic()
                with pytest.raises(Unavailable, match="still loading"):
                    client.predict("slow", COLUMNS)
                # By gRPC's own time it would have been asked again after a tenth.
                assert time.monotonic() - began > 0.9
    finally:
        gate.touch()
    daemon.wait("ready")
    with KINDS[0](daemon.address, timeout_s=60) as client:
        assert client.infer("slow", COLUMNS).array.tolist() == [[0.0, 1.0]]


# pygrpc-native cannot say it.
@pytest.mark.parametrize("transport", ["grpcio"])
def test_what_may_not_be_run_twice_is_not_sent_twice(
    serve: Callable[..., Daemon], caller_of: Callable[[Daemon], Caller], tmp_path: Path
) -> None:
    model = faulty.save(tmp_path / "model")
    daemon = serve(f"odd={model}", "--set=odd.deterministic=false")
    daemon.wait("ready")
    caller = caller_of(daemon)

    assert pushback(caller.submit(message("odd", ENDS))) == "-1"
    for kind in KINDS:
        with kind(daemon.address, timeout_s=60, attempts_max=5) as client:
            # Once the worker is back.
            client.infer("odd", COLUMNS)
            before = caller.failures()["worker_lost"]
            with pytest.raises(Unavailable):
                client.infer("odd", ENDS)
            assert caller.failures()["worker_lost"] == before + 1

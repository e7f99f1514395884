"""Faults caused while requests stream in: each is accounted for, and the stream goes on."""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import faulty
from headrace_client import Client, HeadraceClientError, Internal, ResourceExhausted
from load import Load
from serving import Daemon

pytestmark = [pytest.mark.slow, pytest.mark.long]

BOTH = pytest.mark.parametrize("transport", ["native", "grpcio"])

Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path, cache: Path) -> Iterator[Start]:
    """Start a daemon that serves the faulty model as `odd`; it ends with the test."""
    started: list[Daemon] = []

    def make(*arguments: str, is_ready: bool = True, cache: Path = cache) -> Daemon:
        folder = tmp_path / "odd"
        if not folder.exists():
            faulty.save(folder)
        running = Daemon(str(folder), *arguments, cwd=tmp_path, cache=cache)
        started.append(running)
        if is_ready:
            running.wait("ready")
        return running

    yield make
    for daemon in started:
        daemon.stop()


def harm(daemon: Daemon, what: float) -> HeadraceClientError:
    """One request that does harm, and what its caller is told."""
    with Client(daemon.address, timeout_s=60) as client, pytest.raises(HeadraceClientError) as told:
        client.predict("odd", np.array([[what, 0.0]]))
    return told.value


def worker_pid(daemon: Daemon, count: int = 1) -> int:
    pid: int = daemon.wait("worker_started", count=count)["pid"]
    return pid


def test_a_killed_worker_costs_no_request(start: Start) -> None:
    daemon = start()
    with Load(daemon.address, "odd") as load:
        os.kill(worker_pid(daemon), signal.SIGKILL)
        daemon.wait("worker_started", count=2)
        load.wait_answered(500)

    assert load.failed == {}


def test_a_stopped_worker_costs_no_request(start: Start) -> None:
    daemon = start("--set", "odd.exec_ms_max=500")
    with Load(daemon.address, "odd") as load:
        os.kill(worker_pid(daemon), signal.SIGSTOP)
        daemon.wait("worker_hung")
        load.wait_answered(500)

    assert load.failed == {}


@BOTH
def test_a_request_that_hangs_is_told_and_the_stream_goes_on(start: Start, transport: str) -> None:
    daemon = start(
        *("--transport", transport),
        *("--set", "odd.exec_ms_max=500", "--set", "odd.rows_max=1"),
    )
    with Load(daemon.address, "odd") as load:
        told = harm(daemon, faulty.FREEZE)
        load.wait_answered(500)

    assert isinstance(told, Internal)
    assert "did not end within exec_ms_max = 500" in told.message
    assert load.failed == {}


@BOTH
@pytest.mark.parametrize("what", [faulty.EXIT, faulty.HALF_A_FRAME])
def test_a_request_that_ends_its_worker_is_told_and_the_stream_goes_on(
    start: Start, what: float, transport: str
) -> None:
    daemon = start("--transport", transport, "--set", "odd.rows_max=1")
    with Load(daemon.address, "odd") as load:
        told = harm(daemon, what)
        load.wait_answered(500)

    assert isinstance(told, Internal)
    assert "was run 2 times, alone" in told.message
    assert load.failed == {}


def test_who_shares_a_batch_with_a_request_that_ends_workers_is_answered(start: Start) -> None:
    daemon = start()
    with Load(daemon.address, "odd") as load:
        harm(daemon, faulty.EXIT)
        load.wait_answered(500)

    assert load.failed == {}


def test_a_worker_without_memory_for_a_batch_tells_so_and_the_stream_goes_on(start: Start) -> None:
    daemon = start("--set", "odd.rows_max=1")
    with Load(daemon.address, "odd") as load:
        pid = worker_pid(daemon)
        room = psutil.Process(pid).memory_info().vms + (256 << 20)
        resource.prlimit(pid, resource.RLIMIT_AS, (room, room))
        told = harm(daemon, faulty.SWALLOW_MEMORY)
        load.wait_answered(500)

    assert isinstance(told, ResourceExhausted)
    assert "MemoryError" in told.message
    assert load.failed == {}
    assert worker_pid(daemon) == pid


def test_a_full_arena_is_told_and_the_stream_goes_on(start: Start) -> None:
    daemon = start(
        *("--set", f"server.arena_bytes_max={4 << 20}"),
        *("--set", "odd.rows_max=1000000", "--set", "odd.queue_rows_max=1000000"),
    )
    with Load(daemon.address, "odd") as load, Client(daemon.address, timeout_s=60) as client:
        with pytest.raises(ResourceExhausted, match="arena is full"):
            client.predict("odd", np.zeros((400_000, 2)))
        load.wait_answered(500)

    # Rows that shared a batch with what did not fit fared the same.
    assert load.codes <= {"RESOURCE_EXHAUSTED"}


def test_a_killed_librarian_costs_no_request(start: Start) -> None:
    daemon = start()
    (librarian,) = [
        child
        for child in psutil.Process(daemon.process.pid).children()
        if "headrace_server.librarian" in child.cmdline()
    ]
    with Load(daemon.address, "odd") as load:
        librarian.kill()
        daemon.wait("librarian_ended")
        load.wait_answered(500)

    assert load.failed == {}


def test_a_killed_daemon_leaves_no_process_no_memory_and_no_file(
    start: Start, tmp_path: Path
) -> None:
    fresh = tmp_path / "cache"
    daemon = start(cache=fresh)
    children = psutil.Process(daemon.process.pid).children(recursive=True)
    with Load(daemon.address, "odd", until_failed=True) as load:
        daemon.process.kill()
        daemon.wait_exit()
        load.join()

    assert load.codes == {"UNAVAILABLE"}
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    # The arena is a memfd: it has no name, so with its last process its memory is gone.
    assert not [path for path in fresh.rglob("*") if path.is_socket() or path.is_fifo()]
    assert not list(fresh.glob("headrace/incoming-*"))


def was_not_accepted(why: str) -> bool:
    """Whether a caller was told that its request was not taken, or could not even connect."""
    return "about to end: retry elsewhere" in why or why.startswith("failed to connect")


@BOTH
def test_what_was_accepted_is_answered_when_the_daemon_is_asked_to_end(
    start: Start, transport: str
) -> None:
    daemon = start("--transport", transport, "--set", "odd.rows_max=4")
    with Load(daemon.address, "odd", what=faulty.TAKE_TIME, until_failed=True) as load:
        daemon.process.send_signal(signal.SIGTERM)
        load.join()

    assert daemon.wait_exit() == 0
    assert load.failed
    assert all(code == "UNAVAILABLE" and was_not_accepted(why) for code, why in load.failed)


@BOTH
def test_callers_have_time_to_notice_before_requests_are_refused(
    start: Start, transport: str
) -> None:
    daemon = start("--transport", transport, "--set", "server.drain_delay_s=2")
    with (
        Load(daemon.address, "odd", until_failed=True) as load,
        grpc.insecure_channel(daemon.address) as channel,
        Client(daemon.address) as client,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        daemon.process.send_signal(signal.SIGTERM)

        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not client.ready()
        assert not client.ready("odd")
        load.wait_answered(200)
        load.join()
        # The stream of those who watch ends with the daemon.
        assert list(watch) == []

    assert daemon.wait_exit() == 0
    assert all(was_not_accepted(why) for _, why in load.failed), list(load.failed)


@BOTH
def test_large_answers_are_written_to_their_end_before_the_daemon_ends(
    start: Start, transport: str
) -> None:
    daemon = start("--transport", transport)
    with Client(daemon.address, timeout_s=60) as client:
        row = np.array([[faulty.SWELL, 1.0]])
        client.predict("odd", row)
        futures = [client.submit("odd", row) for _ in range(8)]
        futures[0].result()
        daemon.process.send_signal(signal.SIGTERM)

        ends = [future.exception() for future in futures]

    assert daemon.wait_exit() == 0
    assert all(end is None or was_not_accepted(end.message) for end in ends)
    assert all(future.result().array.shape == (1, 2 * faulty.SWOLLEN) for future in futures[:1])


def test_a_second_signal_ends_the_daemon_at_once(start: Start) -> None:
    daemon = start()
    with Client(daemon.address, timeout_s=60) as client:
        stuck = client.submit("odd", np.array([[faulty.FREEZE, 0.0]]))
        # Behind the first, so that the first is known to have been taken.
        assert not stuck.done()
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait("draining")
        daemon.process.send_signal(signal.SIGTERM)

        assert daemon.wait_exit() == 128 + signal.SIGTERM
        assert stuck.exception() is not None


def test_two_daemons_share_a_cache(start: Start, tmp_path: Path) -> None:
    """Both fetch the same model at the same time, into an empty cache."""
    shared = tmp_path / "cache"
    both = [start(is_ready=False, cache=shared) for _ in range(2)]

    for daemon in both:
        daemon.wait("ready")
        with Load(daemon.address, "odd") as load:
            load.wait_answered(100)
        assert load.failed == {}
    entries = [path for path in (shared / "headrace").iterdir() if len(path.name) == 64]
    assert len(entries) == 1

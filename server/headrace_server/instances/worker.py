"""Worker: the daemon's end of one worker process, which may be replaced while it lives on.

It owns the arena, knows which batches are in flight and which instances were loaded. When the
process ends, whatever is in flight comes back as lost, and a new process loads the same instances
over the same arena. A process that works on one batch for longer than its model allows, or on one
load, counts as hung, and is ended; so is one that a load fills with too much memory.
"""

import errno
import itertools
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import structlog

from ..arena import Arena, Region
from ..batchframes import DoneFrame, RunFrame
from ..completions import Completions
from ..errors import (
    HeadraceError,
    InstanceLost,
    InvalidRequest,
    LoadFailed,
    ModelFailed,
    OutOfMemory,
    RowsMixed,
)
from ..frames import Frame, Kind
from ..heap import own_bytes
from ..types import Batching
from .confined import Cell, Confinement
from .flights import Flights
from .loaded import LoadedInstance
from .loads import Loads
from .process import Keeps, Process, Spawner, python_of_ours

_COMMAND = tuple(python_of_ours("headrace_server.worker"))
# What a socket says whose other end is gone, or that was closed because of it.
_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF})
# Processes that may end while they load one instance again; then it is given up.
_FAILED_RELOADS_MAX = 3

_log = structlog.get_logger("headrace")


class Flight(Protocol):
    """A batch that a worker runs; told how it went on the completions thread, exactly once."""

    def land(self, done: DoneFrame, frame: Frame) -> None:
        """The outputs are there; *frame* owns the descriptors that came along."""

    def crash(self, error: HeadraceError) -> None:
        """There are no outputs."""


class Worker:
    """One worker. Methods may be called from any thread unless they say otherwise.

    Attributes:
        name: Its name in logs and metrics.
        arena: The memory that it shares with the daemon; survives its processes.
        crash_loop: Why it counts as ending again and again; empty while it does not.
    """

    def __init__(
        self,
        name: str,
        spawner: Spawner,
        completions: Completions,
        *,
        arena_bytes_max: int,
        environment: dict[str, str],
        on_end: Callable[["Worker"], None],
        command: Sequence[str] = (),
        is_trial: bool = False,
        confinement: Confinement | None = None,
    ) -> None:
        """Nothing runs yet; see `start`.

        Args:
            name: Its name in logs and metrics.
            spawner: Starts its processes.
            completions: Watches them.
            arena_bytes_max: Size of its arena.
            environment: What its processes find in their environment beside ours.
            on_end: Told that a process ended which is to be replaced.
            command: What runs a process; empty for our own Python.
            is_trial: Whether its process is not replaced, until `adopt` is called.
            confinement: Where its processes are confined; None for not at all.
        """
        self.name = name
        self.arena = Arena(arena_bytes_max)
        self.crash_loop = ""
        self._spawner = spawner
        self._completions = completions
        self._environment = environment
        self._on_end = on_end
        self._command = command or _COMMAND
        self._is_trial = is_trial
        self._confinement = confinement
        # Of its latest process.
        self._cell: Cell | None = None
        self._has_ended = False
        self._numbers = itertools.count(1)
        self._batches = itertools.count(1)
        # Guards everything below and the arena's regions; held for a few lines, never over I/O.
        self._lock = threading.Lock()
        self._instances: dict[int, LoadedInstance] = {}
        # Instances that the process was told to free.
        self._leaving: dict[int, Future[None]] = {}
        self._flights: Flights[LoadedInstance, Flight] = Flights(lambda one: one.exec_s_max)
        # Of the completions thread alone.
        self._loads: Loads[LoadedInstance] = Loads()
        self._process: Process | None = None
        # Whose batch has run for too long, once the process was told to end over it.
        self._hung: LoadedInstance | None = None
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<Worker {self.name} [{len(self._instances)} instances, pid {self.pid}]>"

    @property
    def pid(self) -> int | None:
        """The process that serves now; None between two of them."""
        process = self._process
        return None if process is None else process.pid

    @property
    def wake_at(self) -> float:
        """When to look whether a batch or a load has run for too long; see `completions.Timed`."""
        return min(self._flights.wake_at, self._loads.wake_at)

    @property
    def has_ended(self) -> bool:
        """Whether its latest process has ended; another one may be about to come."""
        return self._has_ended

    @property
    def is_closing(self) -> bool:
        """Whether it is about to end for good."""
        return self._is_closing

    @property
    def instance_count(self) -> int:
        """Instances assigned to it."""
        return len(self._instances)

    def start(self) -> None:
        """Spawn a process and have it load all instances. Never called twice at once.

        A worker that was closed meanwhile stays so.

        Raises:
            OSError: No process can be spawned.
        """
        arguments: tuple[str, ...] = ()
        keeps: Keeps | None = None
        if self._confinement is not None:
            self._leave_cell()
            self._cell = self._confinement.admit()
            arguments, keeps = ("--wall", self._cell.wall.to_json()), self._confinement.keeps
        process = Process(
            self._spawner,
            self._completions,
            self._command,
            arguments,
            self._environment,
            keeps,
            on_frame=self._on_frame,
            on_end=lambda: self._on_process_end(process),
        )
        process.send_json(Kind.ARENA, {"bytes": self.arena.nbytes}, (self.arena.fd,))
        with self._lock:
            is_wanted = not self._is_closing
            if is_wanted:
                self._process = process
                self._hung = None
                self._has_ended = False
            specs = [instance.spec for instance in self._instances.values()]
        process.start_watching()
        if not is_wanted:
            process.stop()
            return
        for spec in specs:
            self._send_load(process, spec)
        self._tell_start(process)

    def load(self, spec: dict[str, Any]) -> LoadedInstance:
        """Have the process load an instance; `found` tells how it went.

        The future raises LoadFailed when the model cannot be loaded, or the process ended over it,
        or was ended because it took too long (`load_s_max` in *spec*) or grew by too much
        (`load_bytes_max`; 0 for any).
        """
        number = next(self._numbers)
        instance = LoadedInstance(number, {**spec, "instance": number}, Future())
        with self._lock:
            self._instances[number] = instance
            process = self._process
        if process is not None:
            self._send_load(process, instance.spec)
        return instance

    def unload(self, instance: LoadedInstance) -> Future[None]:
        """Forget an instance and have the process free it; the future is done once it has."""
        freed: Future[None] = Future()
        with self._lock:
            self._instances.pop(instance.number, None)
            instance.is_up = False
            process = self._process
            if process is not None:
                self._leaving[instance.number] = freed
        if process is None:
            freed.set_result(None)
        elif not _send_quietly(process, Kind.UNLOAD, {"instance": instance.number}):
            self._note_freed(instance.number)
        return freed

    def take_region(self, nbytes: int) -> Region:
        """A region of the arena; see `Arena.take`."""
        with self._lock:
            return self.arena.take(nbytes)

    def give_region(self, region: Region) -> None:
        """Hand a region back; one of a worker that was closed is gone with its arena."""
        with self._lock:
            if not self._is_closing:
                self.arena.give(region)

    def next_batch(self) -> int:
        """A fresh batch number."""
        return next(self._batches)

    def run(self, run: RunFrame, instance: LoadedInstance, loads: int, flight: Flight) -> None:
        """Send a batch for *instance* as it was when it had been loaded *loads* times.

        *flight* hears of its end.

        Raises:
            InstanceLost: The process it was meant for is gone; *flight* will hear nothing.
            OSError: The frame cannot be sent, though the process lives; *flight* hears nothing.
        """
        body = run.pack()
        with self._lock:
            process = self._process
            if process is None or not instance.is_up or instance.loads != loads:
                raise InstanceLost(f"worker {self.name} is being replaced")
            is_earlier = self._flights.add(run.batch, instance, flight, time.monotonic())
        if is_earlier:
            self._completions.expect(self, self.wake_at)
        try:
            process.send(Kind.RUN, body)
        except OSError as error:
            is_ours = self._take_flight(run.batch, time.monotonic()) is not None
            if is_ours and error.errno in _GONE:
                raise InstanceLost(f"worker {self.name} is gone") from error
            if is_ours:
                raise

    def adopt(self) -> None:
        """Replace its process whenever it ends, from now on."""
        with self._lock:
            self._is_trial = False
            has_ended, process = self._has_ended, self._process
        if process is not None:
            self._tell_start(process)
        if has_ended:
            self._on_end(self)

    def reap(self) -> int:
        """Wait for the process that ended; its exit code. Called by the supervisor."""
        with self._lock:
            process = self._process
            self._process = None
        return 0 if process is None else process.kill()

    def hang_up(self) -> None:
        """Ask the process to end, without waiting for it."""
        with self._lock:
            self._is_closing = True
            process = self._process
        if process is not None:
            process.hang_up()

    def close(self) -> None:
        """End the process for good and free the arena."""
        with self._lock:
            self._is_closing = True
            process = self._process
            self._process = None
            instances = list(self._instances.values())
        if process is not None:
            process.stop()
        self._note_all_freed()
        for instance in instances:
            self._fail_load(instance.number, "the server is ending")
        self.arena.close()
        self._leave_cell()

    def set_crash_loop(self, why: str) -> None:
        """Note why the process counts as ending again and again; an empty text: no longer."""
        self.crash_loop = why
        with self._lock:
            instances = list(self._instances.values())
        for instance in instances:
            self._tell(instance)

    def _leave_cell(self) -> None:
        """Remove what a confined process that ended has left behind."""
        if self._cell is not None:
            self._cell.close()
            self._cell = None

    # On the completions thread.

    def on_time(self, now: float) -> None:
        """Look for a batch that has run for too long, or a load; see `completions.Timed`."""
        self._look_at_load(now)
        with self._lock:
            hung, process = self._flights.overdue(now), self._process
            if hung is None or process is None or self._hung is not None:
                return
            self._hung = hung
        _log.error(
            "worker_hung",
            worker=self.name,
            pid=process.pid,
            model=hung.spec["name"],
            exec_ms_max=hung.spec["exec_ms_max"],
        )
        process.end_now()

    def _tell_start(self, process: Process) -> None:
        # Those in which models are only tried would make a reader count workers that soon go.
        tell = _log.debug if self._is_trial else _log.info
        event = "trial_started" if self._is_trial else "worker_started"
        tell(event, worker=self.name, pid=process.pid)

    def _look_at_load(self, now: float) -> None:
        process, instance = self._process, self._loads.current
        if process is None or instance is None:
            return
        if excess := self._loads.excess(now, lambda: _bytes_of(process)):
            _log.error("load_stopped", worker=self.name, model=instance.spec["name"], why=excess)
            self._fail_load(instance.number, excess)
            process.end_now()

    def _on_frame(self, frame: Frame) -> None:
        try:
            done = DoneFrame.unpack(frame.body) if frame.kind == Kind.DONE else None
            report = frame.json() if done is None else {}
        except (struct.error, ValueError):
            # Half a frame: nothing that follows can be trusted, and its batch must not wait on.
            _log.exception("malformed_frame", worker=self.name, kind=frame.kind)
            frame.close()
            if self._process is not None:
                self._process.end_now()
            return
        if done is not None:
            flight = self._take_flight(done.batch, done.instants.finished / 1e9)
            if flight is not None:
                flight.land(done, frame)
            else:
                frame.close()
            return
        match frame.kind:
            case Kind.RUN_FAILED:
                flight = self._take_flight(report["batch"], time.monotonic())
                if flight is not None:
                    flight.crash(_failure(report))
            case Kind.LOADING:
                self._note_loading(report["instance"])
            case Kind.LOADED:
                self._note_loaded(report["instance"])
                if (instance := self._instances.get(report["instance"])) is not None:
                    # Before its first batch has pages locked.
                    self.arena.keeps_pages |= report["device"].startswith("cuda")
                    # For the process that follows this one.
                    instance.spec["outputs"] = report["outputs"]
                    self._set_up(instance, is_up=True)
                    if not instance.found.done():
                        instance.found.set_result(report)
                elif self._process is not None:
                    # Unloaded while a new process was told to load it.
                    _send_quietly(self._process, Kind.UNLOAD, {"instance": report["instance"]})
            case Kind.LOAD_FAILED:
                self._note_loaded(report["instance"])
                self._fail_load(report["instance"], report["message"])
            case Kind.UNLOADED:
                self._note_freed(report["instance"])
            case Kind.FOUND:
                self._note_found(report)

    def _on_process_end(self, process: Process) -> None:
        with self._lock:
            if process is not self._process:
                return
            hung = self._hung
            flights = self._flights.clear(hung)
            instances = list(self._instances.values())
            self._has_ended = True
        suspect = self._loads.current
        self._loads.clear()
        self._note_all_freed()
        for instance in instances:
            self._note_end(instance, suspect)
        if suspect is not None and suspect.loads:
            suspect.failed_reloads += 1
            if suspect.failed_reloads >= _FAILED_RELOADS_MAX:
                self._fail_load(suspect.number, "worker processes ended while they loaded it again")
        for flight, is_suspect in flights:
            why = f"worker {self.name} ended while it had the batch"
            if is_suspect and hung is not None:
                why = f"the batch did not end within exec_ms_max = {hung.spec['exec_ms_max']}"
            flight.crash(InstanceLost(why, is_suspect=is_suspect))
        if not self._is_closing and not self._is_trial:
            self._on_end(self)

    def _note_end(self, instance: LoadedInstance, suspect: LoadedInstance | None) -> None:
        if instance.found.done():
            self._set_up(instance, is_up=False)
        elif suspect is instance:
            # Perhaps the cause; loading it again could end every process that follows.
            self._fail_load(instance.number, "the worker process ended while it loaded")
        elif suspect is None:
            instance.failed_reloads += 1
            if self._is_trial or instance.failed_reloads >= _FAILED_RELOADS_MAX:
                self._fail_load(instance.number, "the worker process ended before it could load")

    def _note_loading(self, number: int) -> None:
        """The process begins to load the instance of that *number*."""
        process, instance = self._process, self._instances.get(number)
        if process is None or instance is None:
            return
        self._loads.begin(
            instance,
            time.monotonic(),
            s_max=instance.spec["load_s_max"],
            # What has been loaded once is known to fit.
            bytes_max=0 if instance.loads else instance.spec["load_bytes_max"],
            bytes_now=_bytes_of(process),
        )
        self._completions.expect(self, self.wake_at)

    def _note_found(self, report: dict[str, Any]) -> None:
        instance = self._instances.get(report["instance"])
        if instance is None:
            return
        # For the process that follows this one.
        instance.spec["known"] = {key: report[key] for key in ("verdict", "why", "outputs")}
        if instance.on_find is not None:
            instance.on_find(Batching(report["verdict"], report["why"]), report["outputs"])

    def _note_loaded(self, number: int) -> None:
        if (instance := self._instances.get(number)) is not None:
            self._loads.end(instance)

    def _set_up(self, instance: LoadedInstance, *, is_up: bool) -> None:
        with self._lock:
            changed = instance.is_up is not is_up
            instance.is_up = is_up
            if is_up:
                instance.loads += 1
                instance.failed_reloads = 0
        if changed:
            self._tell(instance)

    def _tell(self, instance: LoadedInstance) -> None:
        if instance.on_change is not None:
            try:
                instance.on_change(instance)
            except Exception:  # noqa: BLE001 - the others must still hear of it.
                _log.exception("on_change_failed", worker=self.name)

    def _note_freed(self, number: int) -> None:
        with self._lock:
            freed = self._leaving.pop(number, None)
        if freed is not None:
            freed.set_result(None)

    def _note_all_freed(self) -> None:
        """The process is gone, and with it whatever it was to free."""
        for number in list(self._leaving):
            self._note_freed(number)

    def _take_flight(self, batch: int, at: float) -> Flight | None:
        """The flight of *batch*, which ended at that instant; None where no one waits for it."""
        with self._lock:
            flight = self._flights.take(batch, at)
        # The next one of its instance is at work from now on.
        self._completions.expect(self, self.wake_at)
        return flight

    def _fail_load(self, number: int, message: str) -> None:
        with self._lock:
            instance = self._instances.pop(number, None)
        if instance is None:
            return
        if instance.found.done():
            if not self._is_closing:
                name = instance.spec["name"]
                _log.error("reload_failed", worker=self.name, model=name, why=message)
                if instance.on_fail is not None:
                    instance.on_fail(message)
        else:
            instance.found.set_exception(LoadFailed(message))

    def _send_load(self, process: Process, spec: dict[str, Any]) -> None:
        # A process that is gone is told by the end of its socket.
        _send_quietly(process, Kind.LOAD, spec)


def _send_quietly(process: Process, kind: Kind, body: object) -> bool:
    """Send a frame to a process that may be gone; whether it was taken."""
    try:
        process.send_json(kind, body)
    except OSError:
        _log.debug("frame_not_sent", kind=kind.name, pid=process.pid)
        return False
    return True


def _bytes_of(process: Process) -> int:
    """Memory of *process*; 0 where it is gone."""
    try:
        return own_bytes(process.pid)
    except (OSError, ValueError):
        return 0


def _failure(report: dict[str, Any]) -> HeadraceError:
    if report["type"] == "UnknownInstance":
        return InstanceLost(
            "the instance was unloaded before the batch reached it", is_suspect=False
        )
    if report["type"] == "OutputMismatch":
        return RowsMixed(report["type"], report["message"], report["error_id"])
    if report["type"] == "UnknownOutput":
        return InvalidRequest(report["message"])
    kind = OutOfMemory if report["out_of_memory"] else ModelFailed
    return kind(report["type"], report["message"], report["error_id"])

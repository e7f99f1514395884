"""Daemon: builds the house, keeps it until a signal comes, and takes it down in order."""

import gc
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import TypeVar

import structlog

from . import VERSION, logs
from .completions import Completions
from .control import ControlLoop
from .errors import HeadraceError, RegistryAbsent, RegistryUnavailable, UsageError
from .gpus.nvml import Gpus, find_gpus
from .heap import Trimmer, keep_freed
from .instances.bookings import Bookings
from .instances.confined import Confinement
from .instances.pool import OFFLINE, WorkerPool
from .instances.process import Spawner
from .metrics import Metrics
from .repository.librarian import Librarian, rules_of
from .repository.model import ModelVersion
from .repository.pauses import pause_after
from .repository.repository import Repository
from .repository.tried import Tried
from .repository.wanted import Wanted, WantedAtStart
from .service import Service
from .settings import ModelSettings, Settings, shown_uri, socket_path
from .stopping import StopSignal
from .transport.choice import is_loopback
from .transport.choice import is_native as listens_natively
from .transport.grpcio import GrpcioTransport
from .transport.native import NativeTransport
from .transport.security import Security
from .transport.socketfile import SocketFile
from .transport.typed.directory import TypedDirectory
from .wall import lacks

# Where /metrics is while calls come by a Unix socket.
_LOOPBACK = "127.0.0.1"

# How long callers may take to read their last answers (seconds).
_READ_S_MAX = 5.0

# A second line behind the librarian's judgement: MLflow's own switch, no code from the hub, and no
# options of a session from within a graph.
_NO_PICKLE = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "ORT_LOAD_CONFIG_FROM_MODEL": "0",
    **OFFLINE,
}

_NVIDIA = "/proc/driver/nvidia/gpus"

_log = structlog.get_logger("headrace")

Result = TypeVar("Result")


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit status.

    Raises:
        UsageError: An address cannot be bound, or a model's URI stands for nothing.
    """
    logs.configure(settings.server.log_format, settings.server.log_level)
    stop = StopSignal()
    daemon = Daemon(settings)
    try:
        # In a thread of its own, so that a signal is heard while a registry does not answer.
        with ThreadPoolExecutor(1, "start") as starter:
            starting = starter.submit(daemon.start)
            try:
                stop.wait(starting)
            finally:
                daemon.stop_starting(starting)
        if not starting.exception():
            _log.info("draining")
    finally:
        daemon.close()
    _log.info("stopped")
    return 0


class Daemon:
    """Everything that serves, and the order in which it comes and goes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_stopping = threading.Event()
        # How long to wait before the registry is asked again what to serve (seconds).
        self._pause_s = 0.0
        self._closers: list[Callable[[], object]] = []
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Ask what the start-up models are, take calls, and have the models loaded.

        Where the registry does not answer, calls are taken before it does: they are told so.

        Raises:
            UsageError: A model's URI stands for nothing, or nothing may be served at all.
        """
        asked = self._repository.wanted(self._settings.served)
        wanted = self._ask(asked, tries=1)
        if wanted is not None:
            # Before anyone can ask for a model to be loaded anew: these loads come first.
            loads = self._begin(wanted)
            self._take_calls(wanted)
            self._await(loads)
            return
        self._take_calls([])
        tries = 1
        while wanted is None:
            if self._is_stopping.wait(self._pause_s):
                return
            tries += 1
            wanted = self._ask(asked, tries)
        _log.info("registry_answered", models=[item.name for item in wanted])
        self._await(self._begin(wanted))

    def stop_starting(self, starting: "Future[None]") -> None:
        """Have `start`, which is *starting*, wait no longer for the registry."""
        if not starting.done():
            self._is_stopping.set()
            self._librarian.close()

    def close(self) -> None:
        """Drain, then take everything down, last built first."""
        while self._closers:
            try:
                self._closers.pop()()
            except Exception:  # noqa: BLE001 - the rest must still go.
                _log.exception("close_failed")

    def _ask(self, asked: WantedAtStart, tries: int) -> list[Wanted] | None:
        """What to serve; None where the registry does not answer, which is its *tries*-th try."""
        settings = self._settings
        try:
            wanted = asked.find()
        except RegistryUnavailable as error:
            is_stopping = self._is_stopping.is_set()
            # A database that is not there is a mistake, which nobody should wait for.
            if tries == 1 and (is_stopping or isinstance(error, RegistryAbsent)):
                raise UsageError(str(error)) from None
            if not is_stopping:
                self._pause_s = pause_after(tries)
                self._repository.await_registry(str(error), time.monotonic() + self._pause_s)
                _log.warning("registry_awaited", why=str(error), retry_s=round(self._pause_s, 3))
            return None
        except HeadraceError as error:
            raise UsageError(str(error)) from None
        if not wanted:
            registry = shown_uri(settings.server.tracking_uri)
            raise UsageError(
                f"the registry at {registry} holds no model version to serve: register one, or "
                "name a model's URI"
            )
        settings.check_names(item.name for item in wanted)
        return wanted

    def _begin(self, wanted: Sequence[Wanted]) -> "dict[ModelVersion, Future[None]]":
        """Have the start-up models loaded, but for those that an operator has loaded already."""
        announced = [(self._repository.announce(item), item.resolved.source) for item in wanted]
        self._repository.demand(item.name for item in wanted)
        return {
            model: self._repository.begin(model, source)
            for model, source in announced
            if model is not None
        }

    def _await(self, loads: "Mapping[ModelVersion, Future[None]]") -> None:
        """Have a thread wait for the *loads* of start-up models, and tell how they ended."""

        def wait_for_all() -> None:
            wait(loads.values())
            if any(load.exception() for load in loads.values()):
                return  # The daemon ends while models load.
            # What lives now lives long: the collector need not walk it again and again.
            gc.collect()
            gc.freeze()
            ready = [model.name for model in loads if model.is_ready]
            event = "ready" if ready else "not_ready"
            _log.info(event, models=ready, failed=sorted({m.name for m in loads} - set(ready)))

        threading.Thread(target=wait_for_all, name="startup", daemon=True).start()

    def _take_calls(self, wanted: Sequence[Wanted]) -> None:
        settings = self._settings.server
        self._control.run(self._grpcio.start())
        if self._native is not None:
            self._native.start()
        _log.info(
            "listening",
            version=VERSION,
            address=_address(settings.host, self._port),
            port=self._port,
            metrics_port=self._metrics_port,
            transport="grpcio" if self._native is None else "native",
            models=[item.name for item in wanted],
            pid=os.getpid(),
        )
        self._closers.append(self._leave)

    def _build(self) -> None:
        settings, closers = self._settings.server, self._closers
        security = Security(self._settings.tls, self._settings.auth)
        closers.append(security.close)
        is_native = listens_natively(settings, has_tls=security.credentials is not None)
        self._socket = socket_path(settings.host)
        security.warn(
            is_reachable=not (settings.trusted_network or is_loopback(settings.host)),
            has_wire=not self._socket,
        )
        spawner = Spawner(
            logs.child_environment(settings.log_format, settings.log_level)
            | ({} if settings.allow_pickle else _NO_PICKLE)
        )
        closers.append(spawner.close)
        completions = Completions()
        completions.start()
        closers.append(completions.close)
        self._librarian = librarian = Librarian(
            spawner,
            completions,
            tracking_uri=settings.tracking_uri,
            cache_dir=settings.cache_dir,
            rules=rules_of(settings),
        )
        closers.append(librarian.close)
        librarian.start()
        confinement = self._confinement()
        gpus = find_gpus()
        closers.append(gpus.close)
        pool = WorkerPool(
            spawner,
            completions,
            arena_bytes_max=settings.arena_bytes_max,
            cpu_workers_max=_cpu_workers(len(self._settings.served)),
            threads=settings.threads,
            confinement=confinement,
        )
        closers.append(pool.close)
        self._repository = Repository(
            librarian,
            pool,
            completions,
            settings_of=self._settings_of,
            device=_default_device(settings.device, gpus),
            bookings=Bookings(gpus, settings.memory_fraction),
            tried=Tried(os.path.join(settings.cache_dir, "tried")),
            drain_s=settings.drain_s,
            is_strict=settings.strict_readiness,
            writes_tags=settings.typed_tags,
        )
        metrics = Metrics(self._repository, pool, gpus)
        self._service = Service(
            self._repository,
            queue_bytes_max=settings.queue_bytes_max,
            on_failure=metrics.refuse,
        )
        self._metrics_port = _bound(
            "metrics",
            lambda: metrics.start(
                _LOOPBACK if self._socket else settings.host, settings.metrics_port
            ),
        )
        closers.append(metrics.close)
        self._control = ControlLoop()
        closers.append(self._control.close)
        keep_freed()
        closers.append(Trimmer(lambda: self._repository.queued_bytes).close)
        with ExitStack() as stack:
            if self._socket:
                file = SocketFile(self._socket, int(settings.socket_mode, 8))
                stack.enter_context(file.claimed())
                closers.append(file.remove)
            self._listen(security, is_native=is_native)
        security.start()

    def _confinement(self) -> Confinement | None:
        """Where workers are confined; says so once where this host cannot do it wholly.

        Raises:
            UsageError: That was required.
        """
        if not self._settings.is_confining:
            return None
        sandbox, server = self._settings.sandbox, self._settings.server
        if missing := lacks():
            if sandbox.required:
                raise UsageError(
                    f"workers cannot be confined, as required of [sandbox] says: this host lacks "
                    f"{', and '.join(missing)}"
                )
            _log.warning("sandbox_incomplete", lacks=missing)
        try:
            confinement = Confinement(
                server.cache_dir,
                read=sandbox.read,
                variables=sandbox.variables,
                runs_code=server.allow_pickle,
            )
        except OSError as error:
            raise UsageError(f"no place for what confined workers write: {error}") from error
        self._closers.append(confinement.close)
        return confinement

    def _listen(self, security: Security, *, is_native: bool) -> None:
        """Bind the listeners: the native one with grpcio behind it, or grpcio alone."""
        settings, closers, control = self._settings.server, self._closers, self._control
        service = self._service
        what = "socket" if self._socket else "port"
        typed = TypedDirectory(service, settings.message_bytes_max)
        # Before the transports' own watch, which shows what this one found.
        self._repository.watch(typed.refresh)

        async def make_grpcio() -> GrpcioTransport:
            return GrpcioTransport(
                service,
                message_bytes_max=settings.message_bytes_max,
                typed=typed,
                guard=security.guard,
                is_logging=settings.request_log,
            )

        self._grpcio = control.run(make_grpcio())
        closers.append(lambda: control.run(self._grpcio.close(_READ_S_MAX)))
        self._native: NativeTransport | None = None
        if is_native:
            # An abstract socket: no file that could stay behind after kill -9.
            name = f"headrace-{os.getpid()}-{secrets.token_hex(8)}"
            self._grpcio.bind(f"unix-abstract:{name}")
            self._native = _bound(
                what,
                lambda: NativeTransport(
                    service,
                    _address(settings.host, settings.port),
                    fallback=f"\0{name}",
                    message_bytes_max=settings.message_bytes_max,
                    typed=typed,
                    guard=security.guard,
                    is_logging=settings.request_log,
                ),
            )
            native = self._native
            closers.append(lambda: native.close(_READ_S_MAX))
            closers.append(lambda: control.run(self._grpcio.end_watches()))
            port = self._native.port
        else:
            address = _address(settings.host, settings.port)
            port = _bound(what, lambda: self._grpcio.bind(address, security.credentials))
        self._port = 0 if self._socket else port
        self._repository.watch(lambda: control.post(self._grpcio.show_readiness()))
        closers.append(lambda: self._repository.close(settings.drain_s))

    def _settings_of(self, name: str, tags: Mapping[str, str]) -> ModelSettings:
        if ignored := self._settings.ignored_tags(name, tags):
            _log.warning("tags_ignored", model=name, tags=ignored)
        return self._settings.for_model(name, tags)

    def _leave(self) -> None:
        """Call ourselves not ready; once callers have had time to notice, refuse new requests."""
        self._service.is_leaving = True
        self._control.run(self._grpcio.show_readiness())
        time.sleep(self._settings.server.drain_delay_s)
        self._service.is_refusing = True


def _bound(what: str, bind: Callable[[], Result]) -> Result:
    try:
        return bind()
    except (OSError, RuntimeError) as error:
        raise UsageError(f"cannot listen on the {what}: {error}") from error


def _address(host: str, port: int) -> str:
    if socket_path(host):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cpu_workers(models: int) -> int:
    """Workers on the CPU: one per core, but no more than there are models to share the cores."""
    cores = len(os.sched_getaffinity(0))
    return min(cores, models) if models else cores


def _default_device(asked: str, gpus: Gpus) -> str:
    """The device for models that name none; "auto" stays so only where there may be a GPU."""
    if asked == "auto" and not gpus.all:
        # Without NVML the driver's own files still tell.
        may_be_here = not gpus.is_known and os.path.isdir(_NVIDIA) and os.listdir(_NVIDIA)
        return "auto" if may_be_here else "cpu"
    return asked

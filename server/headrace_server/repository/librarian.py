"""Librarian: the daemon's end of the process that talks to MLflow's registry.

Questions are answered by futures. When the process dies its open questions fail as unreachable and
a new process is started for the next one; what is loaded keeps serving.
"""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import structlog

from headrace.signature import Signature

from ..completions import Completions
from ..errors import HeadraceError, InvalidRequest, LoadFailed, ModelNotFound, RegistryUnavailable
from ..frames import Frame, Kind
from ..instances.process import Process, Spawner

_MODULE = "headrace_server.librarian"

_ERRORS: dict[str, type[HeadraceError]] = {
    "not_found": ModelNotFound,
    "invalid": InvalidRequest,
    "unreachable": RegistryUnavailable,
    "failed": LoadFailed,
}

_log = structlog.get_logger("headrace")

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a URI stands for now.

    Attributes:
        name: The name to serve it by, unless the operator gives another.
        version: Decimal number as text.
        source: A URI that no longer moves.
        followed: The alias, or "latest", that chose the version; else empty.
    """

    name: str
    version: str
    source: str
    followed: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model in our cache.

    Attributes:
        path: Its directory.
        digest: SHA-256 over its files.
        flavor: MLflow's flavor key.
        config: That flavor's entry in MLmodel.
        pyfunc: The python_function entry; empty where there is none.
        signature: None where it has none.
        example: Path of its input example as named tensors, or None.
    """

    path: str
    digest: str
    flavor: str
    config: dict[str, Any]
    pyfunc: dict[str, Any]
    signature: Signature | None
    example: str | None


class Librarian:
    """Questions to the librarian process. Safe from any thread but the completions thread."""

    def __init__(
        self, spawner: Spawner, completions: Completions, *, tracking_uri: str, cache_dir: str
    ) -> None:
        self._spawner = spawner
        self._completions = completions
        self._arguments = ("--tracking-uri", tracking_uri, "--cache-dir", cache_dir)
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._open: dict[int, tuple[Future[Any], Progress | None]] = {}
        self._process: Process | None = None
        self._is_closing = False

    def start(self) -> None:
        """Start the process ahead of the first question."""
        self._running()

    def resolve(self, uri: str) -> Resolved:
        """What *uri* stands for.

        Raises:
            ModelNotFound, InvalidRequest, RegistryUnavailable: It stands for nothing, or cannot be
                looked up.
        """
        return Resolved(**self._ask("resolve", uri=uri))

    def list_models(self) -> list[str]:
        """The URIs of every registered model, by champion or latest version."""
        uris: list[str] = self._ask("list")["uris"]
        return uris

    def fetch(self, source: str, progress: Progress | None = None) -> Fetched:
        """Bring a pinned *source* into the cache.

        Raises:
            LoadFailed, RegistryUnavailable: It cannot be fetched or read.
        """
        answer = self._ask("fetch", progress, source=source)
        signature = answer["signature"]
        return Fetched(
            path=answer["path"],
            digest=answer["digest"],
            flavor=answer["flavor"],
            config=answer["config"],
            pyfunc=answer["pyfunc"],
            signature=None if signature is None else Signature.from_json(signature),
            example=answer["example"],
        )

    def close(self) -> None:
        """End the process; open questions fail."""
        with self._lock:
            self._is_closing = True
            process = self._process
        if process is not None:
            process.stop()

    def _ask(self, operation: str, progress: Progress | None = None, **arguments: object) -> Any:
        process = self._running()
        number = next(self._ids)
        future: Future[Any] = Future()
        with self._lock:
            self._open[number] = (future, progress)
        try:
            process.send_json(Kind.ASK, {"id": number, "op": operation, **arguments})
        except OSError as error:
            raise RegistryUnavailable("the librarian process ended: retry") from error
        return future.result()

    def _running(self) -> Process:
        with self._lock:
            if self._is_closing:
                raise RegistryUnavailable("the server is ending")
            if self._process is None:
                process = self._process = Process(
                    self._spawner,
                    self._completions,
                    _MODULE,
                    self._arguments,
                    on_frame=self._on_frame,
                    on_end=lambda: self._on_end(process),
                )
                process.start_watching()
            return self._process

    # On the completions thread.

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind not in (Kind.ANSWER, Kind.PROGRESS):
            return
        report = frame.json()
        if frame.kind == Kind.PROGRESS:
            _, progress = self._open.get(report["id"], (None, None))
            if progress is not None:
                progress(report)
            return
        with self._lock:
            future, _ = self._open.pop(report["id"])
        if "ok" in report:
            future.set_result(report["ok"])
        else:
            error = report["error"]
            future.set_exception(_ERRORS[error["kind"]](error["message"]))

    def _on_end(self, process: Process) -> None:
        with self._lock:
            if self._process is process:
                self._process = None
            questions, self._open = self._open, {}
        if not self._is_closing:
            _log.error("librarian_ended", pid=process.pid, open_questions=len(questions))
        for future, _ in questions.values():
            future.set_exception(RegistryUnavailable("the librarian process ended: retry"))

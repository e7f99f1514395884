"""Librarian: the daemon's end of the process that talks to MLflow's registry.

Questions are answered by futures. When the process dies its open questions are asked once more, of
a new process, and then fail as unreachable; what is loaded keeps serving.
"""

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import structlog

from headrace.signature import Signature
from headrace.typed import FieldNumbers
from headrace.typed.numbers import TEXT_CHARS_MAX

from ..completions import Completions
from ..errors import (
    HeadraceError,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    RegistryAbsent,
    RegistryDenied,
    RegistryUnavailable,
)
from ..frames import Frame, Kind
from ..instances.process import Process, Spawner, python_of_ours
from ..settings import ServerSettings

_COMMAND = python_of_ours("headrace_server.librarian")
_ENDED = "the librarian process ended before it had answered: retry"

_ERRORS: dict[str, type[HeadraceError]] = {
    "not_found": ModelNotFound,
    "invalid": InvalidRequest,
    "unreachable": RegistryUnavailable,
    "absent": RegistryAbsent,
    "denied": RegistryDenied,
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
        tags: Those of the registered version that begin with "headrace.".
        registered: The registered model that it is a version of; empty for none.
    """

    name: str
    version: str
    source: str
    followed: str
    tags: dict[str, str] = field(default_factory=dict)
    registered: str = ""


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
        mismatches: Its requirements that our environment does not meet.
        is_data: Whether it is loaded without executing any code of its own.
    """

    path: str
    digest: str
    flavor: str
    config: dict[str, Any]
    pyfunc: dict[str, Any]
    signature: Signature | None
    example: str | None
    mismatches: Sequence[str] = ()
    is_data: bool = False


@dataclass(frozen=True, slots=True)
class _Question:
    """A question that waits for its answer, and the process that was asked."""

    process: Process
    future: Future[Any]
    progress: Progress | None


class _LibrarianEnded(RegistryUnavailable):
    """The process ended before it had answered."""


def rules_of(settings: ServerSettings) -> str:
    """What *settings* allow to be loaded, as the librarian process reads it."""
    rules = {
        "pickle": settings.allow_pickle,
        "flavors": settings.allow_flavors,
        "sources": settings.allow_sources,
    }
    return json.dumps(rules)


class Librarian:
    """Questions to the librarian process. Safe from any thread but the completions thread."""

    def __init__(
        self,
        spawner: Spawner,
        completions: Completions,
        *,
        tracking_uri: str,
        cache_dir: str,
        rules: str = "",
    ) -> None:
        """Have the process started by the first question.

        Args:
            spawner: Starts it.
            completions: Brings its answers.
            tracking_uri: Where the registry is.
            cache_dir: Where fetched models are kept.
            rules: Those of what may be loaded, as `rules_of` writes them; empty for none.
        """
        self._spawner = spawner
        self._completions = completions
        self._arguments: tuple[str, ...] = (
            "--tracking-uri",
            tracking_uri,
            "--cache-dir",
            cache_dir,
        )
        if rules:
            self._arguments += ("--rules", rules)
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._open: dict[int, _Question] = {}
        self._process: Process | None = None
        self._is_closing = False

    def start(self) -> None:
        """Start the process ahead of the first question."""
        self._running()

    def resolve(self, uri: str) -> Resolved:
        """What *uri* stands for.

        Raises:
            ModelNotFound, InvalidRequest: It stands for nothing.
            RegistryUnavailable, RegistryDenied: It cannot be looked up.
        """
        return Resolved(**self._ask("resolve", uri=uri))

    def list_models(self) -> list[str]:
        """The URIs of every registered model, by champion or latest version."""
        uris: list[str] = self._ask("list")["uris"]
        return uris

    def fetch(self, source: str, progress: Progress | None = None) -> Fetched:
        """Bring a pinned *source* into the cache.

        Raises:
            LoadFailed, RegistryUnavailable, RegistryDenied: It cannot be fetched or read.
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
            mismatches=answer["mismatches"],
            is_data=answer["is_data"],
        )

    def signature(self, source: str) -> Signature | None:
        """The signature of a pinned *source*, without bringing it into the cache.

        Raises:
            ModelNotFound, LoadFailed, RegistryUnavailable: It cannot be read.
        """
        signature = self._ask("signature", source=source)["signature"]
        return None if signature is None else Signature.from_json(signature)

    def number_fields(
        self, name: str, wanted: FieldNumbers, *, writes: bool
    ) -> tuple[FieldNumbers, str]:
        """The field numbers of the registered model *name*, those of *wanted* among them.

        Returns:
            All that were ever given, and why the new ones could not be written back; empty where
            they were, or need not be.

        Raises:
            LoadFailed, ModelNotFound, RegistryUnavailable: They cannot be read.
        """
        text = wanted.to_text()
        if len(text) > TEXT_CHARS_MAX:
            raise LoadFailed(
                f"the fields of model {name!r} are too many to be kept: they take {len(text)} of "
                f"{TEXT_CHARS_MAX} characters"
            )
        answer = self._ask("number_fields", name=name, wanted=text, writes=writes)
        return FieldNumbers.from_text(answer["numbers"]), answer["trouble"]

    def environment(
        self, path: str, progress: Progress | None = None, *, installer: str, s_max: float
    ) -> str:
        """The Python of an environment made from the requirements of the model at *path*.

        Args:
            path: A fetched model's directory.
            progress: Told each line that the installer prints.
            installer: What makes it: "uv", "pip" or "auto".
            s_max: How long that may take (seconds).

        Raises:
            LoadFailed: It cannot be made.
        """
        asked = {"path": path, "installer": installer, "s_max": s_max}
        python: str = self._ask("environment", progress, **asked)["python"]
        return python

    def close(self) -> None:
        """End the process; open questions fail."""
        with self._lock:
            self._is_closing = True
            process = self._process
        if process is not None:
            process.stop()

    def _ask(self, operation: str, progress: Progress | None = None, **arguments: object) -> Any:
        try:
            return self._ask_once(operation, progress, **arguments)
        except _LibrarianEnded:
            # Questions change nothing: whoever ended the process, another may answer.
            return self._ask_once(operation, progress, **arguments)

    def _ask_once(self, operation: str, progress: Progress | None, **arguments: object) -> Any:
        process = self._running()
        number = next(self._ids)
        future: Future[Any] = Future()
        with self._lock:
            self._open[number] = _Question(process, future, progress)
        try:
            process.send_json(Kind.ASK, {"id": number, "op": operation, **arguments})
        except OSError:
            # Its end has been told, or is about to be.
            with self._lock:
                self._open.pop(number, None)
            self._forget(process)
            raise _LibrarianEnded(_ENDED) from None
        return future.result()

    def _running(self) -> Process:
        with self._lock:
            if self._is_closing:
                raise RegistryUnavailable("the server is ending")
            if self._process is None:
                process = self._process = Process(
                    self._spawner,
                    self._completions,
                    _COMMAND,
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
            asked = self._open.get(report["id"])
            if asked is not None and asked.progress is not None:
                asked.progress(report)
            return
        with self._lock:
            question = self._open.pop(report["id"])
        if "ok" in report:
            question.future.set_result(report["ok"])
        else:
            error = report["error"]
            question.future.set_exception(_ERRORS[error["kind"]](error["message"]))

    def _forget(self, process: Process) -> None:
        with self._lock:
            if self._process is process:
                self._process = None

    def _on_end(self, process: Process) -> None:
        self._forget(process)
        with self._lock:
            numbers = [n for n, asked in self._open.items() if asked.process is process]
            questions = [self._open.pop(number) for number in numbers]
        if not self._is_closing:
            _log.error("librarian_ended", pid=process.pid, open_questions=len(questions))
        for question in questions:
            question.future.set_exception(_LibrarianEnded(_ENDED))

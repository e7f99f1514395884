"""Librarian process: answers the daemon's questions about models, several at once.

`python -m headrace_server.librarian --fd N --parent PID --tracking-uri URI --cache-dir DIR`. It
says HELLO before it imports mlflow, which takes seconds. It ends when its socket does, even while a
registry hangs, and when its parent dies.
"""

import argparse
import gc
import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.typed import FieldNumbers

from ..childlog import log, log_uncaught
from ..errors import (
    HeadraceError,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    RegistryAbsent,
    RegistryDenied,
    RegistryUnavailable,
)
from ..frames import FrameSocket, Kind
from ..lifeline import tie_to_parent

if TYPE_CHECKING:
    from .registry import Registry

# Downloads wait for the network; a question that hangs must leave room for others.
_CALLS_AT_ONCE = 8
# Requests come first: loading a model must not slow down those that serve.
_NICENESS = 10
_LINE_CHARS_MAX = 200

_KINDS: dict[type[HeadraceError], str] = {
    ModelNotFound: "not_found",
    InvalidRequest: "invalid",
    RegistryUnavailable: "unreachable",
    RegistryAbsent: "absent",
    RegistryDenied: "denied",
    LoadFailed: "failed",
}


def main() -> None:
    """Answer until the socket ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--tracking-uri", required=True)
    parser.add_argument("--cache-dir", required=True)
    parser.add_argument("--rules", default="")
    arguments = parser.parse_args()
    log_uncaught()
    tie_to_parent(arguments.parent)
    os.nice(_NICENESS)
    # Ctrl-C is for the daemon, which then ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # mlflow, and alembic in older versions of it, tell of every step.
    logging.disable(logging.INFO)
    frames = FrameSocket.inherited(arguments.fd)
    serve(frames, arguments.tracking_uri, arguments.cache_dir, arguments.rules)
    # Threads may hang in a call to the registry: no one waits for them.
    os._exit(0)


def serve(frames: FrameSocket, tracking_uri: str, cache_dir: str, rules: str) -> None:
    """Have questions answered until the daemon's end of the socket closes.

    *rules* are those of what may be loaded, in JSON; empty for none.
    """
    _send(frames, Kind.HELLO, {"pid": os.getpid()})
    pool = ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="librarian")
    registry = pool.submit(_open, tracking_uri, cache_dir, rules)
    while (frame := frames.recv()) is not None:
        if frame.kind == Kind.ASK:
            pool.submit(_answer, frames, registry, frame.json())


def _open(tracking_uri: str, cache_dir: str, rules: str) -> "Registry":
    # These import mlflow, after HELLO. What an import makes stays: to look meanwhile for what could
    # go would cost a tenth of its two seconds.
    gc.disable()
    try:
        from .registry import Registry  # noqa: PLC0415
        from .safety import Rules  # noqa: PLC0415
    finally:
        gc.freeze()
        gc.enable()

    return Registry(tracking_uri, cache_dir, Rules.from_json(rules) if rules else None)


def _answer(frames: FrameSocket, registry: "Future[Registry]", question: dict[str, Any]) -> None:
    number = question["id"]

    def progress(done: int, total: int | None) -> None:
        report = {"id": number, "done": done, "total": total, "what": "download"}
        _send(frames, Kind.PROGRESS, report)

    def say(line: str) -> None:
        report = {"id": number, "what": "environment", "line": line[:_LINE_CHARS_MAX]}
        _send(frames, Kind.PROGRESS, report)

    try:
        answer = {"ok": _result(registry.result(), question, progress, say)}
    except Exception as error:  # noqa: BLE001 - every question gets its answer.
        answer = {"error": _error(error, question["op"])}
    _send(frames, Kind.ANSWER, {"id": number, **answer})


def _send(frames: FrameSocket, kind: Kind, body: dict[str, Any]) -> None:
    # Where the daemon is gone, the main thread is about to end us.
    with suppress(OSError):
        frames.send_json(kind, body)


def _result(
    registry: "Registry",
    question: dict[str, Any],
    progress: Callable[[int, int | None], None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    match question["op"]:
        case "resolve":
            return asdict(registry.resolve(question["uri"], question.get("name")))
        case "list":
            return {"uris": registry.list_models()}
        case "fetch":
            return registry.fetch(question["source"], progress).to_json()
        case "signature":
            signature = registry.signature(question["source"])
            return {"signature": None if signature is None else signature.to_json()}
        case "number_fields":
            numbered = registry.number_fields(
                question["name"],
                FieldNumbers.from_text(question["wanted"]),
                writes=question["writes"],
            )
            return {"numbers": numbered.numbers.to_text(), "trouble": numbered.trouble}
        case "environment":
            return asdict(
                registry.environment(
                    Path(question["path"]),
                    say,
                    installer=question["installer"],
                    s_max=question["s_max"],
                )
            )
        case other:
            raise InvalidRequest(f"the librarian knows no operation {other!r}")


def _error(error: Exception, operation: str) -> dict[str, str]:
    if not isinstance(error, HeadraceError):
        log("error", "librarian_failed", error, op=operation)
        first_line = str(error).partition("\n")[0]
        error = LoadFailed(f"the librarian failed: {type(error).__name__}: {first_line}")
    elif isinstance(error, LoadFailed) and error.__cause__ is not None:
        log("error", "librarian_failed", error, op=operation)
    return {"kind": _KINDS[type(error)], "message": error.message}


if __name__ == "__main__":
    main()

"""Childlog: lines of a child process's log, in the form of the daemon's own.

The daemon tells its children the form by one environment variable; see `logs.child_environment`.
Standard library only: this file also runs inside a model's own, older environment.
"""

import json
import os
import re
import sys
import threading
import traceback
from datetime import datetime, timezone
from types import TracebackType

# "console" or "json", the lowest level that is written, and "color" where a terminal shows it.
VARIABLE = "_HEADRACE_LOG"

_LEVELS = ("debug", "info", "warning", "error", "critical")
_QUOTED = set(" \t=\"'")
# The user name and password of a registry, in the URLs that HTTP libraries quote.
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*@")
_DIM, _BRIGHT, _RED, _YELLOW, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[0m"
_COLORS = {"warning": _YELLOW, "error": _RED, "critical": _RED}


def log(level: str, event: str, error: BaseException | None = None, **fields: object) -> None:
    """Write one line, with the whole exception where there is one.

    Standard error may be gone: a log that cannot be written stops nothing.
    """
    form, _, rest = os.environ.get(VARIABLE, "json,info").partition(",")
    lowest, _, color = rest.partition(",")
    if _LEVELS.index(level) < _LEVELS.index(lowest if lowest in _LEVELS else "info"):
        return
    clock = datetime.now(timezone.utc)  # noqa: UP017 - the name of older Pythons.
    now = clock.isoformat(timespec="microseconds").replace("+00:00", "Z")
    exception = "" if error is None else _whole(error)
    if form == "console":
        line = _for_a_person(now, level, event, fields, is_colored=bool(color))
        line += exception and f"\n{exception}"
    else:
        # Keys in the order of the daemon's own lines.
        told = {**fields, "event": event, "level": level, "timestamp": now}
        line = json.dumps({**told, "exception": exception} if exception else told, default=str)
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def log_uncaught() -> None:
    """From now on an exception that nothing catches is a line of the log too."""

    def on_uncaught(
        _kind: type[BaseException], error: BaseException, _trace: TracebackType | None
    ) -> None:
        log("critical", "uncaught", error)

    def on_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and args.exc_type is not SystemExit:
            name = args.thread.name if args.thread is not None else ""
            log("critical", "uncaught", args.exc_value, thread=name)

    sys.excepthook = on_uncaught
    threading.excepthook = on_uncaught_in_thread


def _for_a_person(
    now: str, level: str, event: str, fields: dict[str, object], *, is_colored: bool
) -> str:
    """The columns of structlog's console: time, level, event, then fields by their names."""
    told = " ".join(f"{name}={_shown(value)}" for name, value in sorted(fields.items()))
    if is_colored:
        now, event = f"{_DIM}{now}{_RESET}", f"{_BRIGHT}{event:<30}{_RESET}"
        level = f"{_COLORS.get(level, '')}{level:<9}{_RESET}"
    return f"{now} [{level:<9}] {event:<30} {told}".rstrip()


def _shown(value: object) -> str:
    """A value on one line: text as it is where it is one plain word, else as Python writes it."""
    is_plain = isinstance(value, str) and value.isprintable() and not _QUOTED & set(value)
    return str(value) if is_plain else repr(value)


def _whole(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        return _CREDENTIALS.sub("***@", "".join(lines).rstrip("\n"))
    except Exception:  # noqa: BLE001 - an exception may fail at being shown.
        return type(error).__name__

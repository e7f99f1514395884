"""Logs: one structured line per start, load, swap and failure, on standard error.

JSON where a program reads, plain or coloured text where a person does. The daemon's children write
the same form; see `childlog`.
"""

import os
import sys
from contextlib import suppress
from typing import TextIO, cast

import structlog

from . import childlog


def configure(log_format: str = "auto", level: str = "info") -> None:
    """Set up structlog for the daemon.

    Args:
        log_format: "console", "json", or "auto" for console on a terminal and JSON elsewhere.
        level: The lowest level that is written: "debug", "info", "warning" or "error".
    """
    is_console = _is_console(log_format)
    ending: list[structlog.typing.Processor] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=_is_colored(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if is_console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *ending,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Unfailing(sys.stderr))),
        cache_logger_on_first_use=True,
    )


def child_environment(log_format: str = "auto", level: str = "info") -> dict[str, str]:
    """What children must find in their environment to write lines of the same form."""
    if not _is_console(log_format):
        return {childlog.VARIABLE: f"json,{level}"}
    color = ",color" if _is_colored() else ""
    return {childlog.VARIABLE: f"console,{level}{color}"}


class _Unfailing:
    """A stream whose reader may be gone: a log that cannot be written stops nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write if it can be written."""
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush if it can be flushed."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def _is_console(log_format: str) -> bool:
    return log_format == "console" or (log_format == "auto" and sys.stderr.isatty())


def _is_colored() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")

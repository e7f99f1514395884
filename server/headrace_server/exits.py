"""Exits: how a command ends. A person's mistake is one sentence on standard error, no traceback."""

import os
import sys
import traceback
from collections.abc import Callable

import typer

from .errors import UsageError

# What a shell reports of a process that SIGINT or SIGPIPE has ended.
INTERRUPTED = 130
PIPE_CLOSED = 141
# The system did not let us: a full disk, a directory that must not be written.
SYSTEM = 1
USAGE = 2
# sysexits.h calls it EX_SOFTWARE.
BUG = 70

# Set to anything but 0, it shows the traceback of what nobody expected.
DEBUG_VARIABLE = "HEADRACE_DEBUG"


def run(command: Callable[[], object]) -> int:
    """Run *command* and tell what went wrong; the exit status.

    *command* is a typer app in any mode but its standalone one: what it returns is its status.
    """
    try:
        status = command()
        sys.stdout.flush()
    except UsageError as error:
        return _told(str(error), USAGE)
    except typer.TyperException as error:
        return _told(_sentence(error), USAGE)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return _on_closed_pipe()
    except SystemExit as end:
        # typer and rich end the process themselves where nobody reads what they print.
        if isinstance(end.__context__, BrokenPipeError):
            return _on_closed_pipe()
        raise
    except OSError as error:
        _show_traceback_if_asked()
        where = f": {error.filename}" if error.filename else ""
        return _told(f"{error.strerror or error}{where}", SYSTEM)
    except Exception as error:  # noqa: BLE001 - whatever it is, a person gets a sentence.
        _show_traceback_if_asked()
        return _told(
            f"{_named(error)}; this is a bug in headrace, and {DEBUG_VARIABLE}=1 shows where", BUG
        )
    return status if isinstance(status, int) else 0


def _told(sentence: str, status: int) -> int:
    print(f"headrace: {sentence}", file=sys.stderr)  # noqa: T201 - for the person who typed it.
    return status


def _sentence(error: typer.TyperException) -> str:
    """What typer found wrong with the command line, and where it is told how it should be."""
    text = " ".join(error.format_message().split()).replace("Value error, ", "")
    text = text.replace(". Did you mean", ": did you mean").rstrip(".?")
    text = text[:1].lower() + text[1:]
    context = getattr(error, "ctx", None)
    return text if context is None else f"{text}; see {context.command_path} --help"


def _named(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _show_traceback_if_asked() -> None:
    if os.environ.get(DEBUG_VARIABLE, "0") not in {"", "0"}:
        traceback.print_exc()


def _on_closed_pipe() -> int:
    """Have nothing more written: the interpreter flushes its streams once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return PIPE_CLOSED

"""The form of the daemon's log: text for a person at a terminal, JSON for a program."""

import contextlib
import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import structlog
from headrace_server import logs

logs.configure(sys.argv[1], sys.argv[2])
log = structlog.get_logger()
log.debug("quiet")
log.info("listening", port=1)
print(logs.child_environment(sys.argv[1], sys.argv[2]))
"""


def at_terminal(log_format: str, **environment: str) -> tuple[str, str]:
    """What a process writes whose standard error is a terminal, and what it tells its children."""
    ours, theirs = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, log_format, "info"],
        stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=60, check=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    os.close(theirs)
    written = b""
    # The end of a terminal whose other side is closed is an error.
    with contextlib.suppress(OSError):
        while piece := os.read(ours, 4096):
            written += piece
    os.close(ours)
    return written.decode(), done.stdout


def elsewhere(log_format: str, level: str = "info") -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, log_format, level],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stderr, done.stdout


def test_auto_is_coloured_text_at_a_terminal() -> None:
    written, children = at_terminal("auto", NO_COLOR="")

    assert "listening" in written
    assert "\x1b[" in written
    assert "console,info,color" in children


def test_no_color_is_heeded() -> None:
    written, children = at_terminal("auto", NO_COLOR="1")

    assert "[info     ] listening" in written
    assert "\x1b[" not in written
    assert "color" not in children


def test_json_is_json_at_a_terminal_too() -> None:
    written, children = at_terminal("json")

    assert json.loads(written)["event"] == "listening"
    assert "json,info" in children


def test_auto_is_json_elsewhere() -> None:
    written, children = elsewhere("auto")

    assert json.loads(written)["port"] == 1
    assert "json,info" in children


def test_console_is_plain_text_elsewhere() -> None:
    written, children = elsewhere("console")

    assert "[info     ] listening" in written
    assert "\x1b[" not in written
    assert "console,info" in children


def test_the_level_is_the_least_that_is_written() -> None:
    assert elsewhere("json", "warning")[0] == ""
    assert [json.loads(line)["event"] for line in elsewhere("json", "debug")[0].splitlines()] == [
        "quiet",
        "listening",
    ]

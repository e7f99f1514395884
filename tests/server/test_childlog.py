"""Lines of a child process have the form of the daemon's own; seen in real processes."""

import json
import os
import subprocess
import sys

import pytest

from headrace_server import childlog, logs

# The same event from both sides of the process line.
BOTH = """
import sys
import structlog
from headrace_server import logs
from headrace_server.childlog import log

logs.configure(sys.argv[1], "info")
theirs = structlog.get_logger()
try:
    raise ValueError("bad\\nthing")
except ValueError as error:
    theirs.error("model_raised", model="a b", count=2, error_id="x1", exc_info=True)
    log("error", "model_raised", error, model="a b", count=2, error_id="x1")
theirs.info("ready", names=["a"], empty="", plain="word")
log("info", "ready", names=["a"], empty="", plain="word")
"""


def ran(script: str, *arguments: str, **environment: str) -> str:
    """What a process writes to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    return done.stderr


@pytest.mark.slow
def test_json_lines_have_the_keys_of_the_daemons_own_in_their_order() -> None:
    lines = ran(BOTH, "json", **logs.child_environment("json")).splitlines()

    daemon_error, child_error, daemon_info, child_info = map(json.loads, lines)
    assert list(daemon_error) == list(child_error)
    assert list(daemon_info) == list(child_info)
    assert child_error["level"] == "error"
    assert child_error["exception"].endswith("ValueError: bad\nthing")
    for line in (daemon_error, child_error, daemon_info, child_info):
        assert len(line.pop("timestamp")) == len("2026-01-01T00:00:00.000000Z")
        line.pop("exception", None)
    assert daemon_error == child_error
    assert daemon_info == child_info


@pytest.mark.slow
def test_console_lines_look_like_the_daemons_own() -> None:
    lines = ran(BOTH, "console", **logs.child_environment("console")).splitlines()

    starts = [at for at, line in enumerate(lines) if "[" in line[:30]]
    daemon, child = lines[starts[0] : starts[1]], lines[starts[1] : starts[2]]
    assert daemon[0][27:].split() == child[0][27:].split()
    assert "model='a b'" in child[0]
    assert daemon[-2:] == child[-2:] == ["ValueError: bad", "thing"]
    assert lines[starts[2]][27:] == lines[starts[3]][27:].rstrip()


@pytest.mark.slow
def test_levels_below_the_daemons_are_not_written() -> None:
    script = "from headrace_server.childlog import log\nlog('info', 'a')\nlog('warning', 'b')"

    (line,) = ran(script, **logs.child_environment("json", "warning")).splitlines()

    assert json.loads(line)["event"] == "b"


@pytest.mark.slow
@pytest.mark.parametrize("told", ["", "console", "nonsense,nonsense,nonsense"])
def test_a_variable_that_makes_no_sense_stops_nothing(told: str) -> None:
    script = "from headrace_server.childlog import log\nlog('info', 'a', x=1)"

    assert "a" in ran(script, **{childlog.VARIABLE: told})


@pytest.mark.slow
def test_a_log_that_nobody_reads_stops_nothing() -> None:
    script = (
        "import sys\n"
        "from headrace_server import logs\n"
        "from headrace_server.childlog import log\n"
        "import structlog\n"
        "logs.configure('json')\n"
        "log('info', 'a'); structlog.get_logger().info('b')\n"
        "print('went on')\n"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE, stderr=write, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(write)

    assert done.stdout == "went on\n"


@pytest.mark.slow
def test_what_nothing_catches_is_a_line_of_the_log() -> None:
    script = (
        "import threading\n"
        "from headrace_server.childlog import log_uncaught\n"
        "log_uncaught()\n"
        "thread = threading.Thread(target=lambda: 1 / 0, name='t1')\n"
        "thread.start(); thread.join()\n"
    )

    (line,) = ran(script).splitlines()

    told = json.loads(line)
    assert (told["event"], told["thread"]) == ("uncaught", "t1")
    assert "ZeroDivisionError" in told["exception"]


@pytest.mark.slow
def test_an_exception_that_cannot_be_shown_is_told_by_its_type() -> None:
    script = (
        "from headrace_server.childlog import log\n"
        "class Mute(Exception):\n"
        "    def __str__(self): raise RuntimeError\n"
        "log('error', 'a', Mute())\n"
    )

    assert "Mute" in json.loads(ran(script))["exception"]

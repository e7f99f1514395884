"""How the real command ends: one sentence or none, the right status, and never a traceback."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import oip_double
from oip_double import Double

pytestmark = pytest.mark.slow

# Whoever runs the tests in the background has them ignore Ctrl-C, which children inherit.
COMMAND = ["env", "--default-signal=INT", sys.executable, "-m", "headrace_server.cli"]


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    with oip_double.serving({"iris": oip_double.iris()}) as double:
        yield double


def headrace(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def rows(path: Path, count: int) -> Path:
    head = ",".join(oip_double.IRIS_COLUMNS)
    path.write_text("\n".join([head, *["5.1,3.5,1.4,0.2"] * count]) + "\n")
    return path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serve", "--prt", "1"], "no such option: --prt"),
        (["srve"], "no such command 'srve': did you mean 'serve'"),
        (["predict"], "missing argument 'model'"),
        (["predict", "iris"], "missing option '--input'"),
        (["predict", "iris", "two", "--input", "x"], "unexpected extra argument"),
        (["predict", "iris", "--input", "x.csv", "--output", "xml"], "'xml' is not one of"),
        (["predict", "iris", "--input"], "option '--input' requires an argument"),
        (["predict", "iris", "--input", "nowhere.csv"], "cannot read nowhere.csv"),
        (["predict", "iris", "--input", "rows.txt"], "say with --format which of csv"),
        (["serve", "--config", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(arguments: list[str], sentence: str) -> None:
    ran = headrace(*arguments)

    assert (ran.returncode, ran.stdout) == (2, "")
    (told,) = ran.stderr.splitlines()
    assert told.startswith("headrace: ")
    assert sentence in told.lower()


def test_no_command_at_all_is_told_what_there_is() -> None:
    ran = headrace()

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("Usage: headrace")


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    ran = headrace(
        "predict", "iris", "--input", str(rows(tmp_path / "rows.csv", 1)), "--server", "127.0.0.1:1"
    )

    assert ran.returncode == 2
    (told,) = ran.stderr.splitlines()
    assert told.startswith("headrace: iris at 127.0.0.1:1: UNAVAILABLE")


def test_ctrl_c_ends_a_command_without_a_word(double: Double, tmp_path: Path) -> None:
    fifo = tmp_path / "rows.csv"
    os.mkfifo(fifo)
    # Opening it for writing waits until the command reads it; then it waits for the first row.
    with subprocess.Popen(
        [*COMMAND, "predict", "iris", "--input", str(fifo), "--server", double.target],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running, open(fifo, "wb"):  # fmt: skip
        running.send_signal(signal.SIGINT)
        out, told = running.communicate(timeout=60)

    assert (running.returncode, out, told) == (130, "", "")


def test_a_reader_that_leaves_ends_a_command_without_a_word(double: Double, tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.csv", 30_000)
    with subprocess.Popen(
        [*COMMAND, "predict", "iris", "--input", str(path), "--server", double.target,
         "--output", "csv"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == "longest,total\n"
        running.stdout.close()
        told = running.stderr.read()

    assert (running.returncode, told) == (141, "")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["doctor", "--help"]])
def test_a_pipe_that_nobody_reads_is_no_traceback(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(
        [*COMMAND, *arguments],
        stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(write)

    assert (ran.returncode, ran.stderr) == (141, "")


def test_what_the_system_refuses_is_one_sentence() -> None:
    ran = headrace("demo", "--directory", "/proc/nowhere")

    assert ran.returncode == 1
    assert ran.stderr == "headrace: No such file or directory: /proc/nowhere\n"


BUG = """
import sys
from headrace_server import exits

def command():
    raise ZeroDivisionError("never\\nthis")

sys.exit(exits.run(command))
"""


def test_a_bug_is_one_sentence_and_its_traceback_is_there_for_who_asks() -> None:
    def run(**environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", BUG],
            capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, **environment},
        )  # fmt: skip

    ran, shown = run(), run(HEADRACE_DEBUG="1")

    assert ran.returncode == shown.returncode == 70
    (told,) = ran.stderr.splitlines()
    assert told == (
        "headrace: ZeroDivisionError: never; this is a bug in headrace, and HEADRACE_DEBUG=1 "
        "shows where"
    )
    assert "Traceback" in shown.stderr
    assert shown.stderr.splitlines()[-1] == told

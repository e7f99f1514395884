"""Shell completion: what a real bash offers, and what the other shells are told."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import oip_double
from oip_double import Double

pytestmark = pytest.mark.slow

# Completes the line that its arguments make, as bash does when Tab is pressed.
BASH = """
source <(headrace --show-completion bash)
complete -p headrace >&2
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_headrace_completion headrace
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A search path on which this checkout's command is called headrace."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "headrace").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m headrace_server.cli "$@"\n'
    )
    (folder / "headrace").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    models = {"iris": oip_double.iris(), "doubler": oip_double.doubler()}
    with oip_double.serving(models) as double:
        yield double


def offered(path: str, *words: str) -> list[str]:
    ran = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", *words],
        capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "PATH": path},
    )  # fmt: skip
    # Whatever we do not offer, bash completes as the name of a file.
    assert ran.stderr.strip() == "complete -o default -F _headrace_completion headrace"
    return ran.stdout.split()


def test_bash_completes_commands_options_and_choices(path: str) -> None:
    assert offered(path, "headrace", "pre") == ["predict"]
    assert offered(path, "headrace", "serve", "--transp") == ["--transport"]
    assert offered(path, "headrace", "predict", "--output", "") == ["table", "csv", "json"]
    assert offered(path, "headrace", "predict", "--format", "j") == ["json", "jsonl"]


def test_bash_is_left_to_complete_the_names_of_files(path: str) -> None:
    assert offered(path, "headrace", "predict", "iris", "--input", "ro") == []
    assert offered(path, "headrace", "demo", "--directory", "") == []


def test_models_of_a_server_that_answers_are_offered(path: str, double: Double) -> None:
    here = ["headrace", "predict", "--server", double.target]

    assert offered(path, *here, "") == ["broken", "doubler", "iris"]
    assert offered(path, *here, "i") == ["iris"]
    assert offered(path, "headrace", "predict", "--server", "127.0.0.1:1", "") == []


@pytest.mark.parametrize(
    ("shell", "line", "told"),
    [
        ("zsh", "headrace pre", '"predict"'),
        ("zsh", "headrace predict iris --input ", "_files"),
        ("fish", "headrace pre", "predict\t"),
    ],
)
def test_other_shells_are_told_the_same(shell: str, line: str, told: str) -> None:
    def ran(action: str, **environment: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "headrace_server.cli"],
            capture_output=True, text=True, timeout=60, check=True,
            env={**os.environ, "_HEADRACE_COMPLETE": f"{action}_{shell}", **environment},
        ).stdout  # fmt: skip

    assert f"_HEADRACE_COMPLETE=complete_{shell}" in ran("source")
    answer = ran("complete", _TYPER_COMPLETE_ARGS=line, _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert answer.startswith((told, "_arguments"))
    assert told in answer


def test_the_completion_is_installed_where_bash_looks(path: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        ["bash", "--norc", "-c", "headrace --install-completion; true"],
        capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "PATH": path, "HOME": str(tmp_path)},
    )  # fmt: skip

    assert "bash completion installed" in ran.stdout
    assert "headrace.sh" in (tmp_path / ".bashrc").read_text()

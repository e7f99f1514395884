"""Dockerfile.gpu copies what there is, and runs commands that there are; hadolint sees the rest."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import typer.main

from headrace_server.cli import app
from headrace_server.settings import read_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile.gpu").read_text().replace("\\\n", " ")
LAST_STAGE = DOCKERFILE.rpartition("\nFROM ")[2]
COMMANDS: Any = typer.main.get_command(app)


def instructions(text: str, name: str) -> list[str]:
    return re.findall(rf"^{name} +(.*)$", text, re.MULTILINE)


def test_what_is_copied_is_there_and_reaches_the_build() -> None:
    kept = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = [
        source
        for line in instructions(DOCKERFILE, "COPY")
        if not line.startswith("--from")
        for source in shlex.split(line)[:-1]
    ]

    assert sorted(copied) == sorted(kept)
    assert all((ROOT / source).exists() for source in copied)
    # What the package is built from.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(copied)


def test_its_extras_are_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (default,) = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.MULTILINE)

    assert set(default.split(",")) <= set(extras)


def test_it_runs_commands_that_there_are_and_not_as_root() -> None:
    (entry,) = instructions(LAST_STAGE, "ENTRYPOINT")
    (command,) = instructions(LAST_STAGE, "CMD")
    (health,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", LAST_STAGE, re.MULTILINE)
    (user,) = instructions(LAST_STAGE, "USER")

    assert json.loads(entry) == ["headrace"]
    assert {json.loads(command)[0], json.loads(health)[1]} <= set(COMMANDS.commands)
    assert int(user.partition(":")[0]) > 0


def test_its_variables_are_settings(tmp_path: Path) -> None:
    said = dict(re.findall(r"\b(HEADRACE_\w+)=(\S+)", LAST_STAGE))
    (tmp_path / "headrace.toml").touch()

    settings = read_settings(config=str(tmp_path / "headrace.toml"), environ=said)

    assert said
    assert settings.server.host == "0.0.0.0"


def test_versions_are_pinned() -> None:
    (base,) = re.findall(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)
    installed = re.findall(r'"(python3[^"]*)"', DOCKERFILE)

    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d+\.\d+", base)
    assert installed
    assert all("=" in package for package in installed)
    assert "--constraint constraints.txt" in DOCKERFILE

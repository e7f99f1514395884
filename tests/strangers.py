"""Strangers: clients of the protocol that others wrote, and where tests of them are skipped.

Each defines the messages of package `inference` in the one descriptor pool of its process, so two
of them never live in one. Tests import tritonclient where they like and kserve only in a fresh
interpreter.
"""

import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec

import pytest

# Looked for and not imported: a client that is there and fails to import fails its tests.
needs_tritonclient = pytest.mark.skipif(
    find_spec("tritonclient") is None and int(version("protobuf").partition(".")[0]) > 6,
    reason="tritonclient allows protobuf 6 alone",
)
needs_kserve = pytest.mark.skipif(
    find_spec("kserve") is None, reason="kserve is installed in .venv-strangers alone"
)


def run(script: str, *arguments: str) -> str:
    """What *script* prints in a fresh interpreter; it must succeed."""
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout

"""Fixtures of the settings' tests."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings file lies about, unless a test writes one."""
    monkeypatch.chdir(tmp_path)

"""Saying: settings as an operator says them, for the tests of settings."""

from pathlib import Path
from typing import Any

import pytest

from headrace_server.errors import UsageError
from headrace_server.settings import Settings, read_settings


def read(
    file: str = "",
    environ: dict[str, str] | None = None,
    sets: tuple[str, ...] = (),
    **flags: Any,
) -> Settings:
    """What holds once *file*, as the working directory's headrace.toml, and the others spoke."""
    if file:
        Path("headrace.toml").write_text(file, encoding="utf-8")
    return read_settings(environ=environ or {}, flags=flags, sets=sets)


def refusal(
    file: str = "", environ: dict[str, str] | None = None, sets: tuple[str, ...] = (), **flags: Any
) -> str:
    """The sentence with which what was said is refused."""
    with pytest.raises(UsageError) as caught:
        read(file, environ, sets, **flags)
    return str(caught.value)

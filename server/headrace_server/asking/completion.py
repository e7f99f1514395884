"""Completion: what a shell offers where a command takes a name that only a server knows.

A shell waits for us at every press of the key: what does not come at once is not offered, and
nothing is ever printed. File names are the shell's own work.
"""

from dataclasses import fields

import typer

from headrace_client import HeadraceClientError

from ..errors import UsageError
from .connecting import Connection

_ANSWER_S_MAX = 0.5


def model_names(context: typer.Context, incomplete: str) -> list[str]:
    """The models that the server of the command line holds and that begin with *incomplete*."""
    options = (field.name for field in fields(Connection))
    said = {name: value for name in options if (value := context.params.get(name))}
    try:
        with Connection(**said).client(_ANSWER_S_MAX) as client:
            names = {status.name for status in client.models()}
    except (HeadraceClientError, UsageError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))

"""Completion: what a shell offers where a command takes a name that only a server knows.

A shell waits for us at every press of the key: what does not come at once is not offered, and
nothing is ever printed. File names are the shell's own work.
"""

import typer

from headrace_client import Client, HeadraceClientError
from headrace_client.channel import DEFAULT_TARGET

_ANSWER_S_MAX = 0.5


def model_names(context: typer.Context, incomplete: str) -> list[str]:
    """The models that the server of the command line holds and that begin with *incomplete*."""
    target = context.params.get("server") or DEFAULT_TARGET
    try:
        with Client(target, timeout_s=_ANSWER_S_MAX) as client:
            names = {status.name for status in client.models()}
    except (HeadraceClientError, ValueError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))

"""Command line: what a person types. Imports what a command needs when the command runs."""

import sys

from .. import exits
from .app import app

# Each brings its commands; the order is that of `headrace --help`.
# isort: off
from . import serving  # noqa: F401
from . import asking  # noqa: F401
from . import making  # noqa: F401

# isort: on

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of `headrace`."""
    sys.exit(exits.run(lambda: app(prog_name="headrace", standalone_mode=False)))

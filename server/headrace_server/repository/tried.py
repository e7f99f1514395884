"""Tried: what earlier loads have shown of models, so that a restart need not find it out again.

A trial that was passed is remembered by a file whose name is a digest over the model, how it is
loaded, and the packages that it is loaded with; what traffic has shown of its batching by another
one beside it. Files of other versions of these do no harm.
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from ..types import Batching

# What of a LOAD frame says how a model is loaded.
_HOW = ("flavor", "method", "tuning", "sizes", "buckets")


class Tried:
    """The trials that were passed, below one directory; it is made when the first one is."""

    def __init__(self, directory: str) -> None:
        self._root = Path(directory).absolute()

    def has(self, key: str) -> bool:
        """Whether the trial of that *key* was passed."""
        return (self._root / key).exists()

    def note(self, key: str) -> None:
        """The trial of that *key* was passed. Where that cannot be kept, it is made again."""
        with suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)
            (self._root / key).touch()

    def known(self, key: str) -> dict[str, Any] | None:
        """What traffic has shown of the model of that *key*, as `keep` was told; None for nothing.

        That is its verdict, why, and its outputs, each as `signature.spec_json` has it.
        """
        try:
            found = json.loads((self._root / f"{key}.batching").read_text())
            return {name: found[name] for name in ("verdict", "why", "outputs")}
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def keep(self, key: str, found: Batching, outputs: list[Any]) -> None:
        """Traffic has shown this. Where that cannot be kept, it is found out again."""
        with suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)
            written = self._root / f".{key}.batching"
            written.write_text(json.dumps({**found._asdict(), "outputs": outputs}))
            written.replace(self._root / f"{key}.batching")


def trial_key(digest: str, spec: dict[str, Any], device: str, command: Sequence[str]) -> str:
    """What a trial is remembered by.

    Args:
        digest: Of the model's files.
        spec: The LOAD frame.
        device: Where the model computes.
        command: What runs its worker; empty for our own Python.
    """
    how = [digest, device, list(command), [spec[name] for name in _HOW], _installed()]
    return hashlib.sha256(json.dumps(how, default=str).encode()).hexdigest()


@cache
def _installed() -> str:
    """A digest over all that is installed beside us."""
    found = sorted(f"{each.name}=={each.version}" for each in distributions())
    return hashlib.sha256(
        "\n".join([os.path.realpath(sys.executable), *found]).encode()
    ).hexdigest()

"""Adapters: one file per MLflow flavor key."""

from importlib import import_module
from importlib.util import find_spec

from .base import Adapter, Artifact, LoadError


def adapter_of(flavor: str) -> type[Adapter]:
    """The adapter class for an MLflow *flavor* key, such as "sklearn".

    Raises:
        LoadError: No adapter serves that flavor.
    """
    found: type[Adapter] | None = None
    if flavor.isidentifier() and find_spec(f"{__name__}.{flavor}") is not None:
        # The modules that adapters share define none.
        found = getattr(import_module(f"{__name__}.{flavor}"), "ADAPTER", None)
    if found is None:
        raise LoadError(f"the flavor {flavor!r} has no adapter")
    return found


__all__ = ["Adapter", "Artifact", "LoadError", "adapter_of"]

"""Adapters: one file per MLflow flavor key."""

from importlib import import_module
from importlib.util import find_spec

from .base import Adapter, Artifact, LoadError, is_unpickling_allowed


def adapter_of(flavor: str, *, has_pyfunc: bool = False) -> type[Adapter]:
    """The adapter class for an MLflow *flavor* key, such as "sklearn".

    Args:
        flavor: The key.
        has_pyfunc: Whether the model can be loaded as MLflow's python_function too; then that
            adapter serves it where the flavor has none of its own.

    Raises:
        LoadError: No adapter serves that flavor.
    """
    found = _own_adapter(flavor)
    if found is None and has_pyfunc:
        found = _own_adapter("pyfunc")
    if found is None:
        raise LoadError(f"the flavor {flavor!r} has no adapter, and the model no python_function")
    return found


def _own_adapter(flavor: str) -> type[Adapter] | None:
    found: type[Adapter] | None = None
    if flavor.isidentifier() and find_spec(f"{__name__}.{flavor}") is not None:
        # The modules that adapters share define none.
        found = getattr(import_module(f"{__name__}.{flavor}"), "ADAPTER", None)
    return found


__all__ = ["Adapter", "Artifact", "LoadError", "adapter_of", "is_unpickling_allowed"]

"""Torchinputs: named tensors as a torch callable takes them: by position, by name or in a dict."""

import inspect
import typing
from collections.abc import Collection, Mapping
from typing import Any

from .base import LoadError

Arranged = tuple[tuple[Any, ...], dict[str, Any]]


class TorchInputs:
    """How one callable is given named tensors.

    A callable whose first parameter is a dict, as it or its exported program says, gets all of them
    in one, and so does one that has a single parameter for several tensors. Others get them by
    position in the signature's order, or by the names of the parameters where these are the
    tensors'.
    """

    def __init__(self, call: Any, params: Collection[str] = ()) -> None:
        """Learn what *call*, a module's `forward` or another method, takes.

        Args:
            call: It.
            params: Parameters that the model's signature fills.
        """
        names, self._is_open = _parameters(call)
        self._names = [name for name in names if name not in params]
        self._takes_dict = _takes_dict(call)

    def check(self, names: Collection[str]) -> None:
        """Make sure that tensors of these *names* can be given.

        Raises:
            LoadError: A name is that of a parameter, but not all are.
        """
        if not self._is_one(names) and self._is_mixed(names):
            raise LoadError(_mixed(names, self._names))

    def arrange(self, staged: Mapping[str, Any]) -> Arranged:
        """What the callable is given by position, and what by name.

        Raises:
            ValueError: A name is that of a parameter, but not all are.
        """
        if self._is_one(staged):
            return (dict(staged),), {}
        leading = self._names[: len(staged)]
        if staged.keys() == set(leading):
            # By position even so: an exported program takes only the call it was traced with.
            return tuple(staged[name] for name in leading), {}
        if staged.keys() <= set(self._names):
            return (), dict(staged)
        if self._is_mixed(staged):
            raise ValueError(_mixed(staged, self._names))
        return tuple(staged.values()), {}

    def _is_one(self, names: Collection[str]) -> bool:
        """Whether all go in as one dict: a table's matrix has no name."""
        if "" in names:
            return False
        return self._takes_dict or (len(names) > 1 and len(self._names) == 1 and not self._is_open)

    def _is_mixed(self, names: Collection[str]) -> bool:
        """Whether some names are parameters' and some are not: by position they would go astray."""
        own = set(self._names)
        return not own.isdisjoint(names) and not own.issuperset(names)


def _mixed(names: Collection[str], own: Collection[str]) -> str:
    return f"the inputs {list(names)} are not the parameters {list(own)} of the module"


def _parameters(call: Any) -> tuple[list[str], bool]:
    """The names that *call* takes by position or name, and whether it takes more by position.

    None where it does not tell.
    """
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return [], True
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return names, any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _takes_dict(call: Any) -> bool:
    """Whether the first parameter is annotated as a dict, or was one when it was traced."""
    schema = getattr(call, "schema", None)  # Of a method of TorchScript.
    if schema is not None:
        kinds = [argument.type.kind() for argument in schema.arguments[1:2]]
        return kinds == ["DictType"]
    traced = getattr(getattr(call, "__self__", None), "_in_spec", None)
    if traced is not None:
        return _is_traced_dict(traced)
    try:
        hints = typing.get_type_hints(call)
        first = next(iter(inspect.signature(call).parameters))
    except Exception:  # noqa: BLE001 - an annotation may name what is not there, or be anything.
        return False
    hint = hints.get(first)
    kind = typing.get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, Mapping)


def _is_traced_dict(spec: Any) -> bool:
    """Whether torch.export saw one argument by position, and it was a dict."""
    try:
        args = spec.child(0)
        return bool(args.num_children == 1 and issubclass(args.child(0).type, Mapping))
    except Exception:  # noqa: BLE001 - torch may keep its specs in another form.
        return False

"""Flags: those that several commands share, each said once, as the fields of a dataclass."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from inspect import Parameter
from typing import Any, TypeVar, get_type_hints

Result = TypeVar("Result")


def spread(command: Callable[..., Result]) -> Callable[..., Result]:
    """*command*, where a parameter that is a dataclass is given as one flag per field.

    The flags stand where the parameter stands; a field's type says what typer must know of it.
    """
    groups: dict[str, type] = {}
    parameters: list[Parameter] = []
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[parameter.name] = kind
            parameters += _flags(kind)
        else:
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=kind))

    @functools.wraps(command)
    def by_flags(**given: Any) -> Result:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        return command(**given)

    # What typer makes the command line of.
    by_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    by_flags.__annotations__ = {each.name: each.annotation for each in parameters}
    return by_flags


def _flags(kind: type) -> list[Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]

"""Stub calls: modules that `headrace stub` writes, called without knowing their names."""

import inspect
import sys
import types
import uuid
from typing import Any

from typer.testing import CliRunner

from headrace_server.cli import app


def written(*arguments: str) -> str:
    """What the command writes to standard output."""
    ran = CliRunner().invoke(app, ["stub", *arguments], prog_name="headrace")
    assert ran.exit_code == 0, ran.output or ran.exception
    return ran.stdout


def imported(text: str) -> Any:
    """A module of the source *text*."""
    module = types.ModuleType(f"stub_{uuid.uuid4().hex}")
    sys.modules[module.__name__] = module
    exec(compile(text, "stub.py", "exec"), module.__dict__)  # noqa: S102 - it is what people do.
    return module


def client_class(module: Any, base: str) -> Any:
    """The class of a module that is a Stub or an AsyncStub."""
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__mro__[1].__name__ == base
    )
    return found


def arguments(method: Any, values: list[Any]) -> dict[str, Any]:
    """The inputs' arguments of a method, which stand before all others."""
    names = [
        name
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    return dict(zip(names, values, strict=False))

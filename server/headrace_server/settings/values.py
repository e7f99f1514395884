"""Values: what was said, read as the setting's type, or answered with its range."""

import difflib
import functools
import re
import shlex
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from ..errors import UsageError
from .tables import TABLES, Expected, Mark, ModelSettings

# A value is shown up to this many characters.
_SHOWN_MAX = 64


def checked(table: str, key: str, value: Any, place: str, *, is_text: bool) -> Any:
    """*value* as the type of the setting *key* of *table*.

    Args:
        table: The table.
        key: A setting that the table has.
        value: What was said: text, or a value of headrace.toml.
        place: Where, for the error's sentence: what stands before the equals sign.
        is_text: Whether it is text that stands for a value of any type.

    Raises:
        UsageError: It is not of that type, or out of range.
    """
    adapter = _adapter(table, key)
    try:
        if not is_text:
            # As JSON has it: a list is a tuple, a whole number a float; true is no number.
            return adapter.validate_python(_with_tuples(value), strict=True)
        if _is_table(table, key):
            return adapter.validate_json(value, strict=True)
        if _is_list(table, key):
            return adapter.validate_python(tuple(shlex.split(value)))
        return adapter.validate_strings(value)
    except (ValidationError, ValueError):
        said = value if is_text else toml_value(value)
        if len(said) > _SHOWN_MAX:
            said = f"{said[:_SHOWN_MAX]}..."
        raise UsageError(f"{place}={said}: expected {expected(table, key)}") from None


def expected(table: str, key: str) -> str:
    """The range of a setting in words."""
    info = TABLES[table].model_fields[key]
    for item in info.metadata:
        if isinstance(item, Expected):
            return item.words
    if get_origin(info.annotation) is Literal:
        *others, last = map(str, get_args(info.annotation))
        return f"{', '.join(others)} or {last}"
    if info.annotation is bool:
        return "true or false"
    if _is_list(table, key):
        return "a list of [NAME=]URI"
    if info.annotation not in (int, float):
        return "text"
    low, high = (
        next(getattr(item, end) for item in info.metadata if hasattr(item, end))
        for end in ("ge", "le")
    )
    return f"a {'whole ' if info.annotation is int else ''}number from {low} to {high}"


def is_taggable(key: str) -> bool:
    """Whether a model version's tag may set the model's setting *key*."""
    info = ModelSettings.model_fields.get(key)
    return info is not None and Mark.BY_TAG in info.metadata


def is_path(table: str, key: str) -> bool:
    """Whether the setting is a path of this host."""
    return Mark.PATH in TABLES[table].model_fields[key].metadata


def no_such(what: str, name: str, known: Iterable[str]) -> str:
    """A sentence about a *name* that is not among the *known*."""
    names = list(known)
    return f"there is no {what}{did_you_mean(name, names) or '; known are ' + ', '.join(names)}"


def no_setting(table: str, model: str, key: str) -> str:
    """A sentence about a *key* that *table*, or the table of *model*, does not have."""
    home = f"[{table}.{model}]" if model else f"[{table}]"
    return no_such(f"setting {key!r} in {home}", key, TABLES[table].model_fields)


def toml_value(value: Any) -> str:
    """*value* as headrace.toml would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=True)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {toml_value(item)}' for key, item in value.items())}}}"
    return str(value)


def did_you_mean(name: str, names: list[str]) -> str:
    """The end of a sentence that names the one of *names* nearest to *name*, if one is near."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _is_table(table: str, key: str) -> bool:
    annotation = TABLES[table].model_fields[key].annotation
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_list(table: str, key: str) -> bool:
    return get_origin(TABLES[table].model_fields[key].annotation) is tuple


@functools.cache
def _adapter(table: str, key: str) -> TypeAdapter[Any]:
    info = TABLES[table].model_fields[key]
    kind: Any = Annotated[info.annotation, info]
    return TypeAdapter(kind)

"""Jsontext: JSON as it is written and read here, in which every number is one.

JSON has no NaN and no infinities. Where a value holds one it is written as text, "NaN", "Infinity"
or "-Infinity", as protobuf's own JSON has it; a reader who knows that a number stands there takes
that text for it. Python's bare `NaN` is no JSON, and is refused.
"""

import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

# How numbers are written that JSON has no digits for.
SPELLED: Final[Mapping[str, float]] = {
    "NaN": math.nan,
    "Infinity": math.inf,
    "-Infinity": -math.inf,
}

# Of what JSON has no word for: something that it has, or TypeError.
Plain = Callable[[Any], Any]


def read_json(text: str | bytes) -> Any:
    """What *text* holds.

    Raises:
        ValueError: It is no JSON.
        RecursionError: It is nested too deeply.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value, end = _DECODER.raw_decode(text)
    except NoNumber:
        raise
    except ValueError:
        return _DECODER.decode(text)
    # As decode, which takes three times as long for what is short.
    return value if end == len(text) else _DECODER.decode(text)


def write_json(value: Any, plain: Plain | None = None) -> str:
    """*value* as JSON.

    Args:
        value: What JSON has, or *plain* makes of it.
        plain: Is given whatever else there is.

    Raises:
        TypeError: There is something that JSON has no word for.
        ValueError: *value* holds itself.
        RecursionError: It is nested too deeply.
    """
    try:
        return encoder_of(plain).encode(value)
    except (TypeError, ValueError):
        # Names that are numpy's numbers, or numbers that are none: seldom enough to look twice.
        return encoder_of(None).encode(spell(value, plain))


@lru_cache(maxsize=16)
def encoder_of(plain: Plain | None) -> json.JSONEncoder:
    """What writes JSON, with *plain* for what JSON has no word for; NaN is a ValueError."""
    return json.JSONEncoder(default=plain, allow_nan=False)


def spell(value: Any, plain: Plain | None = None) -> Any:
    """*value* with text for every number that is none; what it raises, `write_json` does."""
    return _spelled(value, plain, ())


def spelled(number: float) -> float | str:
    """*number*, or the text that stands for it where it is no number."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


class NoNumber(ValueError):
    """Bare NaN or Infinity, which Python's own json writes."""


def _refuse(constant: str) -> Any:
    raise NoNumber(f'bare {constant}: JSON has it as the text "{constant}"')


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse)


def _spelled(value: Any, plain: Plain | None, within: tuple[int, ...]) -> Any:
    """*value* with text for what is no number, and with names that json takes."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return spelled(float(value))
    if id(value) in within:
        raise ValueError("the value holds itself")
    within = (*within, id(value))
    if isinstance(value, Mapping):
        items = {_name(key): _spelled(item, plain, within) for key, item in value.items()}
        if len(items) != len(value):
            raise TypeError("an object with one name twice")
        return items
    if isinstance(value, list | tuple):
        return [_spelled(item, plain, within) for item in value]
    if plain is None:
        raise TypeError(f"a value of type {type(value).__name__}")
    return _spelled(plain(value), plain, within)


def _name(key: Any) -> str:
    """*key* as json writes the names of an object."""
    if hasattr(key, "item") and not isinstance(key, str):  # numpy's.
        key = key.item()
    if isinstance(key, str):
        return key
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    if isinstance(key, int | float):
        return str(spelled(key) if isinstance(key, float) else int(key))
    raise TypeError(f"an object with a name of type {type(key).__name__}")

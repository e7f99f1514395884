"""Numbers: which field number each column, tensor and parameter has, over all versions of a model.

A number belongs to a name and its type for good. New ones take the next number, and the number of
what is gone is never given to another.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

# protobuf keeps these for itself.
_KEPT_FIRST: Final = 19_000
_KEPT: Final = 1000
# The fields that every service has (its parameters, ...) have numbers beyond those of a model.
OWN_NUMBER: Final = 100_000
_ENTRIES_MAX: Final = OWN_NUMBER - _KEPT - 1

# What is kept of them; it travels between our processes in one piece.
TEXT_CHARS_MAX: Final = 32_000

_GROUPS: Final = ("inputs", "outputs", "params")


@dataclass(frozen=True, slots=True)
class FieldNumbers:
    """What numbers were given, oldest first: the first has 1.

    Attributes:
        inputs: Type and name of each, as in "double sepal_length"; no type has a space in it.
        outputs: The same of outputs.
        params: The same of parameters.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    params: tuple[str, ...] = ()

    def merged(self, other: "FieldNumbers") -> "FieldNumbers":
        """These, and behind them what *other* has and these have not.

        Raises:
            ValueError: There are too many.
        """
        return FieldNumbers(
            *(extended(getattr(self, name), getattr(other, name)) for name in _GROUPS)
        )

    def to_text(self) -> str:
        """JSON, as short as it can be."""
        groups = {name: getattr(self, name) for name in _GROUPS if getattr(self, name)}
        return json.dumps(groups, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "FieldNumbers":
        """Read what `to_text` wrote.

        Raises:
            ValueError: It is something else.
        """
        if len(text) > TEXT_CHARS_MAX:
            raise ValueError(f"expected at most {TEXT_CHARS_MAX} characters, got {len(text)}")
        groups = json.loads(text)
        if not isinstance(groups, dict) or not set(groups) <= set(_GROUPS):
            raise ValueError(f"expected an object with {', '.join(_GROUPS)}")
        return cls(**{name: _entries(name, groups[name]) for name in groups})


def number_at(index: int) -> int:
    """The field number of the entry at *index*."""
    return index + 1 if index + 1 < _KEPT_FIRST else index + 1 + _KEPT


def extended(known: Sequence[str], current: Iterable[str]) -> tuple[str, ...]:
    """*known* entries, and behind them those of *current* that have no number yet.

    Raises:
        ValueError: There are too many.
    """
    entries = tuple(dict.fromkeys((*known, *current)))
    if len(entries) > _ENTRIES_MAX:
        raise ValueError(f"expected at most {_ENTRIES_MAX} fields, got {len(entries)}")
    return entries


def _entries(name: str, given: Any) -> tuple[str, ...]:
    is_list = isinstance(given, list) and all(
        isinstance(item, str) and " " in item for item in given
    )
    if not is_list or len(set(given)) != len(given) or len(given) > _ENTRIES_MAX:
        raise ValueError(f"{name}: expected a list of types and names, each once")
    return tuple(given)

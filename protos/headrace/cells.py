"""Cells: the values of array, object and map columns, each of which travels as JSON.

What a value must look like stands in the column's `TensorSpec.schema`. The daemon checks cells as
requests come; a worker reads them once more, as the Python objects that the model gets.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from .nulls import is_anything
from .signature import TensorSpec

_DECODER: Final = json.JSONDecoder()
_INTEGER_BITS: Final = {"integer": 32, "long": 64}
# What the values of each type are called in JSON.
_SCALARS: Final[dict[str, tuple[type, ...]]] = {
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "string": (str,),
    "binary": (str,),
    "datetime": (str,),
}


class CellError(ValueError):
    """A cell does not hold what its column's type asks for; the message never quotes it."""


def read_cell(text: bytes | str, spec: TensorSpec, moment: Callable[[str], Any] = str) -> Any:
    """The value that *text* holds, as the column *spec* wants it.

    An integer where the type says float or double becomes a float, and so does null among them in
    an array: NaN.

    Args:
        text: JSON.
        spec: The column; null is a value where it is optional, or may be anything.
        moment: What a datetime within the value becomes, from its ISO 8601 text.

    Raises:
        CellError: It is no JSON, or its value is of another type.
    """
    try:
        value = _parsed(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError:
        raise CellError("expected JSON, got bytes that are not UTF-8") from None
    except (ValueError, RecursionError) as error:
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise CellError(f"expected JSON, got text that is none{place}") from None
    if not spec.schema:
        return value
    return _fitted(value, _type_of(spec.schema), (), moment, required=not spec.optional)


def sample_cell(spec: TensorSpec) -> str:
    """JSON of a made-up value that the column *spec* takes: zeros and empty texts."""
    return json.dumps(_sample(_type_of(spec.schema)) if spec.schema else None)


def _parsed(text: str) -> Any:
    """As json.loads, which takes three times as long for what is short."""
    try:
        value, end = _DECODER.raw_decode(text)
    except ValueError:
        return json.loads(text)
    return value if end == len(text) else json.loads(text)


@lru_cache(maxsize=1024)
def _type_of(schema: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(schema)
    return found


def _fitted(
    value: Any,
    kind: Mapping[str, Any],
    path: Sequence[str],
    moment: Callable[[str], Any],
    *,
    required: bool,
) -> Any:
    """*value* as *kind* wants it; *path* leads to it from the cell's own value."""
    name = kind["type"]
    if name == "any" or (value is None and (not required or is_anything(kind))):
        return value
    if name == "array":
        _expect(value, (list,), name, path)
        plain = _fitted_plain(value, kind["items"]["type"])
        if plain is not None:
            return plain
        items = kind["items"]
        if items["type"] in {"float", "double"}:
            value = [math.nan if item is None else item for item in value]
        # As in MLflow a list of plain values, unlike one of lists, has no null of its own.
        required |= items["type"] in _SCALARS
        return [
            _fitted(item, items, (*path, f"[{index}]"), moment, required=required)
            for index, item in enumerate(value)
        ]
    if name == "map":
        _expect(value, (dict,), name, path)
        return {
            key: _fitted(item, kind["values"], (*path, f".{key}"), moment, required=required)
            for key, item in value.items()
        }
    if name == "object":
        _expect(value, (dict,), name, path)
        return _fitted_object(value, kind["properties"], path, moment)
    if name not in _SCALARS:
        return value
    _expect(value, _SCALARS[name], name, path)
    if bits := _INTEGER_BITS.get(name):
        if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            raise CellError(f"expected {name}{_at(path)}, got an integer beyond {bits} bits")
        return value
    if name in {"float", "double"}:
        return _float(value, name, path)
    return _moment(value, path, moment) if name == "datetime" else value


def _fitted_plain(items: list[Any], name: str) -> list[Any] | None:
    """*items* as the type *name* wants them, if their own types tell that they are; else None."""
    kinds = set(map(type, items))
    if name in {"float", "double"}:
        if kinds <= {float}:
            return items
        try:
            return list(map(float, items)) if kinds <= {float, int} else None
        except OverflowError:
            return None
    if not kinds <= set(_SCALARS.get(name, ())):
        return None
    if items and (bits := _INTEGER_BITS.get(name)):
        limit = 1 << (bits - 1)
        return items if -limit <= min(items) and max(items) < limit else None
    # The text of an instant must be read.
    return items if name != "datetime" else None


def _fitted_object(
    value: Mapping[str, Any],
    properties: Mapping[str, Any],
    path: Sequence[str],
    moment: Callable[[str], Any],
) -> dict[str, Any]:
    missing = [key for key, kind in properties.items() if kind["required"] and key not in value]
    if missing:
        raise CellError(f"expected the property {missing[0]!r}{_at(path)}, got an object without")
    unknown = next((key for key in value if key not in properties), None)
    if unknown is not None:
        raise CellError(
            f"expected the properties {list(properties)}{_at(path)}, got {unknown[:64]!r} too"
        )
    return {
        key: _fitted(item, kind, (*path, f".{key}"), moment, required=kind["required"])
        for key, item in value.items()
        for kind in (properties[key],)
    }


def _expect(value: Any, types: tuple[type, ...], name: str, path: Sequence[str]) -> None:
    # Python's bool is an int; JSON's is not.
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise CellError(f"expected {name}{_at(path)}, got {_json_name(value)}")


def _float(value: float, name: str, path: Sequence[str]) -> float:
    try:
        return float(value)
    except OverflowError:
        raise CellError(f"expected {name}{_at(path)}, got an integer beyond its range") from None


def _moment(value: str, path: Sequence[str], moment: Callable[[str], Any]) -> Any:
    try:
        datetime.fromisoformat(value)
        return moment(value)
    except ValueError:
        raise CellError(f"expected datetime{_at(path)} in ISO 8601, got other text") from None


def _at(path: Sequence[str]) -> str:
    return f" at {''.join(path)[:128]!r}" if path else ""


def _json_name(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "text", bool: "a boolean", int: "an integer"}
    return "null" if value is None else names.get(type(value), "a number")


def _sample(kind: Mapping[str, Any]) -> Any:
    match kind["type"]:
        case "array":
            return [_sample(kind["items"])]
        case "object":
            return {key: _sample(item) for key, item in kind["properties"].items()}
        case "map":
            return {"": _sample(kind["values"])}
        case "boolean":
            return False
        case "integer" | "long":
            return 0
        case "float" | "double":
            return 0.0
        case "string" | "binary":
            return ""
        case "datetime":
            return "1970-01-01T00:00:00"
        case _:
            return None

"""Cells: the values of array, object and map columns, each of which travels as JSON.

What a value must look like stands in the column's `TensorSpec.schema`. The daemon checks cells as
requests come; a worker reads them once more, as the Python objects that the model gets. JSON has no
NaN and no infinities: where the schema asks for float or double they are the texts "NaN",
"Infinity" and "-Infinity", and elsewhere they cannot be sent (jsontext.py). It has no bytes either:
binary is text in base64, as MLflow's servers have it.
"""

import binascii
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from .jsontext import SPELLED, NoNumber, Plain, encoder_of, read_json, spelled, write_json
from .nulls import is_anything
from .signature import TensorSpec

_FLOATS: Final = frozenset({"float", "double"})
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

    An integer where the type says float or double becomes a float, as do "NaN", "Infinity" and
    "-Infinity", and null among them in an array: NaN. Base64 becomes bytes where the type says
    binary. Texts and bytes within an array lose the zeros at their end, as with MLflow, which makes
    arrays of numpy's of them.

    Args:
        text: JSON.
        spec: The column; null is a value where it is optional, or may be anything.
        moment: What a datetime within the value becomes, from its ISO 8601 text.

    Raises:
        CellError: It is no JSON, or its value is of another type.
    """
    try:
        value = read_json(text)
    except UnicodeDecodeError:
        raise CellError("expected JSON, got bytes that are not UTF-8") from None
    except NoNumber as error:
        raise CellError(f"expected JSON, got {error}") from None
    except (ValueError, RecursionError) as error:
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise CellError(f"expected JSON, got text that is none{place}") from None
    if not spec.schema:
        return value
    return _fitted(value, _type_of(spec.schema), (), moment, required=not spec.optional)


def sample_cell(spec: TensorSpec) -> str:
    """JSON of a made-up value that the column *spec* takes: zeros and empty texts."""
    return json.dumps(_sample(_type_of(spec.schema)) if spec.schema else None)


def write_cell(value: Any, schema: str, plain: Plain | None = None) -> str:
    """*value* as JSON that `read_cell` reads back, for a column of that *schema*.

    Args:
        value: What JSON has, or *plain* makes of it.
        schema: The column's; empty where any value will do.
        plain: Is given whatever else there is, and answers or raises TypeError.

    Raises:
        CellError: It has NaN or an infinity where the schema asks for no float or double.
        TypeError: There is something that JSON has no word for.
        ValueError: *value* holds itself.
        RecursionError: It is nested too deeply.
    """
    try:
        return encoder_of(plain).encode(value)
    except ValueError:
        # That it holds itself is told here, before it is walked through.
        text = write_json(value, plain)
    _check_spelled(value, _type_of(schema) if schema else _ANY, plain)
    return text


def revive(value: Any, schema: str) -> Any:
    """*value*, as JSON has it, with floats for "NaN" and infinities where *schema* says floats.

    What is of another type than the schema says is left as it is.
    """
    return _revived(value, _type_of(schema)) if schema else value


_ANY: Final[Mapping[str, Any]] = {"type": "any"}


def _within(kind: Mapping[str, Any], key: str | None) -> Mapping[str, Any]:
    """The type of an item of *kind*: of a list without *key*, else of an object or a map."""
    name = kind.get("type")
    found: Mapping[str, Any] | None = None
    if key is None and name == "array":
        found = kind.get("items")
    elif key is not None and name == "map":
        found = kind.get("values")
    elif key is not None and name == "object":
        found = kind.get("properties", {}).get(key)
    return found or _ANY


def _check_spelled(value: Any, kind: Mapping[str, Any], plain: Plain | None) -> None:
    """Raise where *value* has NaN or an infinity that is no float by its *kind*."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_spelled(item, _within(kind, str(key)), plain)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_spelled(item, _within(kind, None), plain)
    elif isinstance(value, float):
        if not math.isfinite(value) and kind.get("type") not in _FLOATS:
            raise CellError(f"{spelled(value)} has a place in JSON only as a float or double")
    elif plain is not None and not (value is None or isinstance(value, str | int)):
        _check_spelled(plain(value), kind, plain)


def _revived(value: Any, kind: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_revived(item, _within(kind, None)) for item in value]
    if isinstance(value, dict):
        return {key: _revived(item, _within(kind, key)) for key, item in value.items()}
    if isinstance(value, str) and kind.get("type") in _FLOATS:
        return SPELLED.get(value, value)
    return value


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
        kind = kind["items"]
        if kind["type"] in _FLOATS:
            value = [math.nan if item is None else item for item in value]
        # As in MLflow a list of plain values, unlike one of lists, has no null of its own.
        required |= kind["type"] in _SCALARS
        items = [
            _fitted(item, kind, (*path, f"[{index}]"), moment, required=required)
            for index, item in enumerate(value)
        ]
        is_binary = kind["type"] == "binary"
        return [item and item.rstrip(b"\0") for item in items] if is_binary else items
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
    if name in _FLOATS and isinstance(value, str) and value in SPELLED:
        return SPELLED[value]
    _expect(value, _SCALARS[name], name, path)
    if bits := _INTEGER_BITS.get(name):
        if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            raise CellError(f"expected {name}{_at(path)}, got an integer beyond {bits} bits")
        return value
    if name in _FLOATS:
        return _float(value, name, path)
    if name == "binary":
        return _bytes(value, path)
    return _moment(value, path, moment) if name == "datetime" else value


def _fitted_plain(items: list[Any], name: str) -> list[Any] | None:
    """*items* as the type *name* wants them, if their own types tell that they are; else None."""
    kinds = set(map(type, items))
    if name in _FLOATS:
        # What is too large for a float comes from JSON as an infinity.
        if not kinds <= {float, int} or math.inf in items or -math.inf in items:
            return None
        try:
            return items if kinds <= {float} else list(map(float, items))
        except OverflowError:
            return None
    if not kinds <= set(_SCALARS.get(name, ())):
        return None
    if items and (bits := _INTEGER_BITS.get(name)):
        limit = 1 << (bits - 1)
        return items if -limit <= min(items) and max(items) < limit else None
    if name == "string" and "\0" in "".join(items):
        return [item.rstrip("\0") for item in items]
    # The text of an instant must be read, and so must that of bytes.
    return items if name not in {"datetime", "binary"} else None


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
        number = float(value)
    except OverflowError:
        raise CellError(f"expected {name}{_at(path)}, got an integer beyond its range") from None
    if math.isinf(number):
        raise CellError(f"expected {name}{_at(path)}, got a number beyond its range")
    return number


def _bytes(value: str, path: Sequence[str]) -> bytes:
    try:
        # MLflow breaks lines.
        plain = value.encode("ascii").replace(b"\n", b"")
        return binascii.a2b_base64(plain, strict_mode=True)
    except ValueError:
        raise CellError(f"expected binary{_at(path)} in base64, got other text") from None


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

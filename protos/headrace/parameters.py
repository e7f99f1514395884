"""Parameters: what a request gives for the parameters of a signature, checked and completed.

A parameter of one value comes as a bool, a number or text; lists and objects come as JSON in text,
instants as ISO 8601 text. In a JSON list of floats NaN and infinities are texts (jsontext.py).
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final

import numpy as np

from .jsontext import SPELLED, NoNumber, read_json
from .signature import ParamSpec, SignatureMismatch

# What a request can give for one parameter.
Given = bool | int | float | str

_INTEGER_BITS: Final = {"integer": 32, "long": 64}


def fill_parameters(specs: Sequence[ParamSpec], given: Mapping[str, Given]) -> dict[str, Any]:
    """A value for each of *specs*, in their order: what was *given*, else the default.

    Names in *given* that no spec has are not looked at. An integer becomes a float where the kind
    is float or double, so that equal values are equal in JSON too.

    Raises:
        SignatureMismatch: A value is not of its parameter's kind or shape.
    """
    return {
        spec.name: _value(spec, given[spec.name]) if spec.name in given else spec.default
        for spec in specs
    }


def _value(spec: ParamSpec, given: Given) -> Any:
    if spec.shape is None and spec.kind != "object":
        return _one(spec, given)
    what = "object" if spec.shape is None else f"list of {spec.kind}"
    if not isinstance(given, str):
        raise _mismatch(spec, f"a JSON {what} as text", type(given).__name__)
    try:
        value = read_json(given)
    except NoNumber as error:
        raise _mismatch(spec, f"a JSON {what} as text", str(error)) from None
    except (ValueError, RecursionError):
        raise _mismatch(spec, f"a JSON {what} as text", "text that is no JSON") from None
    if not isinstance(value, dict if spec.shape is None else list):
        raise _mismatch(spec, f"a JSON {what}", f"a JSON {type(value).__name__}")
    if spec.shape is None:
        return value
    if spec.kind in {"float", "double"}:
        value = [SPELLED.get(item, item) if isinstance(item, str) else item for item in value]
    return [_one(spec, item) for item in value]


def _one(spec: ParamSpec, given: Any) -> Any:
    """One value of the parameter's kind."""
    kind = spec.kind
    if isinstance(given, bool):
        if kind == "boolean":
            return given
    elif isinstance(given, int) and kind in _INTEGER_BITS:
        bits = _INTEGER_BITS[kind]
        if not -(1 << (bits - 1)) <= given < 1 << (bits - 1):
            raise _mismatch(spec, f"{kind}, an integer of {bits} bits", str(given)[:32])
        return given
    elif isinstance(given, int | float) and kind in {"float", "double"}:
        try:
            return float(given)
        except OverflowError:
            raise _mismatch(spec, kind, "an integer beyond its range") from None
    elif isinstance(given, str) and kind == "string":
        return given
    elif isinstance(given, str) and kind == "datetime":
        if not _is_instant(given):
            raise _mismatch(spec, "datetime in ISO 8601 without a time zone", "other text")
        return given
    raise _mismatch(spec, kind, _told(given))


def _is_instant(text: str) -> bool:
    """Whether Python and numpy, which MLflow reads it with, both take it for the same instant."""
    try:
        is_aware = datetime.fromisoformat(text).tzinfo is not None
        return not is_aware and isinstance(np.datetime64(text).item(), date)
    except ValueError:
        return False


def _told(given: Any) -> str:
    """What *given* is; a list or an object came as JSON in text."""
    if isinstance(given, str) and given[:1] in {"[", "{"}:
        return "a JSON list" if given[0] == "[" else "a JSON object"
    return type(given).__name__


def _mismatch(spec: ParamSpec, expected: str, got: str) -> SignatureMismatch:
    return SignatureMismatch(f"parameter {spec.name!r}: expected {expected}, got {got}")

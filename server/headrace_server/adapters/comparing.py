"""Comparing: whether two answers to one row are the same, but for rounding.

A row that runs in a batch may round otherwise than alone: sums are taken in another order. So
floats are compared within a tolerance of their datatype, relative to the largest value that the
output has; everything else must be equal. Numbers within JSON are compared as FP32.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from .base import Array, Tensors

# What rounding may change, by the bytes of a float: about 40 units in the last place of FP16, 800
# of FP32, which deep networks need; FP64 often holds what was computed in FP32.
TOLERANCES: Final[Mapping[int, float]] = {2: 4e-2, 4: 1e-4, 8: 1e-6}
# What the setting `precision` adds to that of FP32: TF32 has 10 bits of FP32's 23, BF16 7.
PRECISIONS: Final[Mapping[str, float]] = {"tf32": 5e-3, "fp16": 2e-2, "bf16": 5e-2}
_JSON_TOLERANCE: Final = TOLERANCES[4]


class Tolerance:
    """How far two answers of one model may lie apart.

    Attributes:
        scales: By output, the largest value that is known of it; what is seen adds to it.
    """

    def __init__(self, precision: str = "fp32") -> None:
        """Compare answers that are computed in *precision*, as the setting of that name."""
        self.scales: dict[str, float] = {}
        self._floor = PRECISIONS.get(precision, 0.0)

    def learn(self, answer: Tensors) -> None:
        """Take the values of *answer* for usual ones."""
        for name, array in answer.items():
            if array.dtype.kind == "f":
                scale = _largest(array)
                self.scales[name] = max(self.scales.get(name, 0.0), scale)

    def difference(self, one: Tensors, other: Tensors) -> str:
        """How *other* differs from *one*: which output, and its values; empty if it does not."""
        if one.keys() != other.keys():
            return f"the outputs are {list(other)} instead of {list(one)}"
        for name, expected in one.items():
            if why := self._array_difference(name, expected, other[name]):
                return why
        return ""

    def _array_difference(self, name: str, one: Array, other: Array) -> str:
        if one.shape != other.shape:
            return f"{name!r} has shape {list(other.shape)} instead of {list(one.shape)}"
        if one.dtype != other.dtype:
            return f"{name!r} is {other.dtype} instead of {one.dtype}"
        if one.dtype.kind == "f":
            # One element at least differs where any row does.
            differs = ~self._close(name, one, other)
        elif one.dtype.kind == "O":
            alike = map(_is_same_text, one.ravel().tolist(), other.ravel().tolist())
            differs = ~np.fromiter(alike, np.bool_, one.size).reshape(one.shape)
        elif one.dtype.kind in "mM":
            differs = one.view(np.int64) != other.view(np.int64)
        else:
            differs = one != other
        if not differs.any():
            return ""
        at = np.unravel_index(int(np.argmax(differs)), differs.shape) if differs.ndim else ()
        return f"{name!r}, {_shown(other[at])} against {_shown(one[at])}"

    def _close(self, name: str, one: Array, other: Array) -> Any:
        relative = max(TOLERANCES.get(one.dtype.itemsize, TOLERANCES[4]), self._floor)
        scale = max(self.scales.get(name, 0.0), _largest(one))
        return np.isclose(other, one, rtol=relative, atol=relative * scale, equal_nan=True)


def is_varied(answers: list[Tensors], name: str, difference: Callable[..., str]) -> bool:
    """Whether output *name* is not the same in all *answers*."""
    first = {name: answers[0][name]}
    return any(difference(first, {name: answer[name]}) for answer in answers[1:])


def _largest(array: Array) -> float:
    """The largest finite magnitude; 0 where there is none."""
    values = np.abs(array[np.isfinite(array)]) if array.size else array
    return float(values.max()) if values.size else 0.0


def _is_same_text(one: Any, other: Any) -> bool:
    """Whether two texts are equal, or hold JSON that is but for rounding."""
    if one == other:
        return True
    try:
        return _is_same_value(json.loads(one), json.loads(other))
    except (TypeError, ValueError, RecursionError):
        return False


def _is_same_value(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same_value(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same_value, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= _JSON_TOLERANCE * max(abs(one), abs(other), 1.0)
    return type(one) is type(other) and bool(one == other)


def _shown(value: Any) -> str:
    """A value in a sentence: short, and no text of a caller's."""
    if isinstance(value, str | bytes):
        return f"a text of {len(value)} characters"
    return f"{value:.6g}" if isinstance(value, float | np.floating) else f"{value}"

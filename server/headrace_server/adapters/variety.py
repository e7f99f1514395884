"""Variety: rows that differ from each other in every input, to see what a model does with them.

They are made from the rows of the input example where there are some, else from the signature. The
same rows come for the same model each time.
"""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from headrace.signature import Signature, TensorSpec

from .base import Array, Tensors
from .samples import example_rows, synthetic_rows

_WORDS: Final = ("yes", "no", "a red house", "42", "Zoë", "the end of it", "x", "blue sky")
# 2020-01-01, in nanoseconds, and the steps from it.
_INSTANT: Final = 1_577_836_800_000_000_000
_DAY: Final = 86_400_000_000_000
# How INT64 holds an instant that is missing.
_NAT: Final = np.iinfo(np.int64).min


def varied_rows(
    signature: Signature | None, example: Tensors | None, inner: int
) -> Iterator[Tensors]:
    """Single rows that differ in every input that has more than one value; they never end.

    The rows of *example* come first, each once, where they differ; then rows made of them, or made
    up, that lie ever wider apart.

    Args:
        signature: What the rows must fit; None where only the example tells.
        example: Rows of the caller's kind.
        inner: The size of every further axis that may be of any size, in rows that are made up.
    """
    bases = [] if example is None else _rows_of(example_rows(example, signature, _count(example)))
    yield from _distinct(bases)
    if not bases:
        assert signature is not None, "there is an example, or a signature"
        bases = [synthetic_rows(signature, 1, inner)]
    specs = {} if signature is None else {spec.name: spec for spec in signature.inputs}
    step = 0
    while True:
        base = bases[step % len(bases)]
        yield {
            name: _varied(array, specs.get(name), step, index, is_made_up=example is None)
            for index, (name, array) in enumerate(base.items())
        }
        step += 1


def edge_rows(
    row: Tensors, signature: Signature | None, *, is_careful: bool
) -> Iterator[tuple[str, Tensors]]:
    """Rows that models treat apart, each with what is at the edge in it, made of *row*.

    Missing values, infinite numbers, zeros, negative and large ones, and empty texts.

    Args:
        row: A row that the model takes.
        signature: What its inputs are; None where nothing tells.
        is_careful: Whether whole numbers stay as they are: as places in a table that are not there
            they can cost a GPU's context.
    """
    integers = "" if is_careful else "i"
    edges: tuple[tuple[str, Callable[[Array], Array]], ...] = (
        ("infinite numbers", partial(_filled, kinds="f", value=np.inf)),
        ("numbers below zero", partial(_negated, kinds=f"f{integers}")),
        ("zeros", partial(_filled, kinds=f"f{integers}", value=0)),
        ("large numbers", _enlarged),
        ("empty texts", _emptied),
    )
    specs = {} if signature is None else {spec.name: spec for spec in signature.inputs}
    missing = {name: _missing(array, specs.get(name)) for name, array in row.items()}
    if any(missing[name] is not array for name, array in row.items()):
        yield "missing values", missing
    for name, change in edges:
        changed = {key: change(array) for key, array in row.items()}
        if any(changed[key] is not array for key, array in row.items()):
            yield name, changed


def together(rows: Sequence[Tensors]) -> Tensors:
    """*rows* below each other."""
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _count(example: Tensors) -> int:
    return max((len(array) for array in example.values() if array.ndim), default=1)


def _rows_of(tensors: Tensors) -> list[Tensors]:
    count = _count(tensors)
    return [
        {name: array[at : at + 1] if array.ndim else array for name, array in tensors.items()}
        for at in range(count)
    ]


def _distinct(rows: Sequence[Tensors]) -> list[Tensors]:
    """*rows*, less those that equal an earlier one."""
    kept: list[Tensors] = []
    for row in rows:
        if not any(_is_equal(row, other) for other in kept):
            kept.append(row)
    return kept


def _is_equal(row: Tensors, other: Tensors) -> bool:
    return all(
        array.shape == other[name].shape and bool(np.all(array == other[name]))
        for name, array in row.items()
    )


def _varied(
    array: Array, spec: TensorSpec | None, step: int, index: int, *, is_made_up: bool
) -> Array:
    """*array*, one row, with other values for each *step*; inputs differ by their *index*."""
    chance = np.random.default_rng((step, index))
    if spec is not None and spec.kind == "datetime":
        base = np.where(array == _NAT, _INSTANT, array)
        return np.asarray(base + chance.integers(0, 400 * (step + 1), array.shape) * _DAY)
    match array.dtype.kind:
        case "b":
            # Of a single flag there are two rows, which alternate.
            flips = chance.random(array.shape) < 0.5
            flips[..., :1] = bool((step + index) % 2)
            return np.logical_xor(array, flips)
        case "f":
            # From close by to far: what a model answers alike close by, it may not far away.
            reach = 0.5 * 1.5 ** (step // 3)
            values = array.astype(np.float64)
            scale = np.where(values == 0, 1.0, np.abs(values))
            moved = values + chance.normal(0.0, reach, array.shape) * scale
            return moved.astype(array.dtype)
        case "i" | "u":
            return _varied_integers(array, step, chance, is_made_up=is_made_up)
        case "O":
            return _varied_objects(array, spec, step + index)
    return array


def _varied_integers(
    array: Array, step: int, chance: np.random.Generator, *, is_made_up: bool
) -> Array:
    """Whole numbers that a model is likely to know: they may be the places of a table's rows.

    Those of an example stand in another order, and one of them is another; made-up ones are small.
    """
    if is_made_up or array.size == 1:
        low = 0 if is_made_up else int(array.min(initial=0))
        high = low + 3 + step
        bound = min(int(np.iinfo(array.dtype.str).max), high)
        drawn = chance.integers(min(low, bound - 1), bound, array.shape)
        if array.size == 1:
            drawn = np.full(array.shape, min(low + step % (bound - low + 1), bound))
        return drawn.astype(array.dtype)
    flat = chance.permutation(array.ravel())
    flat[step % flat.size] = flat[(step + 1) % flat.size]
    return flat.reshape(array.shape)


def _varied_objects(array: Array, spec: TensorSpec | None, step: int) -> Array:
    """Texts, bytes and JSON: what is there, with more behind it, or words."""
    items = array.ravel().tolist()
    if spec is not None and spec.kind == "json":
        # Any text may be base64, but not the other way round.
        encode = _base64 if '"binary"' in spec.schema else str
        varied: list[Any] = [_varied_json(item, step + at, encode) for at, item in enumerate(items)]
    else:
        varied = [_varied_text(item, step + at) for at, item in enumerate(items)]
    return np.fromiter(varied, object, len(varied)).reshape(array.shape)


def _varied_text(item: Any, step: int) -> Any:
    word = _WORDS[step % len(_WORDS)] + " more" * (step // len(_WORDS) % 8)
    if isinstance(item, bytes):
        return item + word.encode() if item else word.encode()
    if isinstance(item, str):
        return f"{item} {word}" if item else word
    return item


def _varied_json(item: Any, step: int, encode: Callable[[str], str]) -> Any:
    try:
        value = json.loads(item)
    except (TypeError, ValueError):
        return item
    return json.dumps(_varied_value(value, step, encode))


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _varied_value(value: Any, step: int, encode: Callable[[str], str]) -> Any:
    match value:
        case bool():
            return bool(step % 2)
        case int():
            return value + step % 5
        case float():
            return value + 0.5 * step
        case str():
            return value if _is_moment(value) else encode(_varied_text(value, step))
        case list():
            return [_varied_value(item, step + at, encode) for at, item in enumerate(value)]
        case dict():
            return {key: _varied_value(item, step, encode) for key, item in value.items()}
    return value


def _is_moment(text: str) -> bool:
    return text[:2].isdigit() and "-" in text and ":" in text


# Edges. What has nothing to change is handed back as it is.


def _missing(array: Array, spec: TensorSpec | None) -> Array:
    """NaN, NaT or JSON's null, where a value of the input can be that."""
    if spec is not None and spec.kind == "datetime":
        return np.full_like(array, _NAT)
    if spec is not None and spec.kind == "json" and spec.optional:
        return np.full(array.shape, "null", object)
    return _filled(array, kinds="f", value=np.nan)


def _filled(array: Array, *, kinds: str, value: float) -> Array:
    if array.dtype.kind not in kinds:
        return array
    return np.full_like(array, value)


def _negated(array: Array, *, kinds: str) -> Array:
    if array.dtype.kind not in kinds:
        return array
    negated: Array = -np.abs(array) - array.dtype.type(1)
    return negated


def _enlarged(array: Array) -> Array:
    if array.dtype.kind != "f":
        return array
    large = 1e3 if array.dtype.itemsize == 2 else 1e6
    return np.asarray(np.abs(array) * large + large, array.dtype)


def _emptied(array: Array) -> Array:
    if array.dtype.kind != "O" or not all(isinstance(i, str | bytes) for i in array.ravel()):
        return array
    empty = [type(item)() for item in array.ravel().tolist()]
    return np.fromiter(empty, object, len(empty)).reshape(array.shape)

"""Warm-up: a model is run with every allowed size before the first caller's requests arrive.

The first run with a size is the dear one: graphs are captured, kernels chosen and compiled.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from headrace.signature import Signature, TensorSpec

from ..sizes import padded_size
from .base import Adapter, LoadError, Params, Tensors, cause
from .samples import example_rows


@dataclass(frozen=True, slots=True)
class Allowed:
    """The sizes with which a model may be run; what is empty allows any.

    Attributes:
        rows: Numbers of rows, ascending.
        axis: The axis of ragged inputs.
        lengths: Their sizes along it, ascending.
        inputs: Their names; empty for those that the signature leaves open along that axis.
    """

    rows: Sequence[int] = ()
    axis: int = 1
    lengths: Sequence[int] = ()
    inputs: Sequence[str] = ()

    @classmethod
    def of(cls, rows: Sequence[int], buckets: dict[str, Any]) -> "Allowed":
        """As a LOAD frame has them."""
        return cls(rows, buckets["axis"], buckets["sizes"], buckets["inputs"])

    def __bool__(self) -> bool:
        return bool(self.rows or self.lengths)

    def stretched(self, tensors: Tensors, signature: Signature | None, length: int) -> Tensors:
        """*tensors* with ragged inputs of that *length*, their entries over and over again."""
        ragged = set(self.inputs)
        if not ragged and signature is not None:
            at = slice(self.axis, self.axis + 1)
            ragged = {spec.name for spec in signature.inputs if spec.shape[at] == (-1,)}
        return {
            name: array.take(np.arange(length) % array.shape[self.axis], self.axis)
            if name in ragged and array.ndim > self.axis and array.shape[self.axis]
            else array
            for name, array in tensors.items()
        }


ANY = Allowed()


def warm_up(
    adapter: Adapter, sample: Tensors, signature: Signature | None, allowed: Allowed
) -> tuple[float, Signature | None]:
    """Run *adapter* with rows of *sample*, once per allowed size.

    The largest come first, so that most of the memory is asked for at once. Where any number of
    rows is allowed it is that of *sample*.

    Returns:
        How long that took (seconds), and *signature*, in which an output is no longer open along
        the ragged axis that had one size there whatever the length was.

    Raises:
        LoadError: The model fails at one of the sizes.
    """
    began = time.monotonic()
    seen: dict[str, set[int]] = {}
    for rows, length in product(allowed.rows[::-1] or (0,), allowed.lengths[::-1] or (0,)):
        tensors = example_rows(sample, signature, rows) if rows else sample
        if length:
            tensors = allowed.stretched(tensors, signature, length)
        try:
            adapter.prepare(tensors)
            answer = adapter.predict(tensors)
        except Exception as error:
            size = f"{rows} rows" if rows else "its rows"
            size += f" of length {length}" if length else ""
            raise LoadError(
                f"the model fails with {size}, an allowed size: {cause(error)}"
            ) from error
        for name, array in answer.items():
            seen.setdefault(name, set()).update(array.shape[allowed.axis : allowed.axis + 1])
    if signature is not None and len(allowed.lengths) > 1:
        outputs = tuple(_closed(spec, allowed.axis, seen) for spec in signature.outputs)
        signature = replace(signature, outputs=outputs)
    return time.monotonic() - began, signature


def _closed(spec: TensorSpec, axis: int, seen: Mapping[str, set[int]]) -> TensorSpec:
    """*spec* with the size that it had along *axis* at every length, where that was always one."""
    if spec.shape[axis : axis + 1] != (-1,) or len(sizes := seen.get(spec.name, set())) != 1:
        return spec
    return replace(spec, shape=(*spec.shape[:axis], *sizes, *spec.shape[axis + 1 :]))


def predict_padded(
    adapter: Adapter, tensors: Tensors, params: Params | None = None, *, sizes: Sequence[int]
) -> Tensors:
    """The answer of *adapter* to *tensors*, run with an allowed number of rows as a batch would be.

    The rows that fill up are copies of the last; outputs that have as many rows lose them again.
    """
    rows = next((len(array) for array in tensors.values() if array.ndim), 1)
    size = padded_size(rows, sizes)
    if size == rows or not all(array.ndim for array in tensors.values()):
        return adapter.predict(tensors, params)
    taken = np.minimum(np.arange(size), rows - 1)
    answer = adapter.predict({name: array[taken] for name, array in tensors.items()}, params)
    return {
        name: array[:rows] if array.shape[:1] == (size,) else array
        for name, array in answer.items()
    }

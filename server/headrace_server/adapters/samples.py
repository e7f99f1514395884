"""Samples: rows to try a model with, before the first caller's arrive.

They come from the model's input example where it has one, else are made up from its signature.
"""

import numpy as np

from headrace.cells import sample_cell
from headrace.datatypes import BYTES, DATATYPES
from headrace.signature import Signature, TensorSpec

from .base import Array, Tensors


def example_rows(example: Tensors, signature: Signature | None, rows: int) -> Tensors:
    """*rows* rows of *example*, from its first on and over again where it has fewer; 0 for all.

    With a signature they come in its order and with its datatypes, as a caller's would; inputs
    that the example leaves out are left out. A tensor without a row axis stays as it is. The one
    tensor of an example is the one input, whatever its name: MLflow gives an array none.
    """
    if signature is not None:
        if len(example) == len(signature.inputs) == 1:
            example = {signature.inputs[0].name: next(iter(example.values()))}
        example = {
            spec.name: _cast(example[spec.name], spec)
            for spec in signature.inputs
            if spec.name in example
        }
    return {
        name: array[np.arange(rows) % len(array)] if array.ndim and rows else array
        for name, array in example.items()
    }


def synthetic_rows(signature: Signature, rows: int, inner: int = 1) -> Tensors:
    """*rows* rows of zeros, empty strings or empty bytes, and JSON of these.

    Args:
        signature: What the rows must fit; where it fixes the number of rows, that number holds.
        rows: How many rows otherwise.
        inner: The size of every further axis that may be of any size.
    """
    return {spec.name: _zeros(spec, rows, inner) for spec in signature.inputs}


def _cast(array: Array, spec: TensorSpec) -> Array:
    if spec.is_column and array.ndim == len(spec.shape) + 1:
        array = array[..., 0]
    datatype = DATATYPES[spec.datatype]
    if datatype is BYTES:
        return array.astype(object)
    if array.dtype.kind == "M":
        array = array.astype("datetime64[ns]")
    return array.astype(datatype.dtype)


def _zeros(spec: TensorSpec, rows: int, inner: int) -> Array:
    first = tuple(rows if size == -1 else size for size in spec.shape[:1])
    further = tuple(inner if size == -1 else size for size in spec.shape[1:])
    shape = first + further
    if spec.kind == "json":
        return np.full(shape, sample_cell(spec), object)
    if DATATYPES[spec.datatype] is BYTES:
        return np.full(shape, b"" if spec.kind == "binary" else "", object)
    return np.zeros(shape, DATATYPES[spec.datatype].dtype)

"""Example: a model's input example as named tensors, in a file that needs no pickle to read.

The file is numpy's npz: numbers as they are, text as 'U' arrays, bytes as 'S' arrays, instants as
int64 nanoseconds. Workers try the model with it before the first caller's rows arrive.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mlflow.models import Model

from headrace.datatypes import BYTES, DATATYPES
from headrace.signature import Given, Signature, TensorSpec

Array = npt.NDArray[np.generic]


def write_example(model: Model, directory: Path, signature: Signature | None, file: Path) -> bool:
    """Write the input example of the model in *directory* to *file*.

    Returns:
        Whether it was written: not so where there is no example, or where it does not fit the
        signature. A model serves without one.
    """
    try:
        said = model.saved_input_example_info
        if said is None or not _is_below(directory, said["artifact_path"]):
            return False
        example = model.load_input_example(str(directory))
        _save(file, _tensors(example, signature))
    except Exception:  # noqa: BLE001 - anything can be logged as an example, and fail anywhere.
        file.unlink(missing_ok=True)
        return False
    return True


def _is_below(directory: Path, name: str) -> bool:
    return (directory / name).resolve().is_relative_to(directory.resolve())


def _save(file: Path, tensors: Mapping[str, Array]) -> None:
    # numpy's savez takes names as keywords, and fails for an input that is named "file".
    with zipfile.ZipFile(file, "w") as archive:
        for name, tensor in tensors.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(tensor), allow_pickle=False)


def _tensors(example: Any, signature: Signature | None) -> dict[str, Array]:
    """The example by input name, in the signature's order, checked against it."""
    if signature is None:
        return {name: _plain(values) for name, values in _unsigned(example).items()}
    is_table = all(spec.is_column for spec in signature.inputs)
    by_name = (_columns if is_table else _arrays)(example, signature.inputs)
    tensors = {}
    for spec in signature.inputs:
        if spec.name in by_name:
            try:
                tensors[spec.name] = _tensor(by_name[spec.name], spec)
            except (TypeError, ValueError):
                # A column that may be left out may hold nothing but nulls.
                if not spec.optional:
                    raise
    given = [Given(name, _datatype(signature, name), t.shape) for name, t in tensors.items()]
    signature.fit(given)
    return tensors


def _unsigned(example: Any) -> Mapping[str, Any]:
    if hasattr(example, "columns"):
        return {str(name): column for name, column in example.items()}
    return example if isinstance(example, Mapping) else {"input-0": example}


def _columns(example: Any, specs: Sequence[TensorSpec]) -> dict[str, Sequence[Any]]:
    """One cell per row for each column. The example's forms are those of MLflow's `log_model`."""
    if hasattr(example, "columns"):  # A DataFrame.
        return {str(name): list(column) for name, column in example.items()}
    if isinstance(example, Mapping):  # One row, or lists of cells where cells are no lists.
        kinds = {spec.name: spec.kind for spec in specs}
        return {
            name: value if isinstance(value, list) and kinds.get(name) != "json" else [value]
            for name, value in example.items()
        }
    rows = example if isinstance(example, list | np.ndarray) else [example]
    if len(specs) == 1 and specs[0].name == "input-0":  # One column without a name.
        return {specs[0].name: list(rows)}
    return {spec.name: [row[spec.name] for row in rows] for spec in specs}


def _arrays(example: Any, specs: Sequence[TensorSpec]) -> Mapping[str, Any]:
    return example if isinstance(example, Mapping) else {specs[0].name: example}


def _tensor(values: Any, spec: TensorSpec) -> Array:
    if spec.kind == "json":
        return np.array([json.dumps(cell, default=_json_cell) for cell in values], np.str_)
    if spec.datatype == BYTES.name:
        return _strings(np.asarray(values, object))
    if spec.kind == "datetime":
        return np.asarray(values).astype("datetime64[ns]").astype(np.int64)
    # "same_kind" lets an example be wider than the signature, never of another kind.
    return np.asarray(values).astype(DATATYPES[spec.datatype].dtype, casting="same_kind")


def _plain(values: Any) -> Array:
    array = np.asarray(values)
    if array.dtype.kind == "M":
        return array.astype("datetime64[ns]").astype(np.int64)
    return _strings(array) if array.dtype.kind == "O" else array


def _strings(array: npt.NDArray[np.object_]) -> Array:
    """All elements str, or all of them bytes."""
    for kind, dtype in ((str, np.str_), (bytes, np.bytes_)):
        if all(isinstance(element, kind) for element in array.flat):
            return array.astype(dtype)
    raise TypeError("expected text or bytes")


def _json_cell(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def _datatype(signature: Signature, name: str) -> str:
    return next(spec.datatype for spec in signature.inputs if spec.name == name)

"""Tables: columns of a signature as the DataFrame that MLflow hands to a model.

Text and bytes come as objects, instants as datetime64[ns], and what travels as JSON as Python's own
lists and dicts. pandas is imported with the first frame.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from headrace.cells import read_cell
from headrace.signature import TensorSpec

from .base import Array, Tensors


def frame_of(tensors: Tensors, specs: Sequence[TensorSpec], names: Sequence[Any] = ()) -> Any:
    """A pandas DataFrame of the columns that *tensors* hold.

    Args:
        tensors: Columns, in the order of *specs*; optional ones may be missing.
        specs: What they are.
        names: What the frame calls them, one per spec; their own names where empty.
    """
    import pandas as pd

    labels = names or [spec.name for spec in specs]
    columns = {
        label: python_column(tensors[spec.name], spec)
        for label, spec in zip(labels, specs, strict=True)
        if spec.name in tensors
    }
    return pd.DataFrame(columns, copy=False)


def python_column(column: Array, spec: TensorSpec) -> Array:
    """A column's values as a model gets them."""
    if spec.kind == "datetime":
        return column.astype("datetime64[ns]")
    if spec.kind == "json":
        return _objects([_cell(item, spec) for item in column.tolist()])
    if spec.kind == "string" and column.size and type(column[0]) is float:
        return _texts(column)
    return column


def text_null() -> Any:
    """What pandas has for a null among texts: NaN, and None before its third version."""
    import pandas as pd

    return pd.Series(["", None]).to_numpy()[1]


def with_nulls(tensors: Tensors, specs: Sequence[TensorSpec]) -> Tensors:
    """*tensors* with a column of nulls for each of *specs* that they lack.

    A null is NaN among numbers, NaT among instants, and what pandas has for it among texts.
    """
    rows = next((len(column) for column in tensors.values()), 0)
    return {
        spec.name: tensors[spec.name] if spec.name in tensors else _nulls(spec, rows)
        for spec in specs
    }


def _nulls(spec: TensorSpec, rows: int) -> Array:
    if spec.kind == "datetime":
        return np.full(rows, "NaT", "datetime64[ns]")
    if spec.kind == "string":
        return _objects([text_null()] * rows)
    if spec.datatype == "BYTES":
        return np.full(rows, None, object)
    return np.full(rows, np.nan, np.float64)


def _texts(column: Array) -> Array:
    """Texts that begin with a null: a column without any is one of pandas' texts all the same.

    pandas, which tells a column's type by its values, would take it for one of anything.
    """
    import pandas as pd

    texts: Any = pd.Series(column, dtype=pd.Series([""]).dtype)
    # numpy has no such type; a frame takes one for the other.
    return cast("Array", texts)


def _cell(item: Any, spec: TensorSpec) -> Any:
    """A cell's value; a column of nulls holds None already."""
    import pandas as pd

    return None if item is None else read_cell(item, spec, pd.Timestamp)


def _objects(items: list[Any]) -> Array:
    # Not np.array(items): lists of one length would become further axes.
    return np.fromiter(items, object, len(items))

"""Parquet: the columns of a Parquet file as arrays and lists that rows can be sliced from.

pyarrow is an extra: it is imported when the first file is read.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import UsageError

Column: TypeAlias = Sequence[Any] | npt.NDArray[Any]


def read_columns(stream: BinaryIO) -> Mapping[str, Column]:
    """All columns by name; a null is None, NaN in a column of floats, NaT in one of instants.

    Numbers, truths and instants (datetime64, in UTC) are arrays; text, bytes, lists and what has
    nulls are lists.

    Raises:
        UsageError: pyarrow is not installed, or *stream* holds no Parquet file.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra.
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise UsageError(
            "reading Parquet files needs pyarrow, which is not installed: "
            'pip install "headrace[parquet]"'
        ) from None
    try:
        # Standard input cannot seek, and a Parquet file begins at its end.
        table = pq.read_table(io.BytesIO(stream.read()))
    except (pa.ArrowException, OSError) as error:
        first = str(error).partition("\n")[0]
        raise UsageError(f"the file is not a Parquet file: {first}") from None
    return {name: _column(table.column(name), pa) for name in table.column_names}


def _column(column: Any, pa: Any) -> Column:
    types = pa.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_decimal(kind):
        column, kind = column.cast(pa.float64()), pa.float64()
    is_number = types.is_integer(kind) or types.is_boolean(kind) or types.is_temporal(kind)
    has_null = types.is_floating(kind) or types.is_timestamp(kind) or types.is_date(kind)
    if has_null or (is_number and not column.null_count):
        array = column.to_numpy()
        # numpy has no other word for a duration or a time of day than an object.
        return array if array.dtype != np.dtype(object) else list(array)
    values: list[Any] = column.to_pylist()
    return values

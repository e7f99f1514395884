"""Datatype: the element types of the Open Inference Protocol beside their numpy types.

One table says how a datatype is named on the wire, how its elements lie in raw bytes, what Python
sees, and which field of InferTensorContents holds them. BF16 has no numpy type: Python sees
float32, and encoding rounds to nearest even.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

# The largest integer up to which every integer has its own float64 (IEEE 754, 53-bit significand).
EXACT_INTEGER_MAX: Final = 2**53


@dataclass(frozen=True, slots=True)
class Datatype:
    """One element type.

    Attributes:
        name: The protocol's name, such as "FP32".
        dtype: The numpy type that Python sees; object for BYTES.
        wire: The little-endian numpy type of the raw bytes; None for BYTES, whose elements vary.
        contents: The field of InferTensorContents; None where only raw bytes exist.
        code: A small number that stands for the datatype in frames between our processes.
    """

    name: str
    dtype: np.dtype[np.generic]
    wire: np.dtype[np.generic] | None
    contents: str | None
    code: int

    @property
    def itemsize(self) -> int:
        """Bytes of one element on the wire; 0 for BYTES."""
        return 0 if self.wire is None else self.wire.itemsize


def _row(code: int, name: str, dtype: str, contents: str | None, wire: str | None) -> Datatype:
    return Datatype(
        name=name,
        dtype=np.dtype(dtype),
        wire=None if wire is None else np.dtype(wire),
        contents=contents,
        code=code,
    )


BYTES: Final = _row(13, "BYTES", "object", "bytes_contents", None)

DATATYPES: Final[dict[str, Datatype]] = {
    row.name: row
    for row in (
        _row(1, "BOOL", "bool", "bool_contents", "?"),
        _row(2, "UINT8", "uint8", "uint_contents", "u1"),
        _row(3, "UINT16", "uint16", "uint_contents", "<u2"),
        _row(4, "UINT32", "uint32", "uint_contents", "<u4"),
        _row(5, "UINT64", "uint64", "uint64_contents", "<u8"),
        _row(6, "INT8", "int8", "int_contents", "i1"),
        _row(7, "INT16", "int16", "int_contents", "<i2"),
        _row(8, "INT32", "int32", "int_contents", "<i4"),
        _row(9, "INT64", "int64", "int64_contents", "<i8"),
        _row(10, "FP16", "float16", None, "<f2"),
        _row(11, "FP32", "float32", "fp32_contents", "<f4"),
        _row(12, "FP64", "float64", "fp64_contents", "<f8"),
        BYTES,
        _row(14, "BF16", "float32", None, "<u2"),
    )
}

BY_CODE: Final[dict[int, Datatype]] = {row.code: row for row in DATATYPES.values()}

_BY_DTYPE: Final[dict[np.dtype[np.generic], Datatype]] = {
    row.dtype: row for row in DATATYPES.values() if row.name not in {"BF16", "BYTES"}
}


def datatype_of(dtype: np.dtype[np.generic]) -> Datatype:
    """The datatype that carries a numpy *dtype*: strings, bytes and objects travel as BYTES.

    datetime64 travels as INT64 nanoseconds.

    Raises:
        ValueError: No datatype carries it (complex, void, timedelta, ...).
    """
    if dtype.kind in "SUO":
        return BYTES
    if dtype.kind == "M":
        return DATATYPES["INT64"]
    found = _BY_DTYPE.get(dtype.newbyteorder("="))
    if found is None:
        raise ValueError(f"numpy type {dtype} has no datatype of the Open Inference Protocol")
    return found


def widens(source: Datatype, target: Datatype) -> bool:
    """Whether every value of *source* is a value of *target*, both numbers.

    INT64 and UINT64 widen to FP64 too, but only for values up to 2**53: see `needs_exact_check`.
    """
    if source is target:
        return True
    if BYTES in (source, target) or "BOOL" in (source.name, target.name) or target.name == "BF16":
        return False
    if source.name == "BF16":
        return target.name in {"FP32", "FP64"}
    return bool(np.can_cast(source.dtype, target.dtype, casting="safe"))


def needs_exact_check(source: Datatype, target: Datatype) -> bool:
    """Whether widening *source* to *target* keeps only integers up to 2**53."""
    return target.name == "FP64" and source.name in {"INT64", "UINT64"}

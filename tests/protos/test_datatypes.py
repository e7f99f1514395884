"""Datatypes: the table, and which of them widen into which."""

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from headrace.datatypes import (
    BY_CODE,
    BYTES,
    DATATYPES,
    EXACT_INTEGER_MAX,
    Datatype,
    datatype_of,
    needs_exact_check,
    widens,
)

# The Open Inference Protocol's own table, beside BF16, which Triton added.
BITS = {
    "BOOL": 8,
    "UINT8": 8,
    "UINT16": 16,
    "UINT32": 32,
    "UINT64": 64,
    "INT8": 8,
    "INT16": 16,
    "INT32": 32,
    "INT64": 64,
    "FP16": 16,
    "FP32": 32,
    "FP64": 64,
    "BYTES": 0,
    "BF16": 16,
}

# What each datatype widens into, written out: a second opinion on numpy's casting rules.
WIDER = {
    "BOOL": "BOOL",
    "UINT8": "UINT8 UINT16 UINT32 UINT64 INT16 INT32 INT64 FP16 FP32 FP64",
    "UINT16": "UINT16 UINT32 UINT64 INT32 INT64 FP32 FP64",
    "UINT32": "UINT32 UINT64 INT64 FP64",
    "UINT64": "UINT64 FP64",
    "INT8": "INT8 INT16 INT32 INT64 FP16 FP32 FP64",
    "INT16": "INT16 INT32 INT64 FP32 FP64",
    "INT32": "INT32 INT64 FP64",
    "INT64": "INT64 FP64",
    "FP16": "FP16 FP32 FP64",
    "FP32": "FP32 FP64",
    "FP64": "FP64",
    "BYTES": "BYTES",
    "BF16": "BF16 FP32 FP64",
}


def test_the_table_holds_the_protocols_datatypes_with_their_sizes() -> None:
    assert {name: row.itemsize * 8 for name, row in DATATYPES.items()} == BITS
    assert all(name == row.name for name, row in DATATYPES.items())


def test_every_datatype_is_found_by_its_code() -> None:
    assert len(BY_CODE) == len(DATATYPES)
    assert all(BY_CODE[row.code] is row for row in DATATYPES.values())
    # A code is one byte of a frame, and 0 would read as "nothing was written".
    assert all(0 < code < 256 for code in BY_CODE)


def test_raw_bytes_are_little_endian_whatever_the_host_is() -> None:
    for row in DATATYPES.values():
        if row.wire is not None and row.itemsize > 1:
            assert row.wire == row.wire.newbyteorder("<"), row.name


def test_half_precision_has_no_typed_field() -> None:
    without = {row.name for row in DATATYPES.values() if row.contents is None}

    assert without == {"FP16", "BF16"}


def test_a_numpy_type_of_any_byte_order_has_its_datatype() -> None:
    for row in DATATYPES.values():
        if row.name not in {"BF16", "BYTES"}:
            assert datatype_of(row.dtype) is row
            assert datatype_of(row.dtype.newbyteorder("<")) is row
            assert datatype_of(row.dtype.newbyteorder(">")) is row


@pytest.mark.parametrize("dtype", ["U5", "S3", "O"])
def test_strings_bytes_and_objects_travel_as_bytes(dtype: str) -> None:
    assert datatype_of(np.dtype(dtype)) is BYTES


def test_platform_names_of_integers_have_their_datatype() -> None:
    for dtype in (np.int_, np.intc, np.longlong, np.uintp, np.ulonglong):
        assert datatype_of(np.dtype(dtype)).dtype.itemsize == np.dtype(dtype).itemsize


def test_moments_travel_as_nanoseconds() -> None:
    assert datatype_of(np.dtype("datetime64[D]")).name == "INT64"


@pytest.mark.parametrize("dtype", ["complex64", "V8", "timedelta64[s]", "longdouble"])
def test_a_numpy_type_that_nothing_carries_is_refused_by_name(dtype: str) -> None:
    with pytest.raises(ValueError, match=r"numpy type .* has no datatype") as caught:
        datatype_of(np.dtype(dtype))

    assert str(np.dtype(dtype)) in str(caught.value)


def test_widening_loses_nothing_and_nothing_else_is_allowed() -> None:
    for source, target in product(DATATYPES.values(), repeat=2):
        expected = target.name in WIDER[source.name].split()
        assert widens(source, target) is expected, (source.name, target.name)


def test_extreme_values_survive_every_widening() -> None:
    for source, target in product(DATATYPES.values(), repeat=2):
        if source.dtype.kind in "iuf" and widens(source, target):
            values = _extremes(source, is_exact=needs_exact_check(source, target))
            wide = values.astype(target.dtype)
            assert wide.tolist() == values.tolist(), (source.name, target.name)


def _extremes(datatype: Datatype, *, is_exact: bool) -> npt.NDArray[Any]:
    dtype: Any = datatype.dtype
    bounds = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    low, high = bounds.min, bounds.max
    if is_exact:
        low, high = max(low, -EXACT_INTEGER_MAX), EXACT_INTEGER_MAX
    return np.array([low, high], dtype)


def test_only_64_bit_integers_that_become_fp64_need_a_look_at_their_values() -> None:
    needing = {
        (source.name, target.name)
        for source, target in product(DATATYPES.values(), repeat=2)
        if widens(source, target) and needs_exact_check(source, target)
    }

    assert needing == {("INT64", "FP64"), ("UINT64", "FP64")}


def test_the_bound_is_the_first_integer_whose_successor_float64_lacks() -> None:
    assert float(EXACT_INTEGER_MAX) == EXACT_INTEGER_MAX
    assert float(EXACT_INTEGER_MAX - 1) == EXACT_INTEGER_MAX - 1
    assert float(EXACT_INTEGER_MAX + 1) != EXACT_INTEGER_MAX + 1

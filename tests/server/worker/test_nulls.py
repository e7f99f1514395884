"""Masks laid over columns: what a model then sees is what pandas makes of None."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.nulls import masks_of
from headrace.signature import TensorSpec
from headrace_server.adapters.tables import frame_of
from headrace_server.worker.nulls import without_masks

Array = npt.NDArray[Any]

SPECS = (
    TensorSpec("name", "BYTES", (-1,), "string"),
    TensorSpec("is_new", "BOOL", (-1,), "boolean"),
    TensorSpec("raw", "BYTES", (-1,), "binary", optional=True),
    TensorSpec("at", "INT64", (-1,), "datetime"),
    TensorSpec("size", "FP64", (-1,), "double"),
    TensorSpec("width", "FP32", (-1,), "float"),
    TensorSpec("path", "BYTES", (-1,), "json", optional=True, schema='{"type": "any"}'),
)
MASKS = masks_of(SPECS)
# As they come from the arena, and as pandas is given them.
COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "name": (np.array(["a", "", "c"], object), ["a", "", "c"]),
    "is_new": (np.array([True, False, True]), [True, False, True]),
    "raw": (np.array([b"\0", b"", b"c"], object), [b"\0", b"", b"c"]),
    "at": (np.array([0, 10**9, -1]), [pd.Timestamp(ns) for ns in (0, 10**9, -1)]),
    "size": (np.array([0.5, 1.5, 2.5]), [0.5, 1.5, 2.5]),
    "width": (np.array([0.5, 1.5, 2.5], np.float32), [0.5, 1.5, 2.5]),
    "path": (np.array(["[1]", "{}", '"x"'], object), [[1], {}, "x"]),
}


def read_only(array: Array) -> Array:
    """As what lies in the arena is never to be written."""
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def expected(nulls: dict[str, Array]) -> pd.DataFrame:
    """What pandas makes of None in these rows."""
    frame = pd.DataFrame(
        {
            name: [
                None if name in nulls and nulls[name][row] else cell
                for row, cell in enumerate(cells)
            ]
            for name, (_, cells) in COLUMNS.items()
        }
    )
    return frame.astype({"width": np.float32, "at": "datetime64[ns]", "size": np.float64})


@given(
    st.dictionaries(
        st.sampled_from(sorted(COLUMNS)), st.lists(st.booleans(), min_size=3, max_size=3)
    ),
    st.sampled_from([(3,), (3, 1)]),
)
def test_some_nulls_are_those_of_pandas(
    masks: dict[str, list[bool]], shape: tuple[int, ...]
) -> None:
    nulls = {name: np.array(mask) for name, mask in masks.items() if not all(mask)}
    tensors = {name: read_only(array) for name, (array, _) in COLUMNS.items()}
    tensors |= {f"{name}.is_null": mask.reshape(shape) for name, mask in nulls.items()}

    columns, nullable = without_masks(tensors, SPECS, MASKS)

    assert [spec.name for spec in nullable] == [name for name in COLUMNS if name in nulls]
    pd.testing.assert_frame_equal(frame_of(columns, SPECS), expected(nulls))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_mask_alone_is_a_column_of_none(name: str) -> None:
    mask = np.ones(3, bool)
    tensors = {key: array for key, (array, _) in COLUMNS.items() if key != name}

    columns, _ = without_masks({**tensors, f"{name}.is_null": mask}, SPECS, MASKS)

    assert list(columns) == list(COLUMNS)
    pd.testing.assert_frame_equal(frame_of(columns, SPECS), expected({name: mask}))


def test_texts_that_are_all_missing_are_texts_where_the_column_is_there() -> None:
    tensors = {key: array for key, (array, _) in COLUMNS.items()}

    columns, _ = without_masks({**tensors, "name.is_null": np.ones(3, bool)}, SPECS, MASKS)

    frame = frame_of(columns, SPECS)
    pd.testing.assert_series_equal(frame["name"], pd.Series([None] * 3, dtype="str", name="name"))


def test_a_column_of_a_masks_name_is_no_mask() -> None:
    specs = (SPECS[0], TensorSpec("name.is_null", "BOOL", (-1,), "boolean"))
    tensors = {"name": COLUMNS["name"][0], "name.is_null": np.array([True, False, True])}

    columns, nullable = without_masks(tensors, specs, masks_of(specs))

    assert nullable == []
    assert columns == tensors

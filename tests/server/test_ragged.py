"""Ragged inputs: what is padded, with what, and that a cut answer is as if nothing had been."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace.datatypes import BYTES, DATATYPES, datatype_of
from headrace.signature import Given, Signature, TensorSpec
from headrace.tensors import decode, encode
from headrace_server.errors import HeadraceError, InvalidRequest, LoadFailed
from headrace_server.ragged import Bucket, bucket_of, with_mask_optional
from headrace_server.settings import BucketBy
from headrace_server.types import BatchKey, Outputs, OutputTensor, Request

SIZES = (2, 4, 8)
BUCKETS = BucketBy(sizes=SIZES)
MASKED = Signature(
    (
        TensorSpec("ids", "INT64", (-1, -1)),
        TensorSpec("real", "FP32", (-1, -1)),
        TensorSpec("age", "FP64", (-1, 1)),
    ),
    (TensorSpec("y", "INT64", (-1, -1)), TensorSpec("z", "INT64", (-1, 8))),
)


class Kept:
    """A Reply that keeps what it is given."""

    def __init__(self) -> None:
        self.answers: list[tuple[Outputs, int, int]] = []

    def answer(self, request: Request, outputs: Outputs, start: int, stop: int) -> None:
        self.answers.append((outputs, start, stop))

    def fail(self, request: Request, error: HeadraceError) -> None:
        raise AssertionError(error)


def bucket(buckets: BucketBy, signature: Signature | None, *given: Given) -> Bucket:
    found = bucket_of(buckets, signature, given)
    assert found is not None
    return found[0]


@given(
    st.integers(1, 3).flatmap(
        lambda axis: st.tuples(
            st.just(axis),
            arrays.arrays(
                st.sampled_from(["<f4", "<i2", "?"]).map(np.dtype),
                arrays.array_shapes(min_dims=axis + 1, max_dims=4, min_side=0, max_side=8).filter(
                    lambda shape: shape[0] > 0
                ),
            ),
        )
    )
)
def test_what_was_padded_and_is_cut_again_is_what_it_was(case: tuple[int, Any]) -> None:
    axis, x = case
    datatype = datatype_of(x.dtype)
    shape = tuple(-1 if index in (0, axis) else size for index, size in enumerate(x.shape))
    spec = TensorSpec("x", datatype.name, shape)
    signature = Signature((spec,), (spec,))
    how = bucket(BucketBy(axis=axis, sizes=SIZES), signature, Given("x", datatype.name, x.shape))

    (raw,) = how.fill([bytes(encode(x, datatype))])

    size = next(size for size in SIZES if size >= x.shape[axis])
    padded_shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    padded = decode(raw, datatype, padded_shape)
    before, after = np.split(padded, [x.shape[axis]], axis)
    assert np.array_equal(before, x, equal_nan=x.dtype.kind == "f")
    assert not after.any()
    assert answered(how, OutputTensor("x", datatype, padded_shape, raw), len(x)).shape == x.shape


def answered(how: Bucket, tensor: OutputTensor, rows: int) -> OutputTensor:
    """*tensor* as the caller of a request of all its rows gets it."""
    kept = Kept()
    request = Request(BatchKey(()), rows, [], kept, None)
    how.reply(kept).answer(request, Outputs(("m", "1"), (tensor,), rows), 0, rows)
    ((outputs, start, stop),) = kept.answers
    assert (start, stop) == (0, rows) == (0, outputs.rows)
    return outputs.tensors[0]


def test_texts_are_padded_and_cut_by_elements() -> None:
    texts = np.array([["a", "", "ccc"], ["dd", "e", "f"]], object)
    spec = TensorSpec("x", "BYTES", (-1, -1))
    how = bucket(
        BucketBy(sizes=SIZES, pad="<pad>"),
        Signature((spec,), (spec,)),
        Given("x", "BYTES", texts.shape),
    )

    (raw,) = how.fill([bytes(encode(texts, BYTES))])

    assert decode(raw, BYTES, (2, 4)).tolist() == [
        [b"a", b"", b"ccc", b"<pad>"],
        [b"dd", b"e", b"f", b"<pad>"],
    ]
    answer = answered(how, OutputTensor("x", BYTES, (2, 4), raw), 2)
    assert (answer.shape, answer.data) == ((2, 3), bytes(encode(texts, BYTES)))


def test_a_mask_stands_where_the_signature_has_it_and_tells_what_is_real() -> None:
    buckets = BucketBy(sizes=SIZES, mask="real", pad=7)
    inputs = (Given("ids", "INT64", (2, 3)), Given("age", "FP64", (2, 1)))

    found = bucket_of(buckets, MASKED, inputs)

    assert found is not None
    how, padded = found
    assert padded == [
        Given("ids", "INT64", (2, 4)),
        Given("real", "FP32", (2, 4)),
        Given("age", "FP64", (2, 1)),
    ]
    ids, real, age = how.fill([np.arange(6).tobytes(), b"age"])
    assert np.frombuffer(ids, np.int64).tolist() == [0, 1, 2, 7, 3, 4, 5, 7]
    assert np.frombuffer(real, np.float32).tolist() == [1, 1, 1, 0] * 2
    assert age == b"age"


def test_only_outputs_that_follow_the_axis_are_cut() -> None:
    how = bucket(BUCKETS, MASKED, Given("ids", "INT64", (1, 5)), Given("real", "FP32", (1, 5)))
    eight = np.arange(8).tobytes()

    for name, shape in {"y": (1, 5), "z": (1, 8)}.items():
        tensor = OutputTensor(name, DATATYPES["INT64"], (1, 8), eight)
        assert answered(how, tensor, 1).shape == shape


def test_an_output_without_rows_keeps_its_first_axis() -> None:
    how = bucket(BUCKETS, MASKED, Given("ids", "INT64", (2, 5)), Given("real", "FP32", (2, 5)))
    tensor = OutputTensor("total", DATATYPES["INT64"], (1, 1), np.zeros(1, np.int64).tobytes())

    assert answered(how, tensor, 2).shape == (1, 1)


def test_without_a_signature_every_input_with_the_axis_is_padded() -> None:
    found = bucket_of(BUCKETS, None, [Given("a", "FP32", (3, 3)), Given("b", "FP32", (3,))])

    assert found is not None
    assert [tensor.shape for tensor in found[1]] == [(3, 4), (3,)]


def test_nothing_is_done_where_nothing_is_ragged() -> None:
    assert bucket_of(BucketBy(), MASKED, [Given("ids", "INT64", (1, 3))]) is None
    assert bucket_of(BUCKETS, MASKED, [Given("age", "FP64", (1, 1))]) is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            [Given("ids", "INT64", (1, 9))],
            "input 'ids': expected at most 8 along axis 1, the largest size of bucket_by, got 9",
        ),
        (
            [Given("ids", "INT64", (1, 3)), Given("real", "FP32", (1, 4))],
            "input 'real': expected 3 along axis 1, as input 'ids' has, got 4",
        ),
    ],
)
def test_what_does_not_fit_is_told(given: list[Given], why: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        bucket_of(BUCKETS, MASKED, given)

    assert str(told.value) == why


@pytest.mark.parametrize(
    ("buckets", "why"),
    [
        (
            {"mask": "nosuch"},
            "bucket_by: mask 'nosuch' is not among ['ids', 'real', 'age']",
        ),
        (
            {"inputs": ("nosuch",)},
            "bucket_by: input 'nosuch' is not among ['ids', 'real', 'age']",
        ),
        ({"axis": 2}, "bucket_by: no input may be of any size along axis 2"),
        ({"pad": 0.5}, "bucket_by: pad = 0.5 is no INT64, which input 'ids' is"),
        ({"pad": "x"}, "bucket_by: pad = 'x' is no INT64, which input 'ids' is"),
    ],
)
def test_buckets_that_do_not_suit_the_model_fail_its_load(
    buckets: dict[str, object], why: str
) -> None:
    with pytest.raises(LoadFailed) as told:
        with_mask_optional(BucketBy.model_validate({"sizes": SIZES, **buckets}), MASKED)

    assert str(told.value) == why


def test_a_callers_signature_has_an_optional_mask() -> None:
    signature = with_mask_optional(BucketBy(sizes=SIZES, mask="real"), MASKED)

    assert signature is not None
    assert [spec.name for spec in signature.inputs if spec.optional] == ["real"]
    assert with_mask_optional(BucketBy(), MASKED) is MASKED

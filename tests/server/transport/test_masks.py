"""Masks of missing values on their way to a batch: plans, batch keys, and what is refused."""

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from doubles import FakeRepository, RecordingReply
from headrace.datatypes import datatype_of
from headrace.oip.open_inference_pb2 import ModelInferRequest
from headrace.signature import Signature, TensorSpec
from headrace.tensors import encode
from headrace_server.errors import InvalidRequest
from headrace_server.norows import NoRows
from headrace_server.service import Service
from headrace_server.transport.decoder import Decoder
from headrace_server.types import Plan, Request

REPLY = RecordingReply()
DOUBLES = json.dumps({"type": "array", "items": {"type": "double"}})
SIGNATURE = Signature(
    (
        TensorSpec("size", "FP64", (-1,), "double"),
        TensorSpec("note", "BYTES", (-1,), "string", optional=True),
        TensorSpec("is_new", "BOOL", (-1,), "boolean", optional=True),
        TensorSpec("path", "BYTES", (-1,), "json", optional=True, schema=DOUBLES),
    ),
    (TensorSpec("y", "FP64", (-1,), "double"),),
)
SIZE = np.array([1.0, 2.0])
NOTE = np.array(["a", "b"], object)
SECOND = np.array([False, True])


@pytest.fixture(name="decoder")
def _decoder() -> Decoder:
    repository = FakeRepository()
    repository.serve("any", SIGNATURE)
    decoder = Decoder(Service(repository.real, queue_bytes_max=1 << 40))
    decoder.begin_burst()
    return decoder


def decoded(decoder: Decoder, **arrays: npt.NDArray[Any]) -> tuple[Plan, Request]:
    """The request of *arrays*, in which "__" stands for the dot of a mask's name."""
    message = ModelInferRequest(model_name="any")
    for name, array in arrays.items():
        datatype = datatype_of(array.dtype)
        name = name.replace("__", ".")  # noqa: PLW2901
        message.inputs.add(name=name, datatype=datatype.name, shape=array.shape)
        message.raw_input_contents.append(bytes(encode(array, datatype)))
    return decoder.decode(message.SerializeToString(), REPLY, "call", 0.0, math.inf)


def refusal(decoder: Decoder, **arrays: npt.NDArray[Any]) -> str:
    with pytest.raises(InvalidRequest) as raised:
        decoded(decoder, **arrays)
    return str(raised.value)


def test_masks_are_the_last_inputs_of_a_batch_key_of_their_own(decoder: Decoder) -> None:
    _, plain = decoded(decoder, size=SIZE, note=NOTE)
    _, masked = decoded(decoder, note__is_null=SECOND, size=SIZE, note=NOTE)

    assert [layout.name for layout in plain.key.inputs] == ["size", "note"]
    assert [(layout.name, layout.mask_of) for layout in masked.key.inputs] == [
        ("size", ""),
        ("note", ""),
        ("note.is_null", "note"),
    ]
    assert not masked.key.inputs[-1].is_alone
    assert bytes(masked.tensors[-1]) == b"\0\1"
    # The second time by its plan: texts have no layout.
    assert decoded(decoder, note__is_null=SECOND, size=SIZE, note=NOTE)[1].key is masked.key


def test_a_request_whose_texts_or_truths_may_be_missing_runs_whole(decoder: Decoder) -> None:
    """A model may fill them in from the rows beside; batching was proven without any."""
    whole = {
        name: decoded(decoder, **arrays)[1].key.is_whole
        for name, arrays in {
            "plain": {"size": SIZE, "note": NOTE},
            "texts": {"size": SIZE, "note": NOTE, "note__is_null": SECOND},
            "truths": {"size": SIZE, "is_new": SECOND, "is_new__is_null": SECOND},
            "alone": {"size": SIZE, "note__is_null": np.ones(2, bool)},
            "floats": {"size": SIZE, "size__is_null": SECOND},
            "json": {"size": SIZE, "path__is_null": np.ones(2, bool)},
        }.items()
    }

    assert {name for name, is_whole in whole.items() if is_whole} == {"texts", "truths", "alone"}


def test_the_values_of_a_mask_are_looked_at_each_time(decoder: Decoder) -> None:
    odd = np.array([0, 2], np.uint8).view(bool)
    alone = {"size": SIZE, "size__is_null": SECOND, "is_new__is_null": np.ones(2, bool)}
    for _ in range(2):
        decoded(decoder, **alone)
        assert refusal(decoder, size=SIZE, note=NOTE, note__is_null=odd) == (
            "input 'note.is_null': expected BOOL elements of 0 or 1, got 2"
        )
        assert refusal(decoder, **{**alone, "is_new__is_null": SECOND}) == (
            "input 'is_new.is_null': expected true in every row, since input 'is_new' is not "
            "there, got false in row 0"
        )


def test_what_stands_where_a_value_is_missing_is_not_looked_at(decoder: Decoder) -> None:
    odd = np.array([b"a", b"\xff"], object)
    paths = np.array([b"[1]", b""], object)
    many = np.array([b"\xff", b"a"] * 100, object)

    decoded(decoder, size=SIZE, note=odd, note__is_null=SECOND)
    decoded(decoder, size=SIZE, path__is_null=SECOND, path=paths)
    decoded(decoder, size=np.zeros(200), note=many, note__is_null=np.array([True, False] * 100))
    assert "note': row 1: expected text" in refusal(
        decoder, size=SIZE, note=odd, note__is_null=~SECOND
    )
    assert "path': row 1: expected JSON" in refusal(
        decoder, size=SIZE, path=paths, path__is_null=~SECOND
    )
    assert "note': row 2: expected text" in refusal(
        decoder,
        size=np.zeros(200),
        note=many,
        note__is_null=np.array([True, False] + [False] * 198),
    )


def test_a_mask_of_another_length_is_refused_whatever_it_would_hide(decoder: Decoder) -> None:
    message = ModelInferRequest(model_name="any")
    for name, array in {"path": np.array([b"", b""], object), "path.is_null": SECOND}.items():
        datatype = datatype_of(array.dtype)
        message.inputs.add(name=name, datatype=datatype.name, shape=array.shape)
        message.raw_input_contents.append(bytes(encode(array, datatype)))
    message.inputs.add(name="size", datatype="FP64", shape=[2])
    message.raw_input_contents.append(SIZE.tobytes())
    message.raw_input_contents[1] = b"\1"

    with pytest.raises(InvalidRequest):
        decoder.decode(message.SerializeToString(), REPLY, "call", 0.0, math.inf)


def test_no_rows_have_no_missing_values(decoder: Decoder) -> None:
    none = np.zeros(0)
    for arrays in (
        {"size": none, "note": none.astype(object), "note__is_null": none.astype(bool)},
        {"size": none, "note__is_null": none.astype(bool)},
    ):
        plan, request = decoded(decoder, **arrays)

        assert isinstance(plan.target, NoRows)
        assert request.rows == 0

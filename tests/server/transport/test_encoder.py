"""Encoder: answers that protobuf can read."""

import math
import struct

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from doubles import RecordingReply
from headrace.datatypes import BYTES, DATATYPES
from headrace.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from headrace.tensors import decode
from headrace_server.transport.encoder import Encoder
from headrace_server.types import BatchKey, InputLayout, Outputs, OutputTensor, Request
from strategies import datatypes, names, raw_rows, texts

ids = texts | st.integers(100, 400).map(lambda n: "i" * n)


@st.composite
def outputs(draw: DrawFn) -> Outputs:
    rows = draw(st.integers(1, 5))
    made = []
    for name in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        datatype = draw(datatypes)
        inner = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
        shape = (rows, *inner)
        layout = InputLayout(name, datatype, inner, math.prod(inner) * datatype.itemsize)
        if datatype is not BYTES:
            made.append(OutputTensor(name, datatype, shape, draw(raw_rows(layout, rows))))
            continue
        each = [draw(raw_rows(layout, 1)) for _ in range(rows)]
        starts = [sum(map(len, each[:row])) for row in range(rows + 1)]
        made.append(OutputTensor(name, datatype, shape, b"".join(each), starts))
    return Outputs((draw(names), draw(names)), tuple(made), rows)


def answered(encoder: Encoder, of: Outputs, start: int, stop: int, text: str) -> ModelInferResponse:
    id_field = ModelInferRequest(id=text).SerializeToString()
    request = Request(BatchKey(()), stop - start, [], RecordingReply(), None, id_field=id_field)
    return ModelInferResponse.FromString(encoder.encode(request, of, start, stop))


@given(st.lists(outputs(), min_size=1, max_size=3), st.data())
def test_protobuf_reads_the_rows_that_are_a_callers(
    batches: list[Outputs], data: st.DataObject
) -> None:
    encoder = Encoder()
    for _ in range(4):
        of = data.draw(st.sampled_from(batches))
        start = data.draw(st.integers(0, of.rows - 1))
        stop = data.draw(st.integers(start + 1, of.rows))
        text = data.draw(ids)

        response = answered(encoder, of, start, stop, text)

        assert (response.model_name, response.model_version) == of.model
        assert response.id == text
        assert len(response.outputs) == len(response.raw_output_contents) == len(of.tensors)
        for head, raw, tensor in zip(
            response.outputs, response.raw_output_contents, of.tensors, strict=True
        ):
            assert (head.name, head.datatype) == (tensor.name, tensor.datatype.name)
            assert tuple(head.shape) == (stop - start, *tensor.shape[1:])
            whole = decode(tensor.data, tensor.datatype, tensor.shape)
            part = decode(raw, tensor.datatype, tuple(head.shape))
            assert part.tolist() == whole[start:stop].tolist() or part.dtype.kind == "f"
            assert part.tobytes() == whole[start:stop].tobytes() or part.dtype == object


def test_an_output_without_a_row_axis_is_answered_whole() -> None:
    """As models that do not batch return them: every batch is one request."""
    encoder = Encoder()
    mean = OutputTensor("mean", DATATYPES["FP64"], (3,), struct.pack("<3d", 1, 2, 3))
    loss = OutputTensor("loss", DATATYPES["FP64"], (), struct.pack("<d", 4))
    for rows in (2, 3, 2):
        response = answered(encoder, Outputs(("m", "1"), (mean, loss), rows), 0, rows, "")

        assert [list(head.shape) for head in response.outputs] == [[3], []]
        assert list(response.raw_output_contents) == [mean.data, loss.data]


def test_answers_of_ever_new_kinds_are_still_written() -> None:
    """Models whose outputs have ever new shapes must not fill the memory, nor lose an answer."""
    encoder = Encoder()
    for size in (*range(1, 5000), 1):
        data = bytes(size)
        tensor = OutputTensor("y", DATATYPES["UINT8"], (1, size), data)

        response = answered(encoder, Outputs(("m", "1"), (tensor,), 1), 0, 1, "")

        assert list(response.outputs[0].shape) == [1, size]


def test_answers_of_one_kind_and_different_rows_do_not_mix() -> None:
    encoder = Encoder()
    for rows in (1, 200, 1, 70_000):
        tensor = OutputTensor("y", DATATYPES["UINT8"], (rows,), bytes(rows))

        response = answered(encoder, Outputs(("m", "1"), (tensor,), rows), 0, rows, "a")

        assert list(response.outputs[0].shape) == [rows]
        assert response.raw_output_contents[0] == bytes(rows)

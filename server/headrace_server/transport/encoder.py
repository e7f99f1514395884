"""Encoder: Outputs to ModelInferResponse bytes. No tensor enters protobuf.

Answers with as many rows and of one kind differ in their ids and tensors only: the rest is encoded
once.
"""

import math

from headrace.datatypes import BYTES
from headrace.oip.open_inference_pb2 import ModelInferResponse
from headrace.wire import varint

from ..errors import ResourceExhausted
from ..types import Buffer, Outputs, OutputTensor, Request

# What gRPC itself can carry.
MESSAGE_BYTES_MAX = 2**31 - 1

# Kept heads, by kind of answer; beyond it all are forgotten and made anew.
_KEPT_MAX = 4096

_TAG_RAW_OUTPUT = b"\x32"


class Encoder:
    """Responses from outputs. Used by any thread."""

    def __init__(self, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._message_bytes_max = message_bytes_max
        self._heads: dict[object, dict[int, _Head]] = {}

    def encode(self, request: Request, outputs: Outputs, start: int, stop: int) -> bytes:
        """A ModelInferResponse with rows *start* to *stop*: the one copy of answers.

        Raises:
            ResourceExhausted: It is longer than a message may be.
        """
        heads = outputs.heads
        if heads is None:
            heads = outputs.heads = self._heads_of(outputs)
        assert isinstance(heads, dict)
        head = heads.get(stop - start)
        if head is None:
            head = heads[stop - start] = _head(outputs, stop - start)
        pieces: list[Buffer] = [head.model, request.id_field, head.outputs]
        rows = outputs.rows
        for index, tensor in enumerate(outputs.tensors):
            data = tensor.rows(start, stop, rows)
            pieces.append(head.prefixes[index] or _TAG_RAW_OUTPUT + varint(len(data)))
            pieces.append(data)
        payload = b"".join(pieces)
        if len(payload) > self._message_bytes_max:
            raise ResourceExhausted(
                f"the answer has {len(payload)} bytes, message_bytes_max is "
                f"{self._message_bytes_max}"
            )
        return payload

    def _heads_of(self, outputs: Outputs) -> "dict[int, _Head]":
        key = (
            outputs.model,
            tuple(
                (tensor.name, tensor.datatype.code, _row_shape(tensor, outputs.rows))
                for tensor in outputs.tensors
            ),
        )
        heads = self._heads.get(key)
        if heads is None:
            if len(self._heads) >= _KEPT_MAX:
                self._heads.clear()
            heads = self._heads[key] = {}
        return heads


class _Head:
    """The encoded fields of a response that are the same for all requests of as many rows."""

    __slots__ = ("model", "outputs", "prefixes")

    def __init__(self, model: bytes, outputs: bytes, prefixes: tuple[bytes, ...]) -> None:
        self.model = model
        self.outputs = outputs
        # Tag and length before each raw tensor; empty where the length varies.
        self.prefixes = prefixes


def _row_shape(tensor: OutputTensor, batch_rows: int) -> tuple[int, ...]:
    """The shape without its row axis; all of it behind a -1 where there is no row axis."""
    has_rows = tensor.shape[:1] == (batch_rows,)
    return tensor.shape[1:] if has_rows else (-1, *tensor.shape)


def _head(outputs: Outputs, rows: int) -> _Head:
    name, version = outputs.model
    message = ModelInferResponse()
    prefixes = []
    for tensor in outputs.tensors:
        shape = tensor.shape
        if shape[:1] == (outputs.rows,):
            shape = (rows, *shape[1:])
        message.outputs.add(name=tensor.name, datatype=tensor.datatype.name, shape=shape)
        nbytes = math.prod(shape) * tensor.datatype.itemsize
        prefixes.append(b"" if tensor.datatype is BYTES else _TAG_RAW_OUTPUT + varint(nbytes))
    return _Head(
        ModelInferResponse(model_name=name, model_version=version).SerializeToString(),
        message.SerializeToString(),
        tuple(prefixes),
    )

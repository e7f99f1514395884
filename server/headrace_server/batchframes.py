"""Batchframes: the bodies of the two frames that carry a batch, packed with struct, little-endian.

Tensors travel by reference: their bytes lie in the arena or in a memfd. Standard library only, as
frames.py.
"""

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .types import Instants

_RUN = struct.Struct("<QIIHH")  # batch id, instance, rows, tensors, requested outputs
_DONE = struct.Struct("<Q4QH")  # batch id, four instants, tensors
_TENSOR = struct.Struct(
    "<HBBBQQQ"
)  # name bytes, datatype code, axes, place, offset, bytes, row ends
_SIZE = struct.Struct("<q")
_NAME = struct.Struct("<H")
_ROW = struct.Struct("<I")


class Place(enum.IntEnum):
    """Where a tensor's bytes lie."""

    ARENA = 0
    MEMFD = 1  # The next descriptor that rides along.


class TensorRef(NamedTuple):
    """A tensor by reference: what it is, and where its bytes lie.

    Attributes:
        name: Its name.
        code: `Datatype.code`.
        shape: All axes.
        offset: First byte, from the start of the arena or memfd.
        nbytes: Length of its raw bytes.
        place: Arena or memfd.
        row_ends: For BYTES outputs, where `rows + 1` uint64 begin that say at which byte each row
            begins and the last one ends, relative to offset; else 0.
    """

    name: str
    code: int
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    place: int = Place.ARENA
    row_ends: int = 0


@dataclass(slots=True)
class RunFrame:
    """Daemon to worker: run these rows; write outputs into the given region of the arena.

    Attributes:
        batch: Identifies the batch in the answer.
        instance: Which of the worker's instances runs it.
        rows: Rows of the batch; 0 for a whole request, whose answer may have any number.
        inputs: The input tensors.
        outputs: Names of the outputs wanted; empty for all.
        out_offset: Where the slot's output side begins.
        out_bytes: How long it is.
        parameters: The batch key's parameters, as JSON; empty for none.
    """

    batch: int
    instance: int
    rows: int
    inputs: tuple[TensorRef, ...]
    outputs: tuple[str, ...]
    out_offset: int
    out_bytes: int
    parameters: bytes = b""

    def pack(self) -> bytes:
        """The body."""
        pieces = [
            _RUN.pack(self.batch, self.instance, self.rows, len(self.inputs), len(self.outputs)),
            struct.pack("<QQ", self.out_offset, self.out_bytes),
        ]
        for ref in self.inputs:
            _pack_tensor(ref, pieces)
        for name in self.outputs:
            _pack_name(name, pieces)
        # The rest of the body: most models have none, which then costs nothing.
        pieces.append(self.parameters)
        return b"".join(pieces)

    @classmethod
    def unpack(cls, body: bytes) -> "RunFrame":
        """Read what `pack` wrote."""
        batch, instance, rows, n_inputs, n_outputs = _RUN.unpack_from(body)
        out_offset, out_bytes = struct.unpack_from("<QQ", body, _RUN.size)
        at = _RUN.size + 16
        inputs = []
        for _ in range(n_inputs):
            ref, at = _unpack_tensor(body, at)
            inputs.append(ref)
        outputs = []
        for _ in range(n_outputs):
            name, at = _unpack_name(body, at)
            outputs.append(name)
        return cls(
            batch,
            instance,
            rows,
            tuple(inputs),
            tuple(outputs),
            out_offset,
            out_bytes,
            body[at:],
        )


@dataclass(slots=True)
class DoneFrame:
    """Worker to daemon: the outputs of a batch.

    Attributes:
        batch: Which.
        instants: When it passed the worker's steps.
        outputs: The output tensors.
        refused: By row, why its outputs cannot be carried; None where all can.
    """

    batch: int
    instants: Instants
    outputs: tuple[TensorRef, ...] = field(default=())
    refused: Mapping[int, str] | None = None

    def pack(self) -> bytes:
        """The body."""
        pieces = [_DONE.pack(self.batch, *self.instants, len(self.outputs))]
        for ref in self.outputs:
            _pack_tensor(ref, pieces)
        if self.refused:
            # The rest of the body: most batches have none, which then costs nothing.
            for row, why in self.refused.items():
                pieces.append(_ROW.pack(row))
                _pack_name(why, pieces)
        return b"".join(pieces)

    @classmethod
    def unpack(cls, body: bytes) -> "DoneFrame":
        """Read what `pack` wrote."""
        batch, received, staged, computed, finished, count = _DONE.unpack_from(body)
        at = _DONE.size
        outputs = []
        for _ in range(count):
            ref, at = _unpack_tensor(body, at)
            outputs.append(ref)
        refused: dict[int, str] | None = None
        while at < len(body):
            (row,) = _ROW.unpack_from(body, at)
            refused = refused or {}
            refused[row], at = _unpack_name(body, at + _ROW.size)
        instants = Instants(received, staged, computed, finished)
        return cls(batch, instants, tuple(outputs), refused)


def _pack_tensor(ref: TensorRef, pieces: list[bytes]) -> None:
    name = ref.name.encode()
    axes = len(ref.shape)
    pieces.append(
        _TENSOR.pack(len(name), ref.code, axes, ref.place, ref.offset, ref.nbytes, ref.row_ends)
    )
    pieces.append(name)
    pieces.append(struct.pack(f"<{axes}q", *ref.shape))


def _unpack_tensor(body: bytes, at: int) -> tuple[TensorRef, int]:
    name_bytes, code, axes, place, offset, nbytes, row_ends = _TENSOR.unpack_from(body, at)
    at += _TENSOR.size
    name = body[at : at + name_bytes].decode()
    at += name_bytes
    shape = struct.unpack_from(f"<{axes}q", body, at)
    return TensorRef(name, code, shape, offset, nbytes, place, row_ends), at + _SIZE.size * axes


def _pack_name(name: str, pieces: list[bytes]) -> None:
    data = name.encode()
    pieces.append(_NAME.pack(len(data)))
    pieces.append(data)


def _unpack_name(body: bytes, at: int) -> tuple[str, int]:
    (size,) = _NAME.unpack_from(body, at)
    at += _NAME.size
    return body[at : at + size].decode(), at + size

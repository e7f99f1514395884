"""Ragged inputs: padded along one axis to the next of a few sizes, so that they share batches.

What is to be done stands in a Bucket, once per kind of request. Its `fill` pads the tensors, and
adds the mask that tells the model what is real, if it takes one; its `reply` cuts the answer back.
Between the two it is a request like any other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from headrace.datatypes import BYTES, DATATYPES, Datatype
from headrace.elements import TensorError, element_offsets
from headrace.signature import Given, Signature, TensorSpec
from headrace.tensors import encode

from .errors import HeadraceError, InvalidRequest, LoadFailed
from .settings import BucketBy
from .sizes import padded_size
from .types import Buffer, Outputs, OutputTensor, Reply, Request


@dataclass(frozen=True, slots=True)
class _Padding:
    """How one tensor is padded.

    Attributes:
        datatype: Its datatype.
        shape: Its shape as given.
        axis: The axis that grows.
        filler: The raw bytes that are added at the end of that axis, once per entry of all axes
            before it.
    """

    datatype: Datatype
    shape: tuple[int, ...]
    axis: int
    filler: bytes

    def apply(self, data: Buffer) -> Buffer:
        """The padded tensor's bytes."""
        entries = math.prod(self.shape[: self.axis])
        if not entries:
            return data
        if self.datatype is BYTES:
            return b"".join(
                piece
                for entry in _entries(data, entries, math.prod(self.shape[self.axis :]))
                for piece in (entry, self.filler)
            )
        given = np.frombuffer(data, np.uint8).reshape(entries, -1)
        real = given.shape[1]
        padded = np.empty((entries, real + len(self.filler)), np.uint8)
        padded[:, :real] = given
        padded[:, real:] = np.frombuffer(self.filler, np.uint8)
        return padded.reshape(-1).data


@dataclass(frozen=True, slots=True)
class Bucket:
    """What requests of one kind need to share batches with longer and shorter ones.

    Attributes:
        axis: The axis along which they differ.
        length: How long they are.
        size: How long they are made.
        paddings: How each tensor is padded, in the order in which requests hold them; None for one
            that stays as it is.
        mask: The mask's bytes; None where the model takes none, or the caller gives it.
        mask_at: Where it is put among the tensors.
        outputs: Names of the outputs that are cut to the length again where they have the size.
    """

    axis: int
    length: int
    size: int
    paddings: tuple[_Padding | None, ...]
    mask: bytes | None
    mask_at: int
    outputs: frozenset[str]

    def fill(self, tensors: Sequence[Buffer]) -> list[Buffer]:
        """The bytes of all inputs of the batch key."""
        filled = [
            data if padding is None else padding.apply(data)
            for padding, data in zip(self.paddings, tensors, strict=True)
        ]
        if self.mask is not None:
            filled.insert(self.mask_at, self.mask)
        return filled

    def reply(self, reply: Reply) -> Reply:
        """Where answers go that may be too long."""
        return reply if self.length == self.size or not self.outputs else _Cutting(self, reply)

    def cut(self, tensor: OutputTensor, shape: tuple[int, ...], data: Buffer) -> OutputTensor:
        """*tensor* without what stands for padding; the request's part has *shape* and *data*."""
        if tensor.name not in self.outputs or shape[self.axis : self.axis + 1] != (self.size,):
            return OutputTensor(tensor.name, tensor.datatype, shape, data)
        entries = math.prod(shape[: self.axis])
        inner = math.prod(shape[self.axis + 1 :])
        cut: Buffer
        if not data:
            cut = data
        elif tensor.datatype is BYTES:
            offsets = element_offsets(data, entries * self.size * inner)
            starts = offsets[:: self.size * inner][:entries]
            ends = offsets[self.length * inner :: self.size * inner]
            cut = b"".join(data[a:b] for a, b in zip(starts, ends, strict=False))
        else:
            whole = np.frombuffer(data, np.uint8).reshape(entries, self.size, -1)
            cut = whole[:, : self.length].tobytes()
        shape = (*shape[: self.axis], self.length, *shape[self.axis + 1 :])
        return OutputTensor(tensor.name, tensor.datatype, shape, cut)


class _Cutting:
    """A Reply that cuts answers before they are sent."""

    def __init__(self, bucket: Bucket, reply: Reply) -> None:
        self._bucket = bucket
        self._reply = reply

    def answer(self, request: Request, outputs: Outputs, start: int, stop: int) -> None:
        """See `types.Reply`."""
        rows = stop - start
        tensors = tuple(
            self._bucket.cut(
                tensor,
                # An output of a model that does not batch may have no row axis.
                (rows, *tensor.shape[1:]) if tensor.shape[:1] == (outputs.rows,) else tensor.shape,
                tensor.rows(start, stop, outputs.rows),
            )
            for tensor in outputs.tensors
        )
        cut = Outputs(outputs.model, tensors, rows, trip=outputs.trip)
        self._reply.answer(request, cut, 0, rows)

    def fail(self, request: Request, error: HeadraceError) -> None:
        """See `types.Reply`."""
        self._reply.fail(request, error)


def bucket_of(
    buckets: BucketBy, signature: Signature | None, given: Sequence[Given]
) -> tuple[Bucket, list[Given]] | None:
    """The bucket of a request with the inputs *given*, and these as they are after padding.

    Returns:
        None where none is padded.

    Raises:
        InvalidRequest: Its ragged inputs differ in length, or are longer than every bucket.
    """
    if not buckets.sizes:
        return None
    axis = buckets.axis
    ragged = _ragged_inputs(buckets, signature)
    if ragged is None:
        ragged = {tensor.name for tensor in given if len(tensor.shape) > axis}
    mask = _mask_spec(buckets, signature)
    is_mask_given = any(tensor.name == buckets.mask for tensor in given)
    lengths = {
        tensor.name: tensor.shape[axis]
        for tensor in given
        if tensor.name in ragged and len(tensor.shape) > axis
    }
    if not lengths:
        return None
    first, length = next(iter(lengths.items()))
    for name, other in lengths.items():
        if other != length:
            raise InvalidRequest(
                f"input {name!r}: expected {length} along axis {axis}, as input {first!r} has, "
                f"got {other}"
            )
    if length > buckets.sizes[-1]:
        raise InvalidRequest(
            f"input {first!r}: expected at most {buckets.sizes[-1]} along axis {axis}, the largest "
            f"size of bucket_by, got {length}"
        )
    size = padded_size(length, buckets.sizes)
    paddings = tuple(
        _padding(tensor, size, axis, 0 if tensor.name == buckets.mask else buckets.pad)
        if tensor.name in lengths
        else None
        for tensor in given
    )
    padded = [
        replace(tensor, shape=(*tensor.shape[:axis], size, *tensor.shape[axis + 1 :]))
        if tensor.name in lengths
        else tensor
        for tensor in given
    ]
    written: bytes | None = None
    mask_at = 0
    if mask is not None and not is_mask_given:
        assert signature is not None, "a mask is an input of the signature"
        before = {spec.name for spec in signature.inputs[: signature.inputs.index(mask)]}
        mask_at = sum(tensor.name in before for tensor in given)
        # As many axes as the ragged axis has before it, the rows first.
        leading = next(tensor.shape[:axis] for tensor in given if tensor.name == first)
        real = np.zeros((*leading, size), DATATYPES[mask.datatype].dtype)
        real[..., :length] = 1
        written = bytes(encode(real, DATATYPES[mask.datatype]))
        padded.insert(mask_at, Given(mask.name, mask.datatype, real.shape))
    outputs = () if signature is None else signature.outputs
    open_outputs = frozenset(spec.name for spec in outputs if spec.shape[axis : axis + 1] == (-1,))
    return Bucket(axis, length, size, paddings, written, mask_at, open_outputs), padded


def with_mask_optional(buckets: BucketBy, signature: Signature | None) -> Signature | None:
    """*signature* for callers: the mask is written for them.

    Raises:
        LoadFailed: *buckets* names what the signature does not have.
    """
    if not buckets.sizes:
        return signature
    ragged = _ragged_inputs(buckets, signature)
    known = {} if signature is None else {spec.name: spec for spec in signature.inputs}
    if signature is not None and signature.inputs:
        for name in buckets.inputs:
            if name not in known:
                raise LoadFailed(f"bucket_by: input {name!r} is not among {list(known)}")
        if not ragged:
            raise LoadFailed(f"bucket_by: no input may be of any size along axis {buckets.axis}")
        for name, spec in known.items():
            if name in ragged:
                _check_pad(buckets, name, DATATYPES[spec.datatype])
    if not buckets.mask:
        return signature
    mask = known.get(buckets.mask)
    if signature is None or mask is None:
        raise LoadFailed(f"bucket_by: mask {buckets.mask!r} is not among {list(known)}")
    if DATATYPES[mask.datatype] is BYTES or len(mask.shape) != buckets.axis + 1:
        raise LoadFailed(
            f"bucket_by: mask {buckets.mask!r}: expected numbers with {buckets.axis + 1} axes, got "
            f"{mask.datatype} of shape {list(mask.shape)}"
        )
    inputs = tuple(replace(one, optional=one.optional or one is mask) for one in signature.inputs)
    return replace(signature, inputs=inputs)


def _ragged_inputs(buckets: BucketBy, signature: Signature | None) -> set[str] | None:
    """The inputs that are padded; None where only the request can tell."""
    if buckets.inputs:
        return {*buckets.inputs, *([buckets.mask] if buckets.mask else ())}
    if signature is None or not signature.inputs:
        return None
    at = slice(buckets.axis, buckets.axis + 1)
    return {spec.name for spec in signature.inputs if spec.shape[at] == (-1,)}


def _mask_spec(buckets: BucketBy, signature: Signature | None) -> TensorSpec | None:
    if signature is None or not buckets.mask:
        return None
    return next((spec for spec in signature.inputs if spec.name == buckets.mask), None)


def _padding(tensor: Given, size: int, axis: int, pad: float | str) -> _Padding | None:
    missing = size - tensor.shape[axis]
    if not missing:
        return None
    datatype = DATATYPES[tensor.datatype]
    count = missing * math.prod(tensor.shape[axis + 1 :])
    return _Padding(datatype, tensor.shape, axis, _filler(pad, count, datatype))


def _filler(pad: float | str, count: int, datatype: Datatype) -> bytes:
    if datatype is BYTES:
        text = np.full(count, pad if isinstance(pad, str) else "", object)
        return bytes(encode(text, datatype))
    return bytes(encode(np.full(count, pad, datatype.dtype), datatype))


def _check_pad(buckets: BucketBy, name: str, datatype: Datatype) -> None:
    if name == buckets.mask:
        return
    pad = buckets.pad
    try:
        _filler(pad, 1, datatype)
        is_exact = datatype is BYTES or datatype.dtype.kind not in "iub" or int(pad) == pad
    except (ValueError, OverflowError, TypeError, TensorError):
        is_exact = False
    if not is_exact:
        raise LoadFailed(
            f"bucket_by: pad = {buckets.pad!r} is no {datatype.name}, which input {name!r} is"
        )


def _entries(data: Buffer, entries: int, elements: int) -> list[Buffer]:
    """The bytes of each of *entries* that have so many BYTES *elements* each."""
    if not elements:
        return [b""] * entries
    bounds = element_offsets(data, entries * elements)[::elements]
    return [data[a:b] for a, b in pairwise(bounds)]

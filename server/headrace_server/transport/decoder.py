"""Decoder: ModelInferRequest bytes to a Request.

Requests of one caller look alike, so what one of them taught is kept, in two steps:

1. A *layout* recognises a message by its length and its header bytes, compared as a whole: no field
   is parsed, the tensors are slices at known places.
2. A *plan* is found by the message's bytes without its id and raw tensors, after a walk over the
   top-level fields. BYTES tensors, whose lengths vary, and unusual field orders stop here.

Only a message that neither knows goes through protobuf and the signature. Raw tensors never enter
protobuf.
"""

import math
from collections.abc import Sequence

from headrace.oip.open_inference_pb2 import ModelInferRequest
from headrace.signature import Given
from headrace.wire import Fields, WireError, split

from ..errors import InvalidRequest
from ..planning import Ask
from ..service import Service
from ..types import Buffer, Plan, Reply, Request
from .checks import check_bytes, check_values
from .contents import typed_bytes
from .parameters import parameters_of, refuse_parameters

_MALFORMED = "the message is not a ModelInferRequest"

# Up to this size a copied slice costs less than a view of the message (45 against 140 ns).
_SLICE_BYTES_MAX = 1024
# Kept layouts and plans: how many of each, how many bytes of headers together, and how long one may
# be. Beyond it all are forgotten and learned anew: a caller must not fill the memory with them.
_KEPT_MAX = 4096
_KEPT_BYTES_MAX = 64 * 1024 * 1024
_HEADER_BYTES_MAX = 1024 * 1024
# Layouts that share a name, a version and a length.
_SAME_LENGTH_MAX = 8

_TAG_VERSION = 0x12
_TAG_ID = 0x1A
_TAG_RAW_INPUT = 0x3A


class _Layout:
    """Messages of one length that differ in their id and their tensors' values only.

    Attributes:
        header: What lies between the id and the first raw tensor, that tensor's tag included.
        tags: Where, relative to the header, each further raw tensor's tag and length stand.
        slices: Where, relative to the header, the tensors lie, in the order of the plan's key.
        nbytes: Their sum.
        plan: What such a message means.
    """

    __slots__ = ("header", "nbytes", "plan", "slices", "tags")

    def __init__(
        self,
        header: bytes,
        tags: tuple[tuple[int, bytes], ...],
        slices: tuple[tuple[int, int], ...],
        plan: Plan,
    ) -> None:
        self.header = header
        self.tags = tags
        self.slices = slices
        self.nbytes = sum(stop - start for start, stop in slices)
        self.plan = plan


class Decoder:
    """Requests from bytes. Used by one thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._generation = -1
        self._layouts: dict[tuple[bytes, int], list[_Layout]] = {}
        self._plans: dict[bytes, Plan] = {}
        self._kept_bytes = 0

    def begin_burst(self) -> None:
        """Forget what was learned if the served models have changed since. Once per burst."""
        generation = self._service.generation
        if generation != self._generation:
            self._generation = generation
            self._forget()

    def _make_room(self, nbytes: int) -> None:
        """Account for *nbytes* more of headers, forgetting all others where they are too many."""
        if (
            max(len(self._layouts), len(self._plans)) >= _KEPT_MAX
            or self._kept_bytes + nbytes > _KEPT_BYTES_MAX
        ):
            self._forget()
        self._kept_bytes += nbytes

    def _forget(self) -> None:
        self._layouts.clear()
        self._plans.clear()
        self._kept_bytes = 0

    def decode(
        self, payload: bytes, reply: Reply, call: object, now: float, deadline_at: float
    ) -> tuple[Plan, Request]:
        """The request that *payload* states, with its tensors as slices or views of it.

        Raises:
            HeadraceError: It is malformed, or names or holds what is not served.
        """
        # The fields come in order of their numbers from every known encoder: name, version, id.
        try:
            at = 2 + payload[1]
            if payload[at] == _TAG_VERSION:
                at += 2 + payload[at + 1]
            begin = at + 2 + payload[at + 1] if payload[at] == _TAG_ID else at
        except IndexError:
            begin = at = 0
        for layout in self._layouts.get((payload[:at], len(payload) - begin), ()):
            if not payload.startswith(layout.header, begin):
                continue
            # A loop, not all(): a generator would cost as much as the comparisons.
            for offset, tag in layout.tags:
                if not payload.startswith(tag, begin + offset):
                    break
            else:
                plan = layout.plan
                whole = payload if layout.nbytes <= _SLICE_BYTES_MAX else memoryview(payload)
                tensors = [whole[begin + a : begin + b] for a, b in layout.slices]
                nbytes = layout.nbytes
                if plan.shaping is not None:
                    tensors = plan.shaping.fill(tensors)
                    nbytes = sum(map(len, tensors))
                    reply = plan.shaping.reply(reply)
                if plan.checked:
                    check_values(plan, tensors)
                if plan.timeout_s != math.inf:
                    deadline_at = min(deadline_at, now + plan.timeout_s)
                id_field = payload[at:begin]
                if not id_field.isascii():
                    _check_id(id_field[2:])
                return plan, Request(
                    plan.key,
                    plan.rows,
                    tensors,
                    reply,
                    call,
                    nbytes,
                    id_field,
                    now,
                    deadline_at,
                    plan.priority,
                )
        return self._decode_slowly(payload, reply, call, now, deadline_at, at, begin)

    def _decode_slowly(
        self,
        payload: bytes,
        reply: Reply,
        call: object,
        now: float,
        deadline_at: float,
        at: int,
        begin: int,
    ) -> tuple[Plan, Request]:
        try:
            fields = split(payload, id_tag=_TAG_ID, raw_tag=_TAG_RAW_INPUT)
        except WireError as error:
            raise InvalidRequest(f"{_MALFORMED}: {error}") from None
        _check_id(fields.id_field[fields.id_start :])
        # Without raw contents there may be typed ones, which are read anew for every message.
        plan = self._plans.get(fields.shared) if fields.raws else None
        given: Sequence[Buffer] = [payload[a:b] for a, b in fields.raws]
        if plan is None:
            plan, typed = self._plan(fields)
            if typed is not None:
                given = typed
            elif len(fields.shared) <= _HEADER_BYTES_MAX:
                self._make_room(len(fields.shared))
                self._plans[fields.shared] = plan
        check_bytes(plan, given)
        tensors = [given[index] for index in plan.order if index >= 0]
        if plan.shaping is not None:
            tensors = plan.shaping.fill(tensors)
            reply = plan.shaping.reply(reply)
        if plan.checked:
            check_values(plan, tensors)
        self._learn(payload, fields, plan, at, begin)
        return plan, Request(
            plan.key,
            plan.rows,
            tensors,
            reply,
            call,
            sum(map(len, tensors)),
            fields.id_field,
            now,
            min(deadline_at, now + plan.timeout_s),
            plan.priority,
        )

    def _plan(self, fields: Fields) -> tuple[Plan, list[Buffer] | None]:
        """A plan by protobuf and the signature; typed contents come back as raw bytes."""
        try:
            message = ModelInferRequest.FromString(fields.shared)
        except Exception as error:  # protobuf's DecodeError has no stable import path.
            raise InvalidRequest(_MALFORMED) from error
        typed: list[Buffer] | None = None
        for tensor in message.inputs:
            refuse_parameters(tensor.parameters, f"input {tensor.name!r}")
            if tensor.HasField("contents"):
                if fields.raws:
                    raise InvalidRequest(
                        f"input {tensor.name!r}: contents and raw_input_contents exclude each other"
                    )
                typed = typed or []
        if typed is not None or not fields.raws:
            typed = [typed_bytes(tensor) for tensor in message.inputs]
        elif len(fields.raws) != len(message.inputs):
            raise InvalidRequest(
                f"raw_input_contents: expected {len(message.inputs)} entries, one per input, "
                f"got {len(fields.raws)}"
            )
        for output in message.outputs:
            refuse_parameters(output.parameters, f"output {output.name!r}")
        plan = self._service.plan(
            Ask(
                model=message.model_name,
                version=message.model_version,
                inputs=tuple(
                    Given(tensor.name, tensor.datatype, tuple(tensor.shape))
                    for tensor in message.inputs
                ),
                outputs=tuple(output.name for output in message.outputs),
                parameters=parameters_of(message),
            )
        )
        return plan, typed

    def _learn(self, payload: bytes, fields: Fields, plan: Plan, at: int, begin: int) -> None:
        """Keep the layout of a message whose raw tensors have fixed sizes and stand at its end."""
        if not fields.raws or -1 in plan.byte_counts or len(fields.shared) > _HEADER_BYTES_MAX:
            return
        first, last = fields.raws[0][0], fields.raws[-1][1]
        header = payload[begin:first]
        is_canonical = (
            at > 0
            and fields.id_field == payload[at:begin]
            # Everything but the id and the raw tensors lies before them, in one piece.
            and fields.shared == payload[:at] + payload[begin : fields.raws_begin]
            and last == len(payload)
        )
        if not is_canonical:
            return
        spots = fields.raws
        tags = tuple(
            (spots[i - 1][1] - begin, payload[spots[i - 1][1] : spots[i][0]])
            for i in range(1, len(spots))
        )
        slices = tuple((spots[i][0] - begin, spots[i][1] - begin) for i in plan.order if i >= 0)
        self._make_room(len(header))
        same = self._layouts.setdefault((payload[:at], len(payload) - begin), [])
        if len(same) < _SAME_LENGTH_MAX:
            same.append(_Layout(header, tags, slices, plan))


def _check_id(id_bytes: bytes) -> None:
    """Whether the id is text: the answer that echoes it could not be read otherwise."""
    try:
        id_bytes.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"id: expected UTF-8, got {id_bytes[:32]!r}, which is none at byte {error.start}"
        ) from None

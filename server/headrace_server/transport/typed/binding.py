"""Binding: the typed service of one loaded model version, from messages to requests and back."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import DESCRIPTOR as STRUCT
from google.protobuf.timestamp_pb2 import DESCRIPTOR as TIMESTAMP
from google.protobuf.unknown_fields import UnknownFieldSet

from headrace.jsontext import write_json
from headrace.parameters import Given as GivenParameter
from headrace.signature import Given, Signature
from headrace.typed import SIGNATURE_KEY, Item, Kind, describe, file_of
from headrace.typed.description import VERSION_NUMBER
from headrace.wire import varint

from ...errors import HeadraceError, InvalidRequest, ResourceExhausted
from ...planning import Ask, check_signature
from ...repository.model import ModelVersion
from ...service import Service
from ...types import Buffer, Outputs, Plan, Reply, Request
from ..checks import check_bytes, check_values
from .fields import FieldTable, joined
from .reading import lies_alike, reader_of
from .values import plain, read_instant
from .writing import OutputUnlike, writer_of

# The level of a typed request, as the parameter `priority` of the tensor protocol.
PRIORITY_KEY = "headrace-priority"

Metadata = Iterable[tuple[str, str | bytes]]

# Kept plans, and how long the parameters of one may be; beyond it all are made anew.
_KEPT_MAX = 4096
_PARAMS_BYTES_MAX = 4096
_CHECKED_MAX = 64
# Layouts that share a length, and how much of one may be no values.
_SAME_LENGTH_MAX = 8
_HEADER_BYTES_MAX = 16 * 1024
# Up to this size a copied slice costs less than a view.
_SLICE_BYTES_MAX = 1024


class NoTypedService(HeadraceError):
    """The model has no such typed method."""

    code = "UNIMPLEMENTED"
    reason = "unimplemented"


class Binding:
    """A model version's typed service. Safe from any thread.

    Attributes:
        model: The version.
        service: What its service consists of.
        pool: A descriptor pool with its file, and those of protobuf that it needs.
    """

    def __init__(self, model: ModelVersion, message_bytes_max: int) -> None:
        """Bind *model*, which is loaded.

        Raises:
            NoTypedService: Its signature says too little, or protobuf cannot hold it.
        """
        self.model = model
        signature = _complete(model)
        try:
            self.service = describe(model.name, signature, model.fields)
            self.pool = _pool(file_of(self.service))
        except (ValueError, TypeError) as error:
            raise NoTypedService(f"model {model.name!r} has no typed service: {error}") from error
        self._checked: set[str | bytes] = set()
        self._forms = [
            _Form(self, message_bytes_max, is_row=is_row)
            for is_row in ((False, True) if self.service.has_rows else (False,))
        ]

    def decode(
        self,
        service: Service,
        payload: bytes,
        metadata: Metadata,
        reply: Reply,
        call: object,
        now: float,
        deadline_at: float,
        *,
        is_row: bool,
    ) -> tuple[Plan, Request]:
        """The request that *payload* states; `is_row` for PredictRow.

        Raises:
            HeadraceError: It is malformed, does not fit, or was made for another signature.
        """
        priority = ""
        for key, value in metadata:
            if key == SIGNATURE_KEY and value not in self._checked:
                self._check(value)
            elif key == PRIORITY_KEY:
                priority = str(value)
        if is_row and not self.service.has_rows:
            raise NoTypedService(
                f"model {self.model.name!r} takes no single rows: its inputs have no axis of rows"
            )
        return self._forms[is_row].decode(service, payload, priority, reply, call, now, deadline_at)

    def message_class(self, name: str) -> Any:
        """The Python class of one of its messages."""
        return GetMessageClass(self.pool.FindMessageTypeByName(f"{self.service.package}.{name}"))

    def _check(self, sent: str | bytes) -> None:
        check_signature(self.model, sent)
        if len(self._checked) >= _CHECKED_MAX:
            self._checked.clear()
        self._checked.add(sent)


class _Layout(NamedTuple):
    """Messages of one length that differ in the values of their columns only.

    Attributes:
        fragments: Where all that is no value stands, and what it is.
        slices: Where the tensors lie, in the order of the plan's key.
        nbytes: Their sum.
        plan: What such a message means.
    """

    fragments: tuple[tuple[int, bytes], ...]
    slices: tuple[tuple[int, int], ...]
    nbytes: int
    plan: Plan


class _Form:
    """One of the two methods: messages of many rows, or of one."""

    def __init__(self, binding: Binding, message_bytes_max: int, *, is_row: bool) -> None:
        service = binding.service
        self._model = binding.model
        self._message_bytes_max = message_bytes_max
        self._items = (*service.inputs, *service.masks)
        self._params = service.params
        self._table = FieldTable(service, is_row=is_row)
        self._readers = [
            reader_of(
                item,
                binding.message_class(item.type) if item.kind is Kind.ARRAY else None,
                is_row=is_row,
            )
            for item in self._items
        ]
        self._params_class = binding.message_class(service.params_message) if self._params else None
        self._writers = [
            {item.name: writer_of(item, is_row=is_row, is_raw=is_raw) for item in service.outputs}
            for is_raw in (False, True)
        ]
        version = self._model.version.encode()
        self._version = varint(VERSION_NUMBER << 3 | 2) + varint(len(version)) + version
        self._generation = -1
        self._plans: dict[object, Plan] = {}
        self._layouts: dict[int, list[_Layout]] = {}

    def decode(
        self,
        service: Service,
        payload: bytes,
        priority: str,
        reply: Reply,
        call: object,
        now: float,
        deadline_at: float,
    ) -> tuple[Plan, Request]:
        generation = service.generation
        if generation != self._generation:
            self._plans.clear()
            self._layouts.clear()
            self._generation = generation
        encode = self._encode
        for layout in () if priority else self._layouts.get(len(payload), ()):
            for offset, fragment in layout.fragments:
                if not payload.startswith(fragment, offset):
                    break
            else:
                plan = layout.plan
                whole = payload if layout.nbytes <= _SLICE_BYTES_MAX else memoryview(payload)
                tensors: list[Buffer] = [whole[a:b] for a, b in layout.slices]
                break
        else:
            plan, raws, is_raw = self._decode_slowly(service, payload, priority)
            tensors = [raws[index] for index in plan.order if index >= 0]
            if is_raw:
                encode = self._encode_raw
        nbytes = sum(map(len, tensors))
        if plan.shaping is not None:
            tensors = plan.shaping.fill(tensors)
            nbytes = sum(map(len, tensors))
            reply = plan.shaping.reply(reply)
        if plan.checked:
            check_values(plan, tensors)
        if plan.timeout_s != math.inf:
            deadline_at = min(deadline_at, now + plan.timeout_s)
        request = Request(
            plan.key, plan.rows, tensors, reply, call, nbytes, b"", now, deadline_at, plan.priority
        )
        request.encode = encode
        return plan, request

    def _decode_slowly(
        self, service: Service, payload: bytes, priority: str
    ) -> tuple[Plan, list[Buffer], bool]:
        """Plan and tensors of a message, in its own order, and whether these came as raw bytes."""
        slots = self._table.split(payload)
        stated: list[tuple[int, tuple[int, ...]]] = []
        raws: list[Buffer] = []
        is_raw = False
        for slot, read in enumerate(self._readers):
            if pieces := slots[slot]:
                shape, raw, came_raw = read(pieces)
                stated.append((slot, shape))
                raws.append(raw)
                is_raw |= came_raw
        params = bytes(joined(slots[-1])) if slots[-1] else b""
        plan = self._plan(service, tuple(stated), params, priority)
        check_bytes(plan, raws)
        if not priority and plan.shaping is None:
            self._learn(payload, plan)
        return plan, raws, is_raw

    def _learn(self, payload: bytes, plan: Plan) -> None:
        """Keep the layout of a message whose columns lie in it as they do in tensors."""
        spans = self._table.spans(payload)
        if not spans or len(payload) - sum(b - a for _, a, b in spans) > _HEADER_BYTES_MAX:
            return
        if not all(lies_alike(self._items[slot]) for slot, _, _ in spans):
            return
        ends = [0, *(stop for _, _, stop in spans)]
        begins = [*(start for _, start, _ in spans), len(payload)]
        fragments = [(a, payload[a:b]) for a, b in zip(ends, begins, strict=True) if a < b]
        # Tensors were stated in the order of the signature, not in that of the message.
        stated = sorted(spans)
        slices = [stated[index][1:] for index in plan.order if index >= 0]
        if len(self._layouts) >= _KEPT_MAX:
            self._layouts.clear()
        same = self._layouts.setdefault(len(payload), [])
        if len(same) < _SAME_LENGTH_MAX:
            nbytes = sum(b - a for a, b in slices)
            same.append(_Layout(tuple(fragments), tuple(slices), nbytes, plan))

    def _plan(
        self,
        service: Service,
        stated: tuple[tuple[int, tuple[int, ...]], ...],
        params: bytes,
        priority: str,
    ) -> Plan:
        key = (stated, params, priority)
        plan = self._plans.get(key)
        if plan is not None:
            return plan
        parameters = self._parameters(params)
        if priority:
            parameters["priority"] = int(priority) if priority.isdecimal() else priority
        plan = service.plan(
            Ask(
                model=self._model.name,
                version=self._model.version,
                inputs=tuple(
                    Given(self._items[slot].name, self._items[slot].tensor.datatype, shape)
                    for slot, shape in stated
                ),
                parameters=parameters,
            )
        )
        if len(params) <= _PARAMS_BYTES_MAX:
            if len(self._plans) >= _KEPT_MAX:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _parameters(self, encoded: bytes) -> dict[str, GivenParameter]:
        """What a message gives for parameters, as a request of the tensor protocol would."""
        if not encoded:
            return {}
        if self._params_class is None:
            raise InvalidRequest(f"model {self._model.name!r} takes no parameters")
        try:
            message = self._params_class.FromString(encoded)
        except Exception as error:  # protobuf's DecodeError has no stable import path.
            raise InvalidRequest("params: the message is no params of this model") from error
        unknown = UnknownFieldSet(message)
        if len(unknown):
            raise InvalidRequest(f"params: the model has no field {unknown[0].field_number}")
        given: dict[str, GivenParameter] = {}
        for item in self._params:
            value = getattr(message, item.field)
            if item.is_list:
                if len(value):
                    given[item.name] = write_json([_parameter(item, one) for one in value])
            elif message.HasField(item.field):
                one = _parameter(item, value)
                is_json = item.kind is Kind.VALUE
                given[item.name] = write_json(one) if is_json else one
        return given

    def _encode(self, _request: Request, outputs: Outputs, start: int, stop: int) -> bytes:
        return self._written(outputs, start, stop, is_raw=False)

    def _encode_raw(self, _request: Request, outputs: Outputs, start: int, stop: int) -> bytes:
        return self._written(outputs, start, stop, is_raw=True)

    def _written(self, outputs: Outputs, start: int, stop: int, *, is_raw: bool) -> bytes:
        """The answer with rows *start* to *stop*: the one copy of answers.

        Raises:
            OutputUnlike: The model answered what its signature does not say.
            ResourceExhausted: It is longer than a message may be.
        """
        writers = self._writers[is_raw]
        pieces: list[Buffer] = []
        rows = outputs.rows
        for tensor in outputs.tensors:
            write = writers.get(tensor.name)
            if write is None:
                raise OutputUnlike(
                    f"the model answered an output {tensor.name!r}, which its signature does not "
                    "have: ask by ModelInfer"
                )
            shape = tensor.shape
            if shape[:1] == (rows,):
                shape = (stop - start, *shape[1:])
            pieces += write(tensor, tensor.rows(start, stop, rows), shape)
        pieces.append(self._version)
        payload = b"".join(pieces)
        if len(payload) > self._message_bytes_max:
            raise ResourceExhausted(
                f"the answer has {len(payload)} bytes, message_bytes_max is "
                f"{self._message_bytes_max}"
            )
        return payload


def _complete(model: ModelVersion) -> Signature:
    signature = model.signature
    if signature is None or not signature.inputs:
        raise NoTypedService(
            f"model {model.name!r} has no typed service, since its inputs are not known: "
            "ask by ModelInfer"
        )
    if not signature.outputs:
        raise NoTypedService(
            f"model {model.name!r} has no typed service: its outputs are not known, since it could "
            "not be tried at load: log it with an input example, or ask by ModelInfer"
        )
    return signature


def _pool(file: FileDescriptorProto) -> DescriptorPool:
    pool = DescriptorPool()
    for needed in (TIMESTAMP, STRUCT):
        copy = FileDescriptorProto()
        needed.CopyToProto(copy)
        pool.Add(copy)
    pool.Add(file)
    return pool


def _parameter(item: Item, value: Any) -> Any:
    """One value of a parameter, as JSON would hold it."""
    if item.kind is Kind.INSTANT:
        try:
            nanoseconds = read_instant(value.SerializeToString())
        except ValueError as error:
            raise InvalidRequest(f"parameter {item.name!r}: {error}") from None
        # Python reads no more than microseconds.
        return str(np.datetime64(nanoseconds // 1000, "us"))
    if item.kind is Kind.VALUE:
        try:
            return plain(value)
        except ValueError as error:
            raise InvalidRequest(f"parameter {item.name!r}: {error}") from None
    # The decimal that the caller wrote, not the double nearest to its float.
    return float(str(np.float32(value))) if item.type == "float" else value

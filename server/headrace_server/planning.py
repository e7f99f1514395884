"""Planning: what all requests of one kind need, worked out once: do they fit, and which batch key.

A kind is what a message says apart from its id and its tensors' bytes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from headrace.datatypes import BYTES, DATATYPES
from headrace.nulls import has_own_null, masks_of
from headrace.parameters import Given as GivenParameter
from headrace.parameters import fill_parameters
from headrace.signature import Given, Signature, SignatureMismatch, TensorSpec, common_rows
from headrace.typed import SIGNATURE_KEY, SIGNATURE_PARAMETER, drift

from .errors import InvalidRequest, SignatureChanged
from .norows import NoRows, no_rows
from .ragged import bucket_of
from .repository.model import ModelVersion
from .types import InputLayout, Plan

# Rows of one request; also what keeps products of sizes far from overflow.
ROWS_MAX = 2**31 - 1
# numpy's older limit, and more than any model has.
AXES_MAX = 32
NAME_BYTES_MAX = 1024
PARAMETERS_BYTES_MAX = 64 * 1024
TENSORS_MAX = 2**16 - 1

# Parameters that every request may have, the protocol's own; a model whose signature has one of
# that name gets it instead.
_PROTOCOL_PARAMETERS = ("priority", "timeout")
_OWN_PARAMETERS = (*_PROTOCOL_PARAMETERS, SIGNATURE_PARAMETER)
# tritonclient, kserve and other callers set these; they mean nothing here and harm nothing.
TOLERATED = frozenset(
    {"content_type", "headers", "binary_data", "binary_data_output", "binary_data_size"}
)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a message asks for, apart from its tensors' bytes.

    Attributes:
        model: Served name.
        version: Empty, a number, or "@" and an alias.
        inputs: The tensors, as stated.
        outputs: Names of the outputs wanted; empty for all.
        parameters: Its parameters, the protocol's own among them.
    """

    model: str
    version: str
    inputs: tuple[Given, ...]
    outputs: tuple[str, ...] = ()
    parameters: Mapping[str, GivenParameter] = field(default_factory=dict)


def plan(model: ModelVersion, ask: Ask) -> Plan:
    """What every request to *model* that looks like *ask* will need.

    Raises:
        ModelLoading, ModelUnavailable: The model cannot be asked.
        InvalidRequest: The tensors or outputs do not fit it.
    """
    # First of all: a model that is still loading has no signature to check against.
    target = model.scheduler
    if max(len(ask.inputs), len(ask.outputs)) > TENSORS_MAX:
        raise InvalidRequest(f"a request has at most {TENSORS_MAX} inputs and outputs")
    for tensor in ask.inputs:
        _check_shape(tensor)
    own, given = _told_apart(model.signature, ask.parameters)
    if SIGNATURE_PARAMETER in own:
        check_signature(model, own[SIGNATURE_PARAMETER])
    try:
        order, common, exact = _fit(model.signature, ask.inputs)
        parameters = _parameters(model.signature, given)
    except SignatureMismatch as error:
        raise InvalidRequest(f"model {ask.model!r}: {error}") from None
    _check_outputs(model, ask.outputs)
    columns = {} if model.signature is None else _columns(model.signature)
    inputs = [ask.inputs[index] for index in order]
    is_whole = common is None or not model.is_batched or _lacks_values(model.signature, inputs)
    # What is run whole counts as one row at least, so that it has a place in the queue.
    rows = common if common is not None and not is_whole else _rows_of_whole(ask.inputs)
    shaping = None
    bucketed = bucket_of(model.settings.bucket_by, model.signature, inputs) if rows else None
    if bucketed is not None:
        shaping, inputs = bucketed
        if shaping.mask is not None:
            order = (*order[: shaping.mask_at], -1, *order[shaping.mask_at :])
    layouts = _marked(
        [_layout(tensor, columns, is_whole=is_whole) for tensor in inputs], model.signature
    )
    elements = tuple(math.prod(tensor.shape) for tensor in ask.inputs)
    return Plan(
        target=target if rows else NoRows(target.instrument, no_rows(model, ask.outputs)),
        key=model.batch_key(layouts, ask.outputs, is_whole=is_whole, parameters=parameters),
        rows=rows,
        order=order,
        byte_counts=tuple(
            -1 if (datatype := DATATYPES[tensor.datatype]) is BYTES else n * datatype.itemsize
            for tensor, n in zip(ask.inputs, elements, strict=True)
        ),
        element_counts=elements,
        checked=tuple(
            at
            for at, index in enumerate(order)
            if index in exact or layouts[at].datatype.name == "BOOL"
        ),
        timeout_s=_timeout_s(own),
        priority=_priority(model, own),
        shaping=shaping,
        masks=_masks(layouts, order) if shaping is None else {},
    )


def check_signature(model: ModelVersion, sent: object) -> None:
    """Whether a caller that was made for the signature of fingerprint *sent* still fits *model*.

    Raises:
        InvalidRequest: *sent* is no fingerprint.
        SignatureChanged: It does not fit; the message names what has changed.
    """
    # A stub may have been made of what the registry says, or of what the model was seen to do.
    known = [each for each in (model.signature, model.declared) if each is not None]
    try:
        drifts = (
            [drift(sent, each, model.fields) for each in known] if isinstance(sent, str) else []
        )
    except ValueError as error:
        raise InvalidRequest(f"{SIGNATURE_KEY}: {error}") from None
    if not any(each.is_compatible for each in drifts):
        why = f": {drifts[0]}" if drifts else ""
        raise SignatureChanged(
            f"model {model.name!r} version {model.version} has another signature than the caller "
            f"was made for{why}"
        )


def _fit(
    signature: Signature | None, inputs: Sequence[Given]
) -> tuple[tuple[int, ...], int | None, tuple[int, ...]]:
    """Order, common rows and the tensors to check for exactness, as `Signature.fit`.

    Any tensors fit a missing signature.
    """
    if signature is None or not signature.inputs:
        for tensor in inputs:
            if tensor.datatype not in DATATYPES:
                raise SignatureMismatch(
                    f"input {tensor.name!r}: unknown datatype {tensor.datatype!r}, expected one of "
                    f"{', '.join(DATATYPES)}"
                )
        if (twice := _repeated([tensor.name for tensor in inputs])) is not None:
            raise SignatureMismatch(f"input {twice!r} is given twice")
        return tuple(range(len(inputs))), common_rows(inputs), ()
    fit = signature.fit(inputs)
    order = (*(index for index in fit.order if index >= 0), *fit.masks)
    return order, fit.rows, fit.exact


def _lacks_values(signature: Signature | None, inputs: Sequence[Given]) -> bool:
    """Whether rows may lack values in a way that no row did when batching was proven.

    NaN, NaT and JSON's null are values like others, but a null among texts may have been filled in
    from the rows beside it: such a request runs whole.
    """
    masks = {} if signature is None else masks_of(signature.inputs)
    return any(
        tensor.name in masks and not has_own_null(masks[tensor.name]) and tensor.shape[0] > 0
        for tensor in inputs
    )


def _rows_of_whole(inputs: Sequence[Given]) -> int:
    """What a whole request counts for in the queue: its longest first axis, 1 at least."""
    return max((1, *(size for tensor in inputs for size in tensor.shape[:1])))


def _told_apart(
    signature: Signature | None, given: Mapping[str, GivenParameter]
) -> tuple[dict[str, GivenParameter], dict[str, GivenParameter]]:
    """The parameters that are the protocol's own, and those that are for the model."""
    known = {spec.name for spec in signature.params} if signature else set()
    own = {name: given[name] for name in _OWN_PARAMETERS if name in given and name not in known}
    return own, {name: value for name, value in given.items() if name not in own}


def _timeout_s(own: Mapping[str, GivenParameter]) -> float:
    """How long a request may take, in seconds; infinity where it does not say."""
    if "timeout" not in own:
        return math.inf
    microseconds = own["timeout"]
    # Not isinstance: True is an int.
    if type(microseconds) is not int or microseconds <= 0:
        raise InvalidRequest("parameter 'timeout': expected microseconds above 0 as int64")
    return microseconds / 1e6


def _priority(model: ModelVersion, own: Mapping[str, GivenParameter]) -> int:
    """The level of a request: what it says, else the model's default, else the lowest."""
    settings = model.settings
    levels = settings.priority_levels
    said = own.get("priority", 0)
    if type(said) is not int or not 0 <= said <= levels:
        raise InvalidRequest(
            f"model {model.name!r}: parameter 'priority': expected a whole number from 0 to "
            f"{levels}, as its priority_levels, got {said!r:.64}"
        )
    return said or settings.priority_default or levels


def _parameters(signature: Signature | None, given: Mapping[str, GivenParameter]) -> bytes:
    """The parameters of *signature* as JSON, completed by their defaults; empty for none."""
    specs = () if signature is None else signature.params
    known = {spec.name for spec in specs}
    for name in given:
        if name not in known and name not in TOLERATED:
            expected = sorted(known.union(_PROTOCOL_PARAMETERS))
            raise SignatureMismatch(f"unknown parameter {name[:128]!r}: expected one of {expected}")
    if not specs:
        return b""
    filled = json.dumps(fill_parameters(specs, given)).encode()
    if len(filled) > PARAMETERS_BYTES_MAX:
        raise SignatureMismatch(
            f"parameters: expected at most {PARAMETERS_BYTES_MAX} bytes of JSON, got {len(filled)}"
        )
    return filled


def _check_shape(tensor: Given) -> None:
    _check_name(tensor.name)
    if len(tensor.shape) > AXES_MAX:
        raise InvalidRequest(
            f"input {tensor.name!r}: expected at most {AXES_MAX} axes, got {len(tensor.shape)}"
        )
    if any(size < 0 for size in tensor.shape):
        raise InvalidRequest(
            f"input {tensor.name!r}: shape {list(tensor.shape)} has a negative size"
        )
    if math.prod(size or 1 for size in tensor.shape) > ROWS_MAX:
        raise InvalidRequest(
            f"input {tensor.name!r}: shape {list(tensor.shape)} has more than {ROWS_MAX} elements"
        )


def _check_name(name: str) -> None:
    if len(name.encode()) > NAME_BYTES_MAX:
        raise InvalidRequest(
            f"the tensor name {name[:32]!r}... is longer than {NAME_BYTES_MAX} bytes"
        )


def _check_outputs(model: ModelVersion, outputs: Sequence[str]) -> None:
    known = [spec.name for spec in model.signature.outputs] if model.signature else []
    for name in outputs:
        _check_name(name)
    if (twice := _repeated(outputs)) is not None:
        raise InvalidRequest(f"output {twice!r} is asked for twice")
    for name in outputs:
        if known and name not in known:
            raise InvalidRequest(f"model {model.name!r}: unknown output {name!r}, expected {known}")


def _repeated(names: Sequence[str]) -> str | None:
    """The first name that stands twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _columns(signature: Signature) -> dict[str, TensorSpec]:
    return {spec.name: spec for spec in signature.inputs if spec.kind in {"string", "json"}}


def _marked(layouts: Sequence[InputLayout], signature: Signature | None) -> tuple[InputLayout, ...]:
    """*layouts*, with those marked that are masks of the columns of *signature*."""
    masks = {} if signature is None else masks_of(signature.inputs)
    given = {layout.name for layout in layouts}
    return tuple(
        replace(layout, mask_of=spec.name, is_alone=spec.name not in given)
        if (spec := masks.get(layout.name)) is not None
        else layout
        for layout in layouts
    )


def _masks(layouts: Sequence[InputLayout], order: Sequence[int]) -> dict[int, int]:
    """Which tensor of the request is the mask of which."""
    at = {layout.name: index for layout, index in zip(layouts, order, strict=True)}
    return {
        at[layout.mask_of]: at[layout.name]
        for layout in layouts
        if layout.mask_of and not layout.is_alone
    }


def _layout(tensor: Given, columns: Mapping[str, TensorSpec], *, is_whole: bool) -> InputLayout:
    datatype = DATATYPES[tensor.datatype]
    row_shape = tuple(tensor.shape if is_whole else tensor.shape[1:])
    row_bytes = math.prod(row_shape) * datatype.itemsize
    return InputLayout(
        tensor.name,
        datatype,
        row_shape,
        row_bytes,
        has_rows=not is_whole,
        column=columns.get(tensor.name),
    )

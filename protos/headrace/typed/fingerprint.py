"""Fingerprint: a signature in few characters, enough to tell how another one differs from it.

A stub carries the fingerprint of the signature that it was made from and sends it along; the daemon
compares it with that of the model as it is now. Each input, output and parameter is a record of the
hash of its name and the hash of its type, so that no one must remember old signatures.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..signature import ParamSpec, Signature, TensorSpec
from .numbers import FieldNumbers

# Where a caller says what it was made for: in the metadata of a typed call, or as a parameter of a
# request of the tensor protocol, which is looked at once per kind of request.
SIGNATURE_KEY: Final = "headrace-signature"
SIGNATURE_PARAMETER: Final = "headrace_signature"

# Of gRPC metadata, or of a request's parameters, which travel with every call.
FINGERPRINT_CHARS_MAX: Final = 8192
_NAME_BYTES: Final = 4
_TYPE_BYTES: Final = 3
_RECORD_BYTES: Final = _NAME_BYTES + _TYPE_BYTES
_OPTIONAL: Final = 1
_FORM: Final = "1"
_SHOWN_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Drift:
    """How a signature differs from the one that a caller was made for.

    Attributes:
        changed: Sentences on what the caller cannot do any more, as in "input 'a' is missing".
    """

    changed: tuple[str, ...]

    @property
    def is_compatible(self) -> bool:
        """Whether the caller's requests still mean what they meant."""
        return not self.changed

    def __str__(self) -> str:
        more = len(self.changed) - _SHOWN_MAX
        shown = "; ".join(self.changed[:_SHOWN_MAX])
        return f"{shown}; and {more} more" if more > 0 else shown


def fingerprint(signature: Signature) -> str:
    """Letters, digits and dots that stand for *signature*; the order of columns does not matter.

    A signature of more than about 800 inputs, outputs and parameters is one hash, which can only be
    the same or not.
    """
    groups = (
        [_record(spec.name, _type_of(spec), optional=spec.optional) for spec in signature.inputs],
        [_record(spec.name, _type_of(spec)) for spec in signature.outputs],
        [_record(spec.name, _type_of_param(spec)) for spec in signature.params],
    )
    packed = [b"".join(sorted(records)) for records in groups]
    text = ".".join([_FORM, *(_encode(records) for records in packed)])
    if len(text) > FINGERPRINT_CHARS_MAX:
        lengths = b"".join(len(records).to_bytes(4, "little") for records in packed)
        digest = hashlib.sha256(lengths + b"".join(packed)).digest()
        return f"{_FORM}.{_encode(digest)}"
    return text


def drift(sent: str, signature: Signature, past: FieldNumbers | None = None) -> Drift:
    """What has become of the signature that *sent* is the fingerprint of.

    Compatible are: another order, further optional inputs, inputs that became optional, further
    outputs, further parameters, other defaults.

    Args:
        sent: What the caller says.
        signature: The model's now.
        past: All that ever had a field number, so that what is gone can be named.

    Raises:
        ValueError: *sent* is no fingerprint.
    """
    current = fingerprint(signature)
    if sent == current:
        return Drift(())
    then = _decode(sent)
    if then is None or current.count(".") == 1:
        return Drift(("the signature is another one, and too large to compare by columns",))
    inputs, outputs, params = then
    past = past or FieldNumbers()
    changed = [
        *_compare(
            inputs, "input", {one.name: _type_of(one) for one in signature.inputs}, past.inputs
        ),
        *_demanded(inputs, signature.inputs),
        *_compare(
            outputs, "output", {one.name: _type_of(one) for one in signature.outputs}, past.outputs
        ),
        *_compare(
            params,
            "parameter",
            {one.name: _type_of_param(one) for one in signature.params},
            past.params,
        ),
    ]
    return Drift(tuple(changed))


def _demanded(then: Mapping[bytes, bytes], specs: Sequence[TensorSpec]) -> Iterable[str]:
    """Inputs that must be given now and that the caller might not give."""
    for spec in specs:
        was = then.get(_name_hash(spec.name))
        if spec.optional:
            continue
        if was is None:
            yield f"input {spec.name!r} is new, and not optional"
        elif was[-1] & _OPTIONAL:
            yield f"input {spec.name!r} is not optional any more"


def _compare(
    then: Mapping[bytes, bytes], what: str, types: Mapping[str, Any], past: Iterable[str]
) -> Iterable[str]:
    """What *types* lack of the records of *then*, or have of another type."""
    names = {_name_hash(name): name for name in types}
    old_names = {_name_hash(name): name for name in (entry.partition(" ")[2] for entry in past)}
    nameless = 0
    for name_hash, type_hash in then.items():
        name = names.get(name_hash)
        if name is not None:
            if _plain(type_hash) != _type_hash(types[name]):
                yield f"{what} {name!r} has another type"
        elif name_hash in old_names:
            yield f"{what} {old_names[name_hash]!r} is gone"
        else:
            nameless += 1
    if nameless:
        yield (
            f"{nameless} {what}{'s are' if nameless > 1 else ' is'} gone; there are "
            f"{_listed(types)}"
        )


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - _SHOWN_MAX
    shown = ", ".join(repr(name) for name in every[:_SHOWN_MAX]) or "none"
    return f"{shown} and {more} more" if more > 0 else shown


def _record(name: str, type_of: Any, *, optional: bool = False) -> bytes:
    kind = bytearray(_type_hash(type_of))
    kind[-1] |= _OPTIONAL if optional else 0
    return _name_hash(name) + kind


def _name_hash(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:_NAME_BYTES]


def _type_hash(type_of: Any) -> bytes:
    """A hash whose last bit is free."""
    text = json.dumps(type_of, sort_keys=True).encode()
    return _plain(hashlib.sha256(text).digest()[:_TYPE_BYTES])


def _plain(type_hash: bytes) -> bytes:
    return type_hash[:-1] + bytes([type_hash[-1] & ~_OPTIONAL])


def _type_of(spec: TensorSpec) -> Any:
    schema = json.loads(spec.schema) if spec.schema else None
    return [spec.datatype, list(spec.shape), spec.kind, schema]


def _type_of_param(spec: ParamSpec) -> Any:
    return [spec.kind, None if spec.shape is None else list(spec.shape)]


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> list[dict[bytes, bytes]] | None:
    """The records of each group: hash of the name -> hash of the type; None for a mere hash."""
    form, *groups = text.split(".")
    if form != _FORM or len(groups) not in (1, 3) or len(text) > FINGERPRINT_CHARS_MAX:
        raise ValueError("expected the fingerprint of a signature")
    if len(groups) == 1:
        return None
    decoded = []
    for group in groups:
        try:
            data = base64.urlsafe_b64decode(group + "=" * (-len(group) % 4))
        except (binascii.Error, ValueError):
            raise ValueError("expected the fingerprint of a signature") from None
        if len(data) % _RECORD_BYTES:
            raise ValueError("expected the fingerprint of a signature")
        records = [data[at : at + _RECORD_BYTES] for at in range(0, len(data), _RECORD_BYTES)]
        decoded.append({one[:_NAME_BYTES]: one[_NAME_BYTES:] for one in records})
    return decoded

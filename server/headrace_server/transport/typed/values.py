"""Values: what is a message of protobuf's own in a typed service, as our tensors hold it, and back.

Instants are int64 nanoseconds since 1970, and JSON is text. A Value has numbers that are none, for
which protobuf's own JSON has no word: here they are what they are in JSON, text
(`headrace.jsontext`).
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from headrace import jsontext

# numpy's NaT, and the Timestamp that stands for it: the first there is, 0001-01-01T00:00:00Z.
NAT: Final = -(2**63)
_NAT_SECONDS: Final = -62_135_596_800
_NS: Final = 1_000_000_000
# Beyond it a double is no longer one integer.
_EXACT: Final = 2**53
_FLOATS: Final = frozenset({"float", "double"})

# A type in MLflow's own JSON.
Schema = Mapping[str, Any]


def read_instant(piece: bytes) -> int:
    """Nanoseconds since 1970 of an encoded Timestamp.

    Raises:
        ValueError: It is none, or not within what 64 bits of nanoseconds hold.
    """
    moment = _parsed(Timestamp, piece)
    if moment.seconds == _NAT_SECONDS and not moment.nanos:
        return NAT
    nanoseconds: int = moment.seconds * _NS + moment.nanos
    if not NAT < nanoseconds < -NAT or not 0 <= moment.nanos < _NS:
        raise ValueError(f"expected a Timestamp between 1678 and 2261, got {_told(moment)}")
    return nanoseconds


def write_instant(nanoseconds: int) -> bytes:
    """The encoded Timestamp of *nanoseconds* since 1970."""
    if nanoseconds == NAT:
        return Timestamp(seconds=_NAT_SECONDS).SerializeToString()
    seconds, nanos = divmod(nanoseconds, _NS)
    return Timestamp(seconds=seconds, nanos=nanos).SerializeToString()


def read_json(piece: bytes, schema: Schema | None = None) -> bytes:
    """The JSON text of an encoded Value, which *schema* describes.

    Raises:
        ValueError: It is none, or has a number that is none where no float or double is wanted.
    """
    return jsontext.write_json(plain(_parsed(Value, piece), schema)).encode()


def write_json(text: bytes) -> bytes:
    """The encoded Value of a JSON text.

    Raises:
        ValueError: It is none, or has an integer that no double is.
    """
    value = Value()
    _fill(value, jsontext.read_json(text))
    return value.SerializeToString()


def plain(value: Value, schema: Schema | None = None) -> Any:
    """What JSON would hold; a number without a fraction is an integer.

    protobuf keeps no order of names: they come as *schema* has them, then in alphabetical order.

    Raises:
        ValueError: A number is none, and no float or double by *schema*, so that JSON has no place
            for it.
    """
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                text = jsontext.spelled(number)
                if (schema or {}).get("type") in _FLOATS:
                    return text
                raise ValueError(f"{text} has a place in JSON only as a float or double")
            if not number.is_integer() or abs(number) > _EXACT:
                return number
            if not number and math.copysign(1.0, number) < 0:
                # Only an integer has no negative zero.
                return 0 if (schema or {}).get("type") in {"integer", "long"} else number
            return int(number)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            fields = value.struct_value.fields
            kinds = (schema or {}).get("properties", {})
            every = (schema or {}).get("values")
            names = [*(name for name in kinds if name in fields), *sorted(set(fields) - set(kinds))]
            return {name: plain(fields[name], kinds.get(name, every)) for name in names}
        case "list_value":
            items = (schema or {}).get("items")
            return [plain(item, items) for item in value.list_value.values]
    return None


def read_array(message: Any) -> bytes:
    """The JSON text of a message of values, such as DoubleArray."""
    return jsontext.write_json(None if message.is_null else list(message.values)).encode()


def _told(moment: Timestamp) -> str:
    try:
        return moment.ToJsonString()
    except ValueError:
        # It has no year from 1 to 9999, or nanoseconds that are none.
        return f"seconds: {moment.seconds}, nanos: {moment.nanos}"


def _fill(value: Value, given: Any) -> None:
    match given:
        case None:
            value.null_value = 0  # type: ignore[assignment]
        case bool():
            value.bool_value = given
        case int() if abs(given) > _EXACT and int(float(given)) != given:
            raise ValueError("an integer beyond 2**53, which a Value does not hold")
        case int() | float():
            value.number_value = given
        case str():
            value.string_value = given
        case list():
            value.list_value.SetInParent()
            for item in given:
                _fill(value.list_value.values.add(), item)
        case _:
            value.struct_value.SetInParent()
            for name, item in given.items():
                _fill(value.struct_value.fields[name], item)


def _parsed(kind: type[Any], piece: bytes) -> Any:
    try:
        return kind.FromString(piece)
    except Exception as error:  # protobuf's DecodeError has no stable import path.
        raise ValueError(f"expected a {kind.DESCRIPTOR.full_name}") from error

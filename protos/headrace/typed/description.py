"""Description: what the typed service of a model consists of.

docs/typed.md has the table of types. Columns, and tensors that are one value per row, become a
field of that type, repeated where a message has many rows. Types of fixed width (sfixed64, not
int64) are chosen throughout: a packed field of them is, byte for byte, the tensor.
"""

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..nulls import MASK_DATATYPE, SUFFIX, has_own_null, masks_of
from ..signature import ParamSpec, Signature, TensorSpec
from .names import cleaned, field_names, message_prefix, python_name
from .numbers import OWN_NUMBER, FieldNumbers, extended, number_at

PACKAGE: Final = "headrace.typed"
# Fields that are the service's own.
PARAMS_FIELD: Final = "params"
PARAMS_NUMBER: Final = OWN_NUMBER
VERSION_FIELD: Final = "model_version"
VERSION_NUMBER: Final = OWN_NUMBER
# A mask has the number of its column, and this: beyond all that columns may have.
MASK_NUMBER: Final = 2 * OWN_NUMBER
_MASK_FIELD: Final = "{}_is_null"

# Fields of one message: protobuf's own limit is 64 KiB of memory for it, and a text takes 16 bytes.
FIELDS_MAX: Final = 3000

TIMESTAMP: Final = "google.protobuf.Timestamp"
VALUE: Final = "google.protobuf.Value"

# Datatype -> the protobuf type of one element, and the message of a tensor of many axes.
_ELEMENTS: Final[Mapping[str, tuple[str, str]]] = {
    "BOOL": ("bool", "BoolTensor"),
    "UINT8": ("fixed32", "UInt8Tensor"),
    "UINT16": ("fixed32", "UInt16Tensor"),
    "UINT32": ("fixed32", "UInt32Tensor"),
    "UINT64": ("fixed64", "UInt64Tensor"),
    "INT8": ("sfixed32", "Int8Tensor"),
    "INT16": ("sfixed32", "Int16Tensor"),
    "INT32": ("sfixed32", "Int32Tensor"),
    "INT64": ("sfixed64", "Int64Tensor"),
    "FP16": ("float", "Float16Tensor"),
    "BF16": ("float", "BFloat16Tensor"),
    "FP32": ("float", "Float32Tensor"),
    "FP64": ("double", "Float64Tensor"),
    "BYTES": ("string", "StringTensor"),
}
ELEMENT_OF_TENSOR: Final = {message: element for element, message in _ELEMENTS.values()}

# MLflow's type of an array's items -> the message that holds one array, and its element.
_ARRAYS: Final = {
    "boolean": ("BoolArray", "bool"),
    "integer": ("Int32Array", "sfixed32"),
    "long": ("Int64Array", "sfixed64"),
    "float": ("FloatArray", "float"),
    "double": ("DoubleArray", "double"),
    "string": ("StringArray", "string"),
}
ELEMENT_OF_ARRAY: Final = dict(_ARRAYS.values())
_PARAMS: Final = {
    "boolean": "bool",
    "integer": "sfixed32",
    "long": "sfixed64",
    "float": "float",
    "double": "double",
    "string": "string",
    "datetime": TIMESTAMP,
}


class Kind(enum.Enum):
    """How an item's values are written.

    Values:
        SCALAR: One value per row, of a protobuf scalar type.
        INSTANT: A google.protobuf.Timestamp per row.
        ARRAY: A list per row, in a message of its own (DoubleArray, ...).
        VALUE: A google.protobuf.Value per row: what JSON holds.
        TENSOR: One message for all rows, with a shape (Float32Tensor, ...).
    """

    SCALAR = "scalar"
    INSTANT = "instant"
    ARRAY = "array"
    VALUE = "value"
    TENSOR = "tensor"


@dataclass(frozen=True, slots=True)
class Item:
    """One input, output or parameter, and its field.

    Attributes:
        name: What the model calls it.
        field: The field's name in protobuf.
        python: The name in Python: the same, but for keywords.
        json: The name in JSON: *name* itself, wherever that may be.
        number: The field number.
        type: A protobuf scalar type, TIMESTAMP, VALUE, or a message of the service.
        kind: How values are written.
        is_optional: Whether it may be left out.
        is_list: Whether a parameter is a list.
        spec: What the signature says of it.
    """

    name: str
    field: str
    python: str
    json: str
    number: int
    type: str
    kind: Kind
    is_optional: bool
    is_list: bool
    spec: TensorSpec | ParamSpec

    @property
    def type_of_values(self) -> str:
        """The protobuf type of one value: that of a message's values, else its own."""
        return ELEMENT_OF_TENSOR.get(self.type) or ELEMENT_OF_ARRAY.get(self.type) or self.type

    @property
    def tensor(self) -> TensorSpec:
        """The spec of an input or output."""
        assert isinstance(self.spec, TensorSpec), "a parameter is no tensor"
        return self.spec

    @property
    def param(self) -> ParamSpec:
        """The spec of a parameter."""
        assert isinstance(self.spec, ParamSpec), "a tensor is no parameter"
        return self.spec


@dataclass(frozen=True, slots=True)
class Retired:
    """A number that is given to nobody any more.

    Attributes:
        number: The field number.
        name: What the model called it.
        field: The field's name where no other has it now, to be reserved too; else empty.
    """

    number: int
    name: str
    field: str


@dataclass(frozen=True, slots=True)
class TypedService:
    """A model's typed service. Items stand in the order of the signature.

    Attributes:
        model: Served name.
        package: The protobuf package.
        prefix: What the names of its service and messages begin with.
        inputs: What a request holds.
        outputs: What an answer holds.
        params: Parameters of a request.
        masks: What a request may hold besides: for each input whose type has no word for it, in
            which rows it has no value.
        retired_inputs: Numbers that no field of a request may have.
        retired_outputs: The same of an answer.
        retired_params: The same of parameters.
        has_rows: Whether there is a method for one row: every input has an axis of rows.
        numbers: All numbers that were ever given.
    """

    model: str
    package: str
    prefix: str
    inputs: tuple[Item, ...]
    outputs: tuple[Item, ...]
    params: tuple[Item, ...]
    masks: tuple[Item, ...]
    retired_inputs: tuple[Retired, ...]
    retired_outputs: tuple[Retired, ...]
    retired_params: tuple[Retired, ...]
    has_rows: bool
    numbers: FieldNumbers

    @property
    def service(self) -> str:
        """The service's name, without its package."""
        return f"{self.prefix}Predictor"

    @property
    def request(self) -> str:
        """The message of many rows."""
        return f"{self.prefix}Request"

    @property
    def response(self) -> str:
        """The answer to it."""
        return f"{self.prefix}Response"

    @property
    def row(self) -> str:
        """The message of one row."""
        return f"{self.prefix}Row"

    @property
    def prediction(self) -> str:
        """The answer to it."""
        return f"{self.prefix}Prediction"

    @property
    def params_message(self) -> str:
        """The message of the parameters."""
        return f"{self.prefix}Params"

    @property
    def file(self) -> str:
        """The name of its .proto file."""
        return f"{self.package.replace('.', '/')}.proto"


def service_name(model: str) -> str:
    """The full name of the service of the model served as *model*; depends on nothing else."""
    return f"{PACKAGE}.{cleaned(model, 'model')}.{message_prefix(model)}Predictor"


def describe(model: str, signature: Signature, known: FieldNumbers | None = None) -> TypedService:
    """The typed service of *model*.

    Args:
        model: Served name.
        signature: Its inputs, outputs and parameters.
        known: Numbers that were given before; None for none.

    Raises:
        ValueError: Two inputs, outputs or parameters have one name, or there are too many.
    """
    known = known or FieldNumbers()
    inputs = _group(
        [(spec, *_type_of(spec)) for spec in signature.inputs], known.inputs, "input", PARAMS_FIELD
    )
    outputs = _group(
        [(spec, *_type_of(spec, is_output=True)) for spec in signature.outputs],
        known.outputs,
        "output",
        VERSION_FIELD,
    )
    params = _group(
        [(spec, *_param_type(spec)) for spec in signature.params], known.params, "param"
    )
    return TypedService(
        model=model,
        package=f"{PACKAGE}.{cleaned(model, 'model')}",
        prefix=message_prefix(model),
        inputs=inputs.items,
        outputs=outputs.items,
        params=params.items,
        masks=_masks(inputs, signature),
        retired_inputs=inputs.retired,
        retired_outputs=outputs.retired,
        retired_params=params.retired,
        has_rows=signature.is_batchable,
        numbers=FieldNumbers(inputs.entries, outputs.entries, params.entries),
    )


class _Group(NamedTuple):
    """The fields of one message: live ones, retired ones, and all that ever had a number."""

    items: tuple[Item, ...]
    retired: tuple[Retired, ...]
    entries: tuple[str, ...]


def _group(
    typed: Sequence[tuple[TensorSpec | ParamSpec, Kind, str]],
    known: Sequence[str],
    role: str,
    own: str = "",
) -> _Group:
    """Names and numbers of what is *typed*, where *known* entries had the first numbers.

    Raises:
        ValueError: Two have one name, or there are too many.
    """
    live = [
        f"{type_name}{'[]' if _is_list(spec) else ''} {spec.name}" for spec, _, type_name in typed
    ]
    current = {spec.name for spec, _, _ in typed}
    if len(current) != len(typed):
        raise ValueError(f"expected {role}s of different names")
    if len(typed) > FIELDS_MAX:
        raise ValueError(f"expected at most {FIELDS_MAX} {role}s, got {len(typed)}")
    entries = extended(known, live)
    index = {entry: at for at, entry in enumerate(entries)}
    # Names in order of their age, those that are gone included: nobody takes over their fields.
    names = list(dict.fromkeys(entry.partition(" ")[2] for entry in entries))
    fields = dict(zip(names, field_names(names, role, [own] if own else []), strict=True))
    items = tuple(
        Item(
            name=spec.name,
            field=fields[spec.name],
            python=python_name(fields[spec.name]),
            json=spec.name if _is_json_name(spec.name, own, fields) else fields[spec.name],
            number=number_at(index[entry]),
            type=type_name,
            kind=kind,
            is_optional=isinstance(spec, ParamSpec) or spec.optional,
            is_list=_is_list(spec),
            spec=spec,
        )
        for (spec, kind, type_name), entry in zip(typed, live, strict=True)
    )
    retired = tuple(
        Retired(number_at(at), name, "" if name in current else fields[name])
        for at, entry in enumerate(entries)
        if entry not in live
        for name in (entry.partition(" ")[2],)
    )
    return _Group(items, retired, entries)


def _masks(inputs: _Group, signature: Signature) -> tuple[Item, ...]:
    """The masks of *inputs*; none where the message would have too many fields.

    They make way for all columns, whose names and numbers are what they were without them.
    """
    wanted = {spec.name: name for name, spec in masks_of(signature.inputs).items()}
    columns = [
        item for item in inputs.items if item.name in wanted and not has_own_null(item.tensor)
    ]
    if len(inputs.items) + len(columns) > FIELDS_MAX:
        return ()
    retired = (one.field for one in inputs.retired)
    taken = [PARAMS_FIELD, *(one.field for one in inputs.items), *retired]
    fields = field_names([_MASK_FIELD.format(item.field) for item in columns], "input", taken)
    json_names = {item.json for item in inputs.items}
    return tuple(
        Item(
            name=wanted[item.name],
            field=field,
            python=python_name(field),
            json=field if f"{item.json}{SUFFIX}" in json_names else f"{item.json}{SUFFIX}",
            number=MASK_NUMBER + item.number,
            type=_ELEMENTS[MASK_DATATYPE][0],
            kind=Kind.SCALAR,
            is_optional=True,
            is_list=False,
            spec=TensorSpec(wanted[item.name], MASK_DATATYPE, (-1,), "boolean", optional=True),
        )
        for item, field in zip(columns, fields, strict=True)
    )


def _is_json_name(name: str, own: str, fields: Mapping[str, str]) -> bool:
    """Whether protobuf takes *name* as it is for JSON, beside all *fields* by their names.

    Who reads JSON takes fields' own names too, and a value that may be missing has a second one,
    with an underscore before it: nothing else may be called like either.
    """
    is_bracketed = name.startswith("[") and name.endswith("]")
    if not name or "\0" in name or is_bracketed or name == own:
        return False
    taken = fields.values()
    return fields[name] == name or (name not in taken and name.removeprefix("_") not in taken)


def _is_list(spec: TensorSpec | ParamSpec) -> bool:
    return isinstance(spec, ParamSpec) and spec.shape is not None


def _type_of(spec: TensorSpec, *, is_output: bool = False) -> tuple[Kind, str]:
    """How values of *spec* are written, and in which type."""
    element, tensor = _ELEMENTS[spec.datatype]
    if len(spec.shape) != 1 or spec.shape[0] != -1:
        return Kind.TENSOR, tensor
    if spec.kind == "datetime":
        return Kind.INSTANT, TIMESTAMP
    if spec.kind == "binary":
        return Kind.SCALAR, "bytes"
    if spec.kind == "json":
        # What a model answers need not be of the type that its signature states.
        items = "" if is_output else _items_type(spec.schema)
        return (Kind.ARRAY, _ARRAYS[items][0]) if items in _ARRAYS else (Kind.VALUE, VALUE)
    return Kind.SCALAR, element


def _items_type(schema: str) -> str:
    """MLflow's type of the items where *schema* is that of a list of plain values; else empty."""
    if not schema:
        return ""
    found = json.loads(schema)
    return str(found["items"]["type"]) if found["type"] == "array" else ""


def _param_type(spec: ParamSpec) -> tuple[Kind, str]:
    found = _PARAMS.get(spec.kind, VALUE)
    kinds = {TIMESTAMP: Kind.INSTANT, VALUE: Kind.VALUE}
    return kinds.get(found, Kind.SCALAR), found

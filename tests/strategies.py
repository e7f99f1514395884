"""Strategies: hypothesis's random datatypes, tensors, signatures, batch keys and requests."""

import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.strategies import DrawFn, SearchStrategy

from headrace.datatypes import BYTES, DATATYPES, Datatype
from headrace.signature import Given, ParamSpec, Signature, TensorSpec
from headrace_server.types import BatchKey, InputLayout, Reply, Request

Array = npt.NDArray[np.generic]

texts = st.text(st.characters(codec="utf-8"), max_size=12)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
datatypes = st.sampled_from(sorted(DATATYPES.values(), key=lambda row: row.code))


def shapes(*, min_dims: int = 0, max_dims: int = 3, max_side: int = 4) -> SearchStrategy[Any]:
    """Shapes, sides of 0 included."""
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=0, max_side=max_side)


def elements(datatype: Datatype) -> SearchStrategy[Any]:
    """Values that *datatype* can hold; NaN and infinities included."""
    if datatype is BYTES:
        return st.binary(max_size=9)
    if datatype.name == "BF16":
        # The float32 values that BF16 holds, by their bits; encoding makes every NaN a quiet one.
        bits = st.integers(0, 0xFFFF).map(lambda n: n | 0x40 if n & 0x7FFF > 0x7F80 else n)
        return bits.map(lambda n: np.array([n << 16], np.uint32).view(np.float32)[0])
    return hnp.from_dtype(datatype.dtype)


@st.composite
def arrays(
    draw: DrawFn,
    datatype: SearchStrategy[Datatype] | Datatype = datatypes,
    shape: SearchStrategy[tuple[int, ...]] | tuple[int, ...] | None = None,
) -> tuple[Datatype, Array]:
    """A datatype and an array that it carries."""
    if not isinstance(datatype, Datatype):
        datatype = draw(datatype)
    if shape is None:
        shape = shapes()
    if not isinstance(shape, tuple):
        shape = draw(shape)
    count = math.prod(shape)
    array = np.empty(count, datatype.dtype)
    array[:] = draw(st.lists(elements(datatype), min_size=count, max_size=count))
    return datatype, array.reshape(shape)


@st.composite
def specs(draw: DrawFn, name: SearchStrategy[str] = names) -> TensorSpec:
    """An input of any number of rows: a column, or a tensor with further axes."""
    datatype = draw(datatypes)
    if draw(st.booleans()):
        kind = "string" if datatype is BYTES else "double"
        return TensorSpec(draw(name), datatype.name, (-1,), kind, draw(st.booleans()))
    inner = draw(st.lists(st.integers(1, 4) | st.just(-1), max_size=2))
    return TensorSpec(draw(name), datatype.name, (-1, *inner), optional=draw(st.booleans()))


@st.composite
def signatures(draw: DrawFn, inputs_max: int = 4) -> Signature:
    """A signature whose first input must be given."""
    inputs = draw(
        st.lists(specs(), min_size=1, max_size=inputs_max, unique_by=lambda spec: spec.name)
    )
    first = TensorSpec(inputs[0].name, inputs[0].datatype, inputs[0].shape, inputs[0].kind)
    return Signature((first, *inputs[1:]))


@st.composite
def fitting(draw: DrawFn, signature: Signature, rows: int) -> list[Given]:
    """Tensors that fit *signature*, in any order, some optional ones left out."""
    given = []
    for index, spec in enumerate(signature.inputs):
        if index and spec.optional and draw(st.booleans()):
            continue
        inner = tuple(draw(st.integers(1, 3)) if size == -1 else size for size in spec.shape[1:])
        if spec.is_column and draw(st.booleans()):
            inner = (1,)
        given.append(Given(spec.name, spec.datatype, (rows, *inner)))
    return draw(st.permutations(given))


@st.composite
def keys(draw: DrawFn, inputs_max: int = 3) -> BatchKey:
    """A batch key whose rows are never empty."""
    wanted = draw(st.lists(names, min_size=1, max_size=inputs_max, unique=True))
    layouts = []
    for name in wanted:
        datatype = draw(datatypes)
        row_shape = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
        row_bytes = math.prod(row_shape) * datatype.itemsize
        layouts.append(InputLayout(name, datatype, row_shape, row_bytes))
    return BatchKey(tuple(layouts))


@st.composite
def requests(draw: DrawFn, key: BatchKey, reply: Reply, rows_max: int = 5) -> Request:
    """A request of *key* with random bytes."""
    rows = draw(st.integers(1, rows_max))
    tensors = [draw(raw_rows(layout, rows)) for layout in key.inputs]
    return Request(key, rows, tensors, reply, None, sum(map(len, tensors)))


def raw_rows(layout: InputLayout, rows: int) -> SearchStrategy[bytes]:
    """The raw bytes of *rows* rows."""
    nbytes = rows * layout.row_bytes
    if layout.datatype.name == "BOOL":
        return st.lists(st.integers(0, 1), min_size=nbytes, max_size=nbytes).map(bytes)
    if layout.datatype is not BYTES:
        return st.binary(min_size=nbytes, max_size=nbytes)
    count = rows * math.prod(layout.row_shape)
    return st.lists(st.binary(max_size=5), min_size=count, max_size=count).map(chained)


def chained(items: Sequence[bytes]) -> bytes:
    """BYTES elements as they travel, written down a second time."""
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)


# Names as people give them, among them those that code finds hard.
awkward_names = names | st.sampled_from(
    (
        *("class", "self", "timeout", "values", "np", "float", "str", "None", "Int", "1st"),
        *(
            "a b",
            "a_b",
            "a-b",
            "A_B",
            "input_1st",
            "params",
            "model_version",
            "[x]",
            "é",
            "_x",
            "__x",
            "'",
            '"',
            "\\",
            '"""',
            "\n",
            "#",
            "{x}",
            "x" * 90,
        ),
    )
)
_PLAIN_KINDS = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
    "datetime": "INT64",
}
json_types = st.recursive(
    st.sampled_from([*_PLAIN_KINDS, "any"]).map(lambda kind: {"type": kind}),
    lambda inner: (
        st.builds(lambda item: {"type": "array", "items": item}, inner)
        | st.builds(lambda item: {"type": "map", "values": item}, inner)
        | st.dictionaries(
            awkward_names, st.tuples(inner, st.booleans()), min_size=1, max_size=3
        ).map(
            lambda found: {
                "type": "object",
                "properties": {
                    key: {**kind, "required": required} for key, (kind, required) in found.items()
                },
            }
        )
    ),
    max_leaves=6,
)


@st.composite
def columns(draw: DrawFn, *, optional: bool = True) -> TensorSpec:
    """A column of any of MLflow's types."""
    name = draw(awkward_names)
    may_miss = optional and draw(st.booleans())
    kind = draw(st.sampled_from([*_PLAIN_KINDS, "json"]))
    if kind != "json":
        return TensorSpec(name, _PLAIN_KINDS[kind], (-1,), kind, may_miss)
    schema = draw(st.just("") | json_types.map(json.dumps))
    return TensorSpec(name, "BYTES", (-1,), kind, may_miss, schema)


@st.composite
def params(draw: DrawFn) -> ParamSpec:
    """A parameter of any of MLflow's types."""
    kind, default = draw(
        st.tuples(st.just("boolean"), st.booleans())
        | st.tuples(st.sampled_from(["integer", "long"]), st.integers(-(2**31), 2**31 - 1))
        | st.tuples(st.sampled_from(["float", "double"]), st.floats())
        | st.tuples(st.just("string"), texts)
        | st.tuples(st.just("datetime"), st.just("2024-01-02T03:04:05"))
        | st.tuples(st.just("object"), st.just({"a": 1}))
    )
    if kind != "object" and draw(st.booleans()):
        return ParamSpec(draw(awkward_names), kind, [default], (-1,))
    return ParamSpec(draw(awkward_names), kind, draw(st.just(default) | st.none()))


@st.composite
def mlflow_signatures(draw: DrawFn, inputs_max: int = 6) -> Signature:
    """A signature as MLflow has them: all columns, or all tensors; parameters; maybe outputs."""

    def group(least: int) -> tuple[TensorSpec, ...]:
        if draw(st.booleans()):
            found = st.lists(columns(), min_size=least, max_size=inputs_max, unique_by=_name)
        else:
            found = st.lists(tensor, min_size=least, max_size=inputs_max, unique_by=_name)
        return tuple(draw(found))

    tensor = st.builds(
        lambda name, datatype, inner: TensorSpec(name, datatype.name, (-1, *inner)),
        awkward_names,
        datatypes,
        st.lists(st.integers(1, 4) | st.just(-1), max_size=2),
    )
    given = tuple(draw(st.lists(params(), max_size=4, unique_by=_name)))
    return Signature(group(1), group(0), given)


def rows_of(spec: TensorSpec) -> SearchStrategy[Any]:
    """A value that a single row may have for an input."""
    if not spec.is_column:
        shape = tuple(2 if size == -1 else size for size in spec.shape[1:])
        return arrays(DATATYPES[spec.datatype], shape).map(lambda made: made[1])
    if spec.kind == "json":
        return _json_values(json.loads(spec.schema) if spec.schema else {"type": "any"})
    return _PLAIN_VALUES[spec.kind]


_PLAIN_VALUES: dict[str, SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32),
    "double": st.floats(),
    "string": texts,
    "binary": st.binary(max_size=9),
    "datetime": st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)),  # noqa: DTZ001
}


def _json_values(kind: Mapping[str, Any]) -> SearchStrategy[Any]:
    """A value of a type within JSON, as Python has it."""
    match kind["type"]:
        case "array":
            return st.lists(_json_values(kind["items"]), max_size=3)
        case "map":
            return st.dictionaries(texts, _json_values(kind["values"]), max_size=3)
        case "object":
            fields = {key: _json_values(inner) for key, inner in kind["properties"].items()}
            return st.fixed_dictionaries(fields)
        case "any":
            return st.none() | st.integers(-9, 9) | texts
        case "binary":
            return texts
        case "float" | "double":
            return st.floats(allow_nan=False, allow_infinity=False)
        case plain:
            return _PLAIN_VALUES[plain]


def _name(spec: TensorSpec | ParamSpec) -> str:
    return spec.name

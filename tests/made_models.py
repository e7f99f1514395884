"""Made models: signatures of every kind that hypothesis makes, models that echo, and rows for them.

Signatures are MLflow's own, and so is the call that others are compared with. A model answers with
the inputs that must be given, and with a text for each row that tells what it got.
"""

import datetime as dt
import json
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, Schema

from strategies import names

cloudpickle.register_pickle_by_value(sys.modules[__name__])

T = TypeVar("T")
# What a type is in MLflow's own JSON.
Type = Mapping[str, Any]

TOLD: Final = "told"
SCALARS: Final = (
    *("boolean", "integer", "long", "float", "double", "string", "binary", "datetime"),
)
_TENSORS: Final = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "str"),
)
_EXACT: Final = 2**53
# Names that are one field once they are cleaned, or none at all.
_CLASHES: Final = (
    *("a b", "a-b", "a_b", "A_b", "ab", "a  b", "a.b", "ä b", "class", "class_", "Class"),
    *("params", "model_version", "1st", "input_1st", "!", "?", "🙂", "[x]", "x", "self", "timeout"),
)
_odd_names = (names | st.sampled_from(_CLASHES)).filter(lambda name: name != TOLD)
# numpy's own text, which MLflow uses within lists, has no zeros at its end.
_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)


# Signatures ---------------------------------------------------------------------------------------


def _kinds(leaves: Iterable[str] = (*SCALARS, "any")) -> SearchStrategy[Type]:
    """Types of values within JSON."""
    return st.recursive(
        st.sampled_from(tuple(leaves)).map(lambda kind: {"type": kind}),
        lambda inner: _array(inner) | _map(inner) | _object(inner),
        max_leaves=5,
    )


def _array(inner: SearchStrategy[Type]) -> SearchStrategy[Type]:
    return inner.map(lambda kind: {"type": "array", "items": kind})


def _map(inner: SearchStrategy[Type]) -> SearchStrategy[Type]:
    return inner.map(lambda kind: {"type": "map", "values": kind})


def _object(inner: SearchStrategy[Type]) -> SearchStrategy[Type]:
    properties = st.dictionaries(
        _odd_names, st.tuples(inner, st.booleans()), min_size=1, max_size=4
    )
    return properties.map(
        lambda found: {
            "type": "object",
            "properties": {
                name: {**kind, "required": required} for name, (kind, required) in found.items()
            },
        }
    )


def _each(kinds: Iterable[str]) -> list[Type]:
    return [{"type": kind} for kind in kinds]


@st.composite
def _columns(
    draw: DrawFn,
    kinds: SearchStrategy[Sequence[Type]],
    *,
    labels: SearchStrategy[str] | None = _odd_names,
    optional: bool = False,
    params: bool = False,
) -> ModelSignature:
    """Columns of *kinds*; *labels* are their names, None for none; all but the first may miss."""
    types = draw(kinds)
    columns: list[dict[str, Any]] = [{**kind, "required": True} for kind in types]
    if labels is not None:
        count = len(types)
        found = draw(st.lists(labels, min_size=count, max_size=count, unique=True))
        for column, name in zip(columns, found, strict=True):
            column["name"] = name
    outputs = [dict(column) for column in columns[: 1 if optional else None]]
    for column in columns[1:] if optional else ():
        column["required"] = False
    told = {"type": "string", "required": True}
    outputs.append(told if labels is None else {**told, "name": TOLD})
    return ModelSignature(
        Schema.from_json(json.dumps(columns)),
        Schema.from_json(json.dumps(outputs)),
        draw(_params()) if params else None,
    )


@st.composite
def _tensors(draw: DrawFn, *, is_named: bool = True, is_fixed: bool = False) -> ModelSignature:
    """Tensors, which are also the outputs; *is_fixed* ones have no axis of rows."""
    count = draw(st.integers(2, 4)) if is_named else 1
    labels = draw(st.lists(_odd_names, min_size=count, max_size=count, unique=True))
    tensors = []
    for at, label in enumerate(labels):
        inner = draw(st.lists(st.integers(1, 3) | st.just(-1), max_size=2))
        first = 2 if is_fixed and not at else -1
        spec = {"dtype": draw(st.sampled_from(_TENSORS)), "shape": [first, *inner]}
        tensors.append(
            {"type": "tensor", "tensor-spec": spec} | ({"name": label} if is_named else {})
        )
    schema = Schema.from_json(json.dumps(tensors))
    return ModelSignature(schema, schema)


_PARAMS: Final[Mapping[str, SearchStrategy[Any]]] = {
    "boolean": st.booleans(),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    # As people write them: the shortest decimals that 32 bits tell apart.
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False).map(
        lambda value: float(str(np.float32(value)))
    ),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "string": _texts,
    "datetime": st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)).map(  # noqa: DTZ001
        lambda moment: moment.isoformat()
    ),
}


@st.composite
def _params(draw: DrawFn) -> ParamSchema:
    """A parameter of each kind, single or a list, each with a default."""
    kinds = [*_PARAMS, *draw(st.lists(st.sampled_from(sorted(_PARAMS)), max_size=3))]
    labels = draw(st.lists(_odd_names, min_size=len(kinds), max_size=len(kinds), unique=True))
    made = []
    for name, kind in zip(labels, kinds, strict=True):
        is_list = draw(st.booleans())
        values = st.lists(_PARAMS[kind], min_size=1, max_size=3) if is_list else _PARAMS[kind]
        made.append(
            {
                "name": name,
                "type": kind,
                "default": draw(values),
                "shape": [-1] if is_list else None,
            }
        )
    return ParamSchema.from_json(json.dumps(made))


_several = st.lists(_kinds(SCALARS), min_size=1, max_size=5)
# Served name -> signatures of one kind.
SIGNATURES: Final[Mapping[str, SearchStrategy[ModelSignature]]] = {
    "scalars": _columns(st.permutations(_each(SCALARS))),
    "unnamed": _columns(
        st.lists(st.sampled_from(_each(SCALARS)), min_size=1, max_size=5), labels=None
    ),
    "optional": _columns(
        st.permutations([*_each(SCALARS), {"type": "array", "items": {"type": "double"}}]),
        optional=True,
    ),
    "arrays": _columns(
        st.permutations([{"type": "array", "items": kind} for kind in _each(SCALARS)])
        | st.lists(_array(_kinds()), min_size=1, max_size=4)
    ),
    "objects": _columns(st.lists(_object(_kinds()), min_size=1, max_size=3)),
    "maps": _columns(st.lists(_map(_kinds()), min_size=1, max_size=3)),
    "optional_json": _columns(st.lists(_kinds(), min_size=2, max_size=5), optional=True),
    "any": _columns(st.lists(st.just({"type": "any"}) | _kinds(), min_size=1, max_size=3)),
    "clashing": _columns(
        st.lists(st.sampled_from(_each(SCALARS)), min_size=len(_CLASHES), max_size=len(_CLASHES)),
        labels=st.sampled_from(_CLASHES),
    ),
    "wide": _columns(
        st.lists(st.sampled_from(_each(SCALARS)), min_size=300, max_size=300),
        labels=st.builds(
            "{}{}{}".format, st.just("column"), st.sampled_from("-_ ."), st.integers(0)
        ),
    ),
    "tensor": _tensors(is_named=False),
    "tensors": _tensors(),
    "fixed": _tensors(is_fixed=True),
    "params": _columns(_several, params=True),
    "mixed": _columns(_several, optional=True, params=True),
}


def drawn(strategy: SearchStrategy[T], count: int) -> list[T]:
    """*count* signatures; the same ones each time where the profile is derandomised."""
    found: list[T] = []

    @settings(max_examples=count, phases=[Phase.generate], database=None)
    @given(strategy)
    def collect(signature: T) -> None:
        found.append(signature)

    collect()
    return found


# Models -------------------------------------------------------------------------------------------


class Echo(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Answers with what it was given, and tells each row what it saw."""

    def __init__(self, echoed: int) -> None:
        """*echoed* columns are answered."""
        self.echoed = echoed

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        if not isinstance(model_input, pd.DataFrame):
            return model_input
        given = plain(params or {})
        columns = [
            (str(label), str(model_input[label].dtype), model_input[label].tolist())
            for label in model_input.columns
        ]
        told = [
            json.dumps(
                [
                    *(
                        # Nulls of an optional column are as if it was left out, in a single row.
                        [name, dtype if at < self.echoed else "", plain(cells[row])]
                        for at, (name, dtype, cells) in enumerate(columns)
                        if at < self.echoed or not _is_null(cells[row])
                    ),
                    given,
                ],
                # protobuf keeps no order of names within a map.
                sort_keys=True,
            )
            for row in range(len(model_input))
        ]
        answer = {label: model_input[label] for label in model_input.columns[: self.echoed]}
        is_unnamed = list(model_input.columns) == list(range(len(columns)))
        return pd.DataFrame({**answer, len(columns) if is_unnamed else TOLD: told})


def plain(value: Any) -> Any:
    """*value* as JSON that tells types apart, equal for what is equal to a model."""
    if isinstance(value, np.ndarray):
        return [plain(item) for item in (value if value.dtype.kind == "M" else value.tolist())]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.datetime64 | dt.date):
        return f"at {pd.Timestamp(value).isoformat()}"
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    if isinstance(value, str):
        return f"text {value}"
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return f"float {float(value).hex()}"
    return None if value is None or value is pd.NaT else int(value)


def _is_null(value: Any) -> bool:
    return value is None or value is pd.NaT or (isinstance(value, float) and value != value)  # noqa: PLR0124


def save(path: Path, signature: ModelSignature) -> str:
    """A model of *signature*; its path."""
    echoed = len(signature.outputs.inputs) - 1
    with warnings.catch_warnings():
        # MLflow has much to say to people who save models.
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=Echo(echoed),
            signature=signature,
            pip_requirements=["numpy"],
        )
    return str(path)


# Rows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Rows for a model, and parameters.

    Attributes:
        count: How many rows.
        columns: A list or array of values for each input, None where it is left out.
        params: Those that are given, by their names.
    """

    count: int
    columns: list[Any]
    params: dict[str, Any]

    def one(self, row: int) -> "Rows":
        """A single one of them."""
        kept = [None if column is None else column[row : row + 1] for column in self.columns]
        return Rows(1, kept, self.params)


@st.composite
def rows_of(draw: DrawFn, signature: ModelSignature) -> Rows:
    """Rows that a model of *signature* takes."""
    count = 2 if _is_fixed(signature) else draw(st.integers(1, 4))
    columns = [
        _tensor(draw, item, count)
        if signature.inputs.is_tensor_spec()
        else _column(draw, item, count)
        for item in signature.inputs
    ]
    params = {}
    for one in [] if signature.params is None else signature.params:
        value = _PARAMS[one.dtype.name]
        if draw(st.booleans()):
            values = value if one.shape is None else st.lists(value, min_size=1, max_size=3)
            params[one.name] = draw(values)
    return Rows(count, columns, params)


def _is_fixed(signature: ModelSignature) -> bool:
    return signature.inputs.is_tensor_spec() and any(
        item.shape[0] != -1 for item in signature.inputs
    )


def _tensor(draw: DrawFn, item: Any, count: int) -> Any:
    shape = [count, *(draw(st.integers(1, 3)) if size == -1 else size for size in item.shape[1:])]
    dtype = np.dtype(item.type)
    size = int(np.prod(shape))
    if dtype.kind == "b":
        values: SearchStrategy[Any] = st.booleans()
    elif dtype.kind == "U":
        values = _texts
    elif dtype.kind == "f":
        values = st.floats(width=dtype.itemsize * 8)
    else:
        bounds = np.iinfo(dtype.str)
        values = st.integers(int(bounds.min), int(bounds.max))
    drawn_values = draw(st.lists(values, min_size=size, max_size=size))
    return np.array(drawn_values, dtype.type if dtype.kind == "U" else dtype).reshape(shape)


def _column(draw: DrawFn, item: Any, count: int) -> list[Any] | None:
    kind = item.to_dict()
    if not item.required and draw(st.booleans()):
        return None
    values = _values(kind)
    if not item.required and kind["type"] not in {"boolean", "integer", "long", "string", "binary"}:
        values |= {"float": st.just(np.nan), "double": st.just(np.nan)}.get(
            kind["type"],
            st.just(np.datetime64("NaT", "ns")) if kind["type"] == "datetime" else st.none(),
        )
    return draw(st.lists(values, min_size=count, max_size=count))


_COLUMN_VALUES: Final[Mapping[str, SearchStrategy[Any]]] = {
    "boolean": st.booleans(),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32),
    "double": st.floats(),
    "string": _texts,
    "binary": st.binary(max_size=9),
    # Nanoseconds, but for the one that says there is none.
    "datetime": st.integers(-(2**63) + 1, 2**63 - 1).map(lambda ns: np.datetime64(ns, "ns")),
}
# Numbers that a double of JSON holds, and instants in whole microseconds.
_JSON_VALUES: Final[Mapping[str, SearchStrategy[Any]]] = {
    **_COLUMN_VALUES,
    "long": st.integers(-_EXACT, _EXACT),
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "datetime": st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)).map(  # noqa: DTZ001
        np.datetime64
    ),
}
# Any text may be JSON already, so none here begins as a list or an object does.
_anything = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.just(0.5) | st.sampled_from(["", "x", "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=4,
)


def _values(kind: Type) -> SearchStrategy[Any]:
    """Values of a column of the type *kind*."""
    if kind["type"] == "any":
        # Of numbers or texts alone MLflow's call makes a column of that type, whatever it is asked.
        return st.none() | st.lists(_anything, max_size=3) | st.dictionaries(_texts, _anything)
    if kind["type"] in _COLUMN_VALUES:
        return _COLUMN_VALUES[kind["type"]]
    return _within(kind)


def _within(kind: Type) -> SearchStrategy[Any]:
    """Values of the type *kind* within JSON."""
    match kind["type"]:
        case "array":
            return st.lists(_within(kind["items"]), max_size=3)
        case "map":
            return st.dictionaries(_texts, _within(kind["values"]), max_size=3)
        case "object":
            properties = kind["properties"]
            return st.fixed_dictionaries(
                {name: _within(one) for name, one in properties.items() if one["required"]},
                optional={
                    name: _within(one) for name, one in properties.items() if not one["required"]
                },
            )
        case "any":
            return _anything
        case name:
            return _JSON_VALUES[name]


def direct(model: Any, signature: ModelSignature, rows: Rows) -> list[Any]:
    """What MLflow's own call answers: the values of each output."""
    schema = signature.inputs
    given: Any
    if schema.is_tensor_spec():
        names = schema.input_names() if schema.has_input_names() else []
        given = dict(zip(names, rows.columns, strict=True)) if names else rows.columns[0]
    else:
        labels = schema.input_names() if schema.has_input_names() else range(len(schema.inputs))
        given = pd.DataFrame(
            {
                label: _series(item.to_dict(), column)
                for label, item, column in zip(labels, schema.inputs, rows.columns, strict=True)
                if column is not None
            }
        )
    moments = {one.name for one in signature.params or () if one.dtype.name == "datetime"}
    params = {
        name: _moments(value) if name in moments else value for name, value in rows.params.items()
    }
    answer = model.predict(given, params=params) if signature.params else model.predict(given)
    if isinstance(answer, pd.DataFrame):
        return [answer[label].tolist() for label in answer.columns]
    return list(answer.values()) if isinstance(answer, Mapping) else [answer]


def _moments(value: Any) -> Any:
    return (
        [np.datetime64(one) for one in value] if isinstance(value, list) else np.datetime64(value)
    )


def _series(kind: Type, column: list[Any]) -> pd.Series:
    dtypes = {
        "boolean": "bool",
        "integer": "int32",
        "long": "int64",
        "float": "float32",
        "double": "float64",
        "datetime": "datetime64[ns]",
    }
    if kind["type"] in dtypes:
        return pd.Series(np.array(column, dtypes[kind["type"]]))
    if kind["type"] == "string":
        return pd.Series(column)
    made = np.empty(len(column), object)
    for row, value in enumerate(column):
        made[row] = value if kind["type"] == "binary" else _typed(kind, value)
    return pd.Series(made)


def _typed(kind: Type, value: Any) -> Any:
    """A value within JSON of the numpy types that MLflow insists on."""
    if value is None:
        return None
    match kind["type"]:
        case "array":
            scalars = {"integer": "int32", "float": "float32", "datetime": "datetime64[ns]"}
            dtype = scalars.get(kind["items"]["type"])
            if dtype and value:
                return np.array(value, dtype)
            return [_typed(kind["items"], item) for item in value]
        case "map":
            return {key: _typed(kind["values"], item) for key, item in value.items()}
        case "object":
            return {key: _typed(kind["properties"][key], item) for key, item in value.items()}
        case "integer":
            return np.int32(value)
        case "float":
            return np.float32(value)
        case "datetime":
            return np.datetime64(value, "ns")
        case _:
            return value

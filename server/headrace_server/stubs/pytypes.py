"""Pytypes: the Python types of a signature's inputs, outputs and parameters, as source text."""

import json
import keyword
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from headrace.datatypes import DATATYPES
from headrace.nulls import has_own_null, is_nullable
from headrace.signature import ParamSpec, TensorSpec
from headrace.typed.names import cleaned, hash_of

from .layout import WIDTH, exploded, quoted

# So that no line of a class is too long: of a type or a class, and of a key of an object.
_CHARS_MAX: Final = 28
_KEY_CHARS_MAX: Final = 32
_LINE: Final = "    "

# MLflow's kind of a column -> a value that a caller gives, a column of them, and the same of
# answers.
_COLUMNS: Final = {
    "boolean": ("Bool", "Bools", "bool", "npt.NDArray[np.bool_]"),
    "integer": ("Int", "Ints", "int", "npt.NDArray[np.int32]"),
    "long": ("Int", "Ints", "int", "npt.NDArray[np.int64]"),
    "float": ("Float", "Floats", "float", "npt.NDArray[np.float32]"),
    "double": ("Float", "Floats", "float", "npt.NDArray[np.float64]"),
    "string": ("str", "Texts", "str", "npt.NDArray[np.object_]"),
    "binary": ("bytes", "Binaries", "bytes", "npt.NDArray[np.object_]"),
    "datetime": ("Instant", "Instants", "np.datetime64", "npt.NDArray[np.datetime64]"),
}
_PARAMS: Final = {
    "boolean": "bool",
    "integer": "int",
    "long": "int",
    "float": "float",
    "double": "float",
    "string": "str",
    "datetime": "Instant",
}
# A value within JSON -> what a caller gives; answers have text for instants and bytes.
_JSON: Final = {
    "boolean": "bool",
    "integer": "int",
    "long": "int",
    "float": "float",
    "double": "float",
    "string": "str",
    "binary": "bytes | str",
    "datetime": "datetime | str",
}

# What the module's text says without quotes: no name of its own may hide it.
OWN_NAMES: Final = frozenset(
    {"Any", "AsyncStub", "Binaries", "Bool", "Bools", "CONTRACT", "Contract", "Float", "Floats"}
    | {"Instant", "Instants", "Int", "Ints", "Mapping", "NotRequired", "NullableBinaries"}
    | {"NullableBools", "NullableTexts", "Prediction", "Sequence"}
    | {"Stub", "TensorSpec", "Texts", "TypeAlias", "TypedDict", "bool", "bytes", "contract"}
    | {"dataclass", "datetime", "dict", "float", "int", "list", "np", "npt", "object", "str"}
    | {"self", "timeout", "values", "parameters", "outputs", "property", "super", "type"}
)


class Types(NamedTuple):
    """Source text of the types of one input or output.

    Attributes:
        value: Of a single row.
        column: Of several rows.
    """

    value: str
    column: str


class Declarations:
    """The types of a module, and the classes and aliases that they need.

    Attributes:
        blocks: Source of these classes and aliases, in order.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        """*taken* are names that the module gives to something else."""
        self.blocks: list[str] = []
        self._taken = {*taken, *OWN_NAMES, *keyword.kwlist}
        self._aliases: dict[str, str] = {}

    def of_input(self, spec: TensorSpec) -> Types:
        """What a caller gives for an input."""
        if not spec.is_column:
            return self._tensor_given(spec)
        if spec.kind == "json":
            value = self._json(spec, is_given=True)
            item = f"{value} | None" if spec.optional and value != "object" else value
            return Types(value, f"Sequence[{item}]")
        value, column, *_ = _COLUMNS[spec.kind]
        may_lack = is_nullable(spec) and not has_own_null(spec)
        return Types(value, f"Nullable{column}" if may_lack else column)

    def of_output(self, spec: TensorSpec) -> Types:
        """What a caller gets for an output; nothing for an optional one that a model leaves out."""
        types = self._output(spec)
        return Types(*(f"{one} | None" for one in types)) if spec.optional else types

    def _output(self, spec: TensorSpec) -> Types:
        if not spec.is_column:
            array = _array(spec)
            return Types(_element(spec) if len(spec.shape) == 1 else array, array)
        if spec.kind == "json":
            value = self._json(spec, is_given=False)
            return Types(value, f"list[{value}]")
        *_, value, column = _COLUMNS[spec.kind]
        return Types(value, column)

    def of_param(self, spec: ParamSpec) -> str:
        """What a caller gives for a parameter."""
        value = _PARAMS.get(spec.kind, "Mapping[str, object]")
        return value if spec.shape is None else f"Sequence[{value}]"

    def alias(self, text: str, name: str) -> str:
        """A name for the type *text*."""
        if text not in self._aliases:
            self._aliases[text] = self._free(name)
            line = f"{self._aliases[text]}: TypeAlias = {text}"
            if len(line) > WIDTH:
                line = f"{self._aliases[text]}: TypeAlias = (\n{_LINE}{text}\n)"
            self.blocks.append(line)
        return self._aliases[text]

    def _tensor_given(self, spec: TensorSpec) -> Types:
        if len(spec.shape) != 1:
            return Types("npt.ArrayLike", "npt.ArrayLike")
        kind = DATATYPES[spec.datatype].dtype.kind
        value, column = {
            "b": ("Bool", "Bools"),
            "i": ("Int", "Ints"),
            "u": ("Int", "Ints"),
            "f": ("Float", "Floats"),
            "O": ("str | bytes", "Texts | Binaries"),
        }[kind]
        return Types(value, column)

    def _json(self, spec: TensorSpec, *, is_given: bool) -> str:
        if not spec.schema:
            return "object" if is_given else "Any"
        return self._within(json.loads(spec.schema), camel(spec.name), is_given=is_given)

    def _within(self, kind: Mapping[str, Any], name: str, *, is_given: bool) -> str:
        """The type of a value within JSON; *name* is for a class that it may need."""
        match kind["type"]:
            case "array":
                item = self._within(kind["items"], name, is_given=is_given)
                text = f"{'Sequence' if is_given else 'list'}[{item}]"
            case "map":
                item = self._within(kind["values"], name, is_given=is_given)
                text = f"{'Mapping' if is_given else 'dict'}[str, {item}]"
            case "object":
                return self._class(kind["properties"], name, is_given=is_given)
            case "datetime" | "binary" if not is_given:
                return "str"
            case other:
                return _JSON.get(other, "object" if is_given else "Any")
        return text if len(text) <= _CHARS_MAX else self.alias(text, name)

    def _class(self, properties: Mapping[str, Any], name: str, *, is_given: bool) -> str:
        """A TypedDict of the properties of an object."""
        if not properties or any(len(quoted(key)) > _KEY_CHARS_MAX for key in properties):
            return "Mapping[str, object]" if is_given else "dict[str, Any]"
        fields = {}
        for key, kind in properties.items():
            text = self._within(kind, _joined(name, camel(key)), is_given=is_given)
            if not kind.get("required", True):
                text = f"NotRequired[{text} | None]"
            fields[key] = text
        given = self._free(name)
        if all(self._is_attribute(key) for key in fields):
            lines = [f"class {given}(TypedDict):"]
            lines += [f"{_LINE}{key}: {text}" for key, text in fields.items()]
            self.blocks.append("\n".join(lines))
        else:
            pairs = [f"{quoted(key)}: {text}" for key, text in fields.items()]
            body = "\n".join(exploded("{", pairs, "}"))
            lines = exploded(f"{given} = TypedDict(", [quoted(given), body], ")")
            self.blocks.append("\n".join(lines))
        return given

    def _is_attribute(self, key: str) -> bool:
        """Whether a class may declare *key* and still say what types its others have."""
        is_name = key.isascii() and key.isidentifier() and not keyword.iskeyword(key)
        return is_name and not key.startswith("__") and key not in self._taken

    def _free(self, name: str) -> str:
        given, digits = name, 4
        while given in self._taken:
            given, digits = f"{name}_{hash_of(name, digits)}", digits + 1
            name = given
        self._taken.add(given)
        return given


def _element(spec: TensorSpec) -> str:
    kind = DATATYPES[spec.datatype].dtype.kind
    return {"b": "bool", "i": "int", "u": "int", "f": "float", "O": "bytes"}[kind]


def _array(spec: TensorSpec) -> str:
    dtype = DATATYPES[spec.datatype].dtype
    name = {"bool": "bool_", "object": "object_"}.get(dtype.name, dtype.name)
    return f"npt.NDArray[np.{name}]"


def camel(name: str) -> str:
    """*name* as classes are called."""
    words = cleaned(name, "value").split("_")
    joined = "".join(word[:1].upper() + word[1:] for word in words)
    return joined if len(joined) <= _CHARS_MAX else f"{joined[:20]}_{hash_of(name)}"


def _joined(outer: str, inner: str) -> str:
    name = outer + inner
    return name if len(name) <= _CHARS_MAX else f"{inner[:20]}_{hash_of(name)}"

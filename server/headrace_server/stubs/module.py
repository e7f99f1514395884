"""Module: the Python module of a typed client, as text.

The text is the same for equal signatures, and laid out as ruff and Black would. It calls by the
tensor protocol: its classes are thin over headrace_client.stubs, which does the work.
"""

import ast
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace.signature import ParamSpec, Signature, TensorSpec
from headrace.typed import Item, TypedService, fingerprint
from headrace.typed.names import hash_of

from .layout import INDENT, WIDTH, bracketed, docstring, exploded, quoted, shown, tuple_of, width_of
from .pytypes import OWN_NAMES, Declarations, camel
from .telling import of_param, of_tensor

# Longer ones make no line that anyone wants to read.
_PREFIX_CHARS_MAX: Final = 40
_NAME_CHARS_MAX: Final = 40
_DEFAULT_CHARS_MAX: Final = WIDTH - 2 * len(INDENT) - 1
_INFERRED_MAX: Final = 256
_TIMEOUT: Final = ("timeout", "Seconds for the whole call; None for the client's.")
_RAISES: Final = (
    "headrace_client.HeadraceClientError",
    "The call failed, in the class of its status.",
)
# What a module may import, in the order of its lines.
_LIBRARY: Final = (
    ("collections.abc", ("Mapping", "Sequence")),
    ("dataclasses", ("dataclass",)),
    ("datetime", ("datetime",)),
    ("typing", ("Any", "NotRequired", "TypeAlias", "TypedDict")),
)
_NUMPY: Final = (("np", "import numpy as np"), ("npt", "import numpy.typing as npt"))
_STUBS: Final = "headrace_client.stubs"
_OURS: Final = (
    *("AsyncStub", "Binaries", "Bool", "Bools", "Contract", "Float", "Floats", "Instant"),
    *("Instants", "Int", "Ints", "NullableBinaries", "NullableBools", "NullableTexts"),
    *("Prediction", "Stub", "TensorSpec", "Texts"),
)
# Types of values that compare as values do.
_COMPARED: Final = {"bool", "int", "float", "str", "bytes"}


@dataclass(frozen=True, slots=True)
class _Argument:
    """One argument of a method, or one field of an answer.

    Attributes:
        name: In Python.
        value: The type of a single row's.
        column: The type of several rows'.
        default: Source of the default; empty for none.
        told_value: What the docstring says of a single row's.
        told_column: What it says of several rows'.
    """

    name: str
    value: str
    column: str
    default: str
    told_value: str
    told_column: str


def module_of(service: TypedService, signature: Signature, *, version: str = "") -> str:
    """A module with a typed client of a model, and its asyncio twin.

    Args:
        service: What `describe` says of *signature*.
        signature: Its inputs, outputs and parameters.
        version: The version that it is of; empty for one that has no number.
    """
    prefix = service.prefix
    if len(prefix) > _PREFIX_CHARS_MAX:
        prefix = f"{prefix[:_PREFIX_CHARS_MAX]}_{hash_of(service.model)}"
    return _Module(service, signature, prefix, version).text()


class _Module:
    """A module on its way to text."""

    def __init__(
        self, service: TypedService, signature: Signature, prefix: str, version: str
    ) -> None:
        self._service, self._signature, self._version = service, signature, version
        self._client, self._async_client = f"{prefix}Client", f"Async{prefix}Client"
        self._row, self._rows = f"{prefix}Prediction", f"{prefix}Predictions"
        own = {self._client, self._async_client, self._row, self._rows}
        self._declared = Declarations(own)
        self._taken = frozenset(own | OWN_NAMES)
        used: set[str] = set()
        self._inputs = [self._input(*named) for named in self._named(service.inputs, used)]
        self._params = [self._param(*named) for named in self._named(service.params, used)]
        self._outputs = [self._output(*named) for named in self._named(service.outputs, set())]

    def text(self) -> str:
        """The whole module."""
        blocks = [self._contract(), *self._declared.blocks]
        if self._outputs:
            if self._service.has_rows:
                blocks.append(self._answer(self._row, "The answer to a single row.", is_row=True))
            blocks.append(
                self._answer(self._rows, "The answers to rows, in their order.", is_row=False)
            )
        blocks += [self._class(is_async=False), self._class(is_async=True)]
        body = "\n\n\n".join(blocks)
        head = "\n".join([*self._head(), "", *_imports(body)])
        return f"{head}\n\n{body}\n"

    # What the arguments are.

    def _named(self, items: Sequence[Item], used: set[str]) -> Iterable[tuple[Item, str]]:
        """Each item with a name that is none of the module's own, and not *used* by another."""
        for item in items:
            plain = item.python
            if len(plain) > _NAME_CHARS_MAX:
                plain = f"{plain[:_NAME_CHARS_MAX]}_{hash_of(item.name)}"
            name = f"{plain}_" if plain in self._taken else plain
            if name in used:  # Only a parameter is called like an input.
                name = f"{plain}_param"
            if name in used:
                name = f"{name}_{hash_of(item.name)}"
            used.add(name)
            yield item, name

    def _input(self, item: Item, name: str) -> _Argument:
        spec = item.tensor
        types = self._declared.of_input(spec)
        value, column, default = types.value, types.column, ""
        if spec.optional:
            value, column, default = f"{value} | None", f"{column} | None", "None"
        return _Argument(
            name,
            self._fitting(name, value, default, item.name),
            self._fitting(name, column, default, f"{item.name}_rows"),
            default,
            of_tensor(spec, is_row=True) + _told_name(item.name, name),
            of_tensor(spec, is_row=False) + _told_name(item.name, name),
        )

    def _output(self, item: Item, name: str) -> _Argument:
        spec = item.tensor
        types = self._declared.of_output(spec)
        return _Argument(
            name,
            types.value,
            types.column,
            "",
            of_tensor(spec, is_row=True) + _told_name(item.name, name),
            of_tensor(spec, is_row=False) + _told_name(item.name, name),
        )

    def _param(self, item: Item, name: str) -> _Argument:
        spec = item.param
        text, default = self._declared.of_param(spec), _default(spec)
        if spec.shape is not None and len(f"{name}: {text} = {default}") > _DEFAULT_CHARS_MAX:
            default = "None"
        if default == "None":
            text = f"{text} | None"
        text = self._fitting(name, text, default, item.name)
        told = f"Parameter, {of_param(spec)}{_told_name(item.name, name)}"
        return _Argument(name, text, text, default, told, told)

    def _fitting(self, name: str, text: str, default: str, alias: str) -> str:
        """*text* itself, or an alias where the argument's line would be too long."""
        line = f"{2 * INDENT}{name}: {text}{f' = {default}' if default else ''},"
        if len(line) <= WIDTH or re.fullmatch(r"\w+", text):
            return text
        return self._declared.alias(text, f"{camel(alias)}Given")

    # The parts of the module.

    def _head(self) -> list[str]:
        given = self._inputs[0].name
        call = f"client.predict({given}=...{', ...' if len(self._inputs) > 1 else ''})"
        if not self._service.has_rows:
            call = call.replace("predict", "predict_batch")
        of = f"version {self._version}" if self._version else "a model without a version"
        return [
            f'"""Typed client of the model {shown(self._service.model)}.',
            "",
            f'    with {self._client}("127.0.0.1:8001") as client:',
            f"        answer = {call}",
            "",
            f"Written by `headrace stub` from the signature of {of}.",
            "Do not change it by hand: write it anew where the model has changed.",
            '"""',
        ]

    def _contract(self) -> str:
        arguments = [
            f"model={quoted(self._service.model)}",
            f"fingerprint={quoted(fingerprint(self._signature))}",
            _specs("inputs", self._service.inputs),
        ]
        if self._service.outputs:
            arguments.append(_specs("outputs", self._service.outputs))
        return "\n".join(exploded("CONTRACT = Contract(", arguments, ")"))

    def _answer(self, name: str, first: str, *, is_row: bool) -> str:
        """The class of an answer."""
        told = [(one.name, one.told_value if is_row else one.told_column) for one in self._outputs]
        # Arrays do not compare as one value does.
        can_compare = is_row and all(one.value in _COMPARED for one in self._outputs)
        options = "frozen=True, slots=True" + ("" if can_compare else ", eq=False")
        return "\n".join(
            [
                f"@dataclass({options})",
                f"class {name}:",
                *docstring(first, [("Attributes", told)]),
                "",
                *(
                    f"{INDENT}{one.name}: {one.value if is_row else one.column}"
                    for one in self._outputs
                ),
            ]
        )

    def _class(self, *, is_async: bool) -> str:
        name, base = (self._async_client, "AsyncStub") if is_async else (self._client, "Stub")
        first = f"Asks the model {shown(self._service.model)}"
        if is_async:
            how = "from one event loop; close it, or use it in an async with statement."
        else:
            how = "from any thread; close it, or use it in a with statement."
        methods = [self._method(is_async=is_async, is_row=False)]
        if self._service.has_rows:
            methods.insert(0, self._method(is_async=is_async, is_row=True))
        return "\n".join(
            [
                f"class {name}({base}):",
                f'{INDENT}"""{first}, {how}"""',
                "",
                f"{INDENT}contract = CONTRACT",
                *(f"\n{method}" for method in methods),
            ]
        )

    def _method(self, *, is_async: bool, is_row: bool) -> str:
        name = "predict" if is_row else "predict_batch"
        answer = (self._row if is_row else self._rows) if self._outputs else "Prediction"
        given = [*self._inputs, *self._params]
        arguments = [
            f"{one.name}: {one.value if is_row else one.column}"
            + (f" = {one.default}" if one.default else "")
            for one in given
        ]
        first = (
            "Ask for the answer to a single row."
            if is_row
            else "Ask for the answers to rows: arrays or lists of one length."
        )
        told = [(one.name, one.told_value if is_row else one.told_column) for one in given]
        inner = 2 * INDENT
        lines = exploded(
            f"{'async ' if is_async else ''}def {name}(",
            ["self", "*", *arguments, "timeout: float | None = None"],
            f") -> {answer}:",
            INDENT,
        )
        if is_async:
            lines.append(f'{inner}"""See `{self._client}.{name}`."""')
        else:
            lines += docstring(first, [("Args", [*told, _TIMEOUT]), ("Raises", [_RAISES])], inner)
        values = [one.name for one in self._inputs]
        # Of longer tuples pyright does not infer the type.
        typed = ": tuple[object, ...]" if len(values) > _INFERRED_MAX else ""
        lines += tuple_of(values, f"values{typed} = ", inner)
        parameters = "None"
        if self._params:
            parameters = "parameters"
            pairs = [
                f"{quoted(item.name)}: {one.name}"
                for item, one in zip(self._service.params, self._params, strict=True)
            ]
            lines += bracketed("parameters = {", pairs, "}", inner)
        way = ("row" if is_row else "batch") + ("" if self._outputs else "_prediction")
        wait = "await " if is_async else ""
        call = f"{wait}self._{way}(values, {parameters}, timeout)"
        if self._outputs:
            lines.append(f"{inner}outputs = {call}")
            lines += bracketed(f"return {answer}(", ["*outputs"], ")", inner)
        else:
            lines.append(f"{inner}return {call}")
        return "\n".join(lines)


def _imports(body: str) -> list[str]:
    """The imports of what *body* uses."""
    said = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
    lines = [
        f"from {module} import {', '.join(found)}"
        for module, names in _LIBRARY
        if (found := [name for name in names if name in said])
    ]
    if lines:
        lines.append("")
    lines += [line for name, line in _NUMPY if name in said]
    ours = [name for name in _OURS if name in said]
    line = f"from {_STUBS} import {', '.join(ours)}"
    more = [line] if len(line) <= WIDTH else exploded(f"from {_STUBS} import (", ours, ")")
    return [*lines, *more]


def _specs(name: str, items: Sequence[Item]) -> str:
    """An argument of the contract."""
    specs = [_spec(item.tensor) for item in items]
    return "\n".join(tuple_of(specs, f"{name}=", around=len(INDENT) + 1))


def _spec(spec: TensorSpec) -> str:
    arguments = [quoted(spec.name), quoted(spec.datatype), repr(spec.shape)]
    if spec.is_column:
        arguments.append(quoted(spec.kind))
    if spec.optional:
        arguments.append("optional=True")
    if spec.schema:
        arguments.append(f"schema={quoted(spec.schema)}")
    if spec.no_nulls:
        arguments.append("no_nulls=True")
    line = f"TensorSpec({', '.join(arguments)})"
    # Two brackets around it, and a comma behind; or, where nobody knows its width, in one line with
    # what is around it.
    around = 2 * len(INDENT) + 1 if line.isascii() else len(f"{INDENT}outputs=(,),")
    if width_of(line) <= WIDTH - around:
        return line
    return "\n".join(exploded("TensorSpec(", arguments, ")"))


def _told_name(name: str, python: str) -> str:
    return "" if name == python else f" Called {shown(name)} by the model."


def _default(spec: ParamSpec) -> str:
    """Source of a parameter's default; None for what has no literal that calls may share."""
    if isinstance(spec.default, list):
        literals = [_literal(item) for item in spec.default]
        lines = tuple_of(literals)
        return lines[0] if "None" not in literals and len(lines) == 1 else "None"
    return _literal(spec.default)


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float):
        return repr(value).replace("e+", "e") if math.isfinite(value) else "None"
    return repr(value) if isinstance(value, bool | int) else "None"

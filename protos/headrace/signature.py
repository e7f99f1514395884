"""Signature: the named, typed inputs and outputs of a model, and whether tensors fit them.

A column signature of MLflow becomes one input of shape [-1] per column; a tensor signature keeps
its names and shapes. A first axis of any size, -1, counts rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .datatypes import DATATYPES, Datatype, needs_exact_check, widens
from .jsontext import SPELLED, spell
from .nulls import MASK_DATATYPE, mask_name, masks_of, why_no_null

SHOWN_NAMES_MAX = 8


class SignatureMismatch(ValueError):
    """Tensors do not fit a signature; the message names the tensor, the expected, the given."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: Its name on the wire.
        datatype: A key of DATATYPES.
        shape: Sizes per axis, rows first; -1 is any size.
        kind: What MLflow calls it: "double", "string", "binary", "datetime", ..., "json" for
            arrays, objects and maps, or "tensor".
        optional: Whether an input may be left out.
        schema: For "json", the type that each value must have, in MLflow's own JSON, such as
            {"type": "array", "items": {"type": "double"}}; empty where any value will do.
        no_nulls: Whether the model takes no rows without a value, though MLflow lets them pass.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    kind: str = "tensor"
    optional: bool = False
    schema: str = ""
    no_nulls: bool = False

    @property
    def is_column(self) -> bool:
        """Whether it is a column of a table, one value per row."""
        return self.kind != "tensor"


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One inference parameter of an MLflow signature.

    Attributes:
        name: Its name.
        kind: "boolean", "integer", "long", "float", "double", "string", "datetime" or "object".
        default: Its value where a request gives none, as JSON would hold it.
        shape: (-1,) for a list; None for one value.
    """

    name: str
    kind: str
    default: Any
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """A tensor as a caller states it: name, datatype name and shape, without its bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """How given tensors fill a signature's inputs.

    Attributes:
        order: For each input of the signature the index of the given tensor; -1 for an optional
            input that was left out.
        rows: The size that the first axes of all inputs share; None where they differ, or where
            the signature does not leave all of them open: such a request is one whole.
        exact: Indices of the given tensors whose integers must stay within 2**53.
        masks: Indices of the given tensors that are masks, in the order of their columns.
    """

    order: tuple[int, ...]
    rows: int | None
    exact: tuple[int, ...] = ()
    masks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs, outputs and parameters of a model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()
    params: tuple[ParamSpec, ...] = ()

    @property
    def is_batchable(self) -> bool:
        """Whether every input lets the first axis be of any size."""
        return all(spec.shape[:1] == (-1,) for spec in self.inputs)

    def fit(self, given: Sequence[Given]) -> Fit:
        """Match *given* tensors with the inputs, by name.

        Datatypes may be narrower where widening loses nothing. A column takes shape [n] or [n, 1].
        It may have a mask beside it, or in its place where it has no value at all.

        Raises:
            SignatureMismatch: A tensor is missing, unknown, given twice, of a wrong datatype or
                shape, or a column's rows differ from the others'; or a mask's column has no null.
        """
        index = {tensor.name: i for i, tensor in enumerate(given)}
        if len(index) != len(given):
            twice = next(t.name for i, t in enumerate(given) if index[t.name] != i)
            raise SignatureMismatch(f"input {twice!r} is given twice")
        known = {spec.name for spec in self.inputs}
        others = [tensor for tensor in given if tensor.name not in known]
        masks = {column: index[name] for column, name in self._masks_among(others)}
        order: list[int] = []
        exact: list[int] = []
        for spec in self.inputs:
            at = index.get(spec.name, -1)
            if at >= 0:
                if _check(spec, given[at]):
                    exact.append(at)
            elif not spec.optional and spec.name not in masks:
                raise SignatureMismatch(
                    f"missing input {spec.name!r}: expected {_names(self.inputs)}, "
                    f"got {_names(given)}"
                )
            order.append(at)
        if not given:
            raise _no_inputs()
        rows = common_rows(given)
        if rows is None and any(spec.is_column for spec in self.inputs):
            raise _uneven_columns(given)
        is_open = all(spec.shape[:1] == (-1,) for spec in self.inputs)
        return Fit(
            tuple(order),
            rows if is_open else None,
            tuple(exact),
            tuple(masks[spec.name] for spec in self.inputs if spec.name in masks),
        )

    def _masks_among(self, given: Sequence[Given]) -> Iterator[tuple[str, str]]:
        """The column and the name of each mask; *given* are tensors that are no inputs."""
        masks = masks_of(self.inputs) if given else {}
        for tensor in given:
            spec = masks.get(tensor.name)
            if spec is None:
                raise self._unknown(tensor.name)
            _check_mask(spec, tensor)
            yield spec.name, tensor.name

    def _unknown(self, name: str) -> SignatureMismatch:
        columns = (spec for spec in self.inputs if spec.is_column)
        spec = next((spec for spec in columns if mask_name(spec.name) == name), None)
        if spec is None:
            return SignatureMismatch(f"unknown input {name!r}: expected {_names(self.inputs)}")
        return SignatureMismatch(
            f"input {spec.name!r}: expected {spec.kind} with a value in every row, got a mask of "
            f"missing values: {why_no_null(spec)}"
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict that `from_json` reads back."""
        return {
            "inputs": [spec_json(spec) for spec in self.inputs],
            "outputs": [spec_json(spec) for spec in self.outputs],
            "params": [
                {
                    "name": param.name,
                    "kind": param.kind,
                    "default": spell(param.default),
                    "shape": None if param.shape is None else list(param.shape),
                }
                for param in self.params
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Signature":
        """Read what `to_json` wrote."""
        return cls(
            inputs=tuple(spec_of(item) for item in data["inputs"]),
            outputs=tuple(spec_of(item) for item in data["outputs"]),
            params=tuple(
                ParamSpec(
                    item["name"],
                    item["kind"],
                    _default(item["kind"], item["default"]),
                    None if item["shape"] is None else tuple(item["shape"]),
                )
                for item in data["params"]
            ),
        )


def common_rows(given: Sequence[Given]) -> int | None:
    """The size that all first axes share; None where they differ or a tensor has no axes.

    Raises:
        SignatureMismatch: There is no tensor.
    """
    if not given:
        raise _no_inputs()
    sizes = {tensor.shape[:1] for tensor in given}
    return next(iter(next(iter(sizes))), None) if len(sizes) == 1 else None


def _no_inputs() -> SignatureMismatch:
    return SignatureMismatch("a request needs at least one input, got none")


def _uneven_columns(given: Sequence[Given]) -> SignatureMismatch:
    """Columns make a table, which has one number of rows."""
    first = given[0]
    other = next(tensor for tensor in given if tensor.shape[:1] != first.shape[:1])
    return SignatureMismatch(
        f"input {other.name!r} has {other.shape[0]} rows, but {first.name!r} has "
        f"{first.shape[0]}: all columns of a request need the same number of rows"
    )


def _check(spec: TensorSpec, given: Given) -> bool:
    """Raise unless *given* fits *spec*; tell whether its integers must be checked for exactness."""
    target = DATATYPES[spec.datatype]
    source = _datatype(given)
    if not widens(source, target):
        raise SignatureMismatch(f"input {spec.name!r}: expected {target.name}, got {source.name}")
    expected = spec.shape
    shape = given.shape
    if spec.is_column and len(shape) == len(expected) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    fits = len(shape) == len(expected) and all(
        want in (-1, got) for want, got in zip(expected, shape, strict=True)
    )
    if not fits:
        raise SignatureMismatch(
            f"input {spec.name!r}: expected shape {list(expected)}, got {list(given.shape)}"
        )
    return needs_exact_check(source, target)


def _check_mask(spec: TensorSpec, given: Given) -> None:
    if given.datatype != MASK_DATATYPE:
        raise SignatureMismatch(
            f"input {given.name!r}: expected {MASK_DATATYPE}, as the mask of {spec.name!r}, got "
            f"{given.datatype}"
        )
    if len(given.shape) not in (1, 2) or given.shape[1:] not in ((), (1,)):
        raise SignatureMismatch(
            f"input {given.name!r}: expected shape [-1], as the mask of {spec.name!r}, got "
            f"{list(given.shape)}"
        )


def _datatype(given: Given) -> Datatype:
    found = DATATYPES.get(given.datatype)
    if found is None:
        raise SignatureMismatch(
            f"input {given.name!r}: unknown datatype {given.datatype!r}, expected one of "
            f"{', '.join(DATATYPES)}"
        )
    return found


def _names(specs: Sequence[TensorSpec] | Sequence[Given]) -> str:
    shown = ", ".join(repr(spec.name) for spec in specs[:SHOWN_NAMES_MAX])
    more = len(specs) - SHOWN_NAMES_MAX
    return f"[{shown}, and {more} more]" if more > 0 else f"[{shown}]"


def spec_json(spec: TensorSpec) -> dict[str, Any]:
    """A JSON-ready dict that `spec_of` reads back."""
    said = {"no_nulls": True} if spec.no_nulls else {}
    return {
        "name": spec.name,
        "datatype": spec.datatype,
        "shape": list(spec.shape),
        "kind": spec.kind,
        "optional": spec.optional,
        "schema": spec.schema,
        **said,
    }


def _default(kind: str, value: Any) -> Any:
    """The default of a parameter, of whose floats JSON spells some out."""
    if kind not in {"float", "double"}:
        return value
    if isinstance(value, list):
        return [_default(kind, item) for item in value]
    return SPELLED.get(value, value) if isinstance(value, str) else value


def spec_of(item: Mapping[str, Any]) -> TensorSpec:
    """Read what `spec_json` wrote."""
    return TensorSpec(
        item["name"],
        item["datatype"],
        tuple(item["shape"]),
        item["kind"],
        item["optional"],
        item["schema"],
        item.get("no_nulls", False),
    )

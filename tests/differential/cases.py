"""Cases: models of one family, how each is saved and asked, and the values of its requests.

A family is a kind of model with a name; hypothesis draws a case of it: columns, an example, what is
declared, settings. The case's requests are columns by name, or one array without a name.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import cloudpickle
import hypothesis
import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array as ArrayOf

logging.getLogger("mlflow").setLevel(logging.ERROR)
# Artifacts then hold the functions themselves: a worker process does not know this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

Array = npt.NDArray[Any]
# What a request gives: inputs by name; one array without a name stands under "".
Data = Mapping[str, Any]
T = TypeVar("T")

# Of a request, at most; headrace's `rows_max` is 128.
ROWS_MAX: Final = 200
# What an input example may consist of.
EXAMPLES: Final = ("no", "one row", "equal rows", "several rows")
# As many values of a column are drawn, others are taken from these.
_DRAWN_MAX: Final = 8


@dataclass(frozen=True)
class Case:
    """A model and its requests.

    Attributes:
        save: Saves it at a path, as MLflow does.
        requests: What it is asked.
        told: What hypothesis has drawn of it, for a message.
        settings: The daemon's settings of it.
        load: How the answers to compare with are had, where it is not MLflow's pyfunc: what is
            called with a request.
    """

    save: Callable[[str], None]
    requests: SearchStrategy[Data]
    told: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    load: Callable[[str], Callable[[Data], Any]] | None = None


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes:
        name: Its name in messages and tables.
        flavor: The flavor of MLflow.
        cases: Models of it.
        batches: Whether its rows are its own and made-up rows show it, so that requests must be
            seen to share batches.
        chance: Whether its answers are never the same, so that only their shapes are compared.
        raises: Whether it fails on some rows, so that what shares a batch with these may be
            refused once the budget of further runs is spent.
        computes: The datatype it computes in, where its outputs have a finer one.
    """

    name: str
    flavor: str
    cases: SearchStrategy[Case]
    batches: bool = False
    chance: bool = False
    raises: bool = False
    computes: str = ""


# What is drawn ------------------------------------------------------------------------------------


def drawn(strategy: SearchStrategy[T], count: int, seed: int) -> list[T]:
    """At most *count* examples, the simplest first, the same ones for the same *seed*."""
    found: list[T] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(one: T) -> None:
        found.append(one)

    collect()
    return found


# Values -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of column.

    Attributes:
        type: Its type in MLflow's signature.
        values: What it may hold.
        dtype: Of the array that it makes.
        optional: Whether the signature says that values may be missing.
    """

    type: Any
    values: SearchStrategy[Any]
    dtype: Any = object
    optional: bool = False

    def array(self, values: Sequence[Any]) -> Any:
        """The column of *values*; a list where numpy has no such column."""
        if self.dtype is not object:
            return np.array(values, self.dtype)
        array = np.empty(len(values), object)
        array[:] = values
        return array


# What models add up: of much larger numbers small sums have few digits.
_near = (
    st.integers(-8, 8).map(float) | st.sampled_from([0.0, -0.0, 0.5, -1.5]) | st.floats(-100, 100)
)
_mild = _near | st.sampled_from([1000.0, -1e6, 1e6])
_wild = _mild | st.sampled_from(
    [np.nan, np.inf, -np.inf, 1e300, -1e300, 5e-324, float(2**53), -float(2**63)]
)
_words = st.sampled_from(["red", "green", "blue", "", "a", "Red"])
_odd_texts = st.sampled_from(["", " ", "null", "NaN", "1", "true", '"', "[]", "é🙂", "a,b", "\n"])
_texts = _odd_texts | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)
_instants = st.integers(-(2**62), 2**62).map(lambda ns: np.datetime64(ns, "ns"))
_large = st.integers(-(2**62), 2**62) | st.integers(-3, 3).map(lambda near: 2**53 + near)

KINDS: Final[Mapping[str, Kind]] = {
    "double": Kind(DataType.double, _mild, np.float64),
    "near": Kind(DataType.double, _near, np.float64),
    "wild": Kind(DataType.double, _wild, np.float64),
    "natural": Kind(DataType.double, st.integers(0, 20).map(float), np.float64),
    "gaps": Kind(DataType.double, _near | st.just(np.nan), np.float64),
    "float": Kind(DataType.float, st.floats(-100, 100, width=32), np.float32),
    "integer": Kind(DataType.integer, st.integers(-(2**30), 2**30), np.int32),
    "long": Kind(DataType.long, st.integers(-9, 9) | _large, np.int64),
    "id": Kind(DataType.long, st.integers(2**53, 2**53 + 3), np.int64),
    "small": Kind(DataType.long, st.integers(0, 9), np.int64),
    "boolean": Kind(DataType.boolean, st.booleans(), np.bool_),
    "string": Kind(DataType.string, _texts),
    "word": Kind(DataType.string, _words),
    "colour": Kind(DataType.string, st.sampled_from(["red", "green", "blue"])),
    "binary": Kind(DataType.binary, st.binary(max_size=6)),
    "datetime": Kind(DataType.datetime, _instants, "datetime64[ns]"),
    "doubles": Kind(ArrayOf(DataType.double), st.lists(_mild, min_size=1, max_size=3)),
    "longs": Kind(ArrayOf(DataType.long), st.lists(st.integers(-9, 9), min_size=1, max_size=3)),
    "texts": Kind(ArrayOf(DataType.string), st.lists(_words, min_size=1, max_size=3)),
    # Columns in which values may be missing.
    "double?": Kind(DataType.double, _mild | st.just(np.nan), np.float64, optional=True),
    "string?": Kind(DataType.string, st.none() | _texts, optional=True),
    "word?": Kind(DataType.string, st.none() | _words, optional=True),
    "binary?": Kind(DataType.binary, st.none() | st.binary(max_size=6), optional=True),
    # Not optional, which does not keep MLflow from taking rows without a value.
    "word!": Kind(DataType.string, st.none() | _words),
    "boolean!": Kind(DataType.boolean, st.none() | st.booleans()),
    "long?": Kind(DataType.long, st.none() | st.integers(-9, 9), optional=True),
    "boolean?": Kind(DataType.boolean, st.none() | st.booleans(), optional=True),
    "datetime?": Kind(
        DataType.datetime,
        st.just(np.datetime64("NaT", "ns")) | _instants,
        "datetime64[ns]",
        optional=True,
    ),
}

# One row most often, a few, and as many as no batch holds.
row_counts = (
    st.integers(1, 3)
    | st.integers(1, 12)
    | st.sampled_from([1, 2, 7, 8, 9, 16, 17, 40, 127, 128, 129, ROWS_MAX])
)


def schema_of(columns: Mapping[str, str]) -> Schema:
    """The schema of columns by their kinds."""
    return Schema(
        [
            ColSpec(KINDS[kind].type, name, required=not KINDS[kind].optional)
            for name, kind in columns.items()
        ]
    )


@st.composite
def tables(
    draw: DrawFn, columns: Mapping[str, str], rows: SearchStrategy[int] = row_counts
) -> Data:
    """Columns of kinds, with as many *rows*; optional ones may be left out."""
    count = draw(rows)
    some = min(count, _DRAWN_MAX)
    picks = np.arange(count)
    if count > some:
        picks = np.random.default_rng(draw(st.integers(0, 99))).integers(some, size=count)
    made = {}
    for name, kind in columns.items():
        if KINDS[kind].optional and draw(st.integers(0, 3)) == 3:
            continue
        values = draw(st.lists(KINDS[kind].values, min_size=some, max_size=some))
        made[name] = KINDS[kind].array([values[pick] for pick in picks])
    return made


def floats(shape: Sequence[int], dtype: Any = np.float32) -> SearchStrategy[Array]:
    """Numbers of *shape*, few of which are drawn."""
    return st.builds(
        partial(_spread, tuple(shape), dtype),
        st.lists(_near, min_size=1, max_size=_DRAWN_MAX),
        st.integers(0, 99),
    )


def _spread(shape: tuple[int, ...], dtype: Any, values: list[float], seed: int) -> Array:
    """*values* as they come, and behind them again in any order."""
    size = int(np.prod(shape))
    picks = np.random.default_rng(seed).integers(len(values), size=size)
    picks[: len(values)] = np.arange(len(values))[:size]
    return np.array(values, dtype)[picks].reshape(shape)


@st.composite
def any_of_these(draw: DrawFn) -> Mapping[str, object]:
    """Settings that change how batches are made, and nothing of an answer."""
    found: dict[str, object] = {}
    if rows_max := draw(st.sampled_from([0, 0, 4, 64])):
        found["rows_max"] = rows_max
    if delay := draw(st.sampled_from([0, 2000])):
        found["queue_delay_us_max"] = delay
    if draw(st.integers(0, 3)) == 3:
        found["instances"] = 2
    return found


# Asking -------------------------------------------------------------------------------------------


def as_mlflow_takes_it(data: Data) -> Any:
    """A DataFrame of columns, arrays by name, or the only array."""
    if "" in data:
        return data[""].copy()
    if all(array.ndim == 1 for array in data.values()):
        return pd.DataFrame({name: array.copy() for name, array in data.items()})
    return {name: array.copy() for name, array in data.items()}


def by_pyfunc(path: str, *, are_tensors: bool = False) -> Callable[[Data], Any]:
    """MLflow's own call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mlflow.pyfunc.load_model(path, suppress_warnings=True)

    def ask(data: Data) -> Any:
        if not are_tensors:
            return model.predict(as_mlflow_takes_it(data))
        # Text of tensors is numpy's own.
        arrays = {
            name: array.astype(str) if array.dtype.kind == "O" else array.copy()
            for name, array in data.items()
        }
        return model.predict(arrays.get("", arrays))

    return ask


def tensor(dtype: str, shape: Sequence[int], name: str | None = None) -> TensorSpec:
    """A tensor of a signature."""
    return TensorSpec(np.dtype(dtype), tuple(shape), name)


# Python models ------------------------------------------------------------------------------------


class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Answers what a function does."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return self.answer(model_input)


def save_custom(
    path: str,
    *,
    answer: Callable[[Any], Any],
    signature: ModelSignature | None,
    example: Any = None,
) -> None:
    """A Python model."""
    mlflow.pyfunc.save_model(
        path=path,
        python_model=Model(answer),
        signature=signature,
        input_example=example,
        pip_requirements=["numpy"],
    )


def save_flavor(path: str, flavor: str, **arguments: Any) -> None:
    """A model of a flavor with a module of its own."""
    from importlib import import_module

    import_module(f"mlflow.{flavor}").save_model(path=path, pip_requirements=["numpy"], **arguments)


def columns_of(text: str | None) -> dict[str, str]:
    """Names of columns and their kinds, from "x:double t:word"."""
    return dict(column.split(":") for column in (text or "").split())


def _in_form(given: Any, *, answer: Callable[[Any], Any], form: str) -> Any:
    """What *answer* gives; a Series in another *form*."""
    found = answer(given)
    if form == "list" and isinstance(found, pd.Series):
        return found.tolist()
    if form == "array" and isinstance(found, pd.Series):
        return found.to_numpy()
    return found


def custom(
    name: str,
    inputs: str,
    outputs: str | None,
    answer: Callable[[Any], Any],
    *,
    example: str | None = None,
    declared: bool = False,
    styles: Sequence[str] = EXAMPLES,
    rows: SearchStrategy[int] = row_counts,
    settings: Mapping[str, object] | None = None,
    **traits: Any,
) -> Family:
    """A family of Python models of columns.

    Args:
        name: Its name.
        inputs: Its columns and their kinds, as "x:double t:word".
        outputs: Those of its outputs; None where the signature cannot have any.
        answer: What it answers to a DataFrame. A Series is answered as such, as array or as list.
        example: The kinds of an example's columns, where it fails on some of *inputs*.
        declared: Whether the signature has outputs in any case.
        styles: The examples it may have.
        rows: How many a request has.
        settings: Of the daemon, beside those that are drawn.
        **traits: Of the family.
    """

    @st.composite
    def cases(draw: DrawFn) -> Case:
        form = draw(st.sampled_from(["as it is", "array", "list"]))
        has_outputs = outputs is not None and (declared or draw(st.booleans()))
        schema = schema_of(columns_of(outputs)) if has_outputs else None
        style = draw(st.sampled_from(styles))
        given_example = draw(examples(columns_of(example or inputs), style))
        further = {**draw(any_of_these()), **(settings or {})}
        return Case(
            save=partial(
                save_custom,
                answer=partial(_in_form, answer=answer, form=form),
                signature=ModelSignature(schema_of(columns_of(inputs)), schema),
                example=given_example,
            ),
            requests=tables(columns_of(inputs), rows),
            told=f"{form}; example: {style}; outputs declared: {has_outputs}",
            settings=further,
        )

    return Family(name, "pyfunc", cases(), **traits)


@st.composite
def examples(draw: DrawFn, columns: Mapping[str, str], style: str) -> Any:
    """An input example: none, one row, a row and its copies, or rows that differ."""
    if style == "no":
        return None
    made = draw(tables(columns, st.just(4 if style == "several rows" else 1)))
    if style == "equal rows":
        made = {name: np.concatenate([column] * 3) for name, column in made.items()}
    return as_mlflow_takes_it(made)


def marked(families: Sequence[Family], **traits: Any) -> list[Family]:
    """*families* with further traits."""
    return [replace(family, **traits) for family in families]

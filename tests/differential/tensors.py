"""Tensors: families of models of arrays; Python models and ONNX."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import cloudpickle
import numpy as np
import onnx
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from mlflow.models import ModelSignature
from mlflow.types import Schema
from onnx import TensorProto, helper

from .cases import (
    Case,
    Data,
    Family,
    any_of_these,
    by_pyfunc,
    floats,
    marked,
    row_counts,
    save_custom,
    save_flavor,
    tensor,
)

cloudpickle.register_pickle_by_value(sys.modules[__name__])

# A size, or the letter of one that requests differ in.
Shape = Sequence[int | str]
# Inputs by name, "" for one without: a datatype and a shape.
Inputs = Mapping[str, tuple[str, Shape]]

# What letters stand for; n is rows.
_SIZES: Final[Mapping[str, SearchStrategy[int]]] = {
    "n": row_counts,
    "t": row_counts,
    "b": st.integers(1, 3),
    "k": st.integers(1, 5),
    "m": st.integers(1, 9),
}
_texts = st.sampled_from(["red", "green", "", "é", "1"])


@st.composite
def _requests(draw: DrawFn, inputs: Inputs, sizes: Mapping[str, int] | None = None) -> Data:
    """Arrays for *inputs*, with those *sizes* that are given."""
    found = dict(sizes or {})
    for _, shape in inputs.values():
        for size in shape:
            if isinstance(size, str) and size not in found:
                found[size] = draw(_SIZES[size])
    return {
        name: draw(
            _array(dtype, [size if isinstance(size, int) else found[size] for size in shape])
        )
        for name, (dtype, shape) in inputs.items()
    }


def _array(dtype: str, shape: Sequence[int]) -> SearchStrategy[Any]:
    if dtype.startswith("float"):
        return floats(shape, np.dtype(dtype))
    if dtype == "str":
        return st.builds(
            partial(_chosen, shape=tuple(shape)), st.integers(0, 999), st.lists(_texts, min_size=1)
        )
    top = 2 if dtype == "bool" else 10
    return st.integers(0, 999).map(
        lambda seed: np.random.default_rng(seed).integers(top, size=shape).astype(dtype)
    )


def _chosen(seed: int, values: list[str], shape: tuple[int, ...]) -> Any:
    picks = np.random.default_rng(seed).integers(len(values), size=shape)
    return np.array(values, object)[picks]


def of_tensors(
    name: str,
    flavor: str,
    inputs: Inputs,
    save: Callable[..., None],
    *,
    example: bool = True,
    load: Callable[..., Callable[[Data], Any]] | None = None,
    settings: Mapping[str, object] | None = None,
    **traits: Any,
) -> Family:
    """A family of models of arrays.

    Args:
        name: Its name.
        flavor: Its flavor.
        inputs: Its inputs.
        save: Saves a model at a path, with a `signature` and an `input_example`.
        example: Whether MLflow can ask it for an answer to an example.
        load: How the answers to compare with are had, where it is not MLflow's pyfunc.
        settings: Of the daemon, beside those that are drawn.
        **traits: Of the family.
    """

    @st.composite
    def cases(draw: DrawFn) -> Case:
        style = draw(st.sampled_from(["no", "one row", "several rows"])) if example else "no"
        given = None
        if style != "no":
            made = draw(_requests(inputs, {"n": 1 if style == "one row" else 4}))
            given = made[""] if "" in made else dict(made)
        specs = [
            tensor(dtype, [-1 if isinstance(size, str) else size for size in shape], label or None)
            for label, (dtype, shape) in inputs.items()
        ]
        further = {**draw(any_of_these()), **(settings or {})}
        return Case(
            save=partial(save, signature=ModelSignature(Schema(specs)), input_example=given),
            requests=_requests(inputs),
            told=f"example: {style}",
            settings=further,
            load=load or partial(by_pyfunc, are_tensors=True),
        )

    return Family(name, flavor, cases(), **traits)


# Python models ------------------------------------------------------------------------------------


def python(name: str, inputs: Inputs, answer: Callable[[Any], Any], **traits: Any) -> Family:
    """A family of Python models that answer what a function does."""

    def save(path: str, *, signature: ModelSignature, input_example: Any) -> None:
        save_custom(path, answer=answer, signature=signature, example=input_example)

    return of_tensors(name, "pyfunc", inputs, save, **traits)


_ROWS: Final[Inputs] = {"": ("float64", ("n", 3))}
_TWO: Final[Inputs] = {"a": ("float64", ("n", 2)), "b": ("float64", (2, "m"))}
_PYTHON: Final = [
    python("an array, doubled", _ROWS, lambda x: x * 2, batches=True),
    python("an array minus its mean", _ROWS, lambda x: x - x.mean(axis=0)),
    python("an array, transposed", _ROWS, lambda x: x.T),
    python("the sum of an array", _ROWS, lambda x: x.sum()),
    python("the shape of an array", _ROWS, lambda x: np.array(x.shape)),
    python("rows of an array that are positive", _ROWS, lambda x: x[x[:, 0] > 0]),
    python(
        "one number in, one out",
        {"": ("float32", ("n",))},
        lambda x: np.exp(-np.abs(x)),
        batches=True,
    ),
    python(
        "two arrays that share rows",
        {"a": ("float32", ("n", 2)), "b": ("int64", ("n",))},
        lambda d: {"sum": d["a"].sum(1) + d["b"], "a": d["a"]},
        batches=True,
    ),
    python("an array by another", _TWO, lambda d: d["a"] @ d["b"]),
    python(
        "an array by a number",
        {"x": ("float64", ("n", 2)), "k": ("float64", ())},
        lambda d: d["x"] * d["k"],
    ),
    python(
        "an array of fixed size", {"": ("float64", (2, 3))}, lambda x: x - x.mean(), example=False
    ),
    python(
        "one of one", {"x": ("float64", ("n",)), "w": ("float64", (1,))}, lambda d: d["x"] * d["w"]
    ),
    python(
        "images of any size", {"": ("uint8", ("b", "m", "k", 3))}, lambda x: x.mean(axis=(1, 2))
    ),
    python("arrays of text", {"": ("str", ("n", 2))}, lambda x: x[:, ::-1], example=False),
    python("arrays of booleans", {"": ("bool", ("n", 2))}, lambda x: x.any(axis=1), batches=True),
    python("whole numbers of 64 bits", {"": ("int64", ("n",))}, lambda x: x + 2**60, batches=True),
    python(
        "a bag of ids",
        {"ids": ("int64", ("m",)), "starts": ("int64", ("k",))},
        lambda d: np.add.reduceat(d["ids"], np.sort(d["starts"] % len(d["ids"]))),
    ),
]

# ONNX ---------------------------------------------------------------------------------------------

_ELEMENTS: Final = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
    "str": TensorProto.STRING,
}


def save_onnx(
    path: str,
    *,
    nodes: Sequence[Any],
    inputs: Inputs,
    constants: Mapping[str, Any],
    outputs: Mapping[str, str],
    signature: ModelSignature,
    input_example: Any,
) -> None:
    """A graph of *nodes*."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [
            helper.make_tensor_value_info(name, _ELEMENTS[dtype], list(shape))
            for name, (dtype, shape) in inputs.items()
        ],
        [_output(name, dtype) for name, dtype in outputs.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    save_flavor(
        path,
        "onnx",
        onnx_model=model,
        onnx_execution_providers=["CPUExecutionProvider"],
        signature=signature,
        input_example=input_example,
    )


def _output(name: str, dtype: str) -> Any:
    if dtype != "map":
        return helper.make_tensor_value_info(name, _ELEMENTS[dtype], None)
    number = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    rows = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.STRING, number))
    return helper.make_value_info(name, rows)


def graph(
    name: str,
    inputs: Inputs,
    nodes: Sequence[Any],
    constants: Mapping[str, Any] | None = None,
    outputs: Mapping[str, str] | None = None,
    **traits: Any,
) -> Family:
    """A family of graphs."""
    save = partial(
        save_onnx,
        nodes=nodes,
        inputs=inputs,
        constants=constants or {},
        outputs=outputs or {"y": "float32"},
    )
    return of_tensors(name, "onnx", inputs, save, **traits)


def _node(kind: str, given: str, made: str = "y", **attributes: Any) -> Any:
    return helper.make_node(kind, given.split(), made.split(), **attributes)


_X: Final[Inputs] = {"x": ("float32", ("n", 3))}
_WEIGHTS: Final = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def _zip_map() -> Sequence[Any]:
    labels = {"classlabels_strings": ["low", "middle", "high"]}
    return [
        _node("Softmax", "x", "p", axis=1),
        helper.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", **labels),
    ]


_ONNX: Final = [
    *marked(
        [
            graph("a product", _X, [_node("MatMul", "x w")], {"w": _WEIGHTS}),
            graph("what is positive", _X, [_node("Relu", "x")]),
            graph(
                "the largest feature",
                _X,
                [_node("ArgMax", "x", axis=1, keepdims=0)],
                outputs={"y": "int64"},
            ),
            graph(
                "rows of a table",
                {"x": ("int64", ("n",))},
                [_node("Gather", "w x")],
                {"w": np.arange(30, dtype=np.float32).reshape(10, 3)},
            ),
        ],
        batches=True,
    ),
    graph("the mean of rows", _X, [_node("ReduceMean", "x", axes=[0], keepdims=0)]),
    graph(
        "rows less their mean",
        _X,
        [_node("ReduceMean", "x", "m", axes=[0], keepdims=1), _node("Sub", "x m")],
    ),
    graph("softmax along rows", _X, [_node("Softmax", "x", axis=0)]),
    graph("sums along rows", _X, [_node("CumSum", "x zero")], {"zero": np.array(0)}),
    graph("the shape", _X, [_node("Shape", "x")], outputs={"y": "int64"}),
    graph("places that are not zero", _X, [_node("NonZero", "x")], outputs={"y": "int64"}),
    graph("on its side", _X, [_node("Transpose", "x")]),
    graph(
        "texts as they come",
        {"x": ("str", ("n",))},
        [_node("Identity", "x")],
        outputs={"y": "str"},
        example=False,
    ),
    graph(
        "a product of inputs",
        {"a": ("float32", ("n", 2)), "b": ("float32", (2, "m"))},
        [_node("MatMul", "a b")],
    ),
    graph(
        "a number by rows",
        {"x": ("float32", ("n", 2)), "k": ("float32", ())},
        [_node("Mul", "x k")],
    ),
    graph("labels of a map", _X, _zip_map(), outputs={"y": "map"}, example=False),
]

FAMILIES: Final = (*_PYTHON, *_ONNX)

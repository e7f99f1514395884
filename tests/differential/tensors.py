"""Tensors: families of models of arrays: Python models, torch, ONNX, Keras."""

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import Any, Final

import cloudpickle
import mlflow
import numpy as np
import onnx
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from mlflow.models import ModelSignature
from mlflow.types import Schema
from onnx import TensorProto, helper
from torch.nn import functional

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

# torch --------------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    """What a function makes of its inputs, beside layers of its own."""

    def __init__(self, answer: Callable[..., Any], layers: Mapping[str, Any]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleDict(layers)
        self.answer = answer

    def forward(self, x: Any) -> Any:
        return self.answer(x, **self.layers)


class Pair(torch.nn.Module):
    """Two named inputs."""

    def __init__(self, answer: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, a: Any, b: Any) -> Any:
        return self.answer(a, b)


class ByName(torch.nn.Module):
    """A dict of inputs."""

    def forward(self, x: dict[str, Any]) -> Any:
        return x["a"] * 2 + x["b"]


def save_torch(
    path: str, *, module: Callable[[], Any], signature: ModelSignature, input_example: Any
) -> None:
    """A module, pickled."""
    torch.manual_seed(0)
    save_flavor(
        path,
        "pytorch",
        pytorch_model=module().eval(),
        signature=signature,
        input_example=input_example,
        serialization_format="pickle",
    )


def net(
    name: str,
    inputs: Inputs,
    answer: Callable[..., Any],
    layers: Callable[[], Mapping[str, Any]] = dict,
    **traits: Any,
) -> Family:
    """A family of modules."""
    save = partial(save_torch, module=lambda: Net(answer, layers()))
    return of_tensors(name, "pytorch", inputs, save, **traits)


def natively(path: str) -> Callable[[Data], Any]:
    """What a module itself answers: MLflow's pyfunc takes one tensor, and gives one."""
    module = mlflow.pytorch.load_model(path)

    def ask(data: Data) -> Any:
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in data.items()}
        with torch.inference_mode():
            if isinstance(module, ByName):
                return _in_numpy(module(tensors))
            return _in_numpy(module(*tensors.values()))

    return ask


def _in_numpy(answer: Any) -> Any:
    if isinstance(answer, torch.Tensor):
        return answer.numpy()
    if isinstance(answer, Mapping):
        return {name: _in_numpy(item) for name, item in answer.items()}
    return tuple(map(_in_numpy, answer)) if isinstance(answer, tuple | list) else answer


def _chance(x: Any, *, fc: Any) -> Any:
    return functional.dropout(fc(x), training=True)


_FEATURES: Final[Inputs] = {"": ("float32", ("n", 3))}
_SEQUENCES: Final[Inputs] = {"": ("float32", ("b", "m", 3))}


def _linear() -> Mapping[str, Any]:
    return {"fc": torch.nn.Linear(3, 4)}


def _bag(a: Any, b: Any) -> Any:
    weights = torch.arange(30, dtype=torch.float32).reshape(10, 3)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), torch.sort(b % len(a)).values[1:]])
    return functional.embedding_bag(a, weights, starts)


def _edges(a: Any, b: Any) -> Any:
    """What nodes have of their neighbours."""
    return torch.zeros_like(a).index_add(0, b[1] % len(a), a[b[0] % len(a)])


_Tensor = tuple[str, Shape]
_ROW: Final[_Tensor] = ("float32", ("n", 2))
_ID: Final = "int64"
# Named inputs a and b of a module.
_PAIRS: Final[tuple[tuple[str, _Tensor, _Tensor, Callable[[], Any]], ...]] = (
    ("a product of tensors", _ROW, ("float32", (2, "m")), lambda: Pair(lambda a, b: a @ b)),
    ("a sum of tensors", _ROW, _ROW, lambda: Pair(lambda a, b: a + b)),
    ("a tensor by a number", _ROW, ("float32", ()), lambda: Pair(lambda a, b: a * b)),
    ("a bag of embeddings", (_ID, ("m",)), (_ID, ("k",)), lambda: Pair(_bag)),
    ("edges of a graph", _ROW, (_ID, (2, "m")), lambda: Pair(_edges)),
    ("a dict of tensors", _ROW, _ROW, ByName),
)


_TORCH: Final = [
    *marked(
        [
            net("a layer", _FEATURES, lambda x, fc: fc(x), _linear),
            net(
                "a normal layer",
                _FEATURES,
                lambda x, fc, norm: norm(fc(x)),
                lambda: {"fc": torch.nn.Linear(3, 4), "norm": torch.nn.BatchNorm1d(4)},
            ),
            net("softmax of each row", _FEATURES, lambda x: torch.softmax(x, dim=1)),
            net("the largest place", _FEATURES, lambda x, fc: fc(x).argmax(1), _linear),
            net("16 bits", _FEATURES, lambda x: x.half() / 3),
            net("64 bits", {"": ("float64", ("n", 3))}, lambda x: x.sum(1, keepdim=True)),
            net(
                "rows of ids",
                {"": ("int64", ("n", 4))},
                lambda x, ids: ids(x),
                lambda: {"ids": torch.nn.Embedding(10, 3)},
            ),
        ],
        batches=True,
    ),
    net(
        "ids that must be there",
        {"": ("int64", ("n", "k"))},
        lambda x, ids: ids(x),
        lambda: {"ids": torch.nn.Embedding(10, 3)},
    ),
    net(
        "few ids",
        {"": ("int64", ("n", 2))},
        lambda x, ids: ids(x),
        lambda: {"ids": torch.nn.Embedding(7, 3)},
        example=False,
        raises=True,
    ),
    net(
        "a recurrent layer, time first",
        {"": ("float32", ("t", "b", 3))},
        lambda x, rnn: rnn(x)[0],
        lambda: {"rnn": torch.nn.LSTM(3, 4)},
    ),
    net(
        "a recurrent layer, rows first",
        _SEQUENCES,
        lambda x, rnn: rnn(x)[0],
        lambda: {"rnn": torch.nn.GRU(3, 4, batch_first=True)},
    ),
    net(
        "attention within a row",
        _SEQUENCES,
        lambda x: torch.softmax(x @ x.transpose(1, 2), 2) @ x,
    ),
    net(
        "a convolution",
        {"": ("float32", ("b", 3, "m"))},
        lambda x, conv: conv(x),
        lambda: {"conv": torch.nn.Conv1d(3, 2, 3, padding=1)},
    ),
    net(
        "batch norm that trains",
        _FEATURES,
        lambda x: functional.batch_norm(x, None, None, training=True),
        raises=True,
    ),
    net("softmax of all rows", _FEATURES, lambda x: torch.softmax(x, dim=0)),
    net("attention among rows", _FEATURES, lambda x: torch.softmax(x @ x.T, 1) @ x),
    net("less the mean of rows", _FEATURES, lambda x: x - x.mean(0)),
    net("by the number of rows", _FEATURES, lambda x: x / x.shape[0]),
    net("a running sum", _FEATURES, lambda x: x.cumsum(0)),
    net("one number for all", _FEATURES, lambda x: x.mean()),
    net("one row for all", _FEATURES, lambda x: x.sum(0)),
    net("rows that are positive", _FEATURES, lambda x: x[x[:, 0] > 0]),
    net("rows on their side", _FEATURES, lambda x: x.T),
    net(
        "dropout that trains",
        _FEATURES,
        _chance,
        _linear,
        chance=True,
        settings={"deterministic": "false"},
    ),
    net("a table", {"": ("float32", ("n", 400))}, lambda x: x),
    *(
        net(name, _FEATURES, answer, example=False, load=natively)
        for name, answer in {
            "two tensors": lambda x: (x, x.sum(1)),
            "a tensor and nothing": lambda x: (x, None),
            "tensors by name": lambda x: {"twice": x * 2, "sum": x.sum(1)},
            "nested tensors": lambda x: {"heads": {"a": x.repeat(1, 400)}, "x": x},
            "tensors in a list": lambda x: [x, -x],
            "a tensor beside a number": lambda x: {"x": x, "rows": x.shape[0]},
            "a tensor beside text": lambda x: {"x": x, "kind": "plain"},
        }.items()
    ),
    *(
        of_tensors(
            name,
            "pytorch",
            {"a": first, "b": second},
            partial(save_torch, module=module),
            example=False,
            load=natively,
        )
        for name, first, second, module in _PAIRS
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

# Keras --------------------------------------------------------------------------------------------


def save_keras(
    path: str,
    *,
    build: Callable[[Any], Any],
    signature: ModelSignature,
    input_example: Any,
) -> None:
    """A model of Keras'."""
    import keras

    keras.utils.set_random_seed(0)
    save_flavor(path, "keras", model=build(keras), signature=signature)


def _functional(keras: Any, shape: tuple[int | None, ...], make: Callable[[Any], Any]) -> Any:
    given = keras.Input(shape)
    return keras.Model(given, make(given))


def _quietly(path: str) -> Callable[[Data], Any]:
    """MLflow's own call, without the bar that Keras draws for each."""
    ask = by_pyfunc(path, are_tensors=True)

    def silent(data: Data) -> Any:
        with redirect_stdout(io.StringIO()):
            return ask(data)

    return silent


def keras_model(
    name: str, inputs: Inputs, build: Callable[[Any], Any], *, batches: bool = False
) -> Family:
    """A family of models of Keras'."""
    save = partial(save_keras, build=build)
    return of_tensors(name, "keras", inputs, save, example=False, load=_quietly, batches=batches)


_KERAS: Final = [
    keras_model(
        "dense layers",
        _FEATURES,
        lambda keras: keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(4, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(2),
            ]
        ),
        batches=True,
    ),
    keras_model(
        "recurrent layers",
        _SEQUENCES,
        lambda keras: _functional(keras, (None, 3), keras.layers.GRU(4)),
    ),
    keras_model(
        "features less their mean",
        _FEATURES,
        lambda keras: _functional(
            keras, (3,), lambda x: x - keras.ops.mean(x, axis=0, keepdims=True)
        ),
    ),
    keras_model(
        "features along rows",
        _FEATURES,
        lambda keras: _functional(keras, (3,), lambda x: keras.ops.softmax(x, axis=0)),
    ),
]

FAMILIES: Final[tuple[Family, ...]] = (*_PYTHON, *_TORCH, *_ONNX, *_KERAS)

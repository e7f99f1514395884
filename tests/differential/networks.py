"""Networks: families of torch and Keras."""

import io
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import partial
from typing import Any, Final

import cloudpickle
import mlflow
import numpy as np
import torch
from mlflow.models import ModelSignature
from torch.nn import functional

from .cases import Data, Family, by_pyfunc, marked, save_flavor
from .tensors import Inputs, Shape, of_tensors

cloudpickle.register_pickle_by_value(sys.modules[__name__])

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
        lambda x: x + functional.batch_norm(x, None, None, training=True, eps=1.0),
        raises=True,
    ),
    net("softmax of all rows", _FEATURES, lambda x: torch.softmax(x, dim=0)),
    net("attention among rows", _FEATURES, lambda x: torch.softmax(x @ x.T, 1) @ x),
    # Twice x, so that no answer is nothing but what rounding left of equal rows.
    net("less the mean of rows", _FEATURES, lambda x: 2 * x - x.mean(0)),
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

FAMILIES: Final = (*_TORCH, *_KERAS)

"""Models of Keras, TensorFlow, transformers and sentence-transformers, as recipes of models.py.

These frameworks take seconds to import: that is done when a recipe is used.
"""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema
from mlflow.types import TensorSpec as MlflowTensorSpec

from models import Recipe, Tensors

# Before an import of Keras; where both are installed TensorFlow's tests say otherwise.
os.environ.setdefault("KERAS_BACKEND", "torch")


def _tensors(shapes: Mapping[str | None, tuple[int, ...]], dtype: str = "float32") -> Schema:
    return Schema([MlflowTensorSpec(np.dtype(dtype), shape, n) for n, shape in shapes.items()])


def _floats(*shape: int) -> Any:
    """Numbers between 0 and 1, the same each time; a row's do not depend on how many follow."""
    return np.random.default_rng(7).random(shape, np.float32)


# keras -------------------------------------------------------------------------------------------


def _keras_dense() -> Recipe:
    """One tensor in, one out, with layers that do something else while training."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )
    signature = ModelSignature(_tensors({None: (-1, 4)}), _tensors({None: (-1, 3)}))
    return Recipe(
        "keras", {"model": model, "signature": signature}, lambda n: {"input-0": _floats(n, 4)}
    )


def _keras_towers() -> Recipe:
    """Two inputs and two outputs by name; the signature's order is not the model's."""
    import keras

    keras.utils.set_random_seed(0)
    left, right = keras.Input((4,), name="left"), keras.Input((2,), name="right")
    hidden = keras.layers.Dense(3)(left) * keras.layers.Dense(3)(right)
    score = keras.layers.Dense(1)(hidden)
    model = keras.Model([left, right], {"score": score, "hidden": hidden})

    def answer(tensors: Tensors) -> Tensors:
        predicted: Tensors = model.predict(tensors, verbose=0)
        return predicted

    return Recipe(
        "keras",
        {
            "model": model,
            "signature": ModelSignature(_tensors({"right": (-1, 2), "left": (-1, 4)})),
        },
        lambda n: {"right": _floats(n, 2), "left": _floats(n, 4)},
        answer=answer,
    )


def _keras_unsigned() -> Recipe:
    """No signature; a list of outputs that have the names of their layers."""
    import keras

    keras.utils.set_random_seed(0)
    words = keras.Input((5,), dtype="int64", name="words")
    steps = keras.layers.GRU(3, name="memory")(keras.layers.Embedding(11, 4)(words))
    model = keras.Model(words, [keras.layers.Dense(2, name="logits")(steps), steps])

    def answer(tensors: Tensors) -> Tensors:
        logits, memory = model.predict(tensors["words"], verbose=0)
        return {"logits": logits, "memory": memory}

    def rows(count: int) -> Tensors:
        return {"words": np.arange(count * 5, dtype=np.int64).reshape(count, 5) % 11}

    return Recipe("keras", {"model": model}, rows, answer=answer)


_KERAS: dict[str, Callable[[], Recipe]] = {
    "keras_dense": _keras_dense,
    "keras_towers": _keras_towers,
    "keras_unsigned": _keras_unsigned,
}

RECIPES = {**_KERAS}


def _names() -> tuple[str, ...]:
    """Those whose framework is installed."""
    return tuple(_KERAS) if find_spec("keras") else ()


NAMES = _names()

"""Models of Keras, TensorFlow, transformers and sentence-transformers, as recipes of models.py.

These frameworks take seconds to import: that is done when a recipe is used.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types import TensorSpec as MlflowTensorSpec

from models import Recipe, Tensors, scratch

# Read at an import of Keras; `make test-flavors` says tensorflow.
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


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


# transformers ------------------------------------------------------------------------------------

_WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *(
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "good",
        "bad",
        "day",
        "runs",
        "##s",
        "this",
        "is",
        ".",
    ),
)
_TEXTS = np.array(
    ["the cat sat on a mat", "a good day", "bad cats", "this is the day . a bad day"], object
)


def _texts(count: int) -> Tensors:
    return {"input-0": _TEXTS[np.arange(count) % len(_TEXTS)]}


def _tokenizer() -> Any:
    import transformers

    vocabulary = {word: index for index, word in enumerate(_WORDS)}
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=32)


def _bert(kind: str, labels: tuple[str, ...] = ("low", "middle", "high")) -> Any:
    """A tiny BERT, of the class that *kind* ends."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(_WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,  # So that answers differ from one text to another.
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    return getattr(transformers, f"Bert{kind}")(config).eval()


def _pipeline(task: str, model: Any, **arguments: Any) -> Recipe:
    import transformers

    pipeline = transformers.pipeline(task, model=model, tokenizer=_tokenizer(), device="cpu")
    return Recipe("transformers", {"transformers_model": pipeline, **arguments}, _texts)


def _hf_classifier() -> Recipe:
    return _pipeline("text-classification", _bert("ForSequenceClassification"))


def _hf_filler() -> Recipe:
    recipe = _pipeline("fill-mask", _bert("ForMaskedLM"))
    masked = np.array(["the [MASK] sat", "a [MASK] day on the mat", "[MASK] runs"], object)
    return replace(recipe, rows=lambda n: {"input-0": masked[np.arange(n) % len(masked)]})


def _hf_tagger() -> Recipe:
    return _pipeline("token-classification", _bert("ForTokenClassification"))


def _gpt() -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(_WORDS),
        n_positions=32,
        n_embd=16,
        n_layer=1,
        n_head=2,
        initializer_range=0.5,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config).eval()


def _hf_generator() -> Recipe:
    """Greedy, with the number of new tokens as a parameter of the signature."""
    text = Schema([ColSpec("string")])
    params = ParamSchema(
        [ParamSpec("max_new_tokens", "long", 4), ParamSpec("do_sample", "boolean", default=False)]
    )
    return _pipeline("text-generation", _gpt(), signature=ModelSignature(text, text, params))


def _hf_features() -> Recipe:
    """Answers in JSON, for texts have several numbers of tokens."""
    return _pipeline("feature-extraction", _bert("Model"))


def _hf_template() -> Recipe:
    """A generator with a template around each text."""
    recipe = _hf_generator()
    arguments = {**recipe.arguments, "prompt_template": "this is {prompt} ."}
    return replace(recipe, arguments=arguments)


def _hf_pairs() -> Recipe:
    """A classifier of pairs of texts."""
    import transformers

    model, tokenizer = _bert("ForSequenceClassification"), _tokenizer()
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    inputs = Schema([ColSpec("string", "text"), ColSpec("string", "text_pair")])
    outputs = Schema([ColSpec("string", "label"), ColSpec("double", "score")])
    return Recipe(
        "transformers",
        {"transformers_model": pipeline, "signature": ModelSignature(inputs, outputs)},
        lambda n: {
            "text": _TEXTS[np.arange(n) % len(_TEXTS)],
            "text_pair": _TEXTS[(np.arange(n) + 1) % len(_TEXTS)],
        },
    )


def _hf_labels() -> Recipe:
    """A zero-shot classifier, which answers a row per label."""
    import transformers

    model = _bert("ForSequenceClassification", ("contradiction", "neutral", "entailment"))
    pipeline = transformers.pipeline(
        "zero-shot-classification", model=model, tokenizer=_tokenizer(), device="cpu"
    )
    return Recipe(
        "transformers",
        {"transformers_model": pipeline},
        lambda n: {
            "sequences": _TEXTS[np.arange(n) % len(_TEXTS)],
            "candidate_labels": np.array(['["good", "bad", "day"]'] * n, object),
            "hypothesis_template": np.array(["this is {} ."] * n, object),
        },
        is_batchable=False,
    )


_TRANSFORMERS: dict[str, Callable[[], Recipe]] = {
    "hf_classifier": _hf_classifier,
    "hf_filler": _hf_filler,
    "hf_tagger": _hf_tagger,
    "hf_generator": _hf_generator,
    "hf_pairs": _hf_pairs,
}

# What differs from MLflow or from row to row, which test_transformers.py tells of.
_PECULIAR: dict[str, Callable[[], Recipe]] = {
    "hf_features": _hf_features,
    "hf_template": _hf_template,
    "hf_labels": _hf_labels,
}


# sentence_transformers ---------------------------------------------------------------------------


def sentence_model() -> Any:
    """A tiny BERT and the mean of its tokens."""
    import sentence_transformers
    from sentence_transformers import models as parts

    folder = scratch() / "bert"
    _bert("Model").save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    bert = parts.Transformer(str(folder))
    return sentence_transformers.SentenceTransformer(
        modules=[bert, parts.Pooling(16)], device="cpu"
    )


def _st_mean() -> Recipe:
    return Recipe("sentence_transformers", {"model": sentence_model()}, _texts)


def _st_unit() -> Recipe:
    """The length of a vector is a parameter of the signature."""
    model = sentence_model()
    params = ParamSchema([ParamSpec("normalize_embeddings", "boolean", default=True)])
    outputs = Schema([MlflowTensorSpec(np.dtype("float32"), (-1, 16), "vector")])
    signature = ModelSignature(Schema([ColSpec("string")]), outputs, params)
    return Recipe("sentence_transformers", {"model": model, "signature": signature}, _texts)


_SENTENCES: dict[str, Callable[[], Recipe]] = {"st_mean": _st_mean, "st_unit": _st_unit}


# tensorflow --------------------------------------------------------------------------------------


def _tf_module() -> Recipe:
    """A module that is called itself."""
    import tensorflow as tf

    class Scale(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3))

        @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32)])  # type: ignore[untyped-decorator]
        def __call__(self, given: Any) -> Any:
            return given @ self.weights

    signature = ModelSignature(_tensors({None: (-1, 4)}), _tensors({None: (-1, 3)}))
    return Recipe(
        "tensorflow",
        {"model": Scale(), "signature": signature},
        lambda n: {"input-0": _floats(n, 4)},
    )


def _tf_signatures() -> Recipe:
    """No module to call, but two signatures of named inputs and outputs; none of MLflow's."""
    import tensorflow as tf

    floats = tf.TensorSpec((None,), tf.float32)

    class Arithmetic(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[floats, floats])  # type: ignore[untyped-decorator]
        def both(self, left: Any, right: Any) -> Any:
            return {"sum": left + right, "difference": left - right}

        @tf.function(input_signature=[floats])  # type: ignore[untyped-decorator]
        def double(self, left: Any) -> Any:
            return {"double": left * 2}

    module = Arithmetic()

    def answer(tensors: Tensors) -> Tensors:
        named = module.both(tensors["left"], tensors["right"])
        return {name: named[name].numpy() for name in ("difference", "sum")}

    kept = {"signatures": {"serving_default": module.both, "double": module.double}}
    return Recipe(
        "tensorflow",
        {"model": module, "saved_model_kwargs": kept},
        lambda n: {"left": _floats(n), "right": _floats(n) * 3},
        answer=answer,
    )


def _tf_texts() -> Recipe:
    """Texts in and out."""
    import tensorflow as tf

    class Upper(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])  # type: ignore[untyped-decorator]
        def __call__(self, text: Any) -> Any:
            return tf.strings.upper(text, encoding="utf-8")

    return Recipe(
        "tensorflow",
        {"model": Upper(), "signature": ModelSignature(_tensors({"text": (-1,)}, "str"))},
        lambda n: {"text": _TEXTS[np.arange(n) % len(_TEXTS)]},
        answer=lambda tensors: {
            "output-0": np.array([text.upper().encode() for text in tensors["text"]], object)
        },
    )


def _tf_keras() -> Recipe:
    """A model of Keras' that was logged with the tensorflow flavor."""
    return replace(_keras_dense(), flavor="tensorflow")


def _keras_exported() -> Recipe:
    """A model of Keras' as a SavedModel."""
    recipe = _keras_dense()
    return replace(recipe, arguments={**recipe.arguments, "save_exported_model": True})


_TENSORFLOW: dict[str, Callable[[], Recipe]] = {
    "tf_module": _tf_module,
    "tf_signatures": _tf_signatures,
    "tf_texts": _tf_texts,
    "tf_keras": _tf_keras,
    "keras_exported": _keras_exported,
}

RECIPES = {**_KERAS, **_TRANSFORMERS, **_PECULIAR, **_SENTENCES, **_TENSORFLOW}


def _names() -> Iterator[str]:
    """Those whose framework is installed."""
    recipes = {
        "keras": _KERAS,
        "transformers": _TRANSFORMERS,
        "sentence_transformers": _SENTENCES,
        "tensorflow": _TENSORFLOW,
    }
    for module, names in recipes.items():
        if find_spec(module):
            yield from names


NAMES = tuple(_names())

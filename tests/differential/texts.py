"""Texts: families of transformers and sentence-transformers, as tiny as they may be."""

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

import deep_models
from models import Recipe

from .cases import Case, Data, Family, any_of_these, save_flavor

_words = st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "good", "bad", "day", ".", "?"])
_sentences = st.lists(_words, min_size=1, max_size=12).map(" ".join)


def _save(path: str, *, recipe: Callable[[], Recipe]) -> None:
    made = recipe()
    save_flavor(path, made.flavor, **made.arguments)


def _texts(name: str, flavor: str, recipe: str, *, masked: bool = False) -> Family:
    """A family of one model of tests/deep_models.py; *masked* texts have a word to fill in."""

    @st.composite
    def requests(draw: DrawFn) -> Data:
        texts = draw(st.lists(_sentences, min_size=1, max_size=6))
        if masked:
            texts = [f"{text} [MASK]" for text in texts]
        return {"": np.array(texts, object)}

    @st.composite
    def cases(draw: DrawFn) -> Case:
        further = draw(any_of_these())
        return Case(
            save=partial(_save, recipe=deep_models.RECIPES[recipe]),
            requests=requests(),
            settings=further,
        )

    return Family(name, flavor, cases(), computes="FP32")


FAMILIES: Final = (
    _texts("texts in classes", "transformers", "hf_classifier"),
    _texts("words filled in", "transformers", "hf_filler", masked=True),
    _texts("vectors of texts", "sentence_transformers", "st_mean"),
)

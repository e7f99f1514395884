"""Fields: the numbers of a registered model's typed service, kept as tags of that model.

`headrace.fields`, and where that is too long for one tag `headrace.fields.1` and so on, hold what
`FieldNumbers.to_text` writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from headrace.typed import FieldNumbers

from ..errors import HeadraceError, LoadFailed
from .store import Store

_TAG: Final = "headrace.fields"
# MLflow's tables hold 5000 characters of a registered model's tag.
_TAG_CHARS_MAX: Final = 4000


@dataclass(frozen=True, slots=True)
class Numbered:
    """The field numbers of a model's typed service.

    Attributes:
        numbers: All that were ever given.
        trouble: Why they could not be written back; empty where they were, or need not be.
    """

    numbers: FieldNumbers
    trouble: str


def number_fields(store: Store, name: str, wanted: FieldNumbers, *, writes: bool) -> Numbered:
    """The field numbers of the typed service of the registered model *name*.

    Those that its tags hold stay; what is *wanted* beside them gets the next ones, which are
    written back if *writes*.

    Raises:
        RegistryUnavailable, ModelNotFound: Its tags cannot be read.
        LoadFailed: They hold something else.
    """
    tags = store.registered(name).tags
    try:
        known = _numbers_in(tags)
        merged = FieldNumbers.from_text(known.merged(wanted).to_text())
    except ValueError as error:
        raise LoadFailed(f"the tags {_TAG} of model {name!r}: {error}") from error
    trouble = ""
    if writes and merged != known:
        try:
            with store.asking(f"registered model {name!r}"):
                for key, text in _tags_of(merged).items():
                    if tags.get(key) != text:
                        store.client().set_registered_model_tag(name, key, text)
        except HeadraceError as error:
            trouble = error.message
    return Numbered(merged, trouble)


def _numbers_in(tags: Mapping[str, str]) -> FieldNumbers:
    """The numbers that *tags* of a registered model hold; none where there is no such tag.

    Raises:
        ValueError: The tags hold something else.
    """
    pieces: list[str] = []
    while (piece := tags.get(_name(len(pieces)))) is not None:
        pieces.append(piece)
    return FieldNumbers.from_text("".join(pieces)) if pieces else FieldNumbers()


def _tags_of(numbers: FieldNumbers) -> dict[str, str]:
    """The tags that hold *numbers*."""
    text = numbers.to_text()
    starts = range(0, len(text), _TAG_CHARS_MAX)
    return {_name(i): text[at : at + _TAG_CHARS_MAX] for i, at in enumerate(starts)}


def _name(index: int) -> str:
    return f"{_TAG}.{index}" if index else _TAG

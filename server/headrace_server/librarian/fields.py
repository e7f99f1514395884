"""Fields: the numbers of a registered model's typed service, kept as tags of that model.

`headrace.fields`, and where that is too long for one tag `headrace.fields.1` and so on, hold what
`FieldNumbers.to_text` writes.
"""

from collections.abc import Mapping
from typing import Final

from headrace.typed import FieldNumbers

TAG: Final = "headrace.fields"
# MLflow's tables hold 5000 characters of a registered model's tag.
TAG_CHARS_MAX: Final = 4000


def numbers_in(tags: Mapping[str, str]) -> FieldNumbers:
    """The numbers that *tags* of a registered model hold; none where there is no such tag.

    Raises:
        ValueError: The tags hold something else.
    """
    pieces: list[str] = []
    while (piece := tags.get(_name(len(pieces)))) is not None:
        pieces.append(piece)
    return FieldNumbers.from_text("".join(pieces)) if pieces else FieldNumbers()


def tags_of(numbers: FieldNumbers) -> dict[str, str]:
    """The tags that hold *numbers*."""
    text = numbers.to_text()
    starts = range(0, len(text), TAG_CHARS_MAX)
    return {_name(i): text[at : at + TAG_CHARS_MAX] for i, at in enumerate(starts)}


def _name(index: int) -> str:
    return f"{TAG}.{index}" if index else TAG

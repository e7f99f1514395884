"""Visible: which of the machine's GPUs CUDA shows to a process, and in which order.

The rules are CUDA's own, for CUDA_VISIBLE_DEVICES under CUDA_DEVICE_ORDER=PCI_BUS_ID, which is the
order of NVML and nvidia-smi.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

_NUMBER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU of this machine.

    Attributes:
        uuid: As in GPU-5f3a...
        is_sliced: Whether it is in MIG mode, in which it is used by its slices alone.
        slices: The UUIDs of its MIG devices, as in MIG-5f3a...
    """

    uuid: str
    is_sliced: bool = False
    slices: tuple[str, ...] = ()


def visible(said: str | None, cards: Sequence[Card]) -> tuple[str, ...]:
    """The UUIDs of what CUDA shows, in its order: the first is cuda:0.

    A card in MIG mode stands for its first slice. CUDA shows a single slice to a process, and no
    whole card beside it.

    Args:
        said: The value of CUDA_VISIBLE_DEVICES: numbers, or UUIDs or beginnings of them, separated
            by commas; the first that is none ends the list, and a repeated one empties it. None
            where it is not set: all cards.
        cards: All of the machine, in NVML's order.
    """
    uuids = [card.uuid for card in cards]
    slices = [uuid for card in cards for uuid in card.slices]
    if said is None:
        chosen = uuids
    elif said.startswith("MIG-"):
        chosen = _by_beginning(said.split(","), slices)
    elif said.startswith("GPU-"):
        chosen = _by_beginning(said.split(","), uuids)
    else:
        chosen = _by_number(said.split(","), uuids)
    shown = list(_usable(chosen, cards))
    alone = [uuid for uuid in shown if uuid in slices]
    return tuple(alone[:1] or shown)


def _usable(uuids: Iterable[str], cards: Sequence[Card]) -> Iterable[str]:
    by_uuid = {card.uuid: card for card in cards}
    for uuid in uuids:
        card = by_uuid.get(uuid)
        if card is not None and card.is_sliced:
            yield from card.slices[:1]
        else:
            yield uuid


def _by_beginning(said: Sequence[str], uuids: Sequence[str]) -> list[str]:
    kind = said[0][:4]
    beginnings = list(takewhile(lambda text: text.startswith(kind), said))
    if len(set(beginnings)) < len(beginnings):
        return []
    chosen: list[str] = []
    for beginning in beginnings:
        matching = [uuid for uuid in uuids if uuid.startswith(beginning)]
        if len(matching) != 1:
            break
        if matching[0] in chosen:
            return []
        chosen += matching
    return chosen


def _by_number(said: Sequence[str], uuids: Sequence[str]) -> list[str]:
    numbers: list[int] = []
    for text in said:
        # As C's strtoul reads it: what follows the digits is overlooked.
        found = _NUMBER.match(text.strip())
        number = int(found[0]) if found else -1
        if number < 0:
            break
        if number in numbers:
            return []
        numbers.append(number)
    # One that repeats empties the list, although it stands behind a number of no card.
    return [uuids[number] for number in takewhile(lambda number: number < len(uuids), numbers)]

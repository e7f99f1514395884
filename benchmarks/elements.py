"""Elements: what BYTES tensors cost per element, beside a plain loop over them.

Nanoseconds per element, each the best of several turns: the loop, then headrace.elements.
"""

import random
import struct
import timeit
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from rich.console import Console
from rich.table import Table

from headrace.elements import decode_elements, decode_texts, element_offsets, encode_elements

COUNTS = (1, 10, 100, 1000, 100_000)
MEANS = (5, 20, 200)
TURNS = 5
TURN_S = 0.05

# A loop, what replaces it, and what both are called with.
Pair = tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]

_LENGTH = struct.Struct("<I")


def looped_offsets(raw: bytes, count: int) -> list[int]:
    """Where elements begin and the last one ends."""
    at = 0
    offsets = [0]
    for _ in range(count):
        at += 4 + _LENGTH.unpack_from(raw, at)[0]
        offsets.append(at)
    return offsets


def looped_elements(raw: bytes, count: int) -> list[bytes]:
    """The elements."""
    offsets = looped_offsets(raw, count)
    return [raw[begin + 4 : end] for begin, end in pairwise(offsets)]


def looped_texts(raw: bytes, count: int) -> list[str]:
    """The elements, from UTF-8."""
    return [element.decode() for element in looped_elements(raw, count)]


def looped_chain(items: list[Any]) -> bytes:
    """The chain of *items*."""
    pieces = []
    for item in items:
        data = item.encode() if isinstance(item, str) else item
        pieces.append(_LENGTH.pack(len(data)))
        pieces.append(data)
    return b"".join(pieces)


def made_items(kind: str, count: int, mean: int) -> list[bytes]:
    """Made-up elements: text or random bytes of about *mean* bytes, or text of exactly that."""
    dice = random.Random(mean)
    spread = 0 if kind == "equal" else mean / 3
    sizes = [max(0, round(dice.gauss(mean, spread))) for _ in range(count)]
    if kind == "random":
        return [dice.randbytes(size) for size in sizes]
    return [bytes(dice.choices(b"abcdefghij klmnop", k=size)) for size in sizes]


def best_ns(count: int, function: Callable[..., Any], *args: Any) -> float:
    """Nanoseconds per element of one call, in the best turn."""
    timer = timeit.Timer(lambda: function(*args))
    calls = max(1, round(TURN_S / max(timer.timeit(1), 1e-7)))
    return min(timer.repeat(TURNS, calls)) / calls / count * 1e9


def compared(count: int, pair: Pair | None) -> str:
    """Both figures of *pair*; nothing for none."""
    if pair is None:
        return ""
    loop, ours, args = pair
    return f"{best_ns(count, loop, *args):.0f} > {best_ns(count, ours, *args):.0f}"


def main() -> None:
    """Print a table of each kind of element."""
    console = Console(width=100)
    for kind in ("text", "equal", "random"):
        table = Table(
            "bytes", "elements", "offsets", "elements", "texts", "chain of str", "of bytes"
        )
        for mean in MEANS:
            for count in COUNTS:
                items = made_items(kind, count, mean)
                raw = looped_chain(items)
                pairs: list[Pair | None] = [
                    (looped_offsets, element_offsets, (raw, count)),
                    (looped_elements, decode_elements, (raw, count)),
                    None,
                    None,
                    (looped_chain, encode_elements, (items,)),
                ]
                if kind != "random":
                    pairs[2] = (looped_texts, decode_texts, (raw, count))
                    pairs[3] = (looped_chain, encode_elements, ([i.decode() for i in items],))
                table.add_row(str(mean), str(count), *(compared(count, pair) for pair in pairs))
        console.print(f"{kind}: ns per element, loop > headrace.elements")
        console.print(table)


if __name__ == "__main__":
    main()

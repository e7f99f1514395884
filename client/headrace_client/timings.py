"""Timings: where the server says that the time of a request went."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from headrace.timings import KEY

from .errors import InvalidResponse

_TOTAL = "total_ns"
_BATCH_ROWS = "batch_rows"


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a request went on the server.

    Attributes:
        steps_ns: Nanoseconds by step, in their order: decode, admit, queue, gather, send, stage,
            compute, finish, return, answer. A request of no rows has no batch, and not all of them.
        total_ns: Their sum: from when the server took the call until it handed the answer over.
        batch_rows: Rows of the batch that the request was part of; of the last one where it was cut
            over several, 0 where it needed none.
    """

    steps_ns: Mapping[str, int]
    total_ns: int
    batch_rows: int


def timings_in(trailing: Iterable[tuple[str, str | bytes]] | None) -> Timings | None:
    """The timings in the *trailing* metadata of a call; None from a server that tells none.

    Raises:
        InvalidResponse: They make no sense.
    """
    for key, text in trailing or ():
        if key == KEY:
            return _read(text)
    return None


def _read(text: str | bytes) -> Timings:
    try:
        told = json.loads(text)
        total_ns, batch_rows = int(told.pop(_TOTAL)), int(told.pop(_BATCH_ROWS))
        steps_ns = {step.removesuffix("_ns"): int(ns) for step, ns in told.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidResponse(f"{KEY}: expected JSON of nanoseconds by step") from None
    return Timings(steps_ns, total_ns, batch_rows)

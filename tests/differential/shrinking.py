"""Shrinking: the smallest requests by which a contradiction is seen again."""

import contextlib
import random
import time
from typing import Final

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, NoSuchExample

from .cases import Data
from .rounds import Contradiction, Question, Round

# Of a contradiction that depends on how a batch happens to be made.
_TRIES: Final = 4
_EXAMPLES_MAX: Final = 300


def smaller(
    round_: Round, contradiction: Contradiction, *, seed: int, seconds: float
) -> Contradiction:
    """*contradiction* by the smallest requests that hypothesis finds in so many *seconds*.

    The same one where it is not seen again.
    """
    served = contradiction.served
    if served.why_not:
        return contradiction
    until = time.monotonic() + seconds
    beside = st.lists(served.case.requests, min_size=1, max_size=4)
    seen: list[Contradiction] = []

    with round_.client() as client:

        def is_seen(requests: tuple[Data, list[Data]]) -> bool:
            data, others = requests
            for _ in range(_TRIES if others else 1):
                if time.monotonic() > until:
                    return False
                question = served.question(data)
                if how := round_.contradicts(client, served, question, others):
                    neighbours = [Question(one, None) for one in others]
                    seen.append(Contradiction(served, question, neighbours, how))
                    return True
            return False

        # What depends on how a batch happens to be made is not seen each time: flaky by its nature.
        with contextlib.suppress(NoSuchExample, Flaky):
            find(
                st.tuples(served.case.requests, beside if contradiction.beside else st.just([])),
                is_seen,
                settings=settings(
                    max_examples=_EXAMPLES_MAX,
                    database=None,
                    deadline=None,
                    phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                ),
                random=random.Random(seed),
            )
    return min(seen, key=_size, default=contradiction)


def _size(contradiction: Contradiction) -> int:
    return len(repr(contradiction.question.data)) + sum(
        len(repr(one.data)) for one in contradiction.beside
    )

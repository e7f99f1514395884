"""Refusals: those that the documents tell of, by status and sentence; others are contradictions."""

import re
from dataclasses import dataclass
from typing import Final

from .cases import Family


@dataclass(frozen=True)
class Refusal:
    """One kind of refusal.

    Attributes:
        reason: As the table has it.
        code: The status.
        pattern: What the sentence matches.
        families: What the families' names match.
        page: Where the documents say so.
    """

    reason: str
    code: str
    pattern: str
    page: str
    families: str = ""

    def covers(self, family: Family, code: str, sentence: str) -> bool:
        """Whether it is that."""
        return (
            code == self.code
            and re.search(self.pattern, sentence) is not None
            and re.search(self.families, family.name) is not None
        )


# Of requests that MLflow answers.
REQUESTS: Final[tuple[Refusal, ...]] = (
    Refusal(
        reason="values that its type has no room for",
        code="INTERNAL",
        pattern=r"output '[\w-]+'",
        families=(
            r"^(None in|NaN in|Int64 with|boolean with|a frame of nullable|pandas' text|"
            r"text or number|fractions for long|long for integer|bytes or text|a column less|"
            r"instants of far away|missing text)"
        ),
        page="docs/flavors.md",
    ),
)
# Of models that MLflow loads.
LOADS: Final[tuple[Refusal, ...]] = (
    Refusal(
        reason="no datatype carries its answers",
        code="FAILED_PRECONDITION",
        pattern=r"output '[\w-]+' cannot be sent",
        families=r"^(time spans|complex numbers|things of its own|a thing of its own|decimals)$",
        page="docs/flavors.md",
    ),
)

# Statuses in which a request may end that MLflow fails on too.
FAILING: Final = frozenset({"INTERNAL", "INVALID_ARGUMENT"})
# Beside a request that the model fails on, once the budget of further runs is spent.
BUDGET: Final = Refusal(
    reason="beside rows that the model fails on",
    code="INTERNAL",
    pattern=r"^model '[\w-]+': \w+( \(error id \w+\))?$|ValueError|KeyError",
    page="docs/limits.md",
)


def reason_of(refusals: tuple[Refusal, ...], family: Family, code: str, sentence: str) -> str:
    """The reason for a refusal; empty where it is none that is documented."""
    found = (one.reason for one in refusals if one.covers(family, code, sentence))
    return next(found, "")

"""Each answer is what MLflow answers to that request alone, or a refusal that is documented.

DIFFERENTIAL_ANSWERS sets how many answers the longer test compares (100000), DIFFERENTIAL_SEED what
is drawn (0), DIFFERENTIAL_FAMILIES which families, by a regular expression (all).
"""

import itertools
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import pytest

from differential import report
from differential.cases import Family
from differential.rounds import Contradiction, Round, Tallies, merged
from differential.shrinking import smaller

ANSWERS = int(os.environ.get("DIFFERENTIAL_ANSWERS", "100000"))
SEED = int(os.environ.get("DIFFERENTIAL_SEED", "0"))
CHOSEN = os.environ.get("DIFFERENTIAL_FAMILIES", "")

pytestmark = [
    pytest.mark.slow,
    # MLflow would like types of models that answer anything.
    pytest.mark.filterwarnings("ignore:.*[Tt]ype hint"),
]

# Answers for which one daemon is started, in the longer test.
ROUND_ANSWERS = 50_000
QUESTIONS = 12
# Contradictions that are made small, one of each family, and how long each may take.
SMALLER = 12
SMALLER_S = 6.0
# A family whose rows are its own runs in as many batches, where each request apart would make one.
SHARED = 0.8

MODULES = ("custom", "tabular", "boosted", "statistical", "tensors", "networks", "texts")
# Of each way to be wrong, for the shorter test; their frameworks are quick to import.
FEW = (
    *("a line", "every kind comes back", "text in capitals", "a dict of arrays", "records"),
    *("every cell of JSON", "always the same", "a number for a known word"),
    *("missing values come back", "missing text comes back", "which columns there are"),
    *("what each cell is", "missing words are the usual ones", "missing words in one-hot"),
    *("minus the mean", "rank", "running sum", "over the number of rows", "its place of eight"),
    *("gaps filled with the mean", "one output mixes", "the word before", "mean of its chunk"),
    *("drops what is negative", "drops gaps", "each row twice", "the mean alone"),
    *("None in long", "None in double", "Int64 with nulls", "number or text", "whole or not"),
    *("lists of two or three", "keys by value", "masked values", "a thing of its own"),
    *("heads", "a report", "a list of reports", "not for what is negative", "a counter"),
    *("an array by another", "an array by a number", "an array minus its mean"),
    *("ids beyond 2**53 in one-hot", "a plane of ranks", "labels in text"),
    *("a product", "softmax along rows", "a product of inputs"),
)


# Making contradictions small takes a minute more.
@pytest.mark.timeout(240)
def test_a_few_thousand_answers_are_those_of_mlflow(tmp_path: Path) -> None:
    families = [
        family for family in families_of("custom", "tabular", "tensors") if family.name in FEW
    ]
    assert len(families) == len(FEW)

    check(tmp_path, families, answers=3000, questions=8)


@pytest.mark.long
@pytest.mark.timeout(600 + ANSWERS / 200)
def test_many_answers_are_those_of_mlflow(tmp_path: Path) -> None:
    families = [family for family in families_of(*MODULES) if re.search(CHOSEN, family.name)]

    check(tmp_path, families, answers=ANSWERS, questions=QUESTIONS)


def families_of(*modules: str) -> Iterator[Family]:
    """The families that *modules* have."""
    for module in modules:
        yield from import_module(f"differential.{module}").FAMILIES


def check(folder: Path, families: Sequence[Family], *, answers: int, questions: int) -> None:
    """Compare *answers* answers, in rounds; fail with what contradicts MLflow."""
    began = time.monotonic()
    tallies: Tallies = {}
    told: list[str] = []
    with report.progress(answers) as tick:
        for number in itertools.count():
            left = answers - sum(tally.count for tally in tallies.values())
            if left <= 0:
                break
            seed = SEED + number
            place = folder / str(number)
            place.mkdir()
            with Round(families, place, seed=seed, questions=questions) as one:
                tick(one.ask_alone())
                one.ask_beside(min(left, ROUND_ANSWERS) - one.count, tick)
                told += smallest(one.contradictions(), one, most=SMALLER - len(told), seed=seed)
            tallies = merged(tallies, one.tallies)
            shutil.rmtree(place)
    text = report.tables(tallies, seed=SEED, seconds=time.monotonic() - began)
    sys.stderr.write(f"\n{text}")

    apart = [
        f"{family.name!r} ran in {tally.batches} batches, where each request apart makes "
        f"{tally.batches_apart}"
        for family in families
        if family.batches and (tally := tallies[family.name]).batches > tally.batches_apart * SHARED
    ]
    if told or apart:
        pytest.fail("\n".join([text, *told, *apart]), pytrace=False)


def smallest(found: Sequence[Contradiction], one: Round, *, most: int, seed: int) -> Iterator[str]:
    """The first *most* contradictions, made small."""
    for contradiction in found[: max(most, 0)]:
        yield report.told(smaller(one, contradiction, seed=seed, seconds=SMALLER_S))

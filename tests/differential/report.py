"""Report: what became of the requests, as tables."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .equality import shown
from .rounds import CHANCE, EQUAL, Contradiction, Failure, Tally

_CHARS_MAX = 400


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar; what is given is told of each few answers."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("answers", total=total)
        done = 0

        def tick(more: int) -> None:
            nonlocal done
            done += more
            bar.update(task, advance=more, description=f"{done} answers")

        yield tick


def tables(tallies: Mapping[str, Tally], *, seed: int, seconds: float) -> str:
    """What became of the requests of all families, and of each that has contradictions."""
    ended: Counter[str] = Counter()
    for tally in tallies.values():
        ended += tally.ended
    equal = ended.pop(EQUAL, 0) + ended.pop(CHANCE, 0)
    wrong = sum(tally.wrong for tally in tallies.values())
    table = Table(title=f"seed {seed}, {seconds:.0f} s")
    table.add_column("what")
    table.add_column("count", justify="right")
    table.add_row("families", str(len(tallies)))
    table.add_row("models", str(sum(tally.models for tally in tallies.values())))
    table.add_row("answers equal to MLflow's", str(equal))
    for reason, count in ended.most_common():
        table.add_row(f"refused: {reason}", str(count))
    table.add_row("contradictions", str(wrong))
    batches = sum(tally.batches for tally in tallies.values())
    apart = sum(tally.batches_apart for tally in tallies.values())
    table.add_row("batches, where each request apart makes", f"{batches} of {apart}")
    parts = [_printed(table)]
    if wrong:
        parts.append(_printed(_contradictions(tallies)))
    return "\n".join(parts)


def told(contradiction: Contradiction) -> str:
    """A contradiction, in lines."""
    served, question = contradiction.served, contradiction.question
    how = ", ".join(f"{key} = {value}" for key, value in served.case.settings.items())
    lines = [
        f"{served.family.flavor} {served.family.name!r} ({served.case.told or 'as it is'}; {how})",
        f"  request:  {shown(dict(question.data), _CHARS_MAX)}",
        *(
            f"  beside:   {shown(dict(other.data), _CHARS_MAX)}"
            for other in contradiction.beside[:3]
        ),
        f"  MLflow:   {_answer(question.answer)}",
        f"  headrace: {contradiction.how}"[:_CHARS_MAX],
    ]
    return "\n".join(lines)


def _answer(answer: object) -> str:
    if isinstance(answer, Failure):
        return f"fails: {answer.sentence}"[:_CHARS_MAX]
    return shown(answer, _CHARS_MAX)


def _contradictions(tallies: Mapping[str, Tally]) -> Table:
    table = Table(title="Contradictions by family")
    for title in ("family", "equal", "refused", "wrong alone", "wrong beside", "batches", "apart"):
        table.add_column(title, justify="left" if title == "family" else "right")
    for name, tally in sorted(tallies.items(), key=lambda item: -item[1].wrong):
        if tally.wrong:
            equal = tally.ended[EQUAL] + tally.ended[CHANCE]
            numbers = (
                str(equal),
                str(tally.ended.total() - equal),
                str(tally.wrong_alone),
                str(tally.wrong_beside),
                str(tally.batches),
                str(tally.batches_apart),
            )
            table.add_row(name, *numbers)
    return table


def _printed(table: Table) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get()

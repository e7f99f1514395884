"""Models: what a running server holds, and changing it; `headrace models`, `load` and `unload`.

Needs the bare install alone. What a person can mend is a UsageError.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Final, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from headrace_client import (
    Client,
    DeadlineExceeded,
    HeadraceClientError,
    ModelStatus,
    Unavailable,
)

from ..errors import UsageError
from .connecting import Connection

_STATE_STYLES: Final = {
    "READY": "green",
    "LOADING": "yellow",
    "UNLOADING": "yellow",
    "UNAVAILABLE": "red",
}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def show_models(
    connection: Connection,
    *,
    watch: bool = False,
    as_json: bool = False,
    interval_s: float = 1.0,
    out: TextIO | None = None,
) -> None:
    """Print every model version that a server holds, once or again and again until Ctrl-C.

    The rows per second are those between two looks, *interval_s* apart. While it watches, a server
    that is away is told of and asked again.

    Args:
        connection: Where it is, and how to speak to it.
        watch: Whether to go on looking.
        as_json: Print a line of JSON for each look instead of a table.
        interval_s: Seconds between two looks.
        out: Where to print; standard output by default.

    Raises:
        UsageError: The server does not answer, or keeps no list.
    """
    with _asking("models", connection) as client:
        observer = _Observer(client)
        look = observer.look()
        # A server that counts no rows is not waited for.
        if any(model.rows is not None for model in look.models):
            time.sleep(interval_s)
            look = observer.look()
        if not watch:
            with _printing(out or sys.stdout, as_json=as_json, is_live=False) as show:
                show(look)
            return
        try:
            with _printing(out or sys.stdout, as_json=as_json, is_live=True) as show:
                show(look)
                while True:
                    time.sleep(interval_s)
                    try:
                        look = observer.look()
                    except (Unavailable, DeadlineExceeded) as error:
                        look = replace(look, rates={}, trouble=f"{connection.server}: {error}")
                    show(look)
        except KeyboardInterrupt:
            return


def load_model(name: str, uri: str, *, connection: Connection, timeout_s: float) -> None:
    """Have a server load *name*, wait until it is ready, and say what it serves then.

    Args:
        name: The name to serve it by.
        uri: What to load; empty for what it was loaded from, or the registered model of that name.
        connection: Where the server is, and how to speak to it.
        timeout_s: Seconds to wait; the server goes on after it.

    Raises:
        UsageError: It was not loaded, or not within *timeout_s*.
    """
    with _asking(f"model {name}", connection) as client:
        client.load(name, _absolute(uri), timeout=timeout_s)
        versions = client.metadata(name).versions
    print(f"{name} is ready: version {', '.join(versions)}")  # noqa: T201 - the command's answer.


def unload_model(name: str, *, connection: Connection, timeout_s: float) -> None:
    """Have a server unload *name*, and wait until it is gone.

    Args:
        name: The name it is served by.
        connection: Where the server is, and how to speak to it.
        timeout_s: Seconds to wait; the server goes on after it.

    Raises:
        UsageError: The server holds no such model, or was not done within *timeout_s*.
    """
    with _asking(f"model {name}", connection) as client:
        client.unload(name, timeout=timeout_s)
    print(f"{name} is unloaded")  # noqa: T201 - the command's answer.


@contextmanager
def _asking(what: str, connection: Connection) -> Iterator[Client]:
    """A client; what goes wrong with its calls is a person's to mend."""
    server = connection.server
    with connection.client() as client:
        try:
            yield client
        except DeadlineExceeded as error:
            raise UsageError(
                f"{what} at {server}: no answer in time; what the server has begun goes on"
            ) from error
        except HeadraceClientError as error:
            raise UsageError(f"{what} at {server}: {error}") from error


def _absolute(uri: str) -> str:
    """*uri*; the path of a directory here in full, since the server may run in another one."""
    is_path = uri and not _SCHEME.match(uri) and os.path.isdir(uri)
    return os.path.abspath(uri) if is_path else uri


_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Look:
    """What a server said at one instant.

    Attributes:
        models: What it holds.
        rates: Rows per second since the look before, by name and version.
        over_s: How long ago that was; 0 for a first look.
        trouble: Why this is an earlier look again; else empty.
    """

    models: Sequence[ModelStatus]
    rates: Mapping[_Key, float]
    over_s: float
    trouble: str = ""

    def rate(self, model: ModelStatus) -> float | None:
        """Rows per second of *model*; None where they are not known."""
        return self.rates.get((model.name, model.version))


class _Observer:
    """Looks at a server, and compares each look with the one before."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._rows: dict[_Key, int] = {}
        self._at = time.monotonic()

    def look(self) -> _Look:
        """What the server says now.

        Raises:
            HeadraceClientError: It says nothing.
        """
        models = self._client.models()
        before, self._at = self._at, time.monotonic()
        over_s = self._at - before if self._rows else 0.0
        rows = {(one.name, one.version): one.rows for one in models if one.rows is not None}
        # What counts from nothing again was loaded anew: of that there is no earlier look.
        rates = {
            key: (count - self._rows[key]) / over_s
            for key, count in rows.items()
            if count >= self._rows.get(key, count + 1)
        }
        self._rows = rows
        return _Look(models, rates, over_s)


@contextmanager
def _printing(out: TextIO, *, as_json: bool, is_live: bool) -> Iterator[Callable[[_Look], None]]:
    """What prints a look: below the one before, or on a terminal that is watched in its place."""
    console = Console(file=out, highlight=False)
    if as_json:
        yield lambda look: print(_json(look), file=out, flush=True)
    elif is_live and console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda look: live.update(_table(look), refresh=True)
    else:
        yield lambda look: console.print(_table(look))


def _json(look: _Look) -> str:
    if look.trouble:
        return json.dumps({"error": look.trouble})
    return json.dumps([{**asdict(one), "rows_per_s": look.rate(one)} for one in look.models])


def _reason(model: ModelStatus) -> str:
    """Why a model is not served as it might be: not at all, or without batches."""
    batching = ""
    if model.batching and model.batching != "batched":
        batching = f"{model.batching}: {model.batching_reason}"
    return "; ".join(filter(None, (model.reason, batching)))


def _table(look: _Look) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("name", "version", "state", "device", "worker"):
        table.add_column(name, overflow="fold", justify="right" if name == "version" else "left")
    table.add_column("rows/s", justify="right")
    table.add_column("reason", overflow="fold", ratio=1)
    for model in look.models:
        rate = look.rate(model)
        table.add_row(
            Text(model.name),
            Text(model.version),
            Text(model.state, _STATE_STYLES.get(model.state, "")),
            Text(model.device),
            Text(", ".join(model.workers)),
            "" if rate is None else f"{rate:,.0f}",
            Text(_reason(model)),
        )
    below = f"rows/s over {look.over_s:.1f} s" if look.rates else ""
    below = look.trouble or below
    return Group(table, Text(below, "red" if look.trouble else "dim")) if below else table

"""Flags: what the command line says, `--set` items among it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ..errors import UsageError
from .effective import Given, Layer, read_given
from .tables import TABLES
from .uris import anchored
from .values import no_setting

_SET_FORM: Final = (
    "expected NAME.SETTING=VALUE, as in iris.rows_max=8, or server.SETTING=VALUE, as in "
    "server.drain_s=5"
)


def read_sets(items: Iterable[str]) -> list[Given]:
    """What `--set NAME.SETTING=VALUE` items say.

    Raises:
        UsageError: An item has another form, names no setting, or has a value out of range.
    """
    given = []
    for item in items:
        left, equals, text = item.partition("=")
        above, dot, key = left.rpartition(".")
        is_single = above in TABLES and above != "models"
        table, model = (above, "") if is_single else ("models", above.removeprefix("models."))
        if not (equals and dot and key and (is_single or model)):
            raise UsageError(f"--set {left}: {_SET_FORM}")
        place = f"--set {left}"
        if key not in TABLES[table].model_fields:
            raise UsageError(f"{place}: {no_setting(table, model, key)}")
        given.append(read_given(table, key, text, Layer.FLAG, place, model=model))
    return given


def read_flags(flags: Mapping[str, str | Sequence[str] | None]) -> list[Given]:
    """What the flags of [server]'s settings say; None for one that was not given.

    Raises:
        UsageError: A value is out of range.
    """
    given = []
    for key, said in flags.items():
        if said is None:
            continue
        place = "the command line" if key == "models" else f"--{key.replace('_', '-')}"
        if isinstance(said, str):
            given.append(read_given("server", key, said, Layer.FLAG, place))
        else:
            value = anchored("server", key, tuple(said), "")
            given.append(Given("server", key, value, Layer.FLAG, place))
    return given

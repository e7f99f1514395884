"""Environment: the variables HEADRACE_*, read into values that know their variable."""

import difflib
import re
from collections.abc import Mapping
from typing import Final

from ..errors import UsageError
from .effective import Given, Layer, folded, read_given
from .tables import TABLES

PREFIX: Final = "HEADRACE_"
CONFIG_VARIABLE: Final = "HEADRACE_CONFIG"
# Variables of ours that are no settings of the server.
_OTHER_VARIABLES: Final = frozenset({CONFIG_VARIABLE, "HEADRACE_TOKEN", "HEADRACE_DEBUG"})

# What Kubernetes sets in every pod beside a service whose name begins with headrace.
_SERVICE_HOST = re.compile(r"HEADRACE_(\w+_)?SERVICE_(HOST|PORT(_\w+)?)")
_SERVICE_PORT = re.compile(r"HEADRACE_(\w+_)?PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")


def read_environment(environ: Mapping[str, str]) -> list[Given]:
    """What the variables `HEADRACE_TABLE__SETTING` and `HEADRACE_MODELS__NAME__SETTING` say.

    Raises:
        UsageError: A variable names no setting, or its value is out of range.
    """
    given = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable in _OTHER_VARIABLES:
            continue
        if _is_service_link(variable, text):
            continue
        table, model, key = _setting_of(variable)
        given.append(read_given(table, key, text, Layer.ENVIRONMENT, variable, model=model))
    return given


def _setting_of(variable: str) -> tuple[str, str, str]:
    """Table, model in lower case, and key of a variable's name."""
    first, _, rest = variable.removeprefix(PREFIX).partition("__")
    model, _, last = rest.rpartition("__") if first == "MODELS" else ("", "", rest)
    table, key = first.lower(), last.lower()
    is_known = table in TABLES and key in TABLES[table].model_fields
    if is_known and variable == variable.upper() and bool(model) == (table == "models"):
        return table, model.lower(), key
    raise UsageError(f"there is no variable {variable}{_near_variable(variable, model)}")


def _near_variable(variable: str, model: str) -> str:
    model = folded(model) or "NAME"
    known = {
        f"{table}__{f'{model}__' if table == 'models' else ''}{key}".upper(): key.upper()
        for table, content in TABLES.items()
        for key in content.model_fields
    }
    said = variable.upper().removeprefix(PREFIX)
    same = [name for name, key in known.items() if said == key]
    near = same or difflib.get_close_matches(said, known, n=1)
    if near:
        return f"; did you mean {PREFIX}{near[0]}?"
    return ": expected HEADRACE_TABLE__SETTING, as in HEADRACE_SERVER__PORT"


def _is_service_link(variable: str, text: str) -> bool:
    if _SERVICE_HOST.fullmatch(variable):
        return True
    match = _SERVICE_PORT.fullmatch(variable)
    return match is not None and (match[2] is not None or "://" in text)

"""Stub: what `headrace stub` does: write a typed client of a model, or its .proto file."""

import os
import sys
from typing import Final

from headrace.typed import describe

from ..asking.connecting import Connection
from ..errors import UsageError
from .known import from_daemon, from_registry, is_uri
from .module import module_of
from .protofile import proto_of

_LOCAL: Final = Connection()


def stub(
    model: str,
    *,
    version: str = "",
    output: str = "",
    is_proto: bool = False,
    tracking_uri: str = "",
    connection: Connection = _LOCAL,
) -> None:
    """Write a typed client of *model*, a Python module, or its .proto file.

    Args:
        model: The name it is served by; from the registry also `[NAME=]URI`.
        version: A number, "@" and an alias, or empty for the one it is served by.
        output: The file to write; empty or "-" for standard output.
        is_proto: Whether the .proto file is wanted.
        tracking_uri: The registry to ask in place of the daemon; empty for the one of the settings
            where *model* is a URI, and for none where it is a name.
        connection: Where the daemon is.

    Raises:
        UsageError: The model is not known, or has no signature to write from.
    """
    if tracking_uri or is_uri(model):
        known = from_registry(model, version, tracking_uri or None)
    else:
        known = from_daemon(model, version, connection)
    try:
        service = describe(known.model, known.signature, known.numbers)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if is_proto:
        if not known.signature.outputs:
            raise UsageError(
                f"model {known.model!r} has no typed service, so no .proto file: its signature "
                "names no outputs"
            )
        text = proto_of(service, version=known.version)
    else:
        text = module_of(service, known.signature, version=known.version)
    if output in {"", "-"}:
        sys.stdout.write(text)
        return
    if os.path.dirname(output):
        os.makedirs(os.path.dirname(output), exist_ok=True)
    with open(output, "w", encoding="utf-8") as file:
        file.write(text)

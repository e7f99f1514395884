"""Known: a model's signature, from a daemon that serves it or straight from the registry."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.signature import Signature
from headrace.typed import FieldNumbers, describe
from headrace_client import HeadraceClientError

from ..asking.connecting import Connection
from ..errors import HeadraceError, ModelNotFound, UsageError

if TYPE_CHECKING:
    from ..repository.librarian import Librarian, Resolved


@dataclass(frozen=True, slots=True)
class Known:
    """What a stub is written from.

    Attributes:
        model: The name that it is, or would be, served by.
        version: Decimal number as text.
        signature: Its inputs, outputs and parameters.
        numbers: The field numbers of its typed service that are known already.
    """

    model: str
    version: str
    signature: Signature
    numbers: FieldNumbers


def from_daemon(model: str, version: str, connection: Connection) -> Known:
    """What a running daemon says of *model*.

    Raises:
        UsageError: It cannot be reached, does not serve the model, or the model has no signature.
    """
    try:
        with connection.client() as client:
            metadata = client.metadata(model, version)
    except HeadraceClientError as error:
        raise UsageError(f"{model} at {connection.server}: {error}") from error
    if metadata.signature is None and metadata.inputs:
        raise UsageError(f"the server at {connection.server} does not tell the whole signature")
    return Known(
        metadata.name,
        metadata.versions[0] if metadata.versions else "",
        _usable(metadata.name, metadata.signature),
        FieldNumbers.from_text(metadata.field_numbers)
        if metadata.field_numbers
        else FieldNumbers(),
    )


def from_registry(model: str, version: str, tracking_uri: str | None) -> Known:
    """What the registry says of *model*, without a daemon.

    Args:
        model: A registered model's name, or `[NAME=]URI`, as `headrace serve` takes it.
        version: A number or "@" and an alias of the registered model; empty for its champion, else
            its latest version.
        tracking_uri: Where the registry is; None for what the settings say.

    Raises:
        UsageError: There is no such model, or it has no signature.
    """
    from ..completions import Completions  # noqa: PLC0415 - the bare install has no server.
    from ..instances.process import Spawner  # noqa: PLC0415
    from ..repository.librarian import Librarian  # noqa: PLC0415
    from ..settings import read_settings  # noqa: PLC0415

    settings = read_settings(flags={"tracking_uri": tracking_uri})
    name, uris = _asked(model, version)
    with ExitStack() as stack:
        spawner = Spawner()
        stack.callback(spawner.close)
        completions = Completions()
        completions.start()
        stack.callback(completions.close)
        librarian = Librarian(
            spawner,
            completions,
            tracking_uri=settings.server.tracking_uri,
            cache_dir=settings.server.cache_dir,
        )
        stack.callback(librarian.close)
        try:
            resolved = _resolved(librarian, uris)
            signature = _usable(name or resolved.name, librarian.signature(resolved.source))
            numbers = _numbers(librarian, resolved, signature)
        except HeadraceError as error:
            raise UsageError(str(error)) from None
    return Known(name or resolved.name, resolved.version, signature, numbers)


def _numbers(librarian: "Librarian", resolved: "Resolved", signature: Signature) -> FieldNumbers:
    """The field numbers that the registry keeps; where it keeps none, a daemon gives the same."""
    if not resolved.registered:
        return FieldNumbers()
    wanted = describe(resolved.name, signature).numbers
    return librarian.number_fields(resolved.registered, wanted, writes=False)[0]


def is_uri(model: str) -> bool:
    """Whether *model* is `[NAME=]URI`, which only the registry knows, rather than a name."""
    return any(mark in model for mark in ":/=")


def _asked(model: str, version: str) -> tuple[str, tuple[str, ...]]:
    """The name to serve by, empty for the URI's own, and the URIs to try."""
    from ..settings import split_model  # noqa: PLC0415 - the bare install has no server.

    if is_uri(model):
        if version:
            raise UsageError(f"{model} says which version it is: --version is for a model's name")
        name, uri = split_model(model)
        return name, (uri,)
    if version:
        return model, (f"models:/{model}{version if version.startswith('@') else f'/{version}'}",)
    return model, (f"models:/{model}@champion", f"models:/{model}/latest")


def _resolved(librarian: "Librarian", uris: Sequence[str]) -> "Resolved":
    """What the first of *uris* that there is stands for."""
    *first, last = uris
    for uri in first:
        with suppress(ModelNotFound):
            return librarian.resolve(uri)
    return librarian.resolve(last)


def _usable(model: str, signature: Signature | None) -> Signature:
    if signature is None or not signature.inputs:
        raise UsageError(
            f"model {model!r} has no signature that names its inputs: log it with one "
            "(mlflow.models.infer_signature)"
        )
    return signature

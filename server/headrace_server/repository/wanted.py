"""Wanted: which model is to be served under which name, as the librarian says of what was asked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InvalidRequest, ModelNotFound
from ..settings import split_model
from .librarian import Librarian, Resolved

_NAME = re.compile(r"[^:/\x00-\x1f\x7f]{1,255}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model to serve: what `[NAME=]URI` resolved to.

    Attributes:
        name: Served name.
        uri: As given.
        resolved: What it stands for.
    """

    name: str
    uri: str
    resolved: Resolved


class WantedAtStart:
    """What to serve for `[NAME=]URI` arguments; for none, every registered model."""

    def __init__(self, librarian: Librarian, models: Sequence[str]) -> None:
        self._librarian = librarian
        self._models = models
        # What the registry has said so far.
        self._known: dict[str, Resolved] = {}

    def find(self) -> list[Wanted]:
        """All of it. What is learnt before the registry fails is not asked for again.

        Raises:
            RegistryUnavailable: The registry does not answer.
            HeadraceError: A URI stands for nothing, or two models claim one name.
        """
        self._models = self._models or self._librarian.list_models()
        wanted: dict[str, Wanted] = {}
        for item in self._models:
            given, uri = split_model(item)
            if item not in self._known:
                self._known[item] = self._librarian.resolve(uri)
            resolved = self._known[item]
            name = given or resolved.name
            if name in wanted:
                raise InvalidRequest(
                    f"{wanted[name].uri} and {uri} would both be served as {name!r}: "
                    f"name one of them, as in other={uri}"
                )
            wanted[name] = Wanted(name, uri, resolved)
        return list(wanted.values())


def wanted_as(librarian: Librarian, name: str, uri: str) -> Wanted:
    """What *name* is to serve: *uri*, or where it is empty the registered model of that name.

    Of that it is what the alias champion points at, else its latest version.

    Raises:
        InvalidRequest: *name* or *uri* can never be served.
        ModelNotFound, RegistryUnavailable, RegistryDenied: It cannot be told.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"model name {name[:128]!r}: expected 1 to 255 characters other than : and /"
        )
    if uri:
        return Wanted(name, uri, librarian.resolve(uri))
    try:
        uri = f"models:/{name}@champion"
        return Wanted(name, uri, librarian.resolve(uri))
    except ModelNotFound:
        uri = f"models:/{name}/latest"
    try:
        return Wanted(name, uri, librarian.resolve(uri))
    except ModelNotFound as error:
        raise ModelNotFound(
            f"model {name!r} is not served, and {error.message}: say the URI of what to load"
        ) from error

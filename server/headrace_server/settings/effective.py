"""Effective: what holds once every source has spoken, and who said what."""

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from ..errors import UsageError
from .tables import (
    AuthSettings,
    ModelSettings,
    ModelTable,
    SandboxSettings,
    ServerSettings,
    TlsSettings,
)
from .uris import anchored
from .values import checked, did_you_mean, is_taggable

# What a tag of a registered version must begin with to speak to us.
TAG_PREFIX: Final = "headrace."


class Layer(enum.IntEnum):
    """Who said it, weakest first."""

    DEFAULT = 0
    TAG = 1
    FILE = 2
    ENVIRONMENT = 3
    FLAG = 4


@dataclass(frozen=True, slots=True)
class Given:
    """One value that was said somewhere, checked.

    Attributes:
        table: Its table: server, tls, auth, sandbox or models.
        key: The setting.
        value: As the setting's type.
        layer: Who said it.
        origin: Where, in words: a file and line, a variable, a flag.
        model: The model's name in the table models; as far as a variable can say it.
    """

    table: str
    key: str
    value: Any
    layer: Layer
    origin: str
    model: str = ""

    def is_for(self, name: str) -> bool:
        """Whether it speaks of the model served as *name*."""
        if self.layer is Layer.ENVIRONMENT:
            return folded(self.model) == folded(name)
        return self.model == name


def read_given(
    table: str,
    key: str,
    value: Any,
    layer: Layer,
    origin: str,
    *,
    model: str = "",
    said: str = "",
    directory: str = "",
) -> Given:
    """One value as it was said: checked, and its paths made absolute.

    Args:
        table: Its table.
        key: A setting that the table has.
        value: Text, but for a value of headrace.toml.
        layer: Who said it.
        origin: Where.
        model: The model's name in the table models.
        said: What stands before the value in an error's sentence; else *origin*.
        directory: What relative paths are relative to; empty for the working directory.

    Raises:
        UsageError: The value is not of the setting's type, or out of range.
    """
    good = checked(table, key, value, said or origin, is_text=layer is not Layer.FILE)
    return Given(table, key, anchored(table, key, good, directory), layer, origin, model)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that holds, and what was said about models.

    Attributes:
        server: The table `[server]`.
        tls: The table `[tls]`.
        auth: The table `[auth]`.
        sandbox: The table `[sandbox]`.
        served: `[NAME=]URI` to serve; empty for every registered model.
        given: What was said, weakest first.
    """

    server: ServerSettings = field(default_factory=ServerSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)
    served: tuple[str, ...] = ()
    given: tuple[Given, ...] = ()

    @property
    def is_confining(self) -> bool:
        """Whether workers are confined."""
        is_wanted = self.sandbox.confine == "all"
        return is_wanted or (self.sandbox.confine == "auto" and not self.server.allow_pickle)

    def for_model(self, name: str, tags: Mapping[str, str] | None = None) -> ModelSettings:
        """The settings of the model served as *name*, whose version bears *tags*.

        Tags that cannot be used change nothing; `ignored_tags` tells of them.

        Raises:
            UsageError: What the operator said of it contradicts itself.
        """
        by_tags, _ = self._read_tags(name, tags or {})
        try:
            settings = _merged(by_tags, self.about(name))
        except ValidationError as error:
            raise UsageError(f"[models.{name}]: {_sentence(error)}") from None
        if settings.environment == "model" and not self.server.allow_pickle:
            raise UsageError(
                f'[models.{name}]: environment = "model" installs whatever the model asks for, '
                "which allow_pickle = false forbids"
            )
        return settings

    def ignored_tags(self, name: str, tags: Mapping[str, str]) -> dict[str, str]:
        """The tags of the model served as *name* that change nothing, each with the reason."""
        _, ignored = self._read_tags(name, tags)
        return ignored

    def about(self, name: str) -> list[Given]:
        """What was said of the model served as *name*, weakest first."""
        return [given for given in self.given if given.table == "models" and given.is_for(name)]

    def said_by_tags(self, name: str, tags: Mapping[str, str]) -> list[Given]:
        """What the tags of the model served as *name* say that can be used."""
        said, _ = self._read_tags(name, tags)
        return said

    def _read_tags(self, name: str, tags: Mapping[str, str]) -> tuple[list[Given], dict[str, str]]:
        """What tags say, and those ignored: all of them where they contradict the rest."""
        said, ignored = read_tags(tags, instances_max=self.server.instances_max)
        if said:
            try:
                _merged(said, self.about(name))
            except ValidationError as error:
                why = _sentence(error)
                return [], {**{given.origin.removeprefix("tag "): why for given in said}, **ignored}
        return said, ignored

    def check_names(self, served: Iterable[str]) -> None:
        """Hold what was said of models against the names that are *served*.

        Raises:
            UsageError: Something was said of a model that is not served, or a variable's name
                means two that are.
        """
        names = list(served)
        for given in self.given:
            if given.table != "models":
                continue
            meant = [name for name in names if given.is_for(name)]
            if not meant:
                raise UsageError(
                    f"{given.origin} names the model {given.model!r}, but served are "
                    f"{', '.join(names)}{did_you_mean(given.model, names)}"
                )
            if len(meant) > 1:
                raise UsageError(
                    f"{given.origin} may mean {' or '.join(map(repr, meant))}, which a variable's "
                    "name cannot tell apart: set it in headrace.toml or by --set"
                )
        for name in names:
            self.for_model(name)


def _merged(by_tags: Iterable[Given], about: Iterable[Given]) -> ModelSettings:
    """The settings of a model.

    Raises:
        ValidationError: They contradict one another.
    """
    said = {given.key: given.value for given in (*by_tags, *about) if given.key != "uri"}
    return ModelSettings.model_validate(said)


def _sentence(error: ValidationError) -> str:
    return str(error.errors()[0]["msg"]).removeprefix("Value error, ")


def read_tags(tags: Mapping[str, str], *, instances_max: int) -> tuple[list[Given], dict[str, str]]:
    """What the tags of a model version say, and those that are ignored, each with the reason.

    Whoever may write to the registry shapes the model's queue and calls, and nothing else: the
    rest is the operator's. A bad value is no error, or a tag could keep the server from starting.
    """
    said: list[Given] = []
    ignored: dict[str, str] = {}
    for tag, text in sorted(tags.items()):
        if not tag.startswith(TAG_PREFIX):
            continue
        key = tag.removeprefix(TAG_PREFIX)
        if not is_taggable(key):
            known = key in ModelTable.model_fields or key in ServerSettings.model_fields
            ignored[tag] = "the operator alone may set it" if known else "there is no such setting"
            continue
        try:
            value = checked("models", key, text, tag, is_text=True)
        except UsageError as error:
            ignored[tag] = str(error)
            continue
        if key == "instances" and value > instances_max:
            ignored[tag] = f"{tag}={value}: expected at most instances_max = {instances_max}"
            continue
        said.append(Given("models", key, value, Layer.TAG, f"tag {tag}"))
    return said, ignored


def folded(name: str) -> str:
    """A model's *name* as the name of an environment variable can say it."""
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()

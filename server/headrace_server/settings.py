"""Settings: what an operator may say, with defaults and bounds; frozen values inward.

Weakest first: defaults, the tags of a model's version, headrace.toml, the environment, flags.
settings_sources.py reads and layers what was said; here stands what can be said, and what holds.
"""

import difflib
import enum
import functools
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from .errors import UsageError

# What a tag of a registered version must begin with to speak to us.
TAG_PREFIX: Final = "headrace."
# A value is shown up to this many characters.
_SHOWN_MAX = 64


class _Mark(enum.Enum):
    """What a field says beyond its type and bounds."""

    BY_TAG = "a tag of the model's version may set it"
    PATH = "a path; in headrace.toml, relative to that file's directory"


@dataclass(frozen=True, slots=True)
class _Expected:
    """A field's range in words, where its type and bounds do not say it."""

    words: str


_BY_TAG = _Mark.BY_TAG
_Rows = Annotated[int, Field(ge=1, le=2**31 - 1)]
_Bytes = Annotated[int, Field(ge=1, le=2**63 - 1)]
_Port = Annotated[int, Field(ge=0, le=65_535)]
_Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
_Path = Annotated[str, _Mark.PATH, _Expected("a path")]
_DEVICE = "auto, cpu, cuda or cuda:N"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Table):
    """How one model is served.

    Attributes:
        rows_max: Rows of a batch.
        queue_delay_us_max: How long a batch that is not full may wait, in microseconds.
        queue_rows_max: Rows that may wait.
        queue_bytes_max: Bytes of tensors that may wait.
        slots: Batches that one instance may hold: one computes while the next is staged.
        instances: Copies of the model, each with a thread of its own.
        method: The method to call instead of the one MLflow's predict_fn names.
        deterministic: Whether a batch may run again after its worker was lost.
        exec_ms_max: How long a batch may run before its worker counts as hung, in milliseconds.
        device: Where it computes; empty for the server's own setting.
        worker: "shared", or "own" for a process of its own.
    """

    rows_max: Annotated[_Rows, _BY_TAG] = 64
    queue_delay_us_max: Annotated[int, Field(ge=0, le=60_000_000), _BY_TAG] = 0
    queue_rows_max: Annotated[_Rows, _BY_TAG] = 16_384
    queue_bytes_max: Annotated[_Bytes, _BY_TAG] = 1 << 30
    slots: Annotated[int, Field(ge=1, le=16)] = 2
    instances: Annotated[int, Field(ge=1, le=64), _BY_TAG] = 1
    method: Annotated[
        str,
        Field(pattern=r"^([A-Za-z][A-Za-z0-9_]*)?$"),
        _BY_TAG,
        _Expected("the name of a method, or nothing"),
    ] = ""
    deterministic: Annotated[bool, _BY_TAG] = True
    exec_ms_max: Annotated[int, Field(ge=1, le=86_400_000)] = 60_000
    device: Annotated[
        str,
        Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)?$"),
        _Expected(f"{_DEVICE}, or nothing"),
    ] = ""
    worker: Literal["shared", "own"] = "shared"


class ModelTable(ModelSettings):
    """`[models.NAME]`: a model's settings, and what to serve under that name.

    Attributes:
        uri: The model's URI; empty where it is named elsewhere.
    """

    uri: str = ""


class ServerSettings(_Table):
    """`[server]`: how the daemon runs.

    Attributes:
        models: `[NAME=]URI` as given; empty, with no `uri` of a model's table either, for every
            registered model.
        tracking_uri: Where the registry is; absolute.
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        metrics_port: Port of the metrics endpoint; 0 for any free one.
        device: auto, cpu, cuda or cuda:N.
        transport: Which listener takes calls; auto is native on loopback or a trusted network.
        trusted_network: Whether the network beyond loopback is safe without TLS.
        message_bytes_max: Largest message taken or sent.
        queue_bytes_max: Bytes of tensors that may wait in the whole daemon.
        arena_bytes_max: Shared memory per worker.
        cache_dir: Where fetched models are kept.
        drain_delay_s: Seconds between reporting NOT_SERVING and refusing requests, once asked to
            end.
        drain_s: Seconds that accepted requests may take then, at most.
        strict_readiness: Whether the server is ready only if every start-up model is.
        instances_max: The most instances that a model version's tag may ask for.
        log_format: How the log is written; auto is console on a terminal, else JSON.
        log_level: The least level that is logged.
        request_log: Whether each request is logged.
    """

    models: tuple[str, ...] = ()
    tracking_uri: str = ""
    host: Annotated[str, Field(min_length=1), _Expected("an address or a host's name")] = (
        "127.0.0.1"
    )
    port: _Port = 8001
    metrics_port: _Port = 8002
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$"), _Expected(_DEVICE)] = (
        "auto"
    )
    transport: Literal["auto", "native", "grpcio"] = "auto"
    trusted_network: bool = False
    message_bytes_max: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 64 << 20
    queue_bytes_max: _Bytes = 1 << 30
    arena_bytes_max: Annotated[int, Field(ge=64 << 10, le=2**63 - 1)] = 1 << 30
    cache_dir: _Path = ""
    drain_delay_s: _Seconds = 0.0
    drain_s: _Seconds = 30.0
    strict_readiness: bool = False
    instances_max: Annotated[int, Field(ge=1, le=64)] = 8
    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    request_log: bool = False


class TlsSettings(_Table):
    """`[tls]`: encryption of the grpcio listener; all files are PEM.

    Attributes:
        cert: File of the server's certificate chain; empty for no TLS.
        key: File of its private key.
        client_ca: File of the authorities whose client certificates are demanded; empty for none.
    """

    cert: _Path = ""
    key: _Path = ""
    client_ca: _Path = ""


class AuthSettings(_Table):
    """`[auth]`: who may call.

    Attributes:
        tokens: File of the hashed tokens; empty for no tokens.
        open_health: Whether health may be asked without a token.
    """

    tokens: _Path = ""
    open_health: bool = False


TABLES: Final[Mapping[str, type[_Table]]] = {
    "server": ServerSettings,
    "tls": TlsSettings,
    "auth": AuthSettings,
    "models": ModelTable,
}


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
        table: Its table: server, tls, auth or models.
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


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that holds, and what was said about models.

    Attributes:
        server: The table `[server]`.
        tls: The table `[tls]`.
        auth: The table `[auth]`.
        served: `[NAME=]URI` to serve; empty for every registered model.
        given: What was said, weakest first.
    """

    server: ServerSettings = field(default_factory=ServerSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)
    served: tuple[str, ...] = ()
    given: tuple[Given, ...] = ()

    def for_model(self, name: str, tags: Mapping[str, str] | None = None) -> ModelSettings:
        """The settings of the model served as *name*, whose version bears *tags*.

        Tags that cannot be used change nothing; `ignored_tags` tells of them.
        """
        by_tags, _ = read_tags(tags or {}, instances_max=self.server.instances_max)
        said = {given.key: given.value for given in (*by_tags, *self.about(name))}
        said.pop("uri", None)
        return ModelSettings.model_validate(said)

    def ignored_tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        """The tags that change nothing, each with the reason."""
        _, ignored = read_tags(tags, instances_max=self.server.instances_max)
        return ignored

    def about(self, name: str) -> list[Given]:
        """What was said of the model served as *name*, weakest first."""
        return [given for given in self.given if given.table == "models" and given.is_for(name)]

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
                    f"{', '.join(names)}{_did_you_mean(given.model, names)}"
                )
            if len(meant) > 1:
                raise UsageError(
                    f"{given.origin} may mean {' or '.join(map(repr, meant))}, which a variable's "
                    "name cannot tell apart: set it in headrace.toml or by --set"
                )


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


def checked(table: str, key: str, value: Any, place: str, *, is_text: bool) -> Any:
    """*value* as the type of the setting *key* of *table*.

    Args:
        table: The table.
        key: A setting that the table has.
        value: What was said: text, or a value of headrace.toml.
        place: Where, for the error's sentence: what stands before the equals sign.
        is_text: Whether it is text that stands for a value of any type.

    Raises:
        UsageError: It is not of that type, or out of range.
    """
    adapter = _adapter(table, key)
    try:
        if not is_text:
            # As JSON has it: a list is a tuple, a whole number a float; true is no number.
            return adapter.validate_python(
                tuple(value) if isinstance(value, list) else value, strict=True
            )
        if _is_list(table, key):
            return adapter.validate_python(tuple(shlex.split(value)))
        return adapter.validate_strings(value)
    except (ValidationError, ValueError):
        said = value if is_text else toml_value(value)
        if len(said) > _SHOWN_MAX:
            said = f"{said[:_SHOWN_MAX]}..."
        raise UsageError(f"{place}={said}: expected {expected(table, key)}") from None


def expected(table: str, key: str) -> str:
    """The range of a setting in words."""
    info = TABLES[table].model_fields[key]
    for item in info.metadata:
        if isinstance(item, _Expected):
            return item.words
    if get_origin(info.annotation) is Literal:
        *others, last = map(str, get_args(info.annotation))
        return f"{', '.join(others)} or {last}"
    if info.annotation is bool:
        return "true or false"
    if _is_list(table, key):
        return "a list of [NAME=]URI"
    if info.annotation not in (int, float):
        return "text"
    low, high = (
        next(getattr(item, end) for item in info.metadata if hasattr(item, end))
        for end in ("ge", "le")
    )
    return f"a {'whole ' if info.annotation is int else ''}number from {low} to {high}"


def is_taggable(key: str) -> bool:
    """Whether a model version's tag may set the model's setting *key*."""
    info = ModelSettings.model_fields.get(key)
    return info is not None and _BY_TAG in info.metadata


def is_path(table: str, key: str) -> bool:
    """Whether the setting is a path of this host."""
    return _Mark.PATH in TABLES[table].model_fields[key].metadata


def no_such(what: str, name: str, known: Iterable[str]) -> str:
    """A sentence about a *name* that is not among the *known*."""
    names = list(known)
    return f"there is no {what}{_did_you_mean(name, names) or '; known are ' + ', '.join(names)}"


def folded(name: str) -> str:
    """A model's *name* as the name of an environment variable can say it."""
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def split_model(item: str) -> tuple[str, str]:
    """NAME and URI of `[NAME=]URI`; an equals sign inside the URI is no separator."""
    name, equals, uri = item.partition("=")
    if equals and uri and name and not any(mark in name for mark in ":/"):
        return name, uri
    return "", item


def absolute_tracking_uri(uri: str, directory: str = "") -> str:
    """The registry's address, with a relative sqlite path or directory made absolute.

    It must not depend on the directory in which a child process runs.

    Args:
        uri: The address.
        directory: What a relative one is relative to; empty for the working directory.
    """
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{Path(directory, uri.removeprefix('sqlite:///')).absolute()}"
    if "://" not in uri and not uri.startswith(("databricks", "file:")):
        return str(Path(directory, uri).absolute())
    return uri


def shown_uri(uri: str) -> str:
    """The registry's address without its credentials."""
    parts = urlsplit(uri)
    if not parts.netloc:
        return uri.partition("?")[0]
    _, at, host = parts.netloc.rpartition("@")
    query = "?***" if parts.query else ""
    return f"{parts.scheme}://{'***@' if at else ''}{host}{parts.path}{query}"


def default_cache_dir() -> str:
    """Where fetched models are kept unless told otherwise: XDG's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(Path.home(), ".cache")
    return os.path.join(base, "headrace")


def toml_value(value: Any) -> str:
    """*value* as headrace.toml would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        return "a table"
    return str(value)


def _did_you_mean(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _is_list(table: str, key: str) -> bool:
    return get_origin(TABLES[table].model_fields[key].annotation) is tuple


@functools.cache
def _adapter(table: str, key: str) -> TypeAdapter[Any]:
    info = TABLES[table].model_fields[key]
    return TypeAdapter(Annotated[info.annotation, info])

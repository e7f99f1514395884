"""Settings: what an operator may say, with defaults, read once at the edge.

Inward the daemon sees these frozen values only.
"""

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import UsageError

_Positive = Annotated[int, Field(ge=1)]


class ModelSettings(BaseModel):
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

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows_max: _Positive = 64
    queue_delay_us_max: Annotated[int, Field(ge=0, le=60_000_000)] = 0
    queue_rows_max: _Positive = 16_384
    queue_bytes_max: _Positive = 1 << 30
    slots: Annotated[int, Field(ge=1, le=16)] = 2
    instances: Annotated[int, Field(ge=1, le=64)] = 1
    method: str = ""
    deterministic: bool = True
    exec_ms_max: Annotated[int, Field(ge=1, le=86_400_000)] = 60_000
    device: Annotated[str, Field(pattern=r"^((auto|cpu|cuda(:[0-9]+)?))?$")] = ""
    worker: Literal["shared", "own"] = "shared"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How the daemon runs.

    Attributes:
        models: `[NAME=]URI` as given; empty for every registered model.
        tracking_uri: Where the registry is; absolute.
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        metrics_port: Port of the metrics endpoint; 0 for any free one.
        device: auto, cpu, cuda or cuda:N.
        transport: auto, native or grpcio.
        trusted_network: Whether the network beyond loopback is safe without TLS.
        message_bytes_max: Largest message taken or sent.
        queue_bytes_max: Bytes of tensors that may wait in the whole daemon.
        arena_bytes_max: Shared memory per worker.
        cache_dir: Where fetched models are kept.
        drain_delay_s: Seconds from reporting NOT_SERVING to refusing requests, at the end.
        drain_s: Seconds that accepted requests may take then, at most.
        overrides: Settings per model name, from `--set`.
    """

    models: tuple[str, ...] = ()
    tracking_uri: str = ""
    host: str = "127.0.0.1"
    port: int = 8001
    metrics_port: int = 8002
    device: str = "auto"
    transport: str = "auto"
    trusted_network: bool = False
    message_bytes_max: int = 64 << 20
    queue_bytes_max: int = 1 << 30
    arena_bytes_max: int = 1 << 30
    cache_dir: str = ""
    drain_delay_s: float = 0.0
    drain_s: float = 30.0
    overrides: tuple[tuple[str, str, str], ...] = ()

    def for_model(self, name: str) -> ModelSettings:
        """The settings of the model served as *name*.

        Raises:
            UsageError: A value is out of range.
        """
        given = {key: value for model, key, value in self.overrides if model == name}
        try:
            return ModelSettings.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(
                f"--set {name}.{first['loc'][0]}={first['input']}: {first['msg']}"
            ) from None


def parse_overrides(items: Iterable[str]) -> tuple[tuple[str, str, str], ...]:
    """Read `NAME.SETTING=VALUE` items.

    Raises:
        UsageError: An item has another form, or names a setting that does not exist.
    """
    parsed = []
    for item in items:
        left, equals, value = item.partition("=")
        name, dot, setting = left.rpartition(".")
        if not (equals and dot and name and setting):
            raise UsageError(f"--set {item}: expected NAME.SETTING=VALUE, as in iris.rows_max=8")
        if setting not in ModelSettings.model_fields:
            near = difflib.get_close_matches(setting, ModelSettings.model_fields, n=1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else "known are " + ", ".join(ModelSettings.model_fields)
            )
            raise UsageError(f"--set {item}: there is no setting {setting!r}; {hint}")
        parsed.append((name, setting, value))
    return tuple(parsed)


def absolute_tracking_uri(given: str) -> str:
    """The registry's address: *given*, else the environment's, else mlflow.db in this directory.

    A relative sqlite path or directory is made absolute: it must not depend on the directory in
    which a child process runs.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI", "") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    if "://" not in uri and not uri.startswith(("databricks", "file:")):
        return str(Path(uri).absolute())
    return uri


def default_cache_dir() -> str:
    """Where fetched models are kept unless told otherwise: XDG's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(Path.home(), ".cache")
    return os.path.join(base, "headrace")


def check_device(device: str) -> str:
    """*device* itself, if it has the form of one.

    Raises:
        UsageError: It has not.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
        raise UsageError(f"--device {device}: expected auto, cpu, cuda or cuda:N")
    return device

"""Tables: every setting, with its default and bounds. A setting is a field here and nothing else.

docs/settings.md tells of each; a contract test holds the two together.
"""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Mark(enum.Enum):
    """What a field says beyond its type and bounds."""

    BY_TAG = "a tag of the model's version may set it"
    PATH = "a path; in headrace.toml, relative to that file's directory"


@dataclass(frozen=True, slots=True)
class Expected:
    """A field's range in words, where its type and bounds do not say it."""

    words: str


_Rows = Annotated[int, Field(ge=1, le=2**31 - 1)]
_Bytes = Annotated[int, Field(ge=1, le=2**63 - 1)]
_Port = Annotated[int, Field(ge=0, le=65_535)]
_Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
_Path = Annotated[str, Mark.PATH, Expected("a path")]
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# A Unix socket as a gRPC client can name it: it takes the marks that are left out for its own.
_SOCKET = re.compile(r"unix:(///)?(?!//)[^,%?#\x00-\x1f\x7f]*[^/,%?#\x00-\x1f\x7f]")
_HOST = Expected("an address, a host's name, or unix:PATH without , % ? #")
# MLflow's flavor keys; pyfunc for what has only python_function.
FLAVORS: Final = (
    *("catboost", "crate", "diffusers", "dspy", "h2o", "johnsnowlabs", "keras", "langchain"),
    *("lightgbm", "llama_index", "onnx", "openai", "paddle", "pmdarima", "prophet", "pyfunc"),
    *("pytorch", "sentence_transformers", "shap", "sklearn", "spacy", "spark", "statsmodels"),
    *("tensorflow", "transformers", "xgboost"),
)
_PER_LEVEL = Expected("a list of whole numbers from 0, one per priority")
_DEVICE = "auto, cpu, cuda or cuda:N"


def _ascending(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if list(sizes) != sorted(set(sizes)):
        raise ValueError("expected ascending numbers")
    return sizes


def _distinct(devices: str) -> str:
    names = devices.replace("cuda,", "cuda:0,").split(",")
    if len(set(names)) < len(names):
        raise ValueError("expected each device once")
    return devices


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < max(len(names), 1):
        raise ValueError("expected each name once, and one at least")
    return names


def _known(flavor: str) -> str:
    if flavor not in FLAVORS:
        raise ValueError("expected a flavor of MLflow")
    return flavor


def _host(host: str) -> str:
    if host.startswith("unix") and ":" in host and not _SOCKET.fullmatch(host):
        raise ValueError("expected unix:PATH")
    return host


def _pattern(source: str) -> str:
    is_uri = _SCHEME.match(source) is not None
    if not source or "**" in source or any(mark in source for mark in "?#[]\\"):
        raise ValueError("expected no pattern but a star within a segment")
    if is_uri and (source.endswith(":") or {".", ".."} & set(source.split("/"))):
        raise ValueError("expected more than a scheme, and no dots for a segment")
    return source


_Sizes = Annotated[tuple[_Rows, ...], AfterValidator(_ascending)]
_ASCENDING = Expected("a list of whole numbers from 1, ascending")
_BUCKETS = Expected("a table of axis, sizes, pad, mask and inputs; as text, in JSON")
_PER_PRIORITY = ("priority_queue_rows_max", "priority_timeout_us", "priority_timeout_action")


class Table(BaseModel):
    """Settings that stand together."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BucketBy(Table):
    """How inputs of different lengths share batches.

    Attributes:
        axis: The axis along which they differ; 0 counts rows.
        sizes: The lengths to which they are padded, ascending; empty for no padding.
        pad: What they are padded with.
        mask: The input that tells the model what is real (1) and what is padding (0), written for
            callers who leave it out; empty for none.
        inputs: The inputs that are padded; empty for those that may be of any size along the axis.
    """

    axis: Annotated[int, Field(ge=1, le=31)] = 1
    sizes: _Sizes = ()
    pad: Annotated[float, Field(allow_inf_nan=False)] | int | str = 0
    mask: str = ""
    inputs: tuple[str, ...] = ()


class ModelSettings(Table):
    """How one model is served.

    Attributes:
        rows_max: Rows of a batch.
        rows_allowed: The numbers of rows that batches may run with, ascending, the others padded to
            the next; empty for any. The last is their rows_max.
        bucket_by: How inputs of different lengths share batches.
        policy: How long a free instance waits for more rows; empty: delay where the two settings
            that follow ask for it, else greedy.
        queue_delay_us_max: How long a batch that is not full may wait, in microseconds.
        rows_preferred: With as many rows it waits no longer; 0 for a full batch.
        p99_ms_max: What 99 of 100 requests should take at most, for the adaptive policy.
        admission: Whether a request is refused at once whose deadline cannot be met.
        queue_rows_max: Rows that may wait.
        queue_bytes_max: Bytes of tensors that may wait.
        priority_levels: How many priorities requests may have, 1 the highest.
        priority_default: The priority of a request that names none; 0 for the lowest.
        priority_queue_rows_max: Rows that may wait, per priority; 0 for no bound of its own.
        priority_timeout_us: How long a request may wait, per priority, in microseconds; 0 for ever.
        priority_timeout_action: What becomes of one that has waited so long, per priority.
        slots: Batches that one instance may hold: one computes while the next is staged.
        instances: Copies of the model on each of its devices, each with a thread of its own.
        method: The method to call instead of the one MLflow's predict_fn names.
        deterministic: Whether a batch may run again, whole or in pieces, that has failed.
        batched: Whether requests share batches: the operator's word, or "auto" for what is proven.
        exec_ms_max: How long a batch may run before its worker counts as hung, in milliseconds.
        load_s_max: How long the model may load before its worker counts as hung, in seconds.
        load_bytes_max: How much memory the model may take to load, where it is tried out; 0 for
            half of what is left.
        trial: Whether the model is loaded first in a process where it can harm no other one.
        environment: Where its packages come from: "daemon" for the daemon's own environment,
            "model" for one made from the model's requirements.
        environment_installer: What makes that one; auto is uv where it is installed, else pip.
        environment_s_max: How long that may take, in seconds.
        device: Where it computes, several GPUs separated by commas; empty for the server's own
            setting.
        precision: In what torch computes: as the model is, with TF32 in its products, or in half
            precision where autocast does so.
        compile: The mode of torch.compile; empty for none.
        channels_last: Whether torch gets images with their channels last.
        cuda_graphs: Whether torch captures a CUDA graph for each of rows_allowed.
        providers: What onnxruntime computes with on a GPU, the first choice first.
        worker: "shared", or "own" for a process of its own.
    """

    rows_max: Annotated[_Rows, Mark.BY_TAG] = 128
    rows_allowed: Annotated[_Sizes, Mark.BY_TAG, _ASCENDING] = ()
    bucket_by: Annotated[BucketBy, Mark.BY_TAG, _BUCKETS] = BucketBy()
    policy: Annotated[
        Literal["", "greedy", "delay", "adaptive"],
        Mark.BY_TAG,
        Expected("greedy, delay or adaptive, or nothing"),
    ] = ""
    queue_delay_us_max: Annotated[int, Field(ge=0, le=60_000_000), Mark.BY_TAG] = 0
    rows_preferred: Annotated[int, Field(ge=0, le=2**31 - 1), Mark.BY_TAG] = 0
    p99_ms_max: Annotated[float, Field(ge=0.1, le=3_600_000, allow_inf_nan=False), Mark.BY_TAG] = (
        100.0
    )
    admission: Annotated[Literal["bounds", "deadline"], Mark.BY_TAG] = "bounds"
    queue_rows_max: Annotated[_Rows, Mark.BY_TAG] = 16_384
    queue_bytes_max: Annotated[_Bytes, Mark.BY_TAG] = 1 << 30
    priority_levels: Annotated[int, Field(ge=1, le=64), Mark.BY_TAG] = 1
    priority_default: Annotated[int, Field(ge=0, le=64), Mark.BY_TAG] = 0
    priority_queue_rows_max: Annotated[
        tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...], Mark.BY_TAG, _PER_LEVEL
    ] = ()
    priority_timeout_us: Annotated[
        tuple[Annotated[int, Field(ge=0, le=86_400_000_000)], ...], Mark.BY_TAG, _PER_LEVEL
    ] = ()
    priority_timeout_action: Annotated[
        tuple[Literal["reject", "delay"], ...],
        Mark.BY_TAG,
        Expected("a list of reject or delay, one per priority"),
    ] = ()
    slots: Annotated[int, Field(ge=1, le=16)] = 2
    instances: Annotated[int, Field(ge=1, le=64), Mark.BY_TAG] = 1
    method: Annotated[
        str,
        Field(pattern=r"^([A-Za-z][A-Za-z0-9_]*)?$"),
        Mark.BY_TAG,
        Expected("the name of a method, or nothing"),
    ] = ""
    deterministic: Annotated[bool, Mark.BY_TAG] = True
    batched: Annotated[bool | Literal["auto"], Mark.BY_TAG, Expected("auto, true or false")] = (
        "auto"
    )
    exec_ms_max: Annotated[int, Field(ge=1, le=86_400_000)] = 60_000
    load_s_max: Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)] = 600.0
    load_bytes_max: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    trial: bool = True
    environment: Literal["daemon", "model"] = "daemon"
    environment_installer: Literal["auto", "uv", "pip"] = "auto"
    environment_s_max: Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False)] = 3600.0
    device: Annotated[
        str,
        Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?(,cuda:[0-9]+)*)?$"),
        AfterValidator(_distinct),
        Expected(f"{_DEVICE}, several cuda:N separated by commas, or nothing"),
    ] = ""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    compile: Annotated[
        Literal["", "default", "reduce-overhead", "max-autotune"],
        Expected("default, reduce-overhead or max-autotune, or nothing"),
    ] = ""
    channels_last: bool = False
    cuda_graphs: bool = False
    providers: Annotated[
        tuple[Literal["tensorrt", "cuda"], ...],
        AfterValidator(_each_once),
        Expected("a list of tensorrt and cuda"),
    ] = ("cuda",)
    worker: Literal["shared", "own"] = "shared"

    @property
    def row_sizes(self) -> tuple[int, ...]:
        """The numbers of rows that batches may run with, ascending; empty for any."""
        if "rows_max" not in self.model_fields_set:
            return self.rows_allowed
        return tuple(size for size in self.rows_allowed if size <= self.rows_max)

    @property
    def batch_rows_max(self) -> int:
        """The most rows of a batch."""
        return self.row_sizes[-1] if self.row_sizes else self.rows_max

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        """Hold what is said of the largest batch twice against one another."""
        is_said = "rows_max" in self.model_fields_set
        if self.rows_allowed and is_said and self.rows_max not in self.rows_allowed:
            raise ValueError(
                f"rows_max = {self.rows_max} is not among rows_allowed = {list(self.rows_allowed)}"
            )
        return self

    @model_validator(mode="after")
    def _check_priorities(self) -> Self:
        """Hold what is said of priorities against their number."""
        levels = self.priority_levels
        if self.priority_default > levels:
            raise ValueError(f"priority_default = {self.priority_default} is above {levels}")
        for key in _PER_PRIORITY:
            if len(said := getattr(self, key)) not in (0, levels):
                raise ValueError(
                    f"{key}: expected {levels} entries, as priority_levels says, got {len(said)}"
                )
        return self


class ModelTable(ModelSettings):
    """`[models.NAME]`: a model's settings, and what to serve under that name.

    Attributes:
        uri: The model's URI; empty where it is named elsewhere.
    """

    uri: str = ""


class ServerSettings(Table):
    """`[server]`: how the daemon runs.

    Attributes:
        models: `[NAME=]URI` as given; empty, with no `uri` of a model's table either, for every
            registered model.
        tracking_uri: Where the registry is; absolute.
        host: Address to listen on; or unix:PATH, absolute.
        socket_mode: Who may open the file of a Unix socket, in octal.
        port: Port to listen on; 0 for any free one. Of a Unix socket it says nothing.
        metrics_port: Port of the metrics endpoint; 0 for any free one.
        device: auto, cpu, cuda or cuda:N.
        threads: Threads of one call on the CPU; 0 for what leaves none without a core.
        memory_fraction: Which part of a GPU's memory may be in use once a model is loaded.
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
        typed_tags: Whether field numbers of typed services are kept as tags of registered models.
        instances_max: The most instances that a model version's tag may ask for.
        log_format: How the log is written; auto is console on a terminal, else JSON.
        log_level: The least level that is logged.
        request_log: Whether each request is logged.
        allow_pickle: Whether models may be loaded that execute code while they load.
        allow_flavors: The flavors that may be loaded, "pyfunc" for python_function; empty for all.
        allow_sources: Where models may come from: beginnings of URIs and directories, in which a
            star stands for any characters of one segment; empty for anywhere.
    """

    models: tuple[str, ...] = ()
    tracking_uri: str = ""
    host: Annotated[str, Field(min_length=1), AfterValidator(_host), _HOST] = "127.0.0.1"
    socket_mode: Annotated[
        str, Field(pattern=r"^0?[0-7]{3}$"), Expected("a file's mode in octal, as in 0660")
    ] = "0600"
    port: _Port = 8001
    metrics_port: _Port = 8002
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$"), Expected(_DEVICE)] = (
        "auto"
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    memory_fraction: Annotated[float, Field(ge=0.01, le=1, allow_inf_nan=False)] = 0.9
    transport: Literal["auto", "native", "grpcio"] = "auto"
    trusted_network: bool = False
    message_bytes_max: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 64 << 20
    queue_bytes_max: _Bytes = 1 << 30
    arena_bytes_max: Annotated[int, Field(ge=64 << 10, le=2**63 - 1)] = 1 << 30
    cache_dir: _Path = ""
    drain_delay_s: _Seconds = 0.0
    drain_s: _Seconds = 30.0
    strict_readiness: bool = False
    typed_tags: bool = True
    instances_max: Annotated[int, Field(ge=1, le=64)] = 8
    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    request_log: bool = False
    allow_pickle: bool = True
    allow_flavors: Annotated[
        tuple[Annotated[str, AfterValidator(_known)], ...],
        Expected(f"a list of flavors among {', '.join(FLAVORS)}"),
    ] = ()
    allow_sources: Annotated[
        tuple[Annotated[str, AfterValidator(_pattern)], ...],
        Expected("a list of beginnings of URIs or directories, * for a part of a segment"),
    ] = ()


class TlsSettings(Table):
    """`[tls]`: encryption of the grpcio listener; all files are PEM.

    Attributes:
        cert: File of the server's certificate chain; empty for no TLS.
        key: File of its private key.
        client_ca: File of the authorities whose client certificates are demanded; empty for none.
    """

    cert: _Path = ""
    key: _Path = ""
    client_ca: _Path = ""


class AuthSettings(Table):
    """`[auth]`: who may call.

    Attributes:
        tokens: File of the hashed tokens; empty for no tokens.
        open_health: Whether health may be asked without a token.
    """

    tokens: _Path = ""
    open_health: bool = False


class SandboxSettings(Table):
    """`[sandbox]`: which worker processes are confined, and what those may touch all the same.

    Attributes:
        confine: Which ones: auto those that load under allow_pickle = false, all, or none.
        required: Whether the server starts only where it can confine them wholly.
        read: Further directories and files that confined workers may read.
        variables: Further environment variables that confined workers are given.
    """

    confine: Literal["auto", "all", "none"] = "auto"
    required: bool = False
    read: Annotated[tuple[str, ...], Mark.PATH, Expected("a list of paths")] = ()
    variables: Annotated[tuple[str, ...], Expected("a list of names of variables")] = ()


TABLES: Final[Mapping[str, type[Table]]] = {
    "server": ServerSettings,
    "tls": TlsSettings,
    "auth": AuthSettings,
    "sandbox": SandboxSettings,
    "models": ModelTable,
}

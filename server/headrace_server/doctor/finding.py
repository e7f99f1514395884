"""Finding: one thing that was looked at. Setup: what `headrace serve` would run with."""

import enum
from dataclasses import dataclass


class Status(enum.Enum):
    """How it stands."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        name: What was looked at.
        status: How it stands; a problem keeps `headrace serve` from working as it is set up.
        text: One sentence.
        remedy: A command or a setting that mends it; empty where nothing needs to be mended.
    """

    name: str
    status: Status
    text: str
    remedy: str = ""


def ok(name: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(name, Status.OK, text)


def warning(name: str, text: str, remedy: str = "") -> Finding:
    """It works, though perhaps not as wished."""
    return Finding(name, Status.WARNING, text, remedy)


def problem(name: str, text: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(name, Status.PROBLEM, text, remedy)


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings that checks ask about: see `[server]`, `[tls]`, `[auth]` and `[sandbox]`."""

    tracking_uri: str = ""
    cache_dir: str = ""
    host: str = "127.0.0.1"
    port: int = 8001
    metrics_port: int = 8002
    device: str = "auto"
    transport: str = "auto"
    trusted_network: bool = False
    arena_bytes_max: int = 1 << 30
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    tokens: str = ""
    is_confining: bool = False
    must_confine: bool = False

    @property
    def socket_path(self) -> str:
        """The path of the Unix socket that it would listen on; empty for an address."""
        from ..settings import socket_path  # noqa: PLC0415 - only the server's extra brings it.

        return socket_path(self.host)

    @property
    def has_tls(self) -> bool:
        """Whether the server would encrypt."""
        return bool(self.tls_cert or self.tls_key or self.tls_client_ca)

"""Channel: where the server is, and how the connection to it behaves.

What the synchronous and the asyncio client agree on; neither opens a connection here.
"""

import re
from typing import Any, Final

DEFAULT_TARGET: Final = "127.0.0.1:8001"
DEFAULT_TIMEOUT_S: Final = 60.0
MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024

_DEFAULT_PORT: Final = 8001

# gRPC servers by default take pings at most every five minutes and close the connection of a client
# that sends them oftener. Keepalive is still worth having: with it, Linux drops a connection whose
# peer has not acknowledged data for the keepalive timeout.
_KEEPALIVE_TIME_MS: Final = 300_000
_KEEPALIVE_TIMEOUT_MS: Final = 20_000

# What gRPC itself resolves: unix:path, unix:///path, unix-abstract:name, dns:///host:port, ...
_RESOLVED_BY_GRPC = re.compile(r"^(unix|unix-abstract|dns|ipv4|ipv6|vsock|xds):")
_SCHEME = re.compile(r"^grpcs?://")
_ADDRESS = re.compile(r"^(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]@]+)(:(?P<port>\d{1,5}))?$")


def channel_target(target: str) -> str:
    """The name that gRPC connects to for *target*.

    Args:
        target: "host:port", "host" (port 8001), "[::1]:8001", any of these behind "grpc://" or
            "grpcs://", or a name that gRPC resolves itself, such as "unix:/run/headrace.sock".

    Raises:
        ValueError: It is none of these.
    """
    if _RESOLVED_BY_GRPC.match(target):
        return target
    match = _ADDRESS.match(_SCHEME.sub("", target))
    if match is None or int(match["port"] or 0) > 0xFFFF:
        raise ValueError(f"cannot connect to {target!r}: expected host:port or unix:path")
    return f"{match['host']}:{match['port'] or _DEFAULT_PORT}"


def channel_options(message_bytes_max: int) -> list[tuple[str, Any]]:
    """Channel arguments: messages up to *message_bytes_max* bytes both ways, and keepalive."""
    return [
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ]

"""Channel: where the server is, and how the connection to it behaves.

What the synchronous and the asyncio client agree on; neither opens a connection here. Balancing,
reconnecting and retries are gRPC's own, by a service config.
"""

import json
import os
import re
import socket
from collections.abc import Sequence
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

# A server that was away is found again soon after it is back: by default gRPC would wait up to two
# minutes between two attempts, and half a minute between two looks at DNS.
_RECONNECT_FIRST_MS: Final = 100
_RECONNECT_MAX_MS: Final = 5_000
_DNS_LOOKS_MS: Final = 5_000

# More gRPC does not make.
ATTEMPTS_MAX: Final = 5
_SERVICE: Final = "inference.GRPCInferenceService"
# What changes nothing on the server; not whether it is ready, which is asked of this very moment.
_REPEATABLE: Final = ("ModelInfer", "ModelMetadata", "RepositoryIndex")
# Retries stop while more than half of these are spent: an error costs one, ten answers earn one.
_RETRY_TOKENS: Final = {"maxTokens": 10, "tokenRatio": 0.1}

# What gRPC itself resolves: unix:path, unix:///path, unix-abstract:name, dns:///host:port, ...
_RESOLVED_BY_GRPC = re.compile(r"^(unix|unix-abstract|dns|ipv4|ipv6|vsock|xds):")
_SCHEME = re.compile(r"^grpcs?://")
_UNIX: Final = "unix:"
# The kernel keeps 108, the last of them a zero byte.
_UNIX_PATH_BYTES_MAX: Final = 107
_ADDRESS = re.compile(r"^(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]@]+)(:(?P<port>\d{1,5}))?$")


def channel_target(target: str) -> str:
    """The name that gRPC connects to for *target*.

    Args:
        target: "host:port", "host" (port 8001), "[::1]:8001", any of these behind "grpc://" or
            "grpcs://", or a name that gRPC resolves itself, such as "unix:/run/headrace.sock".

    Raises:
        ValueError: It is none of these, or the path of a Unix socket that there cannot be.
    """
    if target.startswith(_UNIX):
        _check_path(target, target.removeprefix(_UNIX))
    if _RESOLVED_BY_GRPC.match(target):
        return target
    match = _ADDRESS.match(_SCHEME.sub("", target))
    if match is None or int(match["port"] or 0) > 0xFFFF:
        raise ValueError(f"cannot connect to {target!r}: expected host:port or unix:path")
    return f"{match['host']}:{match['port'] or _DEFAULT_PORT}"


def channel_targets(targets: str | Sequence[str]) -> str:
    """The name that gRPC connects to for one target or for a list of them.

    A name within a list is resolved here and now, since gRPC resolves lists of addresses alone; for
    one whose addresses change, give it as the only target, and gRPC goes on asking DNS. A list of
    Unix sockets is one too.

    Raises:
        ValueError: One is no address, has no address in DNS, or two of IPv4, IPv6 and Unix sockets
            are mixed, which gRPC cannot have in one channel.
    """
    if isinstance(targets, str):
        return channel_target(targets)
    if not targets:
        raise ValueError("cannot connect to an empty list: expected host:port or unix:path")
    names = [channel_target(target) for target in targets]
    if len(names) == 1:
        return names[0]
    if sockets := [name.removeprefix(_UNIX) for name in names if name.startswith(_UNIX)]:
        if len(sockets) < len(names):
            raise ValueError(
                f"cannot connect to {list(targets)}: expected Unix sockets or addresses alone, got "
                "both"
            )
        return f"{_UNIX}{','.join(dict.fromkeys(sockets))}"
    found: dict[str, list[str]] = {"ipv4": [], "ipv6": []}
    for target, name in zip(targets, names, strict=True):
        if _RESOLVED_BY_GRPC.match(name):
            raise ValueError(
                f"cannot connect to {target!r} in a list: expected host:port or unix:path"
            )
        host, _, port = name.rpartition(":")
        for scheme, address in _addresses(host.strip("[]"), int(port)):
            if address not in found[scheme]:
                found[scheme].append(address)
    if all(found.values()):
        raise ValueError(
            f"cannot connect to {list(targets)}: expected IPv4 or IPv6 addresses alone, got both"
        )
    (scheme,) = (scheme for scheme, addresses in found.items() if addresses)
    return f"{scheme}:{','.join(found[scheme])}"


def channel_options(
    message_bytes_max: int, *, attempts_max: int = 1, wait_for_ready: bool = False
) -> list[tuple[str, Any]]:
    """Channel arguments: limits of messages, keepalive, reconnecting, balancing and retries.

    Args:
        message_bytes_max: The longest message, both ways.
        attempts_max: How often a call that changes nothing is made at most.
        wait_for_ready: Whether such a call waits for a connection rather than fail.

    Raises:
        ValueError: *attempts_max* is none of 1 to 5.
    """
    return [
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_FIRST_MS),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MAX_MS),
        ("grpc.dns_min_time_between_resolutions_ms", _DNS_LOOKS_MS),
        ("grpc.service_config", _service_config(attempts_max, wait_for_ready=wait_for_ready)),
        # What is longer than gRPC keeps, it does not send again: 256 KiB by default.
        ("grpc.per_rpc_retry_buffer_size", message_bytes_max),
    ]


def authority_options(target: str) -> list[tuple[str, Any]]:
    """Channel arguments for a list of addresses without TLS: the first is what calls are made to.

    gRPC would put the whole list into the header `:authority`, which servers refuse. To a Unix
    socket it says localhost.
    """
    _, _, addresses = target.partition(":")
    if "," not in addresses or target.startswith(_UNIX):
        return []
    return [("grpc.default_authority", addresses.partition(",")[0])]


def _check_path(target: str, path: str) -> None:
    """Refuse what gRPC would not connect to, or to something else, with words that say little."""
    path = path.removeprefix("//") if path.startswith("///") else path
    if not path.strip("/") or "," in path or path.startswith("//"):
        raise ValueError(f"cannot connect to {target!r}: expected unix:path, without a comma")
    size = len(os.fsencode(path))
    if size > _UNIX_PATH_BYTES_MAX:
        raise ValueError(
            f"cannot connect to {target!r}: its path has {size} bytes, and that of a Unix socket "
            f"{_UNIX_PATH_BYTES_MAX} at most"
        )


def _service_config(attempts_max: int, *, wait_for_ready: bool) -> str:
    """GRPC's service config, which no server and no DNS record overrides."""
    if not 1 <= attempts_max <= ATTEMPTS_MAX:
        raise ValueError(f"attempts_max: expected 1 to {ATTEMPTS_MAX}, got {attempts_max}")
    method: dict[str, Any] = {
        "name": [{"service": _SERVICE, "method": name} for name in _REPEATABLE],
        "waitForReady": wait_for_ready,
    }
    # One server is a list of one; where there are more, all of them have a connection.
    config: dict[str, Any] = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [method],
    }
    if attempts_max > 1:
        method["retryPolicy"] = {
            "maxAttempts": attempts_max,
            "initialBackoff": "0.1s",
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config["retryThrottling"] = _RETRY_TOKENS
    return json.dumps(config)


def _addresses(host: str, port: int) -> list[tuple[str, str]]:
    """(scheme, address) of *host*; its IPv6 ones only where it has no others."""
    for scheme, family in (("ipv4", socket.AF_INET), ("ipv6", socket.AF_INET6)):
        try:
            found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        except socket.gaierror:
            continue
        shown = "[{}]:{}" if family == socket.AF_INET6 else "{}:{}"
        return [(scheme, shown.format(address[0], port)) for *_, address in found]
    raise ValueError(f"cannot connect to {host!r}: DNS has no address of it")

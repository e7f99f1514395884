"""Choice: which of the two listeners takes calls."""

import ipaddress
import socket
from typing import Protocol

from ..errors import UsageError
from ..settings import socket_path


class Wishes(Protocol):
    """What was set about it; see `settings.ServerSettings`."""

    @property
    def host(self) -> str:
        """Address or Unix socket to listen on."""

    @property
    def transport(self) -> str:
        """auto, native or grpcio."""

    @property
    def trusted_network(self) -> bool:
        """Whether the network beyond loopback is safe without TLS."""


def is_native(wishes: Wishes, *, has_tls: bool = False) -> bool:
    """Whether the native listener is safe here: it has no TLS and buffers messages of any size.

    Raises:
        UsageError: The host has no address, or what was asked for cannot go together.
    """
    if has_tls:
        if wishes.transport == "native":
            raise UsageError(
                "transport is native, but the native listener has no TLS: take transport grpcio or "
                "auto, or leave out [tls]"
            )
        return False
    if wishes.transport == "auto":
        return wishes.trusted_network or is_loopback(wishes.host)
    return wishes.transport == "native"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches *host*, an address or a Unix socket.

    Raises:
        UsageError: It has no address.
    """
    if socket_path(host):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None)
    except OSError as error:
        raise UsageError(f"host {host!r} has no address: {error}") from error
    return all(ipaddress.ip_address(address[4][0]).is_loopback for address in found)

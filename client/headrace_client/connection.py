"""Connection: all that a channel is made of, and the channel, for threads and for asyncio."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc

from .channel import MESSAGE_BYTES_MAX, authority_options, channel_options, channel_targets
from .forks import connection_options
from .security import Tls, channel_credentials, tls_options


class Connection(NamedTuple):
    """What gRPC is told to open a channel.

    Attributes:
        target: The name that gRPC connects to.
        credentials: How it is encrypted; None where it is not.
        options: Channel arguments.
    """

    target: str
    credentials: grpc.ChannelCredentials | None
    options: list[tuple[str, Any]]

    def open(self) -> grpc.Channel:
        """A channel for threads."""
        if self.credentials is None:
            return grpc.insecure_channel(self.target, self.options)
        return grpc.secure_channel(self.target, self.credentials, self.options)

    def open_aio(self) -> grpc.aio.Channel:
        """A channel for asyncio."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.target, self.options)
        return grpc.aio.secure_channel(self.target, self.credentials, self.options)


def connection_to(
    targets: str | Sequence[str],
    *,
    tls: bool | Tls | None = None,
    message_bytes_max: int = MESSAGE_BYTES_MAX,
    attempts_max: int = 1,
    wait_for_ready: bool = False,
) -> Connection:
    """How to connect to *targets*; arguments are those of `Client`.

    Raises:
        ValueError: One is no address, a file of *tls* cannot be used, or a number is out of its
            range.
    """
    target = channel_targets(targets)
    credentials = channel_credentials(tls, targets)
    options = channel_options(
        message_bytes_max, attempts_max=attempts_max, wait_for_ready=wait_for_ready
    )
    options += tls_options(tls, target) + connection_options()
    if credentials is None:
        options += authority_options(target)
    return Connection(target, credentials, options)

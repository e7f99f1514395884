"""Connecting: how a command reaches a daemon, from the options that such commands share.

A command takes a `Connection`, whose fields are its flags (cli/flags.py), and hands it on.
Importing this costs no gRPC: `headrace --help` needs none.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    from headrace_client import Client, Tls


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where a daemon is and how to speak to it.

    Attributes:
        server: "host:port", with "grpcs://" before it for TLS; or "unix:path".
        token: What the daemon knows the caller by; empty for none.
        tls: Whether to encrypt; so do the files below.
        tls_ca: File of the authorities to trust; empty for those of the system.
        tls_cert: File of the caller's own certificate; empty for none.
        tls_key: File of its private key.
    """

    server: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the daemon is; grpcs://HOST:PORT for TLS, or unix:PATH.",
        ),
    ] = "127.0.0.1:8001"
    token: Annotated[
        str,
        typer.Option(
            metavar="TOKEN",
            envvar="HEADRACE_TOKEN",
            show_default=False,
            help="What the daemon knows you by. The variable keeps it out of lists of processes.",
        ),
    ] = ""
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt; trust the system's authorities.")] = (
        False
    )
    tls_ca: Annotated[
        str,
        typer.Option(metavar="FILE", show_default=False, help="Encrypt; trust these authorities."),
    ] = ""
    tls_cert: Annotated[
        str,
        typer.Option(metavar="FILE", show_default=False, help="Encrypt; your own certificate."),
    ] = ""
    tls_key: Annotated[
        str,
        typer.Option(metavar="FILE", show_default=False, help="The private key of --tls-cert."),
    ] = ""

    @property
    def tls_setting(self) -> "bool | Tls | None":
        """What a client is told of encryption: files, yes, or nothing but what *server* says."""
        from headrace_client import Tls  # noqa: PLC0415 - see above.

        files = Tls(ca=self.tls_ca, cert=self.tls_cert, key=self.tls_key)
        return files if files != Tls() else self.tls or None

    def client(self, timeout_s: float = 60.0) -> "Client":
        """A client of the daemon, whose calls may take *timeout_s*; nothing is sent yet.

        Raises:
            UsageError: An option cannot be used.
        """
        from headrace_client import Client  # noqa: PLC0415 - see above.

        try:
            return Client(self.server, timeout_s=timeout_s, token=self.token, tls=self.tls_setting)
        except ValueError as error:
            raise UsageError(str(error)) from None

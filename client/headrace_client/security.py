"""Security: how a client shows who it is, and makes sure of whom it speaks to.

A token travels as metadata of each call, since gRPC's own call credentials refuse connections that
are not encrypted.
"""

import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc

# A file's path, or what it holds.
Pem: TypeAlias = str | os.PathLike[str] | bytes

# What HTTP allows in a bearer token.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")

# Where systems keep the authorities they trust, all in one file: Debian and Alpine, Fedora and
# RHEL, SUSE, BSD and macOS.
_SYSTEM_ROOTS: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_GRPC_ROOTS: Final = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """An encrypted connection. Everything is in PEM form: a file's path, or its content as bytes.

    Attributes:
        ca: The authorities that may vouch for the server; empty for those the system trusts.
        cert: Our own certificate chain, for a server that demands one; empty for none.
        key: Its private key.
        server_name: The name that the server's certificate must bear, where it is not the target's;
            that of a Unix socket is localhost.
    """

    ca: Pem = ""
    cert: Pem = ""
    key: Pem = ""
    server_name: str = ""

    def __repr__(self) -> str:
        # A key given as bytes must not reach a log.
        names = ("ca", "cert", "key", "server_name")
        given = ((name, getattr(self, name)) for name in names)
        shown = (f"{name}={_shown(value)}" for name, value in given if value)
        return f"Tls({', '.join(shown)})"


def call_metadata(token: str | None) -> tuple[tuple[str, str], ...] | None:
    """What every call bears for *token*; None without one.

    Raises:
        ValueError: It is no token.
    """
    if not token:
        return None
    if not _TOKEN.fullmatch(token):
        # Not shown: it may be a token but for a stray character.
        raise ValueError(
            "the token holds a character that no token can: expected letters, digits and -._~+/ "
            "alone, without a space or 'Bearer'"
        )
    return (("authorization", f"Bearer {token}"),)


def channel_credentials(
    tls: bool | Tls | None, targets: str | Sequence[str]
) -> grpc.ChannelCredentials | None:
    """How the connection to *targets* is encrypted; None where it is not.

    Args:
        tls: What the caller asks for; None leaves it to *targets*.
        targets: As the caller gave them; "grpcs://" before one asks for encryption too.

    Raises:
        ValueError: They contradict each other, a file cannot be read, or holds something else; or
            there are several targets, and nothing says which name their certificates bear.
    """
    given = [targets] if isinstance(targets, str) else targets
    asking = [target for target in given if target.startswith("grpcs://")]
    if tls is False and asking:
        raise ValueError(f"cannot connect to {asking[0]!r} with tls=False: expected grpc://")
    if not (tls or asking):
        return None
    if tls is None and len(asking) < len(given):
        raise ValueError("expected grpcs:// before every target of a list, or before none")
    if not isinstance(tls, Tls):
        tls = Tls()
    if len(given) > 1 and not tls.server_name:
        raise ValueError(
            "several targets with TLS need Tls(server_name=...): the name that all their "
            "certificates bear"
        )
    if bool(tls.cert) != bool(tls.key):
        raise ValueError("a certificate and its key go together: expected both cert and key")
    if tls.ca:
        ca: bytes | None = _read_authorities(tls.ca)
    else:
        ca = _system_roots()
    if not tls.cert:
        return grpc.ssl_channel_credentials(ca)
    cert = _read("cert", tls.cert, "CERTIFICATE")
    key = _read("key", tls.key, "PRIVATE KEY")
    _check_pair(tls.cert, tls.key)
    return grpc.ssl_channel_credentials(ca, key, cert)


def tls_options(tls: bool | Tls | None, target: str) -> list[tuple[str, Any]]:
    """Channel arguments that *tls* needs for what gRPC connects to as *target*.

    The path of a Unix socket is no name that a certificate bears: its server is localhost.
    """
    name = tls.server_name if isinstance(tls, Tls) else ""
    if not name and tls and target.startswith("unix:"):
        name = "localhost"
    return [("grpc.ssl_target_name_override", name)] if name else []


def _read(what: str, given: Pem, label: str) -> bytes:
    """What *given* holds, once it is known to be PEM of the kind *label*."""
    content = given
    if not isinstance(content, bytes):
        try:
            with open(content, "rb") as file:
                content = file.read()
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise ValueError(f"cannot read {what} {os.fspath(given)!r}: {reason}") from None
    if not re.search(rb"-----BEGIN [A-Z0-9 ]*" + label.encode() + rb"-----", content):
        raise ValueError(f"{_named(what, given)} holds no {label.lower()}: expected PEM form")
    return content


def _read_authorities(given: Pem) -> bytes:
    """Refuses what gRPC would only log, and end every call as UNAVAILABLE."""
    content = _read("ca", given, "CERTIFICATE")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
            cadata=content.decode("ascii", "replace")
        )
    except (ssl.SSLError, ValueError):
        raise ValueError(f"{_named('ca', given)} holds no certificate that can be read") from None
    return content


def _check_pair(cert: Pem, key: Pem) -> None:
    """The same for files that do not belong together; what is given as bytes is not looked into."""
    if isinstance(cert, bytes) or isinstance(key, bytes):
        return
    try:
        # Never asks for a passphrase, as it would without one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", "") or "the key cannot be read"
        raise ValueError(
            f"{_named('key', key)} does not fit {_named('cert', cert)}: "
            f"{reason.replace('_', ' ').lower()}"
        ) from None


def _system_roots() -> bytes | None:
    """The authorities this system trusts; None leaves it to gRPC, which brings a list of its own.

    gRPC's list does not know the authorities that an administrator added to the system.
    """
    if os.environ.get(_GRPC_ROOTS):
        return None
    for path in (ssl.get_default_verify_paths().cafile, *_SYSTEM_ROOTS):
        if path and os.path.exists(path):
            return _read("ca", path, "CERTIFICATE")
    return None


def _named(what: str, given: Pem) -> str:
    return f"the {what}" if isinstance(given, bytes) else f"{what} {os.fspath(given)!r}"


def _shown(value: Pem) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else repr(os.fspath(value))

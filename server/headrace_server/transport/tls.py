"""TLS: the certificate that the grpcio listener shows, and whose certificates it demands.

What was taken last shakes hands with every new connection, so replaced files reach those and leave
open connections as they are.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import grpc
import structlog

from ..errors import UsageError
from ..settings import TlsSettings
from .files import Contents, read_files

if TYPE_CHECKING:
    from cryptography import x509

_CURVES: Final = ("secp256r1", "secp384r1")
# Host names of a certificate that the log shows.
_NAMES_MAX: Final = 5

_log = structlog.get_logger("headrace")


class ServerTls:
    """Certificate, key and client authorities, as they were taken last.

    Attributes:
        paths: The files.
        contents: What they held then.
        told: What the log shall say of them.
    """

    def __init__(self, settings: TlsSettings) -> None:
        """Read and check the files of *settings*.

        Raises:
            UsageError: A file is not named, cannot be read, or does not hold what it should.
        """
        for name, value, other, needed in (
            ("cert", settings.cert, "key", settings.key),
            ("key", settings.key, "cert", settings.cert),
            ("client_ca", settings.client_ca, "cert", settings.cert),
        ):
            if value and not needed:
                raise UsageError(f"[tls] has {name} but no {other}: expected both cert and key")
        self.paths = tuple(filter(None, (settings.cert, settings.key, settings.client_ca)))
        self.contents = read_files(self.paths)
        self.told = _checked(self.paths, self.contents)
        # What gRPC uses. Compared by identity alone.
        self._used = self.contents

    def take(self, contents: Contents) -> Mapping[str, object]:
        """Use *contents* for new connections from now on; what the log shall say of them.

        Raises:
            UsageError: They do not fit together; what was used before stays.
        """
        self.told = _checked(self.paths, contents)
        self.contents = contents
        return self.told

    def credentials(self) -> grpc.ServerCredentials:
        """What a listener of grpcio takes; with client authorities it demands a certificate."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self.contents),
            # The stubs do not know that None means no change.
            self._fetch,  # type: ignore[arg-type]
            require_client_authentication=len(self.paths) > 2,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """What the next handshake shall use; None for what the last one used.

        Called by gRPC for every new connection, on threads of its own. A configuration serves once:
        gRPC takes it apart.
        """
        contents = self.contents
        if contents is self._used:
            return None
        self._used = contents
        return _configuration(contents)


def _configuration(contents: Contents) -> grpc.ServerCertificateConfiguration:
    chain, key, *client_ca = contents
    return grpc.ssl_server_certificate_configuration([(key, chain)], *client_ca)


def _checked(paths: tuple[str, ...], contents: Contents) -> Mapping[str, object]:
    """What the log shall say of files that fit together; one warning if callers will refuse them.

    Raises:
        UsageError: They do not.
    """
    # Memory and time that a daemon without TLS does not need to spend.
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415

    certificate = _certificates(paths[0], contents[0])[0]
    try:
        key = serialization.load_pem_private_key(contents[1], password=None)
    except TypeError:
        raise UsageError(
            f"the key in {paths[1]} is encrypted: expected one without a passphrase"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{paths[1]} holds no private key: expected one in PEM form") from None
    # Callers built on gRPC's C core, ours too, offer to verify no others; the listener would come
    # up, and every handshake fail.
    if not (
        isinstance(key, rsa.RSAPrivateKey)
        or (isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES)
    ):
        raise UsageError(
            f"the key in {paths[1]} is of a kind that gRPC does not take: expected RSA, or ECDSA "
            "on P-256 or P-384"
        )
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise UsageError(f"the key in {paths[1]} is not that of the certificate in {paths[0]}")
    for path, content in zip(paths[2:], contents[2:], strict=True):
        _certificates(path, content)
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not since <= datetime.now(UTC) <= until:
        _log.warning(
            "certificate_not_valid_now",
            file=paths[0],
            valid_since=since.isoformat(),
            valid_until=until.isoformat(),
        )
    return {"names": _names(certificate), "valid_until": until.isoformat()}


def _certificates(path: str, content: bytes) -> "list[x509.Certificate]":
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise UsageError(f"{path} holds no certificate: expected PEM form") from None


def _names(certificate: "x509.Certificate") -> list[str]:
    """The hosts that a certificate is for."""
    from cryptography import x509  # noqa: PLC0415

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [str(name.value) for name in found][:_NAMES_MAX]

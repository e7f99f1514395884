"""Security: whether the files of `[tls]` and `[auth]` are such that the server would take them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from .finding import Finding, Setup, ok, problem, warning

# Time enough to have a certificate renewed.
_LEFT_GOOD = timedelta(days=14)


def check_security(setup: Setup) -> Iterator[Finding]:
    """Yield findings about certificate and tokens, where either is set."""
    yield from _certificate(setup)
    yield from _tokens(setup)


def _certificate(setup: Setup) -> Iterator[Finding]:
    # Only the server's extra brings what these import.
    from ..errors import UsageError  # noqa: PLC0415
    from ..settings import TlsSettings  # noqa: PLC0415
    from ..transport.tls import ServerTls  # noqa: PLC0415

    tls = TlsSettings(cert=setup.tls_cert, key=setup.tls_key, client_ca=setup.tls_client_ca)
    if tls == TlsSettings():
        return
    try:
        told = ServerTls(tls).told
    except UsageError as error:
        yield problem("tls", str(error), "mend the file or [tls] in headrace.toml")
        return
    until = datetime.fromisoformat(str(told["valid_until"]))
    left = until - datetime.now(UTC)
    text = f"the certificate {tls.cert} is valid until {until:%Y-%m-%d %H:%M} UTC"
    remedy = "have it renewed; a running server takes new files by itself"
    if left < timedelta():
        yield problem("tls", text.replace("is valid", "was valid"), remedy)
    elif left < _LEFT_GOOD:
        yield warning("tls", text, remedy)
    else:
        yield ok("tls", text)


def _tokens(setup: Setup) -> Iterator[Finding]:
    from ..errors import UsageError  # noqa: PLC0415
    from ..transport.files import read_files  # noqa: PLC0415
    from ..transport.tokens import parse_tokens  # noqa: PLC0415

    if not setup.tokens:
        return
    try:
        tokens = parse_tokens(setup.tokens, *read_files((setup.tokens,)))
    except UsageError as error:
        yield problem("tokens", str(error), "headrace token NAME --file FILE makes an entry")
        return
    count = f"{len(tokens)} token{'' if len(tokens) == 1 else 's'}"
    if setup.has_tls or setup.socket_path:
        yield ok("tokens", f"{setup.tokens} holds {count}")
    else:
        yield warning(
            "tokens",
            f"{setup.tokens} holds {count}, but without TLS whoever reads the wire reads them",
            "set cert and key of [tls] in headrace.toml",
        )

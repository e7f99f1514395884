"""The listener's certificate: real handshakes over real sockets, with gRPC on both sides."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from structlog.testing import capture_logs

from certificates import Authority, Pair, encrypted
from headrace_server.control import ControlLoop
from headrace_server.errors import UsageError
from headrace_server.settings import TlsSettings
from headrace_server.transport.tls import ServerTls

HOSTS = ("localhost", "127.0.0.1")
ECHO = "/test.Echo/Echo"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def foreign() -> Authority:
    return Authority("another authority")


def settings(directory: Path, pair: Pair, client_ca: bytes = b"") -> TlsSettings:
    cert, key = pair.write(directory, "server")
    if not client_ca:
        return TlsSettings(cert=cert, key=key)
    path = directory / "clients.crt"
    path.write_bytes(client_ca)
    return TlsSettings(cert=cert, key=key, client_ca=str(path))


@contextlib.contextmanager
def listening(tls: ServerTls) -> Iterator[int]:
    """An echo over grpc.aio, as the daemon's own server is; its port."""

    async def echo(message: bytes, _: Any) -> bytes:
        return message

    async def start() -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server()
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Echo": grpc.unary_unary_rpc_method_handler(echo)
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Echo", handlers),)
        )
        port = server.add_secure_port("127.0.0.1:0", tls.credentials())
        await server.start()
        return server, port

    control = ControlLoop()
    server, port = control.run(start())
    try:
        yield port
    finally:
        control.run(server.stop(None))
        control.close()


@contextlib.contextmanager
def connected(port: int, ca: bytes, pair: Pair | None = None) -> Iterator[Any]:
    credentials = grpc.ssl_channel_credentials(
        ca, pair.key if pair else None, pair.cert if pair else None
    )
    # Connections of one process to one address are shared unless they are told not to be.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        yield ask(channel)


def ask(channel: Any) -> Any:
    """The echo, bytes in and bytes out."""
    return channel.unary_unary(ECHO, None, None)


def refused(port: int, ca: bytes, pair: Pair | None = None) -> str:
    """Why a call fails, as gRPC says it."""
    with connected(port, ca, pair) as echo, pytest.raises(grpc.RpcError) as caught:
        echo(b"?", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return str(caught.value.details())


def shown(port: int, ca: bytes) -> bytes:
    """The certificate that a new connection is shown, as DER; seen by OpenSSL."""
    context = ssl.create_default_context(cadata=ca.decode())
    with (
        socket.create_connection(("127.0.0.1", port), 20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True) or b""


def test_a_caller_that_trusts_the_authority_is_served(authority: Authority, tmp_path: Path) -> None:
    tls = ServerTls(settings(tmp_path, authority.issue(*HOSTS)))

    with listening(tls) as port, connected(port, authority.cert) as echo:
        assert echo(b"rows", timeout=20) == b"rows"
    assert tls.told["names"] == list(HOSTS)


def test_a_caller_refuses_an_expired_a_foreign_and_another_hosts_certificate(
    authority: Authority, foreign: Authority, tmp_path: Path
) -> None:
    for pair, ca in (
        (authority.issue(*HOSTS, days=-1), authority.cert),
        (authority.issue(*HOSTS), foreign.cert),
    ):
        with listening(ServerTls(settings(tmp_path, pair))) as port:
            assert "CERTIFICATE_VERIFY_FAILED" in refused(port, ca)
    with listening(ServerTls(settings(tmp_path, authority.issue("elsewhere.test")))) as port:
        assert "Hostname Verification Check failed" in refused(port, authority.cert)


def test_a_plain_connection_is_not_answered(authority: Authority, tmp_path: Path) -> None:
    tls = ServerTls(settings(tmp_path, authority.issue(*HOSTS)))

    with (
        listening(tls) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        ask(channel)(b"?", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_with_client_authorities_a_certificate_of_theirs_is_demanded(
    authority: Authority, foreign: Authority, tmp_path: Path
) -> None:
    tls = ServerTls(settings(tmp_path, authority.issue(*HOSTS), client_ca=authority.cert))

    with listening(tls) as port:
        with connected(port, authority.cert, authority.issue("caller")) as echo:
            assert echo(b"rows", timeout=20) == b"rows"
        refused(port, authority.cert)
        refused(port, authority.cert, foreign.issue("caller"))
        refused(port, authority.cert, authority.issue("caller", days=-1))


def test_new_files_reach_new_connections_and_leave_open_ones(
    authority: Authority, tmp_path: Path
) -> None:
    old, new = authority.issue(*HOSTS), authority.issue(*HOSTS)
    tls = ServerTls(settings(tmp_path, old))

    with listening(tls) as port, connected(port, authority.cert) as echo:
        echo(b"before", timeout=20)
        assert shown(port, authority.cert) == ssl.PEM_cert_to_DER_cert(old.cert.decode())
        for pair in (new, old, new):
            tls.take((pair.cert, pair.key))
            # Twice: the second connection finds what the first one fetched.
            for _ in range(2):
                found = shown(port, authority.cert)
                assert found == ssl.PEM_cert_to_DER_cert(pair.cert.decode())
            assert echo(b"after", timeout=20) == b"after"


def test_new_client_authorities_hold_for_new_connections(
    authority: Authority, foreign: Authority, tmp_path: Path
) -> None:
    pair = authority.issue(*HOSTS)
    tls = ServerTls(settings(tmp_path, pair, client_ca=authority.cert))

    with listening(tls) as port, connected(port, authority.cert, authority.issue("a")) as echo:
        echo(b"before", timeout=20)
        tls.take((pair.cert, pair.key, foreign.cert))
        assert echo(b"after", timeout=20) == b"after"
        refused(port, authority.cert, authority.issue("a"))
        with connected(port, authority.cert, foreign.issue("b")) as other:
            assert other(b"rows", timeout=20) == b"rows"


def test_files_that_do_not_fit_change_nothing(authority: Authority, tmp_path: Path) -> None:
    old, new = authority.issue(*HOSTS), authority.issue(*HOSTS)
    tls = ServerTls(settings(tmp_path, old))

    with listening(tls) as port:
        for contents, why in (
            ((new.cert, old.key), "is not that of the certificate"),
            ((new.cert[:100], new.key), "holds no certificate"),
            ((b"", b""), "holds no certificate"),
            ((new.cert, new.key[:60]), "holds no private key"),
        ):
            with pytest.raises(UsageError, match=why):
                tls.take(contents)
            assert shown(port, authority.cert) == ssl.PEM_cert_to_DER_cert(old.cert.decode())


@pytest.mark.parametrize(
    ("cert", "key", "client_ca", "why"),
    [
        (b"text", None, b"", r"server\.crt holds no certificate"),
        (None, b"text", b"", r"server\.key holds no private key"),
        (None, None, b"text", r"clients\.crt holds no certificate"),
    ],
)
def test_a_file_that_holds_something_else_is_named_with_the_reason(
    authority: Authority,
    tmp_path: Path,
    cert: bytes | None,
    key: bytes | None,
    client_ca: bytes,
    why: str,
) -> None:
    good = authority.issue(*HOSTS)
    pair = Pair(good.cert if cert is None else cert, good.key if key is None else key)

    with pytest.raises(UsageError, match=why):
        ServerTls(settings(tmp_path, pair, client_ca))


def test_a_key_of_another_certificate_or_behind_a_passphrase_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    pair, other = authority.issue(*HOSTS), authority.issue(*HOSTS)

    with pytest.raises(UsageError, match=r"server\.key is not that of .*server\.crt"):
        ServerTls(settings(tmp_path, Pair(pair.cert, other.key)))
    with pytest.raises(UsageError, match=r"server\.key is encrypted: expected one without"):
        ServerTls(settings(tmp_path, Pair(pair.cert, encrypted(pair.key))))


def test_keys_that_grpc_takes_are_served_and_others_refused(
    authority: Authority, tmp_path: Path
) -> None:
    """Found out by handshakes: with other kinds the listener comes up, and nobody gets in."""
    for key in (
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ):
        tls = ServerTls(settings(tmp_path, authority.issue(*HOSTS, key=key)))
        with listening(tls) as port, connected(port, authority.cert) as echo:
            assert echo(b"rows", timeout=20) == b"rows"
    for other in (ec.generate_private_key(ec.SECP521R1()), ed25519.Ed25519PrivateKey.generate()):
        with pytest.raises(UsageError, match="expected RSA, or ECDSA on P-256 or P-384"):
            ServerTls(settings(tmp_path, authority.issue(*HOSTS, key=other)))


def test_files_that_cannot_be_read_are_named_with_the_reason(
    authority: Authority, tmp_path: Path
) -> None:
    given = settings(tmp_path, authority.issue(*HOSTS))
    os.unlink(given.key)

    with pytest.raises(UsageError, match=r"cannot read .*server\.key: No such file"):
        ServerTls(given)
    with pytest.raises(UsageError, match=r"cannot read .*: Is a directory"):
        ServerTls(TlsSettings(cert=given.cert, key=str(tmp_path)))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"cert": "a"}, "has cert but no key"),
        ({"key": "a"}, "has key but no cert"),
        ({"client_ca": "a"}, "has client_ca but no cert"),
    ],
)
def test_half_a_setting_is_refused(given: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        ServerTls(TlsSettings(**given))


def test_a_certificate_that_callers_will_refuse_is_warned_of(
    authority: Authority, tmp_path: Path
) -> None:
    with capture_logs() as lines:
        ServerTls(settings(tmp_path, authority.issue(*HOSTS)))
        assert lines == []
        ServerTls(settings(tmp_path, authority.issue(*HOSTS, days=-1)))
        ServerTls(settings(tmp_path, authority.issue(*HOSTS, days=90)))

    assert [line["event"] for line in lines] == ["certificate_not_valid_now"] * 2


def test_a_chain_is_sent_whole_and_may_share_a_file_with_its_key(
    authority: Authority, tmp_path: Path
) -> None:
    pair = authority.issue(*HOSTS)
    path = tmp_path / "all.pem"
    path.write_bytes(pair.key + pair.cert + authority.cert)
    tls = ServerTls(TlsSettings(cert=str(path), key=str(path)))

    with listening(tls) as port, connected(port, authority.cert) as echo:
        assert echo(b"rows", timeout=20) == b"rows"


def test_many_handshakes_at_once_survive_new_files(authority: Authority, tmp_path: Path) -> None:
    pairs = [authority.issue(*HOSTS) for _ in range(8)]
    tls = ServerTls(settings(tmp_path, pairs[0]))

    async def call(port: int) -> bytes:
        credentials = grpc.ssl_channel_credentials(authority.cert)
        options = [("grpc.use_local_subchannel_pool", 1)]
        address = f"127.0.0.1:{port}"
        async with grpc.aio.secure_channel(address, credentials, options) as channel:
            answer: bytes = await ask(channel)(b"rows", timeout=20)
            return answer

    async def calls(port: int) -> list[bytes]:
        answers = []
        for pair in pairs:
            tls.take((pair.cert, pair.key))
            answers += await asyncio.gather(*(call(port) for _ in range(8)))
        return answers

    with listening(tls) as port:
        assert asyncio.run(calls(port)) == [b"rows"] * 64

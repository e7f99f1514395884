"""Tokens and encrypted connections, in both clients, against the double of the server."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import oip_double
from alike import KINDS
from certificates import Authority, Pair, encrypted
from headrace_client import AsyncClient, Client, Tls, Unavailable
from oip_double import Double

ROW = np.array([[5.1, 3.5, 1.4, 0.2]])
COLUMNS = {name: ROW[0, i : i + 1] for i, name in enumerate(oip_double.IRIS_COLUMNS)}
TOKEN = "headrace_" + "a" * 43
MODELS = {"iris": oip_double.iris()}


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def caller(authority: Authority) -> Pair:
    return authority.issue("caller")


@pytest.fixture
def plain() -> Iterator[Double]:
    with oip_double.serving(MODELS) as double:
        yield double


@pytest.fixture
def secure(authority: Authority) -> Iterator[Double]:
    """A double with a certificate for localhost and 127.0.0.1."""
    pair = authority.issue("localhost", "127.0.0.1")
    credentials = grpc.ssl_server_credentials([(pair.key, pair.cert)])
    with oip_double.serving(MODELS, credentials) as double:
        yield double


@pytest.fixture
def mutual(authority: Authority) -> Iterator[Double]:
    """A double that demands a certificate of the authority's."""
    pair = authority.issue("localhost", "127.0.0.1")
    credentials = grpc.ssl_server_credentials(
        [(pair.key, pair.cert)], authority.cert, require_client_auth=True
    )
    with oip_double.serving(MODELS, credentials) as double:
        yield double


def answers(target: str, **options: Any) -> None:
    """Both clients get an answer."""

    async def ask() -> None:
        async with AsyncClient(target, timeout_s=20, **options) as client:
            assert (await client.predict("iris", ROW)).version == "1"

    with Client(target, timeout_s=20, **options) as client:
        assert client.predict("iris", ROW).version == "1"
    asyncio.run(ask())


def fails(target: str | list[str], **options: Any) -> str:
    """Neither client is connected; why."""

    async def ask() -> None:
        async with AsyncClient(target, timeout_s=20, **options) as client:
            with pytest.raises(Unavailable):
                await client.models()

    with (
        Client(target, timeout_s=20, **options) as client,
        pytest.raises(Unavailable) as caught,
    ):
        client.models()
    asyncio.run(ask())
    return str(caught.value)


def test_every_call_bears_the_token(plain: Double) -> None:
    async def ask() -> None:
        async with AsyncClient(plain.target, token=TOKEN, timeout_s=20) as client:
            await client.predict("iris", ROW)
            await client.infer("iris", COLUMNS)
            await client.models()
            await client.ready()
            await client.ready("iris")

    with Client(plain.target, token=TOKEN, timeout_s=20) as client:
        client.predict("iris", ROW)
        client.submit("iris", ROW).result(20)
        client.models()
        client.ready()
        client.ready("iris")
    asyncio.run(ask())

    # Each predict after asking for the metadata.
    assert len(plain.authorizations) == 6 + 6
    assert set(plain.authorizations) == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("token", [None, ""])
def test_without_a_token_nothing_is_borne(plain: Double, token: str | None) -> None:
    answers(plain.target, token=token)

    assert set(plain.authorizations) == {None}


@pytest.mark.parametrize("token", ["two words", "Bearer abc", "line\n", "t\u00f6ken", "=abc"])
def test_what_cannot_travel_as_a_token_is_refused_without_being_shown(token: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="expected letters, digits") as caught:
            kind("127.0.0.1:1", token=token)
        assert token.strip() not in str(caught.value)


def test_authorities_are_given_as_a_path_or_as_bytes(
    secure: Double, authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "ca.crt"
    path.write_bytes(authority.cert)

    for given in (authority.cert, path, str(path)):
        answers(secure.target, tls=Tls(ca=given))
    answers(secure.target, tls=Tls(ca=authority.cert), token=TOKEN)
    assert f"Bearer {TOKEN}" in secure.authorizations


def test_the_systems_authorities_are_those_that_openssl_is_told_of(
    secure: Double, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    path = tmp_path / "ca.crt"
    path.write_bytes(authority.cert)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    answers(secure.target, tls=True)
    answers(f"grpcs://{secure.target}")
    answers(f"grpcs://{secure.target}", tls=True)

    path.write_bytes(Authority("another").cert)
    assert "CERTIFICATE_VERIFY_FAILED" in fails(secure.target, tls=True)


def test_a_server_that_nobody_trusted_vouches_for_is_not_spoken_to(
    secure: Double, plain: Double, authority: Authority
) -> None:
    foreign = Authority("another")

    assert "CERTIFICATE_VERIFY_FAILED" in fails(secure.target, tls=Tls(ca=foreign.cert))
    fails(secure.target)
    fails(plain.target, tls=Tls(ca=authority.cert))
    assert plain.authorizations == []


def test_another_name_is_expected_where_one_is_given(authority: Authority) -> None:
    pair = authority.issue("models.example.org")
    credentials = grpc.ssl_server_credentials([(pair.key, pair.cert)])
    with oip_double.serving(MODELS, credentials) as double:
        assert "Hostname Verification" in fails(double.target, tls=Tls(ca=authority.cert))
        answers(double.target, tls=Tls(ca=authority.cert, server_name="models.example.org"))


def test_all_of_a_list_are_asked_by_the_name_that_their_certificates_bear(
    authority: Authority,
) -> None:
    pair = authority.issue("models.example.org")
    credentials = grpc.ssl_server_credentials([(pair.key, pair.cert)])
    with (
        oip_double.serving(MODELS, credentials) as one,
        oip_double.serving(MODELS, credentials) as two,
    ):
        targets = [one.target, f"grpcs://{two.target}"]
        for kind in KINDS:
            tls = Tls(ca=authority.cert, server_name="models.example.org")
            with kind(targets, timeout_s=20, tls=tls) as client:
                asked = len(one.infer_requests), len(two.infer_requests)
                until = time.monotonic() + 20
                while len(one.infer_requests) == asked[0] or len(two.infer_requests) == asked[1]:
                    client.predict("iris", ROW)
                    assert time.monotonic() < until, "one is never asked"
        other = Tls(ca=authority.cert, server_name="others.example.org")
        assert "Hostname Verification" in fails(targets, tls=other)


def test_a_certificate_of_our_own_is_shown_where_one_is_demanded(
    mutual: Double, authority: Authority, caller: Pair, tmp_path: Path
) -> None:
    cert, key = caller.write(tmp_path, "caller")

    answers(mutual.target, tls=Tls(ca=authority.cert, cert=caller.cert, key=caller.key))
    answers(mutual.target, tls=Tls(ca=authority.cert, cert=cert, key=key))
    fails(mutual.target, tls=Tls(ca=authority.cert))


def test_a_certificate_and_a_token_of_our_own_go_together(
    mutual: Double, authority: Authority, caller: Pair
) -> None:
    tls = Tls(ca=authority.cert, cert=caller.cert, key=caller.key)

    answers(mutual.target, tls=tls, token=TOKEN)
    fails(mutual.target, tls=Tls(ca=authority.cert), token=TOKEN)

    # A token alone was not even heard.
    assert mutual.authorizations == [f"Bearer {TOKEN}"] * 4


def test_files_that_cannot_be_used_are_named_with_the_reason(
    authority: Authority, caller: Pair, tmp_path: Path
) -> None:
    cert, key = caller.write(tmp_path, "caller")
    _, other = authority.issue("other").write(tmp_path, "other")
    locked, junk, cut = tmp_path / "locked.key", tmp_path / "junk", tmp_path / "cut.crt"
    locked.write_bytes(encrypted(caller.key))
    junk.write_text("junk")
    cut.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")

    for tls, why in (
        (Tls(ca="nowhere.crt"), r"cannot read ca 'nowhere\.crt': No such file"),
        (Tls(ca=junk), r"ca '.*junk' holds no certificate: expected PEM"),
        (Tls(ca=b"junk"), "the ca holds no certificate"),
        (Tls(ca=cut), r"ca '.*cut\.crt' holds no certificate that can be read"),
        (Tls(cert=cert), "expected both cert and key"),
        (Tls(key=key), "expected both cert and key"),
        (Tls(cert=key, key=cert), r"cert '.*caller\.key' holds no certificate"),
        (Tls(cert=cert, key=junk), r"key '.*junk' holds no private key"),
        (Tls(cert=cert, key=other), r"key '.*other\.key' does not fit cert '.*caller\.crt'"),
        (Tls(cert=cert, key=locked), r"key '.*locked\.key' does not fit cert '.*caller\.crt'"),
    ):
        for kind in (Client, AsyncClient):
            with pytest.raises(ValueError, match=why):
                kind("127.0.0.1:1", tls=tls)


def test_an_encrypted_target_cannot_be_asked_in_plain_text() -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="with tls=False: expected grpc://"):
            kind("grpcs://127.0.0.1:1", tls=False)


def test_a_key_and_a_token_are_not_shown(caller: Pair, tmp_path: Path) -> None:
    tls = Tls(ca=tmp_path / "ca.crt", cert=caller.cert, key=caller.key)

    assert repr(tls) == (
        f"Tls(ca={os.fspath(tmp_path / 'ca.crt')!r}, cert=<{len(caller.cert)} bytes>, "
        f"key=<{len(caller.key)} bytes>)"
    )
    with Client("127.0.0.1:1", token=TOKEN) as client:
        assert TOKEN not in repr(client)

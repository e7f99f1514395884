"""TLS and tokens on real daemons, with our clients and with one that we did not write."""

import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import models
from certificates import Authority
from headrace_client import (
    AsyncClient,
    Client,
    PermissionDenied,
    Tls,
    Unauthenticated,
    Unavailable,
)
from headrace_server.transport.guard import HEALTH, SCOPES_OF
from headrace_server.transport.tokens import Scope, append_entry, entry_of, make_token
from serving import Daemon

pytestmark = pytest.mark.slow

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass
class Secured:
    """A daemon that wants tokens, and what one needs to be served by it."""

    daemon: Daemon
    tokens: Path
    secrets: dict[Scope, str]
    tls: Tls | None
    certificate: tuple[str, str] = ("", "")

    def client(self, scope: Scope | None = Scope.INFERENCE, **changes: Any) -> Client:
        token = None if scope is None else self.secrets[scope]
        given = {"token": token, "tls": self.tls, "timeout_s": 20, **changes}
        return Client(self.daemon.address, **given)

    def channel(self) -> grpc.Channel:
        """A bare one: what it bears is each call's own."""
        if self.tls is None:
            return grpc.insecure_channel(self.daemon.address)
        assert isinstance(self.tls.ca, bytes)
        assert isinstance(self.tls.key, bytes)
        assert isinstance(self.tls.cert, bytes)
        credentials = grpc.ssl_channel_credentials(self.tls.ca, self.tls.key, self.tls.cert)
        return grpc.secure_channel(self.daemon.address, credentials)

    def metadata(self, scope: Scope) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.secrets[scope]}"),)

    def after_reload(self, what: str, change: Callable[[], None]) -> dict[str, Any]:
        """Make *change* to a file; the log line that says it was taken."""
        before = len(self.daemon.events("reloaded"))
        change()
        line = self.daemon.wait("reloaded", count=before + 1)
        assert line["what"] == what
        return line


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def encrypted(
    store: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[Secured]:
    """TLS both ways and tokens, over the grpcio transport that this asks for."""
    directory = tmp_path_factory.mktemp("encrypted")
    cert, key = authority.issue("localhost", "127.0.0.1").write(directory, "server")
    (directory / "ca.crt").write_bytes(authority.cert)
    own = authority.issue("caller")
    yield from secured(
        store,
        cache,
        directory,
        Tls(ca=authority.cert, cert=own.cert, key=own.key),
        (cert, key),
        f"--set=tls.cert={cert}",
        f"--set=tls.key={key}",
        f"--set=tls.client_ca={directory / 'ca.crt'}",
    )


@pytest.fixture(scope="module")
def native(store: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Tokens over the native transport, and health open."""
    directory = tmp_path_factory.mktemp("native")
    yield from secured(store, cache, directory, None, ("", ""), "--set=auth.open_health=true")


def secured(
    store: Path,
    cache: Path,
    directory: Path,
    tls: Tls | None,
    certificate: tuple[str, str],
    *arguments: str,
) -> Iterator[Secured]:
    path = directory / "tokens.toml"
    secrets = {scope: make_token() for scope in Scope}
    for scope, secret in secrets.items():
        append_entry(str(path), entry_of(secret, scope.value, [scope]))
    uri = models.tracking_uri(store)
    daemon = Daemon(
        "--tracking-uri", uri, "models:/graph/1", f"--set=auth.tokens={path}", *arguments,
        cwd=store, cache=cache,
    )  # fmt: skip
    try:
        daemon.wait("ready")
        yield Secured(daemon, path, secrets, tls, certificate)
    finally:
        assert daemon.stop() == 0


@pytest.fixture(scope="module", params=["encrypted", "native"])
def either(request: pytest.FixtureRequest) -> Secured:
    """Both daemons, one after the other."""
    found: Secured = request.getfixturevalue(request.param)
    return found


def test_the_listener_is_the_one_that_can_do_what_is_asked(
    encrypted: Secured, native: Secured
) -> None:
    assert encrypted.daemon.wait("listening")["transport"] == "grpcio"
    assert native.daemon.wait("listening")["transport"] == "native"
    assert not encrypted.daemon.events("tokens_in_plain_text")
    assert len(native.daemon.events("tokens_in_plain_text")) == 1


def test_every_method_of_both_clients_bears_the_token(either: Secured) -> None:
    expected = models.model("onnx_named").expected({"x": ROWS})["y"]

    async def ask() -> None:
        token = either.secrets[Scope.INFERENCE]
        address = either.daemon.address
        async with AsyncClient(address, token=token, tls=either.tls, timeout_s=20) as client:
            assert await client.ready()
            assert await client.ready("graph")
            assert [model.name for model in await client.models()] == ["graph"]
            assert (await client.metadata("graph")).name == "graph"
            answers = await asyncio.gather(*(client.predict("graph", ROWS) for _ in range(8)))
            answers.append(await client.infer("graph", {"x": ROWS}))
            for answer in answers:
                np.testing.assert_allclose(answer.array, expected, rtol=1e-5)

    with either.client() as client:
        assert client.ready()
        assert client.ready("graph")
        assert [model.name for model in client.models()] == ["graph"]
        assert client.metadata("graph").name == "graph"
        answers = [client.predict("graph", ROWS), client.infer("graph", {"x": ROWS})]
        answers += [future.result(20) for future in [client.submit("graph", ROWS)] * 2]
        for answer in answers:
            np.testing.assert_allclose(answer.array, expected, rtol=1e-5)
    asyncio.run(ask())


@pytest.mark.parametrize(
    ("token", "error", "why"),
    [
        (None, Unauthenticated, "wants a token"),
        ("a" * 43, Unauthenticated, "not known"),
        ("short", Unauthenticated, "5 characters"),
        (Scope.REPOSITORY, PermissionDenied, "ModelInfer needs one for inference or admin"),
    ],
)
def test_a_call_without_the_right_token_is_refused_in_both_clients(
    either: Secured, token: str | Scope | None, error: type[Exception], why: str
) -> None:
    secret = either.secrets[token] if isinstance(token, Scope) else token

    async def ask() -> None:
        address = either.daemon.address
        async with AsyncClient(address, token=secret, tls=either.tls, timeout_s=20) as client:
            with pytest.raises(error, match=why):
                await client.infer("graph", {"x": ROWS})

    with either.client(token=secret) as client:
        for _ in range(2):
            with pytest.raises(error, match=why):
                client.infer("graph", {"x": ROWS})
    asyncio.run(ask())
    with either.client() as client:
        client.infer("graph", {"x": ROWS})


@pytest.mark.parametrize("method", SCOPES_OF)
def test_no_method_answers_without_a_token_but_open_health(either: Secured, method: str) -> None:
    """Whatever a method's form, one message and an end of it is enough to be refused."""
    is_open = either.tls is None and method in HEALTH
    with either.channel() as channel:
        call: Any = channel.stream_stream(method, None, None)
        answers = call(iter([b""]), timeout=20)
        try:
            next(iter(answers))
            code = grpc.StatusCode.OK
        except grpc.RpcError as error:
            code = error.code()
        answers.cancel()
    if is_open:
        # Older health services have no List.
        assert code in {grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED}
    else:
        assert code is grpc.StatusCode.UNAUTHENTICATED


def test_health_and_reflection_want_any_token(either: Secured) -> None:
    with either.channel() as channel:
        for scope in Scope:
            bears = either.metadata(scope)
            health = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=20, metadata=bears)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            (listed,) = reflection.ServerReflectionInfo(iter([asked]), timeout=20, metadata=bears)
            assert len(listed.list_services_response.service) >= 3


def test_scopes_divide_the_methods(either: Secured) -> None:
    with either.client(Scope.REPOSITORY) as client:
        assert client.ready()
        assert [model.name for model in client.models()] == ["graph"]
        for call in (client.metadata, client.ready):
            with pytest.raises(PermissionDenied):
                call("graph")
    with either.client(Scope.ADMIN) as client:
        assert client.predict("graph", ROWS).version == "1"
        assert client.models()


def test_a_method_that_is_not_there_is_unimplemented_to_those_with_a_token(
    either: Secured,
) -> None:
    with either.channel() as channel:
        call: Any = channel.unary_unary("/inference.GRPCInferenceService/Nothing", None, None)
        for bears, code in (
            (either.metadata(Scope.INFERENCE), grpc.StatusCode.UNIMPLEMENTED),
            ((), grpc.StatusCode.UNAUTHENTICATED),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=20, metadata=bears)
            assert caught.value.code() is code


def test_tokens_come_and_go_while_the_daemon_runs(either: Secured) -> None:
    before = either.tokens.read_text()
    secret = make_token()
    added = entry_of(secret, "guest", [Scope.INFERENCE])

    with either.client(token=secret) as guest, either.client() as other:
        with pytest.raises(Unauthenticated):
            guest.infer("graph", {"x": ROWS})
        line = either.after_reload("tokens", lambda: append_entry(str(either.tokens), added))
        assert "guest" in line["tokens"]
        guest.infer("graph", {"x": ROWS})

        failed = len(either.daemon.events("reload_failed"))
        replace(either.tokens, "[[token")
        line = either.daemon.wait("reload_failed", count=failed + 1)
        assert str(either.tokens) in line["why"]
        guest.infer("graph", {"x": ROWS})

        either.after_reload("tokens", lambda: replace(either.tokens, before))
        for _ in range(2):
            with pytest.raises(Unauthenticated, match="not known"):
                guest.infer("graph", {"x": ROWS})
        other.infer("graph", {"x": ROWS})
    log = "\n".join(either.daemon.lines)
    assert secret not in log


def test_a_new_certificate_reaches_new_connections_and_open_ones_go_on(
    encrypted: Secured, authority: Authority, tmp_path: Path
) -> None:
    new = authority.issue("localhost", "127.0.0.1")
    der = ssl.PEM_cert_to_DER_cert(new.cert.decode())
    with encrypted.client() as client:
        client.infer("graph", {"x": ROWS})
        assert certificate_of(encrypted, tmp_path) != der

        failed = len(encrypted.daemon.events("reload_failed"))
        replace(Path(encrypted.certificate[0]), new.cert.decode())
        line = encrypted.daemon.wait("reload_failed", count=failed + 1)
        assert "is not that of the certificate" in line["why"]
        assert certificate_of(encrypted, tmp_path) != der
        client.infer("graph", {"x": ROWS})

        encrypted.after_reload(
            "certificate", lambda: replace(Path(encrypted.certificate[1]), new.key.decode())
        )
        assert certificate_of(encrypted, tmp_path) == der
        client.infer("graph", {"x": ROWS})
    with encrypted.client() as client:
        client.infer("graph", {"x": ROWS})


def test_a_caller_without_a_certificate_of_the_authoritys_is_not_answered(
    encrypted: Secured, authority: Authority
) -> None:
    foreign = Authority("another authority").issue("caller")
    for tls in (
        Tls(ca=authority.cert),
        Tls(ca=authority.cert, cert=foreign.cert, key=foreign.key),
    ):
        with encrypted.client(tls=tls) as client, pytest.raises(Unavailable):
            client.models()
    with encrypted.client(tls=None) as client, pytest.raises(Unavailable):
        client.models()


TRITON = """
import asyncio
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

address, token, *files = sys.argv[1:]
tls = {}
if files:
    names = ("root_certificates", "private_key", "certificate_chain")
    tls = dict(ssl=True, **dict(zip(names, files)))
rows = np.arange(8, dtype=np.float32).reshape(2, 4)
headers = {"authorization": f"Bearer {token}"}


def inputs(module):
    wanted = module.InferInput("x", rows.shape, "FP32")
    wanted.set_data_from_numpy(rows)
    return [wanted]


async def with_aio():
    async with tritonclient.grpc.aio.InferenceServerClient(address, **tls) as client:
        assert await client.is_server_ready(headers=headers)
        answer = await client.infer("graph", inputs(tritonclient.grpc.aio), headers=headers)
        return answer.as_numpy("y")


with tritonclient.grpc.InferenceServerClient(address, **tls) as client:
    assert client.is_model_ready("graph", headers=headers)
    assert client.get_model_metadata("graph", headers=headers).name == "graph"
    answer = client.infer("graph", inputs(tritonclient.grpc), headers=headers).as_numpy("y")
    try:
        client.infer("graph", inputs(tritonclient.grpc))
    except InferenceServerException as error:
        assert error.status() == "StatusCode.UNAUTHENTICATED", error
    else:
        raise AssertionError("served without a token")
np.testing.assert_array_equal(answer, asyncio.run(with_aio()))
print(answer.tolist())
"""


def test_tritonclient_is_served_with_its_own_ways_of_tls_and_headers(
    either: Secured, tmp_path: Path
) -> None:
    files = []
    if either.tls is not None:
        for name in ("ca", "key", "cert"):
            path = tmp_path / name
            path.write_bytes(getattr(either.tls, name))
            files.append(str(path))
    secret = either.secrets[Scope.INFERENCE]

    ran = subprocess.run(
        [sys.executable, "-c", TRITON, either.daemon.address, secret, *files],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    expected = models.model("onnx_named").expected({"x": ROWS})["y"]
    np.testing.assert_allclose(json.loads(ran.stdout), expected, rtol=1e-5)


def test_refused_calls_are_counted_by_their_reason(native: Secured) -> None:
    from urllib.request import urlopen

    def counted(reason: str) -> float:
        with urlopen(native.daemon.metrics) as page:  # noqa: S310 - our own.
            text = page.read().decode()
        name = f'headrace_requests_failed_total{{model="",reason="{reason}",version=""}}'
        found = [line for line in text.splitlines() if line.startswith(name)]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    before = counted("unauthenticated"), counted("denied")
    with native.client(None) as client, pytest.raises(Unauthenticated):
        client.infer("graph", {"x": ROWS})
    with native.client(None) as client, pytest.raises(Unauthenticated):
        client.models()
    with native.client(Scope.REPOSITORY) as client, pytest.raises(PermissionDenied):
        client.infer("graph", {"x": ROWS})

    assert counted("unauthenticated") == before[0] + 2
    assert counted("denied") == before[1] + 1


def test_predict_takes_the_token_and_the_files_from_its_options(
    encrypted: Secured, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, ROWS)
    files = []
    assert encrypted.tls is not None
    for option in ("ca", "cert", "key"):
        path = tmp_path / option
        path.write_bytes(getattr(encrypted.tls, option))
        files += [f"--tls-{option}", str(path)]
    command = ["predict", "graph", "-i", str(rows), "--output", "csv"]
    command += ["--server", encrypted.daemon.address, *files]

    ran = headrace(*command, token=encrypted.secrets[Scope.INFERENCE])
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 3
    refused = headrace(*command)
    assert refused.returncode != 0
    assert "UNAUTHENTICATED" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("sets", "why"),
    [
        (["tls.cert=nowhere.crt", "tls.key=k"], "nowhere.crt: No such file"),
        (["tls.cert={junk}", "tls.key={junk}"], "holds no certificate"),
        (["tls.cert={cert}"], "has cert but no key"),
        (["tls.cert={cert}", "tls.key={other}"], "is not that of the certificate"),
        (["tls.cert={cert}", "tls.key={key}", "server.transport=native"], "has no TLS"),
        (["auth.tokens=nowhere.toml"], "nowhere.toml: No such file"),
        (["auth.tokens={junk}"], "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_command_before_anything_is_started(
    authority: Authority, tmp_path: Path, sets: list[str], why: str
) -> None:
    cert, key = authority.issue("localhost").write(tmp_path, "server")
    _, other = authority.issue("localhost").write(tmp_path, "other")
    (tmp_path / "junk").write_text("junk")
    names = {"cert": cert, "key": key, "other": other, "junk": tmp_path / "junk"}
    given = [f"--set={item.format(**names)}" for item in sets]

    ran = headrace("serve", "models:/iris/1", "--port", "0", "--metrics-port", "0", *given)

    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    (line,) = ran.stderr.splitlines()
    assert line.startswith("headrace: ")
    assert why in line


@pytest.mark.parametrize(
    ("sets", "is_told"), [([], True), (["--set=server.trusted_network=true"], False)]
)
def test_an_open_address_without_either_is_warned_of(
    serve: Callable[..., Daemon], sets: list[str], is_told: bool
) -> None:
    running = serve("models:/graph/1", "--host", "0.0.0.0", *sets)
    running.wait("listening")

    assert bool(running.events("open_to_the_network")) is is_told


def test_the_token_command_makes_what_the_server_takes(native: Secured, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"

    printed = headrace("token", "guest")
    filed = headrace("token", "guest", "--scope", "admin", "--file", str(path))

    for ran in (printed, filed):
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip() not in ran.stderr
    assert 'scopes = ["inference"]' in printed.stderr
    assert 'scopes = ["admin"]' in path.read_text()
    before = native.tokens.read_text()
    try:
        native.after_reload(
            "tokens", lambda: replace(native.tokens, f"{before}\n{path.read_text()}")
        )
        with native.client(token=filed.stdout.strip()) as client:
            client.infer("graph", {"x": ROWS})
    finally:
        native.after_reload("tokens", lambda: replace(native.tokens, before))
    again = headrace("token", "guest", "--file", str(path))
    assert again.returncode == 2
    assert again.stdout == ""
    assert again.stderr == f"headrace: {path} names 'guest' twice\n"


def headrace(*arguments: str, token: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "headrace_server.cli", *arguments]
    environ = {**os.environ, **({"HEADRACE_TOKEN": token} if token else {})}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environ
    )


def replace(path: Path, text: str) -> None:
    """A file's content as a whole, as an editor or a mounted secret does it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def certificate_of(secured: Secured, directory: Path) -> bytes:
    """The certificate that a new connection is shown, as DER."""
    import socket

    assert secured.tls is not None
    paths = {}
    for name in ("ca", "cert", "key"):
        paths[name] = directory / f"openssl.{name}"
        paths[name].write_bytes(getattr(secured.tls, name))
    context = ssl.create_default_context(cafile=str(paths["ca"]))
    context.load_cert_chain(paths["cert"], paths["key"])
    host, _, port = secured.daemon.address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True) or b""

"""Network: which listener the server would take, and whether its ports are free."""

import errno
import os
import socket
from collections.abc import Iterator
from importlib.util import find_spec

from .finding import Finding, Setup, ok, problem
from .software import version_of


def check_network(setup: Setup) -> Iterator[Finding]:
    """Yield findings about the transport, and both ports or the Unix socket."""
    yield _transport(setup)
    if setup.socket_path:
        yield _socket(setup)
        yield _port("metrics port", "127.0.0.1", setup.metrics_port, "--metrics-port")
        return
    if setup.port and setup.port == setup.metrics_port:
        yield problem(
            "ports",
            f"port and metrics_port are both {setup.port}",
            f"--metrics-port {_other(setup.port)}",
        )
        return
    yield _port("port", setup.host, setup.port, "--port")
    yield _port("metrics port", setup.host, setup.metrics_port, "--metrics-port")


def _transport(setup: Setup) -> Finding:
    from ..errors import UsageError  # noqa: PLC0415 - only the server's extra brings settings.
    from ..transport.choice import is_native  # noqa: PLC0415

    try:
        takes_native = is_native(setup, has_tls=setup.has_tls)
    except UsageError as error:
        return problem("transport", str(error), "--transport auto, or another --host")
    if not takes_native:
        why = "with TLS" if setup.has_tls else f"as {setup.host} is open to a network"
        if setup.transport == "grpcio":
            why = "as it was asked for"
        return ok("transport", f"{setup.transport} takes grpcio {version_of('grpcio')}, {why}")
    if not _is_importable():
        return problem(
            "transport",
            f"{setup.transport} takes pygrpc-native, which cannot be imported here",
            'pip install "headrace[server]", or --transport grpcio',
        )
    return ok("transport", f"{setup.transport} takes pygrpc-native {version_of('pygrpc-native')}")


def _is_importable() -> bool:
    """Whether the native listener loads: it is compiled for some platforms alone."""
    if find_spec("pygrpc_native") is None:
        return False
    try:
        import pygrpc_native  # noqa: F401, PLC0415 - this is the question.
    except ImportError:
        return False
    return True


def _socket(setup: Setup) -> Finding:
    from ..transport.socketfile import Found, found_at, why_not  # noqa: PLC0415 - as above.

    if why := why_not(setup.socket_path):
        return problem("socket", f"{setup.host}: {why}", "--host unix:PATH with another path")
    if found_at(setup.socket_path) is Found.LEFT:
        return ok("socket", f"{setup.host} is left of a server that has ended: it is made anew")
    return ok("socket", f"{setup.host} is free")


def _port(name: str, host: str, port: int, flag: str) -> Finding:
    if port == 0:
        return ok(name, f"any free one on {host}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        return problem(name, f"host {host!r} has no address: {error.strerror}", "--host 127.0.0.1")
    with socket.socket(family, kind, protocol) as probe:
        # As the listeners do: connections of an earlier server that still linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            return _not_bound(name, host, port, flag, error)
    return ok(name, f"{port} on {host} is free")


def _not_bound(name: str, host: str, port: int, flag: str, error: OSError) -> Finding:
    match error.errno:
        case errno.EADDRINUSE:
            return problem(
                name,
                f"{port} on {host} is taken",
                f"{flag} {_other(port)}; ss -ltnp 'sport = :{port}' shows who has it",
            )
        case errno.EACCES:
            return problem(name, f"{port} needs privileges", f"{flag} with a number from 1024 on")
        case errno.EADDRNOTAVAIL:
            return problem(name, f"{host} is no address of this machine", "--host 127.0.0.1")
    return problem(
        name, f"{port} on {host} cannot be bound: {os.strerror(error.errno or 0)}", f"{flag} 0"
    )


def _other(port: int) -> int:
    return port + 1000 if port + 1000 <= 65_535 else port - 1000

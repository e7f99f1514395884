"""The file of a Unix socket: made by one, opened by some, and left to nobody."""

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from headrace_server.errors import UsageError
from headrace_server.transport.socketfile import Found, SocketFile, found_at, why_not


def listening(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen()
    return server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "headrace.sock"


def test_what_lies_at_a_path_is_told_apart(path: Path, tmp_path: Path) -> None:
    assert found_at(str(path)) is Found.NOTHING
    with listening(path):
        assert found_at(str(path)) is Found.TAKEN
    assert found_at(str(path)) is Found.LEFT
    for other in ("directory", "file", "link"):
        made = tmp_path / other
        made.mkdir() if other == "directory" else None
        made.write_text("") if other == "file" else None
        made.symlink_to(path) if other == "link" else None
        assert found_at(str(made)) is Found.OTHER
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(tmp_path / "datagrams"))
        assert found_at(str(tmp_path / "datagrams")) is Found.OTHER


def test_one_that_takes_no_connections_at_present_is_taken(path: Path) -> None:
    """As that of a daemon that is stopped: what connects waits until there is no more room."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(0)
        waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(str(path))
            assert found_at(str(path)) is Found.TAKEN
        finally:
            for one in waiting:
                one.close()


def test_what_nobody_listens_on_is_replaced(path: Path) -> None:
    listening(path).close()

    file = SocketFile(str(path), 0o600)
    with file.claimed():
        server = listening(path)

    with server:
        assert found_at(str(path)) is Found.TAKEN
        file.remove()
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_file_has_its_mode_whatever_the_umask_says(path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        with SocketFile(str(path), mode).claimed(), listening(path):
            found = stat.S_IMODE(path.lstat().st_mode)
        after = os.umask(0o077)
    finally:
        os.umask(before)

    assert (found, after) == (mode, 0o077)


def test_what_somebody_listens_on_or_is_no_socket_is_left_alone(path: Path) -> None:
    file = SocketFile(str(path), 0o600)
    with listening(path):
        with pytest.raises(UsageError, match="another server listens on it"), file.claimed():
            raise AssertionError("it was claimed")
        assert found_at(str(path)) is Found.TAKEN
    path.unlink()
    path.write_text("precious")
    with pytest.raises(UsageError, match="something else is there"), file.claimed():
        raise AssertionError("it was claimed")
    file.remove()

    assert path.read_text() == "precious"


def test_a_file_that_is_anothers_by_now_is_left_to_it(path: Path) -> None:
    file = SocketFile(str(path), 0o600)
    with file.claimed():
        first = listening(path)
    path.unlink()
    with first, listening(path):
        file.remove()
        assert found_at(str(path)) is Found.TAKEN


def test_a_path_that_cannot_be_is_told_why(tmp_path: Path) -> None:
    room = 107 - len(os.fsencode(tmp_path)) - 1

    assert why_not(f"{tmp_path}/{'x' * room}") == ""
    assert why_not(f"{tmp_path}/{'x' * (room + 1)}") == (
        "its path has 108 bytes, and that of a Unix socket 107 at most"
    )
    assert why_not(f"{tmp_path}/nowhere/x") == f"there is no directory {tmp_path}/nowhere"


def test_of_daemons_that_start_at_once_one_has_it(path: Path) -> None:
    listening(path).close()
    together = threading.Barrier(4)
    servers: list[socket.socket] = []
    refused: list[str] = []

    def start() -> None:
        together.wait()
        try:
            with SocketFile(str(path), 0o600).claimed():
                servers.append(listening(path))
        except UsageError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for server in servers:
        server.close()

    assert (len(servers), len(refused)) == (1, 3)

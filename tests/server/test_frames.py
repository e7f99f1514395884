"""Frames: messages and descriptors between processes."""

import os
import select
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace_server.frames import FDS_MAX, PACKET_BYTES_MAX, Frame, FrameSocket, Kind, memfd_of


def test_kinds_are_never_renumbered() -> None:
    """A worker may run inside a model's environment, with its own copy of this file."""
    assert {kind.name: kind.value for kind in Kind} == {
        "ARENA": 1,
        "LOAD": 2,
        "UNLOAD": 3,
        "RUN": 4,
        "HELLO": 10,
        "LOADED": 11,
        "LOAD_FAILED": 12,
        "DONE": 13,
        "RUN_FAILED": 14,
        "UNLOADED": 15,
        "LOADING": 16,
        "FOUND": 17,
        "ASK": 20,
        "ANSWER": 21,
        "PROGRESS": 22,
    }


@pytest.fixture
def ends() -> Iterator[tuple[FrameSocket, FrameSocket]]:
    """Both ends of a conversation."""
    ours, raw = FrameSocket.pair()
    theirs = FrameSocket(raw)
    yield ours, theirs
    ours.close()
    theirs.close()


Ends = tuple[FrameSocket, FrameSocket]


def received(end: FrameSocket) -> Frame:
    frame = end.recv()
    assert frame is not None, "the peer is gone"
    return frame


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def content(fd: int) -> bytes:
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read()


@pytest.mark.parametrize(
    "size",
    [0, 1, PACKET_BYTES_MAX - 1, PACKET_BYTES_MAX, PACKET_BYTES_MAX + 1, 5 * PACKET_BYTES_MAX],
)
def test_a_body_of_any_size_arrives_as_it_was_sent(ends: Ends, size: int) -> None:
    """What exceeds a packet travels in a memfd, which no one is left holding."""
    ours, theirs = ends
    body = os.urandom(size)
    before = descriptors()

    ours.send(Kind.LOAD, body)
    frame = received(theirs)

    assert (frame.kind, frame.body, frame.fds) == (Kind.LOAD, body, ())
    assert descriptors() == before


def test_frames_arrive_in_their_order_and_apart(ends: Ends) -> None:
    ours, theirs = ends

    for number in range(5):
        ours.send_json(Kind.LOADED, {"number": number, "name": "日本"})

    assert [received(theirs).json() for _ in range(5)] == [
        {"number": number, "name": "日本"} for number in range(5)
    ]


@pytest.mark.parametrize("size", [3, PACKET_BYTES_MAX + 1])
def test_descriptors_ride_along_in_their_order(ends: Ends, size: int) -> None:
    ours, theirs = ends
    before = descriptors()
    mine = [memfd_of(b"one"), memfd_of(b"two")]

    ours.send(Kind.DONE, bytes(size), mine)
    for fd in mine:
        os.close(fd)
    frame = received(theirs)

    assert frame.body == bytes(size)
    assert [content(fd) for fd in frame.fds] == [b"one", b"two"]
    assert descriptors() == before


def test_descriptors_that_arrive_are_not_inherited_by_children(ends: Ends) -> None:
    ours, theirs = ends
    fd = memfd_of(b"")

    ours.send(Kind.ARENA, b"", (fd,))
    (received_fd,) = received(theirs).fds

    assert not os.get_inheritable(received_fd)
    assert not os.get_inheritable(fd)
    os.close(fd)
    os.close(received_fd)


@pytest.mark.parametrize("what", ["too many descriptors", "too long"])
def test_a_frame_that_was_cut_is_an_error_and_leaves_no_descriptor(what: str) -> None:
    ours, raw = FrameSocket.pair()
    fd = memfd_of(b"")
    before = descriptors()
    if what == "too long":
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PACKET_BYTES_MAX)
        socket.send_fds(raw, [bytes(PACKET_BYTES_MAX + 3)], [fd])
    else:
        socket.send_fds(raw, [b"\x0d\x00"], [fd] * (FDS_MAX + 1))

    with pytest.raises(ConnectionError, match="was cut"):
        ours.recv()

    assert descriptors() == before
    os.close(fd)
    raw.close()
    ours.close()


def test_the_end_of_the_peer_is_the_end_of_the_conversation(ends: Ends) -> None:
    ours, theirs = ends
    ours.send(Kind.HELLO, b"last words")

    ours.close()

    assert received(theirs).body == b"last words"
    assert theirs.recv() is None
    assert theirs.recv_nowait() is None
    with pytest.raises(OSError, match="Broken pipe"):
        theirs.send(Kind.HELLO, b"")


def test_a_peer_that_goes_with_frames_unread_is_a_peer_that_is_gone() -> None:
    """The kernel then says that the connection was reset."""
    ours, raw = FrameSocket.pair()
    ours.send(Kind.RUN, b"never read")

    raw.close()

    assert ours.recv() is None
    ours.close()


def test_an_end_can_be_waited_for_by_its_descriptor(ends: Ends) -> None:
    ours, theirs = ends
    poller = select.poll()
    poller.register(theirs.fileno(), select.POLLIN)
    assert poller.poll(0) == []

    ours.send(Kind.HELLO, b"")

    assert poller.poll(0) == [(theirs.fileno(), select.POLLIN)]


def test_whoever_does_not_want_to_wait_is_told_that_there_is_nothing(ends: Ends) -> None:
    ours, theirs = ends

    with pytest.raises(BlockingIOError):
        theirs.recv_nowait()

    ours.send(Kind.HELLO, b"x")
    frame = theirs.recv_nowait()
    assert frame is not None
    assert frame.body == b"x"


@pytest.mark.parametrize("size", [10, PACKET_BYTES_MAX + 1])
def test_whoever_does_not_want_to_wait_is_told_that_there_is_no_room(ends: Ends, size: int) -> None:
    ours, theirs = ends
    fd = memfd_of(b"")
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            ours.send_nowait(Kind.RUN, bytes(size), (fd,))
            sent += 1
    os.close(fd)
    before = descriptors()

    for _ in range(sent):
        frame = received(theirs)
        assert frame.body == bytes(size)
        os.close(frame.fds[0])

    with pytest.raises(BlockingIOError):
        theirs.recv_nowait()
    ours.send_nowait(Kind.RUN, b"again")
    assert received(theirs).body == b"again"
    assert descriptors() == before


def test_shutting_down_wakes_whoever_waits(ends: Ends) -> None:
    _, theirs = ends
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(theirs.recv)

        theirs.shutdown()

        assert waiting.result(timeout=10.0) is None


def test_shutting_down_what_is_shut_or_closed_is_fine() -> None:
    ours, raw = FrameSocket.pair()
    raw.close()

    ours.shutdown()
    ours.close()
    ours.shutdown()


def test_frames_of_several_threads_do_not_mix(ends: Ends) -> None:
    ours, theirs = ends
    begin = threading.Barrier(4)

    def send(number: int) -> None:
        begin.wait(10.0)
        for _ in range(50):
            ours.send(Kind.DONE, bytes([number]) * (1000 + number))

    with ThreadPoolExecutor(4) as threads:
        sending = [threads.submit(send, number) for number in range(4)]
        bodies = [received(theirs).body for _ in range(200)]
        for one in sending:
            one.result(timeout=10.0)

    for number in range(4):
        assert bodies.count(bytes([number]) * (1000 + number)) == 50


def test_an_inherited_descriptor_is_an_end_too() -> None:
    ours, raw = FrameSocket.pair()
    theirs = FrameSocket.inherited(raw.detach())

    ours.send(Kind.HELLO, b"x")

    assert received(theirs).body == b"x"
    theirs.close()
    ours.close()


def test_a_memfd_holds_all_of_its_data() -> None:
    data = os.urandom(3 << 20)

    fd = memfd_of(memoryview(data))

    assert content(fd) == data

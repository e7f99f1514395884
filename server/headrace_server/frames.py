"""Frames: the messages between the daemon and its processes.

A frame is one SOCK_SEQPACKET packet: a kind, flags and a body; file descriptors may ride along.
The body of a batch is packed (batchframes.py), everything else is JSON. A body too large for a
packet travels in a memfd of its own. Standard library only: this file also runs inside a model's
own, older environment.
"""

import array
import enum
import errno
import json
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# SEQPACKET refuses packets above the socket's send buffer (212 992 bytes by default) with EMSGSIZE.
PACKET_BYTES_MAX = 128 * 1024
FDS_MAX = 16

# Plain numbers: the socket module's flags are enums, whose operators are Python.
_DONTWAIT = int(socket.MSG_DONTWAIT)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_CUT = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)

_HEAD = struct.Struct("<BB")
_BODY_IN_MEMFD = 1


class Kind(enum.IntEnum):
    """What a frame says."""

    # Daemon to worker.
    ARENA = 1  # The arena's memfd rides along; the body is {"bytes": size}.
    LOAD = 2  # Load an instance (JSON).
    UNLOAD = 3  # Close an instance (JSON).
    RUN = 4  # Run a batch (packed).
    # Worker to daemon.
    HELLO = 10  # The process is up (JSON).
    LOADED = 11  # An instance is ready (JSON).
    LOAD_FAILED = 12  # An instance cannot be loaded (JSON).
    DONE = 13  # The outputs of a batch (packed).
    RUN_FAILED = 14  # The model raised (JSON).
    UNLOADED = 15  # An instance is closed, its memory free (JSON).
    LOADING = 16  # An instance begins to load; others wait until it has (JSON).
    FOUND = 17  # Traffic has shown whether the model batches (JSON).
    # Daemon and librarian.
    ASK = 20
    ANSWER = 21
    PROGRESS = 22


@dataclass(slots=True)
class Frame:
    """One received frame; the receiver owns and closes *fds*."""

    kind: int
    body: bytes
    fds: tuple[int, ...] = ()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def close(self) -> None:
        """Close the descriptors, of a frame that no one takes."""
        for fd in self.fds:
            os.close(fd)


class FrameSocket:
    """A SEQPACKET socket that speaks frames. Sending is safe from several threads."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray(PACKET_BYTES_MAX + _HEAD.size)
        self._ancillary_bytes = socket.CMSG_SPACE(FDS_MAX * 4)

    @classmethod
    def pair(cls) -> "tuple[FrameSocket, socket.socket]":
        """Our end, and the raw other end to hand to a child."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    @classmethod
    def inherited(cls, fd: int) -> "FrameSocket":
        """The end that a parent handed down as descriptor *fd*; our own children do not get it."""
        os.set_inheritable(fd, False)
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """The descriptor, for epoll."""
        return self._socket.fileno()

    def send(self, kind: Kind, body: bytes, fds: Sequence[int] = ()) -> None:
        """Send one frame; blocks while the peer's queue is full.

        Raises:
            OSError: The peer is gone.
        """
        self._send(kind, body, fds, 0)

    def send_nowait(self, kind: Kind, body: bytes, fds: Sequence[int] = ()) -> None:
        """Send one frame if the peer's queue has room for it.

        Raises:
            BlockingIOError: It has not; nothing was sent.
            OSError: The peer is gone.
        """
        self._send(kind, body, fds, _DONTWAIT)

    def send_json(self, kind: Kind, body: object, fds: Sequence[int] = ()) -> None:
        """Send *body* as JSON."""
        self.send(kind, json.dumps(body).encode(), fds)

    def recv(self) -> Frame | None:
        """Wait for the next frame; None when the peer is gone."""
        return self._recv(0)

    def recv_nowait(self) -> Frame | None:
        """The next frame, None when the peer is gone.

        Raises:
            BlockingIOError: There is none yet.
        """
        return self._recv(_DONTWAIT)

    def close(self) -> None:
        """Close our end; the peer reads the end of the stream."""
        self._socket.close()

    def shutdown(self) -> None:
        """End the conversation for both sides, also for a thread that waits in `recv`."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EBADF):
                raise

    def _send(self, kind: Kind, body: bytes, fds: Sequence[int], flags: int) -> None:
        if len(body) <= PACKET_BYTES_MAX:
            self._send_packet(_HEAD.pack(kind, 0) + body, fds, flags)
            return
        fd = memfd_of(body)
        try:
            self._send_packet(_HEAD.pack(kind, _BODY_IN_MEMFD), (fd, *fds), flags)
        finally:
            os.close(fd)

    def _send_packet(self, packet: bytes, fds: Sequence[int], flags: int) -> None:
        if not fds:
            self._socket.send(packet, flags)
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        self._socket.sendmsg([packet], rights, flags)

    def _recv(self, flags: int) -> Frame | None:
        try:
            size, ancillary, received_flags, _ = self._socket.recvmsg_into(
                [self._buffer], self._ancillary_bytes, flags | _CLOEXEC
            )
        except ConnectionResetError:
            return None
        if size == 0:
            return None
        fds = _descriptors(ancillary)
        if received_flags & _CUT:
            for fd in fds:
                os.close(fd)
            raise ConnectionError(f"a frame of more than {len(self._buffer)} bytes was cut")
        kind, frame_flags = _HEAD.unpack_from(self._buffer)
        if frame_flags & _BODY_IN_MEMFD:
            body = _read_memfd(fds[0])
            fds = fds[1:]
        else:
            body = bytes(memoryview(self._buffer)[_HEAD.size : size])
        return Frame(kind, body, fds)


def memfd_of(data: bytes | memoryview) -> int:
    """A fresh memfd that holds *data*; the caller closes it."""
    fd = os.memfd_create("headrace", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def _read_memfd(fd: int) -> bytes:
    try:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
            return bytes(mapped)
    finally:
        os.close(fd)


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> tuple[int, ...]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return tuple(fds)

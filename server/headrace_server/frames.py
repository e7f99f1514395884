"""Frames: the messages between the daemon and its processes.

A frame is one SOCK_SEQPACKET packet: a kind, flags and a body; file descriptors may ride along.
The body of a batch is packed with struct, everything else is JSON. A body too large for a packet
travels in a memfd of its own. Standard library only: this file also runs inside a model's own,
older environment.
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
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .types import Instants

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


# Batches. Everything below is packed, little-endian.

_RUN = struct.Struct("<QIIHH")  # batch id, instance, rows, tensors, requested outputs
_DONE = struct.Struct("<Q4QH")  # batch id, four instants, tensors
_TENSOR = struct.Struct(
    "<HBBBQQQ"
)  # name bytes, datatype code, axes, place, offset, bytes, row ends
_SIZE = struct.Struct("<q")
_NAME = struct.Struct("<H")


class Place(enum.IntEnum):
    """Where a tensor's bytes lie."""

    ARENA = 0
    MEMFD = 1  # The next descriptor that rides along.


class TensorRef(NamedTuple):
    """A tensor by reference: what it is, and where its bytes lie.

    Attributes:
        name: Its name.
        code: `Datatype.code`.
        shape: All axes.
        offset: First byte, from the start of the arena or memfd.
        nbytes: Length of its raw bytes.
        place: Arena or memfd.
        row_ends: For BYTES outputs, where `rows + 1` uint64 begin that say at which byte each row
            begins and the last one ends, relative to offset; else 0.
    """

    name: str
    code: int
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    place: int = Place.ARENA
    row_ends: int = 0


@dataclass(slots=True)
class RunFrame:
    """Daemon to worker: run these rows; write outputs into the given region of the arena.

    Attributes:
        batch: Identifies the batch in the answer.
        instance: Which of the worker's instances runs it.
        rows: Rows of the batch.
        inputs: The input tensors.
        outputs: Names of the outputs wanted; empty for all.
        out_offset: Where the slot's output side begins.
        out_bytes: How long it is.
        parameters: The batch key's parameters, as JSON; empty for none.
    """

    batch: int
    instance: int
    rows: int
    inputs: tuple[TensorRef, ...]
    outputs: tuple[str, ...]
    out_offset: int
    out_bytes: int
    parameters: bytes = b""

    def pack(self) -> bytes:
        """The body."""
        pieces = [
            _RUN.pack(self.batch, self.instance, self.rows, len(self.inputs), len(self.outputs)),
            struct.pack("<QQ", self.out_offset, self.out_bytes),
        ]
        for ref in self.inputs:
            _pack_tensor(ref, pieces)
        for name in self.outputs:
            _pack_name(name, pieces)
        # The rest of the body: most models have none, which then costs nothing.
        pieces.append(self.parameters)
        return b"".join(pieces)

    @classmethod
    def unpack(cls, body: bytes) -> "RunFrame":
        """Read what `pack` wrote."""
        batch, instance, rows, n_inputs, n_outputs = _RUN.unpack_from(body)
        out_offset, out_bytes = struct.unpack_from("<QQ", body, _RUN.size)
        at = _RUN.size + 16
        inputs = []
        for _ in range(n_inputs):
            ref, at = _unpack_tensor(body, at)
            inputs.append(ref)
        outputs = []
        for _ in range(n_outputs):
            name, at = _unpack_name(body, at)
            outputs.append(name)
        return cls(
            batch,
            instance,
            rows,
            tuple(inputs),
            tuple(outputs),
            out_offset,
            out_bytes,
            body[at:],
        )


@dataclass(slots=True)
class DoneFrame:
    """Worker to daemon: the outputs of a batch."""

    batch: int
    instants: Instants
    outputs: tuple[TensorRef, ...] = field(default=())

    def pack(self) -> bytes:
        """The body."""
        pieces = [_DONE.pack(self.batch, *self.instants, len(self.outputs))]
        for ref in self.outputs:
            _pack_tensor(ref, pieces)
        return b"".join(pieces)

    @classmethod
    def unpack(cls, body: bytes) -> "DoneFrame":
        """Read what `pack` wrote."""
        batch, received, staged, computed, finished, count = _DONE.unpack_from(body)
        at = _DONE.size
        outputs = []
        for _ in range(count):
            ref, at = _unpack_tensor(body, at)
            outputs.append(ref)
        return cls(batch, Instants(received, staged, computed, finished), tuple(outputs))


def _pack_tensor(ref: TensorRef, pieces: list[bytes]) -> None:
    name = ref.name.encode()
    axes = len(ref.shape)
    pieces.append(
        _TENSOR.pack(len(name), ref.code, axes, ref.place, ref.offset, ref.nbytes, ref.row_ends)
    )
    pieces.append(name)
    pieces.append(struct.pack(f"<{axes}q", *ref.shape))


def _unpack_tensor(body: bytes, at: int) -> tuple[TensorRef, int]:
    name_bytes, code, axes, place, offset, nbytes, row_ends = _TENSOR.unpack_from(body, at)
    at += _TENSOR.size
    name = body[at : at + name_bytes].decode()
    at += name_bytes
    shape = struct.unpack_from(f"<{axes}q", body, at)
    return TensorRef(name, code, shape, offset, nbytes, place, row_ends), at + _SIZE.size * axes


def _pack_name(name: str, pieces: list[bytes]) -> None:
    data = name.encode()
    pieces.append(_NAME.pack(len(data)))
    pieces.append(data)


def _unpack_name(body: bytes, at: int) -> tuple[str, int]:
    (size,) = _NAME.unpack_from(body, at)
    at += _NAME.size
    return body[at : at + size].decode(), at + size

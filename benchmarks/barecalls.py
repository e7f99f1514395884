"""Barecalls: unary gRPC calls on one HTTP/2 connection, at the least cost to the one who measures.

grpcio's client takes about a fifth of a millisecond per call on a core of its own; eight answers
that come together would each wait for those before them. Here every request is the same bytes but
for its stream, and an answer is told by its length and its end: a few microseconds.
"""

import socket
import struct
from typing import Self

from servers import INFER, framed

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_INITIAL_WINDOW_SIZE = 4
_WINDOW_MAX = (1 << 31) - 1
_WINDOW_DEFAULT = (1 << 16) - 1
_STREAM = struct.Struct(">I")
_HEAD_BYTES = 9


class BareCalls:
    """A connection over which one payload is sent again and again, and answered.

    Attributes:
        socket: To wait on for answers.
        flying: The stream of every call without its answer, with what has come of that.
    """

    def __init__(self, port: int, payload: bytes, answer: bytes) -> None:
        """Connect; every answer must be *answer*."""
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.flying: dict[int, bytes] = {}
        self._answer = framed(answer)
        message = framed(payload)
        self._message_bytes = len(message)
        self._headers = _request_headers(port)
        self._data = message
        self._stream = 1
        # What the server lets us send on the whole connection; each stream has its own default.
        assert len(message) <= _WINDOW_DEFAULT, "a larger message needs the stream's window"
        self._window_bytes = _WINDOW_DEFAULT
        self._rest = b""
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _WINDOW_MAX)
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, _STREAM.pack(_WINDOW_MAX - _WINDOW_DEFAULT))
        )

    def send(self) -> int:
        """Send the payload; the stream on which its answer will come."""
        while self._window_bytes < self._message_bytes:
            assert not self.receive(), "the server's window is smaller than what it answers at once"
        self._window_bytes -= self._message_bytes
        stream = self._stream
        self._stream += 2
        self.flying[stream] = b""
        self.socket.sendall(
            _frame(_HEADERS, _END_HEADERS, stream, self._headers)
            + _frame(_DATA, _END_STREAM, stream, self._data)
        )
        return stream

    def receive(self) -> list[int]:
        """Wait for something to come; the streams whose answers are whole now.

        Raises:
            ConnectionError: The server ended the connection or a call, or gave another answer.
        """
        arrived = self.socket.recv(1 << 16)
        if not arrived:
            raise ConnectionError("the server closed the connection")
        buffer = self._rest + arrived
        ended = []
        start = 0
        while len(buffer) - start >= _HEAD_BYTES:
            stop = start + _HEAD_BYTES + int.from_bytes(buffer[start : start + 3])
            if stop > len(buffer):
                break
            kind, flags = buffer[start + 3], buffer[start + 4]
            (stream,) = _STREAM.unpack_from(buffer, start + 5)
            if self._take(kind, flags, stream, buffer[start + _HEAD_BYTES : stop]):
                ended.append(stream)
            start = stop
        self._rest = buffer[start:]
        return ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _take(self, kind: int, flags: int, stream: int, body: bytes) -> bool:
        """Take one frame; whether it ends an answer."""
        if kind == _DATA:
            assert not flags & _PADDED, "no server of gRPC pads"
            self.flying[stream] += body
        elif kind == _HEADERS and flags & _END_STREAM:
            if self.flying.pop(stream) != self._answer:
                raise ConnectionError("a call failed, or was given another answer than before")
            return True
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window_bytes += _STREAM.unpack(body)[0]
        elif kind in {_SETTINGS, _PING} and not flags & _ACK:
            self.socket.sendall(_frame(kind, _ACK, 0, body if kind == _PING else b""))
        elif kind in {_RST_STREAM, _GOAWAY}:
            raise ConnectionError("the server ended a call or the connection")
        return False


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3) + bytes((kind, flags)) + _STREAM.pack(stream) + body


def _request_headers(port: int) -> bytes:
    """The header block of a call: RFC 7541, without Huffman codes and without the dynamic table."""
    return (
        b"\x83\x86"  # :method POST, :scheme http
        + (b"\x04" + _text(INFER))  # :path
        + (b"\x01" + _text(f"127.0.0.1:{port}"))  # :authority
        + (b"\x0f\x10" + _text("application/grpc"))  # content-type
        + (b"\x00" + _text("te") + _text("trailers"))
    )


def _text(value: str) -> bytes:
    assert len(value) < 0x7F, "a longer text needs a longer length"
    return bytes((len(value),)) + value.encode()

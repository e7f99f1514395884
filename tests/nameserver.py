"""Nameserver: a DNS server on loopback, for tests of what a client does with a name's addresses.

gRPC asks it where a target names it: "dns://127.0.0.1:PORT/name:port".
"""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_HEADER = struct.Struct("!HHHHHH")
_TYPE = struct.Struct("!HH")
_RECORD = struct.Struct("!HHHIH")
_IS_ANSWER, _NO_SUCH_NAME = 0x8580, 3
_A, _IN = 1, 1
# Where the name of a question stands, as a record points at it.
_NAME_AT = 0xC000 | _HEADER.size


class Nameserver:
    """Answers with what `addresses` has at that moment.

    Attributes:
        addresses: Of each name its IPv4 addresses, to be changed while it runs.
        asked: The name in every question for IPv4 addresses.
    """

    def __init__(self, **addresses: list[str]) -> None:
        self.addresses = addresses
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="nameserver", daemon=True)
        self._thread.start()

    def target(self, name: str, port: int) -> str:
        """What gRPC connects to for *name*, by way of this server."""
        return f"dns://127.0.0.1:{self._socket.getsockname()[1]}/{name}:{port}"

    def close(self) -> None:
        # An empty datagram ends the thread, which has no other way to be woken.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waking:
            waking.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, caller = self._socket.recvfrom(512)
            if not question:
                return
            self._socket.sendto(self._answer(question), caller)

    def _answer(self, asked: bytes) -> bytes:
        number = _HEADER.unpack_from(asked)[0]
        labels = []
        at = _HEADER.size
        while length := asked[at]:
            labels.append(asked[at + 1 : at + 1 + length].decode())
            at += 1 + length
        end = at + 1 + _TYPE.size
        kind, _ = _TYPE.unpack_from(asked, at + 1)
        name = ".".join(labels)
        found = self.addresses.get(name)
        if kind == _A:
            self.asked.append(name)
        records = [
            _RECORD.pack(_NAME_AT, _A, _IN, 0, 4) + socket.inet_aton(address)
            for address in found or ()
            if kind == _A
        ]
        flags = _IS_ANSWER | (_NO_SUCH_NAME if found is None else 0)
        header = _HEADER.pack(number, flags, 1, len(records), 0, 0)
        return header + asked[_HEADER.size : end] + b"".join(records)


@contextmanager
def serving(**addresses: list[str]) -> Iterator[Nameserver]:
    """A nameserver that knows *addresses*, until the block ends."""
    server = Nameserver(**addresses)
    try:
        yield server
    finally:
        server.close()

"""Messages near and beyond message_bytes_max, over both transports."""

import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from calling import MESSAGE_BYTES_MAX, Caller, chain, ending, message

pytestmark = pytest.mark.slow

X = np.zeros((1, 4), np.float32)


def of_length(nbytes: int) -> bytes:
    """A message of so many bytes, for a model of texts; its answer is a little longer."""
    texts = nbytes - 1000
    payload = message("echo", {"x": chain(b"a" * texts)[:, None]}).SerializeToString()
    payload = message(
        "echo", {"x": chain(b"a" * (texts + nbytes - len(payload)))[:, None]}
    ).SerializeToString()
    assert len(payload) == nbytes
    return payload


def test_a_message_may_be_as_long_as_message_bytes_max_and_no_longer(caller: Caller) -> None:
    fits = caller.ask(of_length(MESSAGE_BYTES_MAX - 100))
    longest = caller.ask(of_length(MESSAGE_BYTES_MAX))
    beyond = caller.ask(of_length(MESSAGE_BYTES_MAX + 1))

    assert fits.code == "OK"
    assert longest.code == "RESOURCE_EXHAUSTED"
    assert re.search(rf"^the answer has \d+ bytes, .* is {MESSAGE_BYTES_MAX}$", longest.details)
    assert beyond.code == "RESOURCE_EXHAUSTED"
    assert "the answer" not in beyond.details
    assert str(MESSAGE_BYTES_MAX) in beyond.details


def peak_bytes(caller: Caller) -> int:
    """The most memory that the daemon's own process has held."""
    status = Path(f"/proc/{caller.daemon.process.pid}/status").read_text()
    (found,) = re.findall(r"VmHWM:\s*(\d+) kB", status)
    return 1024 * int(found)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_of_100_mb_is_refused(callers: dict[str, Caller], compression: Any) -> None:
    payload = message("echo", {"x": np.zeros((1, 100 << 20), np.uint8)}).SerializeToString()
    for transport, caller in callers.items():
        beside = caller.submit(message("graph", {"x": X}))
        peak = peak_bytes(caller)

        got = caller.ask(payload, compression=compression)

        assert got.code == "RESOURCE_EXHAUSTED", got
        assert re.search(r"message.*(larger than max|message_bytes_max)", got.details)
        assert ending(beside).code == "OK"
        assert caller.ask(message("graph", {"x": X})).code == "OK"
        if transport == "grpcio":
            # It was refused before it was in memory.
            assert peak_bytes(caller) < peak + (50 << 20)

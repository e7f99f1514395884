"""Bursts: more calls at once than a server takes in one turn, over both transports."""

import os
import signal
from collections import Counter
from contextlib import ExitStack

import grpc
import numpy as np
import pytest

from calling import Caller, ending, message

pytestmark = pytest.mark.slow

CONNECTIONS = 5
CALLS_EACH = 900
# A connection of its own per channel: a server bounds the calls of one connection.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


def test_a_burst_of_calls_is_answered_to_the_last(caller: Caller) -> None:
    """The daemon stands still while they are sent, and finds them all at once."""
    request = message("echo", {"input-0": np.array([[1.0, 2.0]])})
    daemon = caller.daemon
    with ExitStack() as stack:
        channels = [
            stack.enter_context(grpc.insecure_channel(daemon.address, OPTIONS))
            for _ in range(CONNECTIONS)
        ]
        connected = [Caller(daemon, channel) for channel in channels]
        assert {each.ask(request).code for each in connected} == {"OK"}

        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            calls = [each.submit(request) for _ in range(CALLS_EACH) for each in connected]
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)

        codes = Counter(ending(call).code for call in calls)
    assert codes == {"OK": CONNECTIONS * CALLS_EACH}

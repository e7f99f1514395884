"""Stopping: what asks the daemon to end."""

import os
import signal
from concurrent.futures import Future
from queue import SimpleQueue
from types import FrameType


class StopSignal:
    """SIGTERM and SIGINT: the first asks the daemon to end, the second ends the process at once.

    A handler runs between any two steps of the main thread, with whatever locks that holds: it may
    neither raise there nor take a lock. Of what wakes a thread, putting into a SimpleQueue is made
    for that.
    """

    def __init__(self) -> None:
        self._woken: SimpleQueue[None] = SimpleQueue()
        self._is_asked = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def wait(self, starting: "Future[None]") -> None:
        """Wait for the first signal, or until *starting* has failed.

        Raises:
            Exception: What *starting* failed with.
        """
        starting.add_done_callback(lambda _: self._woken.put(None))
        while not self._is_asked:
            self._woken.get()
            if not self._is_asked and starting.done():
                starting.result()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._is_asked:
            os._exit(128 + number)
        self._is_asked = True
        self._woken.put(None)

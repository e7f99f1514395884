"""Stopping: what asks the daemon to end."""

import os
import signal
import threading
from types import FrameType


class StoppedWhileStarting(BaseException):
    """The daemon was asked to end while it was still starting, perhaps for a hanging registry."""


class StopSignal:
    """SIGTERM and SIGINT: the first asks the daemon to end, the second ends the process at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._is_waiting = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def wait(self) -> None:
        """Wait for the first signal."""
        self.is_handled()
        self._event.wait()

    def is_handled(self) -> None:
        """From now on the first signal interrupts nothing."""
        self._is_waiting = True

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._event.is_set():
            os._exit(128 + number)
        self._event.set()
        if not self._is_waiting:
            raise StoppedWhileStarting

"""Control: the one asyncio loop of the daemon, on a thread of its own."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class ControlLoop:
    """An asyncio loop that other threads hand coroutines to."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run *coroutine* on the loop and wait for its result; from any other thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def post(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run *coroutine* on the loop without waiting for it; from any thread.

        Once the loop is closed there is nothing left to tell, and nothing happens.
        """
        if self.loop.is_running():
            asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        else:
            coroutine.close()

    def close(self) -> None:
        """Stop the loop and end the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

"""Alike: both clients, asked in the same words, for tests of what holds for either."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Self

from headrace_client import AsyncClient, Client

WAIT_S_MAX = 60.0


class OnALoop:
    """An AsyncClient whose methods wait for their answers; its event loop has a thread of its own.

    What `submit` gives is a future that waits too.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="loop", daemon=True)
        self._thread.start()
        try:
            self._client = self._wait(_made(*arguments, **options))
        except BaseException:
            self._end()
            raise

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            return self._wait(getattr(self._client, name)(*arguments, **options))

        return call

    def submit(self, *arguments: Any, **options: Any) -> "_Waiting":
        return _Waiting(self, self._wait(self._client.submit(*arguments, **options)))

    def wait(self, awaited: Awaitable[Any]) -> Any:
        async def ended() -> Any:
            return await awaited

        return self._wait(ended())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._client.close())
        self._end()

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S_MAX)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S_MAX)
        self._loop.close()


class _Waiting:
    def __init__(self, owner: OnALoop, task: "asyncio.Task[Any]") -> None:
        self._owner, self._task = owner, task

    def result(self, _: float | None = None) -> Any:
        return self._owner.wait(self._task)


async def _made(*arguments: Any, **options: Any) -> AsyncClient:
    return AsyncClient(*arguments, **options)


# What a test is given as `kind`: makes a client, for a with statement.
KINDS = (Client, OnALoop)

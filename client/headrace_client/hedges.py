"""Hedges: one request sent twice where the first answer is late, for whichever comes first.

gRPC's core has no hedging: it takes a hedgingPolicy in its service config and ignores it.
"""

import asyncio
import contextlib
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

import grpc
import grpc.aio

AioCall: TypeAlias = "grpc.aio.UnaryUnaryCall[bytes, bytes]"


def first_answer(send: Callable[[], Any], after_s: float) -> tuple[bytes, Any]:
    """The first answer, and the call that it came by; the other call is cancelled.

    Args:
        send: Begins a call, and gives its future.
        after_s: Seconds after which it is done once more.

    Raises:
        grpc.RpcError: A call failed; for UNAVAILABLE, both did.
    """
    calls = [send()]
    try:
        with contextlib.suppress(grpc.FutureTimeoutError):
            return calls[0].result(after_s), calls[0]
        calls.append(send())
        done: SimpleQueue[Any] = SimpleQueue()
        for call in calls:
            call.add_done_callback(done.put)
        first = done.get()
        if first.code() is grpc.StatusCode.UNAVAILABLE:
            first = done.get()
        return first.result(), first
    finally:
        for call in calls:
            call.cancel()


async def first_answer_aio(send: Callable[[], AioCall], after_s: float) -> tuple[bytes, AioCall]:
    """The same for asyncio."""

    async def attempt() -> tuple[bytes, AioCall]:
        call = send()
        return await call, call

    tasks = {asyncio.create_task(attempt())}
    try:
        done, waiting = await asyncio.wait(tasks, timeout=after_s)
        if not done:
            tasks.add(asyncio.create_task(attempt()))
            done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if waiting and _is_unavailable(next(iter(done)).exception()):
                done, _ = await asyncio.wait(waiting)
        return next(iter(done)).result()
    finally:
        for task in tasks:
            task.cancel()


def _is_unavailable(error: BaseException | None) -> bool:
    return isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNAVAILABLE

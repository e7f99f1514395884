"""Many: predictions for a stream of inputs over one connection, a bounded number in flight.

The next input is taken when there is room for it, so a source without end is no harm. Whoever
stops listening cancels what is still in flight.
"""

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from contextlib import aclosing, closing
from functools import partial
from queue import SimpleQueue
from typing import Final, TypeAlias

from .deadlines import check_seconds
from .errors import HeadraceClientError
from .futures import PredictionFuture
from .inputs import Data
from .types import Prediction

IN_FLIGHT_MAX: Final = 64

Outcome: TypeAlias = Prediction | HeadraceClientError
Send: TypeAlias = Callable[[Data], PredictionFuture]
SendAio: TypeAlias = Callable[[Data], "Awaitable[asyncio.Task[Prediction]]"]


def check_bounds(in_flight_max: int, timeout: float | None) -> None:
    """Refuse bounds that let nothing through, before the first item is taken.

    Raises:
        ValueError: *in_flight_max* is below one, or *timeout* no number of seconds.
    """
    if timeout is not None:
        check_seconds("timeout", timeout)
    if in_flight_max < 1:
        raise ValueError(f"in_flight_max: expected at least 1, got {in_flight_max}")


def in_order(
    send: Send, items: Iterable[Data], in_flight_max: int
) -> Generator[Outcome, None, None]:
    """What became of each of *items*, in their order."""
    flying: deque[PredictionFuture | HeadraceClientError] = deque()
    try:
        for item in items:
            flying.append(_begin(send, item))
            # What is done already is not kept for the sake of a slow source.
            while flying and (len(flying) >= in_flight_max or _is_done(flying[0])):
                yield _outcome(flying[0])
                flying.popleft()
        while flying:
            yield _outcome(flying[0])
            flying.popleft()
    finally:
        for begun in flying:
            _cancel(begun)


def as_completed(
    send: Send, items: Iterable[Data], in_flight_max: int
) -> Iterator[tuple[int, Outcome]]:
    """The place of each of *items* and what became of it, the first to end first."""
    ended: SimpleQueue[int] = SimpleQueue()
    flying: dict[int, PredictionFuture] = {}
    try:
        for place, item in enumerate(items):
            begun = _begin(send, item)
            if isinstance(begun, HeadraceClientError):
                yield place, begun
                continue
            flying[place] = begun
            begun.add_done_callback(partial(_put, ended, place))
            while len(flying) >= in_flight_max or not ended.empty():
                first = ended.get()
                yield first, _outcome(flying.pop(first))
        while flying:
            first = ended.get()
            yield first, _outcome(flying.pop(first))
    finally:
        for begun in flying.values():
            begun.cancel()


async def in_order_aio(
    send: SendAio, items: Iterable[Data] | AsyncIterable[Data], in_flight_max: int
) -> AsyncGenerator[Outcome, None]:
    """What became of each of *items*, in their order."""
    flying: deque[asyncio.Task[Prediction] | HeadraceClientError] = deque()
    try:
        async for item in _each(items):
            flying.append(await _begin_aio(send, item))
            while flying and (len(flying) >= in_flight_max or _is_done(flying[0])):
                yield await _outcome_aio(flying[0])
                flying.popleft()
        while flying:
            yield await _outcome_aio(flying[0])
            flying.popleft()
    finally:
        for begun in flying:
            _cancel(begun)


async def as_completed_aio(
    send: SendAio, items: Iterable[Data] | AsyncIterable[Data], in_flight_max: int
) -> AsyncIterator[tuple[int, Outcome]]:
    """The place of each of *items* and what became of it, the first to end first."""
    flying: dict[asyncio.Task[Prediction], int] = {}
    place = -1
    try:
        async for item in _each(items):
            place += 1
            begun = await _begin_aio(send, item)
            if isinstance(begun, HeadraceClientError):
                yield place, begun
                continue
            flying[begun] = place
            if len(flying) >= in_flight_max:
                await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in flying if task.done()]:
                yield flying.pop(task), await _outcome_aio(task)
        while flying:
            await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in flying if task.done()]:
                yield flying.pop(task), await _outcome_aio(task)
    finally:
        for task in flying:
            task.cancel()


def raising(outcomes: Generator[Outcome, None, None]) -> Iterator[Prediction]:
    """*outcomes*, until one is an error, which is raised."""
    with closing(outcomes):
        for outcome in outcomes:
            if isinstance(outcome, HeadraceClientError):
                raise outcome
            yield outcome


async def raising_aio(outcomes: AsyncGenerator[Outcome, None]) -> AsyncIterator[Prediction]:
    """*outcomes*, until one is an error, which is raised."""
    async with aclosing(outcomes):
        async for outcome in outcomes:
            if isinstance(outcome, HeadraceClientError):
                raise outcome
            yield outcome


def _begin(send: Send, item: Data) -> PredictionFuture | HeadraceClientError:
    try:
        return send(item)
    except HeadraceClientError as error:
        return error


async def _begin_aio(send: SendAio, item: Data) -> asyncio.Task[Prediction] | HeadraceClientError:
    try:
        return await send(item)
    except HeadraceClientError as error:
        return error


def _put(ended: SimpleQueue[int], place: int, _: PredictionFuture) -> None:
    ended.put(place)


def _outcome(begun: PredictionFuture | HeadraceClientError) -> Outcome:
    try:
        return begun if isinstance(begun, HeadraceClientError) else begun.result()
    except HeadraceClientError as error:
        return error


async def _outcome_aio(begun: asyncio.Task[Prediction] | HeadraceClientError) -> Outcome:
    try:
        return begun if isinstance(begun, HeadraceClientError) else await begun
    except HeadraceClientError as error:
        return error


def _is_done(begun: "PredictionFuture | asyncio.Task[Prediction] | HeadraceClientError") -> bool:
    return isinstance(begun, HeadraceClientError) or begun.done()


def _cancel(begun: "PredictionFuture | asyncio.Task[Prediction] | HeadraceClientError") -> None:
    if not isinstance(begun, HeadraceClientError):
        begun.cancel()


async def _each(items: Iterable[Data] | AsyncIterable[Data]) -> AsyncIterator[Data]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item

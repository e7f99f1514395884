"""Forking: a process that asks a server and forks, as a pre-forking server does.

A process of its own, since a test's has servers in it, whose threads of gRPC a fork does not copy.

    python forking.py WHAT TARGET [DIRECTORY OF iris_client.py]

prints a line of JSON: what each child said, and then whether the parent is still answered.
"""

import asyncio
import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from headrace_client import AsyncClient, Client

HANG_S = 20.0
ROW = np.array([[5.1, 3.5, 1.4, 0.2]])


def in_child(act: Callable[[], object]) -> str:
    """What a forked child got from *act*, or the error that it raised."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = str(act())
        except BaseException as error:  # noqa: BLE001 - told to the parent.
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    if not select.select([reader], [], [], HANG_S)[0]:
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(reader) as told:
        said = told.read()
    _, status = os.waitpid(pid, 0)
    return said or f"ended by signal {os.WTERMSIG(status)}"


def fresh(target: str) -> str:
    """The answer to a client that is made now."""
    with Client(target, timeout_s=HANG_S) as client:
        return client.predict("iris", ROW).version


async def fresh_aio(target: str) -> str:
    async with AsyncClient(target, timeout_s=HANG_S) as client:
        return (await client.predict("iris", ROW)).version


def tell(said: object) -> None:
    print(json.dumps(said), flush=True)  # noqa: T201 - what the test reads.


def of_client(target: str) -> None:
    with Client(target, timeout_s=HANG_S) as client:
        client.predict("iris", ROW)
        acts: list[Callable[[], object]] = [
            lambda: client.predict("iris", ROW),
            lambda: client.submit("iris", ROW),
            lambda: next(iter(client.predict_many("iris", [ROW]))),
            client.ready,
            client.models,
        ]
        tell([in_child(act) for act in acts])
        tell(in_child(client.close))
        # Each child would be given the parent's connection, or not, as it comes.
        tell([in_child(lambda: fresh(target)) for _ in range(10)])
        tell(in_child(lambda: asyncio.run(fresh_aio(target))))
        tell(client.predict("iris", ROW).version)


def of_future(target: str) -> None:
    with Client(target, timeout_s=3 * HANG_S) as client:
        client.metadata("iris")
        future = client.submit("iris", ROW)
        acts: list[Callable[[], object]] = [
            future.result,
            lambda: future.result(0),
            future.exception,
            future.done,
            future.cancel,
            future.cancelled,
            lambda: future.add_done_callback(print),
        ]
        tell([in_child(act) for act in acts])
        tell(in_child(lambda: repr(future)))
        tell(in_child(lambda: fresh(target)))
        tell(future.result().version)


def of_aio(target: str) -> None:
    async def ask() -> None:
        async with AsyncClient(target, timeout_s=HANG_S) as client:
            await client.predict("iris", ROW)

            async def submitted() -> Any:
                return await (await client.submit("iris", ROW))

            acts: list[Callable[[], Any]] = [
                lambda: client.predict("iris", ROW),
                submitted,
                client.ready,
            ]
            tell([in_child(lambda act=act: asyncio.run(act())) for act in acts])  # type: ignore[misc]
            tell(in_child(lambda: asyncio.run(client.close())))
            tell(in_child(lambda: asyncio.run(fresh_aio(target))))
            tell(in_child(lambda: fresh(target)))
            tell((await client.predict("iris", ROW)).version)

    asyncio.run(ask())


def of_forgotten_aio(target: str) -> None:
    tell(asyncio.run(fresh_aio(target)))
    tell(in_child(lambda: asyncio.run(fresh_aio(target))))


def of_stub(target: str, directory: str) -> None:
    sys.path.insert(0, directory)
    iris_client = importlib.import_module("iris_client")

    row = dict.fromkeys(("sepal_length", "sepal_width", "petal_length", "petal_width"), 1.0)
    with iris_client.IrisClient(target) as iris:
        tell(in_child(lambda: iris.predict(**row)))
        tell(in_child(lambda: iris.predict_batch(**{name: [1.0] for name in row})))


if __name__ == "__main__":
    globals()[f"of_{sys.argv[1]}"](*sys.argv[2:])

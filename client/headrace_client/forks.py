"""Forks: what a process inherited by fork says so, instead of failing in odd ways.

Threads and sockets of gRPC do not survive a fork; the child would read and write its parent's
connection. At the fork, in the child, each client's way out is replaced, so calls cost nothing for
it. A client that the child makes itself works.
"""

import os
import weakref
from collections.abc import Callable
from typing import Any, NoReturn


class Inherited:
    """Stands where a connection was before the fork."""

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Raises RuntimeError, whatever the call."""
        raise RuntimeError(
            "this client was made before the process forked and belongs to the parent: make a "
            "client in each process, after the fork"
        )

    def __getattr__(self, name: str) -> Any:
        return self


class Process:
    """What this process is by its forks.

    Attributes:
        generation: How many forks lie between the process that imported this module and this one.
        has_lost_aio: Whether gRPC's asyncio was at work when one of them happened.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.has_lost_aio = False


def watch(owner: object, leave: Callable[[Any], object], *, is_aio: bool = False) -> None:
    """Have *owner* leave its connection to the parent whenever this process forks.

    Args:
        owner: What has a connection; may be forgotten meanwhile.
        leave: Called with it in the child: puts `Inherited` in the connection's place, and returns
            what must not be freed there.
        is_aio: Whether the connection is one of gRPC's asyncio.
    """
    _owners[owner] = (leave, is_aio)


def connection_options() -> list[tuple[str, Any]]:
    """Channel arguments for a connection of this process' own.

    Channels of a process share connections to the same server. A fork copies the table of these, so
    a channel that a child makes would be given its parent's.
    """
    return [("grpc.use_local_subchannel_pool", 1)] if process.generation else []


def check_aio() -> None:
    """Refuse what would wait for ever, or end the process.

    Raises:
        RuntimeError: gRPC's asyncio was at work when this process was forked.
    """
    if process.has_lost_aio:
        raise RuntimeError(
            "an AsyncClient was there when this process forked, and gRPC's asyncio does not work "
            "in such a child: make the first AsyncClient after the fork, or use Client"
        )


def _leave_all() -> None:
    process.generation += 1
    for owner, (leave, is_aio) in list(_owners.items()):
        # Freeing a channel would wait for threads that are not here.
        _left.append(leave(owner))
        process.has_lost_aio |= is_aio


process = Process()
_owners: weakref.WeakKeyDictionary[object, tuple[Callable[[Any], object], bool]] = (
    weakref.WeakKeyDictionary()
)
_left: list[object] = []
os.register_at_fork(after_in_child=_leave_all)

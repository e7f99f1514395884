"""Forks: a client that a process inherited by fork says so, instead of failing in odd ways.

Threads and sockets of gRPC do not survive a fork; the child would read and write its parent's
connection. At the fork, in the child, each client's way out is replaced, so calls cost nothing for
it. A client that the child makes itself works.
"""

import os
import weakref
from typing import Any, NoReturn, Protocol


class Owner(Protocol):
    """What has a connection."""

    def leave_to_parent(self) -> object:
        """Replace all that uses the connection by `Inherited`; returns what must not be freed."""


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

    def close(self, *_: object) -> None:
        """The parent's connection stays open."""


def watch(owner: Owner) -> None:
    """Have *owner* leave its connection to the parent whenever this process forks."""
    _owners.add(owner)


def _leave_all() -> None:
    # Freeing a channel would wait for threads that are not here.
    _left.extend(owner.leave_to_parent() for owner in list(_owners))


_owners: weakref.WeakSet[Owner] = weakref.WeakSet()
_left: list[object] = []
os.register_at_fork(after_in_child=_leave_all)

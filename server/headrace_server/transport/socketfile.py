"""Socketfile: the file by which callers on this machine reach a Unix socket.

The libraries of listeners replace whatever lies at their path. What a daemon that was killed left
behind is told from what another one listens on by connecting to it.
"""

import enum
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import UsageError

# The kernel keeps 108, the last of them a zero byte.
PATH_BYTES_MAX = 107

# How long another daemon that starts in the same directory is waited for (seconds).
_LOCK_S_MAX = 1.0
_LOCK_LOOK_S = 0.01


class Found(enum.Enum):
    """What lies at a path."""

    NOTHING = "nothing"
    LEFT = "a socket that nobody listens on"
    TAKEN = "a socket that somebody listens on"
    OTHER = "something else"


def found_at(path: str) -> Found:
    """What lies at *path* now.

    Raises:
        OSError: It cannot be told.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return Found.NOTHING
    if not stat.S_ISSOCK(status.st_mode):
        return Found.OTHER
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # One that takes no connections at present, since too many wait, is there all the same.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return Found.LEFT
        except BlockingIOError:
            return Found.TAKEN
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                return Found.OTHER
            raise
    return Found.TAKEN


def why_not(path: str) -> str:
    """Why nothing can be bound to *path*, as the rest of a sentence; empty where it can be."""
    size = len(os.fsencode(path))
    if size > PATH_BYTES_MAX:
        return f"its path has {size} bytes, and that of a Unix socket {PATH_BYTES_MAX} at most"
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        return f"there is no directory {directory}"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"the directory {directory} cannot be written"
    try:
        found = found_at(path)
    except OSError as error:
        return f"what is there cannot be told: {error.strerror}"
    match found:
        case Found.TAKEN:
            return "another server listens on it"
        case Found.OTHER:
            return "something else is there"
    return ""


class SocketFile:
    """The file that a listener of ours is bound to."""

    def __init__(self, path: str, mode: int) -> None:
        """It will be at *path*; *mode* says who may open it."""
        self._path = path
        self._mode = mode
        self._ours: tuple[int, int] | None = None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Let a listener be bound to it in the block.

        What lies there is taken away if it is a socket that nobody listens on.

        Raises:
            UsageError: Nothing can be bound there, and why.
        """
        path = self._path
        with _locked(os.path.dirname(path)):
            if why := why_not(path):
                raise UsageError(f"cannot listen on unix:{path}: {why}")
            if found_at(path) is Found.LEFT:
                os.unlink(path)
            # The file has its mode from its first moment on: nobody slips in.
            before = os.umask(0o777 & ~self._mode)
            try:
                yield
                self._ours = _identity(path)
            finally:
                os.umask(before)

    def remove(self) -> None:
        """Take it away, unless it is gone or another's by now."""
        if self._ours is not None and _identity(self._path) == self._ours:
            with suppress(OSError):
                os.unlink(self._path)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Have *directory* for ourselves, among daemons that start, where that can be had soon."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    until = time.monotonic() + _LOCK_S_MAX
    try:
        while time.monotonic() < until:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_LOOK_S)
            else:
                break
        yield
    finally:
        os.close(descriptor)

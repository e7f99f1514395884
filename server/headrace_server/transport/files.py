"""Files: small files that an operator may replace while the daemon runs.

They are read whole at start and looked at once a second after that, on a thread of its own: no call
ever waits for a disk. What is compared is content: times and inodes say little about files that are
mounted, linked or written in place, and so do the events that a kernel has for them.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import structlog

from ..errors import UsageError

# A chain of certificates or a thousand tokens fit many times over.
FILE_BYTES_MAX: Final = 1 << 20

_log = structlog.get_logger("headrace")

Contents: TypeAlias = tuple[bytes, ...]
# Takes new contents, and gives what the log shall say of them; raises UsageError to refuse them.
Take: TypeAlias = Callable[[Contents], Mapping[str, object]]


def read_files(paths: Sequence[str]) -> Contents:
    """What *paths* hold, in their order.

    Raises:
        UsageError: One cannot be read, or is larger than 1 MiB.
    """
    return tuple(map(_read, paths))


class FileWatch:
    """Hands new contents of files to those who want them; what they refuse is told once."""

    def __init__(self, *, look_s: float = 1.0) -> None:
        """Look every *look_s* seconds, once started."""
        self._look_s = look_s
        self._watched: list[_Watched] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="files", daemon=True)

    def add(self, what: str, paths: Sequence[str], contents: Contents, take: Take) -> None:
        """Call *take*, on the watch's thread, each time *paths* no longer hold what they did.

        Before `start` only.

        Args:
            what: What the files are, for the log.
            paths: The files; they are taken together.
            contents: What they held when they were taken last.
            take: Gets what they hold now.
        """
        self._watched.append(_Watched(what, paths, contents, take))

    def start(self) -> None:
        """Begin to look, if there is anything to look at."""
        if self._watched:
            self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._ends.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ends.wait(self._look_s):
            for watched in self._watched:
                try:
                    watched.look()
                except Exception:  # noqa: BLE001 - the other files must still be looked at.
                    _log.exception("reload_failed", what=watched.what)


class _Watched:
    """Files that are taken together."""

    def __init__(self, what: str, paths: Sequence[str], contents: Contents, take: Take) -> None:
        self.what = what
        self._paths = paths
        self._take = take
        # What was seen last, taken or not: contents, or why there are none.
        self._seen: Contents | str = contents

    def look(self) -> None:
        try:
            found = read_files(self._paths)
        except UsageError as error:
            if self._seen != str(error):
                self._seen = str(error)
                self._tell(error)
            return
        if found == self._seen:
            return
        self._seen = found
        try:
            told = self._take(found)
        except UsageError as error:
            self._tell(error)
        else:
            _log.info("reloaded", what=self.what, files=list(self._paths), **told)

    def _tell(self, error: UsageError) -> None:
        _log.warning("reload_failed", what=self.what, why=str(error), kept="what was taken last")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
    if len(content) > FILE_BYTES_MAX:
        raise UsageError(f"cannot read {path}: it is larger than {FILE_BYTES_MAX} bytes")
    return content

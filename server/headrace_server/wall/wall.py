"""Wall: what a confined process may touch, and how it is held to that.

Raised once, by the main thread, before there is another one and before anything of a model is read.
Behind it the process reads its models, Python, its packages and what the host tells everybody; it
writes a folder of its own; it opens no socket, runs no program and reaches no other process. What
was open before stays open: the socket to the daemon, standard error.
"""

import ctypes
import json
import os
import resource
from dataclasses import asdict, dataclass
from pathlib import Path

from . import landlock, seccomp
from .places import PROC, SHARED_MEMORY, readable, usable

# Beyond any message. Whoever writes a longer file is told that it is too large.
_FILE_BYTES_MAX = 4 << 30
_PR_SET_NO_NEW_PRIVS = 38
# <linux/capability.h>: its third version; of root's powers the ones to read files of others stay.
_CAPABILITY_VERSION = 0x20080522
_READS_ALL = 1 << 1 | 1 << 2
# Where programs look for a place to write.
_OWN_PLACES = ("HOME", "TMPDIR", "TMP", "TEMP", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


@dataclass(frozen=True)
class Wall:
    """What one process may touch beside what every Python needs.

    Attributes:
        scratch: The folder that it may write: its home, its working directory, its temporary files.
        models: The folder that holds its models.
        read: Further folders and files that it may read.
        runs_code: Whether its models may bring code. Then it may use named shared memory, as joblib
            does for its locks, and `stay_within` does nothing: a framework's own threads, of which
            a process has one set, open files for all its models.
    """

    scratch: str
    models: str
    read: tuple[str, ...] = ()
    runs_code: bool = False

    def to_json(self) -> str:
        """As an argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Wall":
        """The one that `to_json` wrote."""
        said = json.loads(text)
        return cls(
            said["scratch"], said["models"], tuple(said["read"]), runs_code=said["runs_code"]
        )


_raised: Wall | None = None
# Entries of /proc are other files each time they are looked up, unless someone holds them.
_held: list[int] = []


def lacks() -> tuple[str, ...]:
    """What this host lacks for a wall, in words; empty where there can be a whole one."""
    missing = []
    if not landlock.version():
        missing.append("Landlock, which Linux has from 5.13 on where it is switched on")
    if not seccomp.is_there():
        missing.append("seccomp filters, on x86_64 or aarch64")
    return tuple(missing)


def raise_wall(wall: Wall) -> None:
    """Hold this process to *wall* from now on, by what the host has; see `lacks`.

    Raises:
        RuntimeError: It has other threads, which would not be held.
        OSError: The kernel refuses what it says it can do.
    """
    global _raised  # noqa: PLW0603 - a process has one, for good.
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a wall must be raised before there is a second thread")
    _settle_in(wall)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, _FILE_BYTES_MAX)
    libc = ctypes.CDLL(None, use_errno=True)
    _drop_powers(libc)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")
    _held.extend(
        os.open(entry, os.O_PATH | os.O_CLOEXEC) for entry in PROC if os.path.exists(entry)
    )
    if landlock.version():
        landlock.restrict(_places(wall, wall.models))
    if seccomp.is_there():
        seccomp.restrict()
    _raised = wall


def stay_within(folder: Path) -> None:
    """Hold the calling thread, and all that it starts, to one of the folders of the wall's models.

    Where no wall was raised, or models may bring code, nothing happens.
    """
    if _raised is not None and not _raised.runs_code and landlock.version():
        landlock.restrict(_places(_raised, str(folder)))


def _places(wall: Wall, models: str) -> list[tuple[str, int]]:
    return [
        *((place, landlock.READ) for place in (*readable(), *wall.read, models)),
        *((place, landlock.USE) for place in usable()),
        (wall.scratch, landlock.WRITE),
        *([(SHARED_MEMORY, landlock.WRITE)] if wall.runs_code else []),
    ]


def _settle_in(wall: Wall) -> None:
    os.chdir(wall.scratch)
    os.environ.update(dict.fromkeys(_OWN_PLACES, wall.scratch))
    if not wall.runs_code:
        # Else joblib looks for named shared memory, and says at length that there is none.
        os.environ["JOBLIB_MULTIPROCESSING"] = "0"
    # Else asked of a file that is not to be read.
    for name in ("USER", "LOGNAME"):
        os.environ.setdefault(name, "headrace")


def _lower(limit: int, most: int) -> None:
    _, hard = resource.getrlimit(limit)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(limit, (most, most))


def _drop_powers(libc: ctypes.CDLL) -> None:
    """Give up all that tells root from others, but to read their files: models may be theirs."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    # Effective, permitted and inheritable ones, the lower 32 of each, then the upper.
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget failed")
    kept = (ctypes.c_uint32 * 6)(sets[0] & _READS_ALL, sets[1] & _READS_ALL)
    if libc.capset(header, kept) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")

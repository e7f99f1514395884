"""Landlock: which files a thread, and every thread that it starts, may open from now on.

What may be opened is named by directories and files; all the rest is refused, and no program may be
run, whoever owns it. Rules stack: a thread that is held to some can be held to more, never to less.
What is open already stays open. See landlock(7).
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_TELL_VERSION = 1
_PATH_BENEATH = 1
_NO_LANDLOCK = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL})

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
# How many kinds of access a version of Landlock knows, the first one's to the fifth's.
_KINDS = (13, 14, 15, 15, 16)
# TCP's bind and connect, which the fourth version knows; and abstract sockets and signals of other
# processes, which the sixth does.
_TCP, _SCOPES = 0b11, 0b11

READ = _READ_FILE | _READ_DIR
USE = _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
# No devices, and nothing that could be run.
WRITE = (1 << 15) - 1 & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK)

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """The kernel's version of Landlock; 0 where it has none, or keeps it from us."""
    found: int = _libc.syscall(
        ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(_TELL_VERSION)
    )
    if found < 0 and ctypes.get_errno() not in _NO_LANDLOCK:
        raise OSError(ctypes.get_errno(), "the kernel does not tell its version of Landlock")
    return max(found, 0)


def restrict(places: Iterable[tuple[str, int]]) -> None:
    """Hold the calling thread, and all that it starts, to *places*.

    Needs `no_new_privs`. Threads that run already are held to nothing new.

    Args:
        places: Directories, with all below them, and files: each with what may be done there, READ,
            USE or WRITE. What is not there is left out.

    Raises:
        OSError: The kernel has no Landlock, or refuses.
    """
    known = version()
    if not known:
        raise OSError(errno.EOPNOTSUPP, "the kernel has no Landlock")
    kinds = (1 << _KINDS[min(known, len(_KINDS)) - 1]) - 1
    held = _Ruleset(kinds, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    ruleset = _call(
        _CREATE_RULESET, ctypes.byref(held), ctypes.c_size_t(ctypes.sizeof(held)), ctypes.c_uint32()
    )
    try:
        for place, access in places:
            _allow(ruleset, place, access & kinds)
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32())
    finally:
        os.close(ruleset)


def _allow(ruleset: int, place: str, access: int) -> None:
    try:
        fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            access &= _OF_FILES
        rule = _PathBeneath(access, fd)
        _call(
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(),
        )
    finally:
        os.close(fd)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "the kernel refuses a rule of Landlock")
    return result

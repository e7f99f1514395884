"""Seccomp: which calls of the kernel a process may make from now on.

A filter, which the kernel runs at every call, refuses what reaches past the files that may be
opened: sockets, other programs, other processes, the owners and modes of files, the host's own
settings. All else works as ever. It holds for the calling thread and all that it starts, for good.
See seccomp(2).
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

# Of each machine: its column in the table below, its number in <linux/audit.h>, that of seccomp(2).
_MACHINES: Final[Mapping[str, tuple[int, int, int]]] = {
    "x86_64": (0, 0xC000003E, 317),
    "aarch64": (1, 0xC00000B7, 277),
}
# The newest call that was looked at: later ones are not there, as on an older kernel.
_LAST: Final = 469
_NONE: Final = -1

# Calls that are refused whatever they are given; numbers on x86_64 and aarch64.
_REFUSED: Final[Mapping[str, tuple[int, int]]] = {
    # The network, and other processes' sockets. The ends of a socketpair know each other alone.
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # Other programs and processes.
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, _NONE),
    "vfork": (58, _NONE),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    # Memory and queues that have names of their own.
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # What Landlock leaves alone: of whom a file is and who may do what with it. Of its versions the
    # first two leave the length of a file alone too.
    "chmod": (90, _NONE),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, _NONE),
    "lchown": (94, _NONE),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "truncate": (76, 45),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # The system itself.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "iopl": (172, _NONE),
    "ioperm": (173, _NONE),
    "vhangup": (153, 58),
    "fanotify_init": (300, 262),
}
# Calls that are answered as if the kernel had none: a filter cannot look at what these are given,
# and who makes them goes on by an older one.
_ABSENT: Final[Mapping[str, tuple[int, int]]] = {
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
_CLONE, _SOCKETPAIR, _IOCTL = (56, 220), (53, 199), (16, 29)
# Calls that name a process, and which of their arguments does.
_OF_A_PROCESS: Final[Mapping[str, tuple[tuple[int, int], int]]] = {
    "kill": ((62, 129), 0),
    "tgkill": ((234, 131), 0),
    "rt_sigqueueinfo": ((129, 138), 0),
    "rt_tgsigqueueinfo": ((297, 240), 0),
    "prlimit64": ((302, 261), 0),
    "setpriority": ((141, 140), 1),
    "ioprio_set": ((251, 30), 1),
}
_CLONE_THREAD: Final = 0x10000
# Kinds of sockets whose two ends stay joined, among the bits that tell the kind.
_KIND_BITS, _JOINED = 0xF, (1, 5)
# Typing into the terminal whose screen the log is.
_TYPING: Final = (0x5412, 0x541C)

_SET_FILTER, _TELL_ACTION = 1, 2
# Else kernels before 5.16 slow the process down, against attacks that no filter is for.
_WITH_SPECULATION: Final = 4

# Instructions of the filter's machine, <linux/bpf_common.h>: load a word, mask it, compare, return.
_LOAD, _AND, _EQUAL, _ABOVE, _SOME_BITS, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_AT_NUMBER, _AT_MACHINE, _AT_ARGUMENTS = 0, 4, 16


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def is_there() -> bool:
    """Whether this kernel takes such filters, on a machine whose calls are known here."""
    if platform.machine() not in _MACHINES:
        return False
    action = ctypes.c_uint32(_REFUSE)
    return _seccomp(_TELL_ACTION, 0, ctypes.byref(action)) == 0


def restrict() -> None:
    """Have the kernel refuse from now on. Needs `no_new_privs`.

    Raises:
        OSError: It takes no such filter.
    """
    if platform.machine() not in _MACHINES:
        raise OSError(errno.EOPNOTSUPP, f"calls on a {platform.machine()} are not known here")
    code = b"".join(_filter(platform.machine(), os.getpid()))
    program = _Program(len(code) // 8, code)
    for flags in (_WITH_SPECULATION, 0):
        if _seccomp(_SET_FILTER, flags, ctypes.byref(program)) == 0:
            return
    raise OSError(ctypes.get_errno(), "the kernel takes no filter of its calls")


def _seccomp(operation: int, flags: int, given: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_long(_MACHINES[platform.machine()][2])
    result: int = libc.syscall(number, ctypes.c_uint(operation), ctypes.c_uint(flags), given)
    return result


def _filter(machine: str, pid: int) -> Iterator[bytes]:
    column, its_number, _ = _MACHINES[machine]
    refused = _REFUSE | errno.EPERM
    absent = _REFUSE | errno.ENOSYS
    yield _step(_LOAD, _AT_MACHINE)
    yield _step(_EQUAL, its_number, 1, 0)
    yield _step(_RETURN, absent)
    yield _step(_LOAD, _AT_NUMBER)
    yield _step(_ABOVE, _LAST, 0, 1)
    yield _step(_RETURN, absent)
    for calls, answer in ((_REFUSED, refused), (_ABSENT, absent)):
        for call in calls.values():
            if call[column] != _NONE:
                yield _step(_EQUAL, call[column], 0, 1)
                yield _step(_RETURN, answer)
    yield from _where(
        _CLONE[column], [_step(_LOAD, _argument(0)), *_unless(_SOME_BITS, [_CLONE_THREAD], refused)]
    )
    yield from _where(
        _SOCKETPAIR[column],
        [
            _step(_LOAD, _argument(1)),
            _step(_AND, _KIND_BITS),
            *_unless(_EQUAL, _JOINED, refused),
        ],
    )
    yield from _where(
        _IOCTL[column], [_step(_LOAD, _argument(1)), *_unless(_EQUAL, _TYPING, _ALLOW, refused)]
    )
    for numbers, index in _OF_A_PROCESS.values():
        own = [_step(_LOAD, _argument(index)), *_unless(_EQUAL, [0, pid], refused)]
        yield from _where(numbers[column], own)
    yield _step(_RETURN, _ALLOW)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _argument(index: int) -> int:
    """Where the lower half of an argument stands: what the kernel reads of the ones looked at."""
    return _AT_ARGUMENTS + 8 * index


def _where(number: int, steps: list[bytes]) -> Iterator[bytes]:
    """*steps*, which return, for the call of that *number*."""
    yield _step(_EQUAL, number, 0, len(steps))
    yield from steps


def _unless(
    compare: int, values: Iterable[int], answer: int, otherwise: int = _ALLOW
) -> list[bytes]:
    """Return *answer* unless what was loaded compares with one of *values*."""
    tests = [
        step
        for value in values
        for step in (_step(compare, value, 0, 1), _step(_RETURN, otherwise))
    ]
    return [*tests, _step(_RETURN, answer)]

"""What the filter of calls says on each machine, run by a machine of our own."""

import errno
import struct

import pytest

from headrace_server.wall import seccomp

PID = 4711
ALLOWED = 0x7FFF0000
ABSENT = 0x50000 | errno.ENOSYS
REFUSED = 0x50000 | errno.EPERM
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def verdict(machine: str, number: int, *arguments: int, audit: int = 0) -> int:
    """What the filter for *machine* answers."""
    code = b"".join(seccomp._filter(machine, PID))
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, audit or AUDIT[machine], 0, *padded)
    at = held = 0
    while True:
        step: tuple[int, int, int, int] = struct.unpack_from("<HBBI", code, at * 8)
        kind, if_true, if_false, value = step
        at += 1
        match kind:
            case 0x20:
                held = struct.unpack_from("<I", data, value)[0]
            case 0x54:
                held &= value
            case 0x15:
                at += if_true if held == value else if_false
            case 0x25:
                at += if_true if held > value else if_false
            case 0x45:
                at += if_true if held & value else if_false
            case 0x06:
                return value
            case other:
                raise AssertionError(other)


# read, write, mmap, futex, clock_nanosleep, openat, sendmsg, recvmsg, memfd_create
ORDINARY = {
    "x86_64": (0, 1, 9, 202, 230, 257, 46, 47, 319),
    "aarch64": (63, 64, 222, 98, 115, 56, 211, 212, 279),
}
NUMBERS = {
    "x86_64": {"kill": 62, "clone": 56, "socketpair": 53, "ioctl": 16, "execve": 59, "socket": 41},
    "aarch64": {
        "kill": 129,
        "clone": 220,
        "socketpair": 199,
        "ioctl": 29,
        "execve": 221,
        "socket": 198,
    },
}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
class TestFilter:
    def test_ordinary_calls_pass(self, machine: str) -> None:
        assert {verdict(machine, number) for number in ORDINARY[machine]} == {ALLOWED}

    def test_sockets_and_programs_do_not(self, machine: str) -> None:
        for name in ("socket", "execve"):
            assert verdict(machine, NUMBERS[machine][name]) == REFUSED

    def test_threads_are_started_and_processes_are_not(self, machine: str) -> None:
        clone = NUMBERS[machine]["clone"]
        assert verdict(machine, clone, 0x3D0F00) == ALLOWED
        assert verdict(machine, clone, 17) == REFUSED

    def test_signals_reach_the_process_itself_alone(self, machine: str) -> None:
        kill = NUMBERS[machine]["kill"]
        assert verdict(machine, kill, PID) == ALLOWED
        assert verdict(machine, kill, 1) == REFUSED
        assert verdict(machine, kill, (1 << 64) - 1) == REFUSED

    def test_the_ends_of_a_pair_stay_joined(self, machine: str) -> None:
        pair = NUMBERS[machine]["socketpair"]
        nonblocking = 0o4000 | 0o2000000
        assert verdict(machine, pair, 1, 1 | nonblocking) == ALLOWED
        assert verdict(machine, pair, 1, 2 | nonblocking) == REFUSED

    def test_nothing_is_typed_into_a_terminal(self, machine: str) -> None:
        ioctl = NUMBERS[machine]["ioctl"]
        assert verdict(machine, ioctl, 0, 0x5413) == ALLOWED
        assert verdict(machine, ioctl, 0, 0x5412) == REFUSED

    def test_calls_of_another_machine_and_those_to_come_are_absent(self, machine: str) -> None:
        assert verdict(machine, 0, audit=0x40000003) == ABSENT
        assert verdict(machine, 470) == ABSENT
        assert verdict(machine, 0x40000000) == ABSENT

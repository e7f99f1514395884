"""Hosts that cannot raise a whole wall: told, and the rest of it is raised.

Such a host is made of this one by a filter of calls, as a container may have it.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from headrace_server.wall import Wall, lacks, seccomp
from serving import READY_S_MAX

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not seccomp.is_there(), reason="needs seccomp filters"),
]

# Has the kernel answer that it has no Landlock, then becomes the command that follows.
WITHOUT_LANDLOCK = """
import ctypes, os, struct, sys
step = struct.Struct("<HBBI").pack
code = step(0x20, 0, 0, 0) + step(0x15, 0, 1, 444)
code += step(6, 0, 0, 0x50026) + step(6, 0, 0, 0x7fff0000)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(4, code)), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_LANDLOCK, sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=READY_S_MAX,
        check=False,
    )


def test_what_is_lacking_is_told_and_the_rest_holds(tmp_path: Path) -> None:
    script = """
import socket, sys
from headrace_server.wall import Wall, lacks, raise_wall, stay_within
print(lacks())
raise_wall(Wall.from_json(sys.argv[1]))
stay_within("/")
open("/etc/passwd").close()
print("read")
socket.socket()
"""
    ran = run("-P", "-c", script, Wall(str(tmp_path), str(tmp_path)).to_json())
    assert "Landlock, which Linux has from 5.13 on" in ran.stdout
    assert ran.stdout.endswith("read\n")
    assert "PermissionError: [Errno 1]" in ran.stderr


@pytest.mark.skipif("Landlock" in str(lacks()), reason="that is how this host is")
@pytest.mark.parametrize("required", ["true", "false"])
def test_a_server_that_must_confine_does_not_start_and_another_says_so_once(
    tmp_path: Path, required: str
) -> None:
    ran = run(
        *("-m", "headrace_server.cli", "serve", "x=/nowhere", "--tracking-uri", str(tmp_path)),
        *("--set", "sandbox.confine=all", "--set", f"sandbox.required={required}"),
        *("--set", f"server.cache_dir={tmp_path}", "--port", "0", "--metrics-port", "0"),
    )
    if required == "true":
        assert ran.returncode == 2
        assert "as required of [sandbox] says: this host lacks Landlock" in ran.stderr
    else:
        assert ran.stderr.count("sandbox_incomplete") == 1
        assert "this host lacks" not in ran.stderr.splitlines()[-1]

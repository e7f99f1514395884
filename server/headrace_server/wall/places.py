"""Places: what any Python process must be able to open, wherever its packages and its host have it.

What is not there on a host is in nobody's way: it is left out when rules are made.
"""

import os
import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import headrace

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where POSIX has named shared memory.

# Shared libraries, and what a Python reads of its host: time zones, languages, kinds of files.
_SYSTEM = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"),
    *("/usr/local/cuda", "/nix/store", "/gnu/store", "/run/opengl-driver"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/os-release"),
    *("/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo", "/usr/share/locale"),
    *("/etc/mime.types", "/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf"),
    "/etc/crypto-policies",
)
# The process itself, its processors, its memory, its GPUs. Of other processes nothing.
PROC = (
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version"),
    *("/proc/loadavg", "/proc/uptime", "/proc/filesystems", "/proc/devices", "/proc/modules"),
    *("/proc/driver", "/proc/sys/kernel", "/proc/sys/vm"),
)
_SYS = (
    *("/sys/devices", "/sys/bus", "/sys/class", "/sys/module", "/sys/kernel/mm"),
    "/sys/fs/cgroup",
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# Lists of directories where the dynamic linker, or CUDA, is told to look.
_TOLD = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH")


def readable() -> Iterator[str]:
    """Directories, each with all below it, and files that are read."""
    yield from _SYSTEM
    yield from PROC
    yield from _SYS
    # In an environment of a model's own our packages lie elsewhere than its others.
    yield str(Path(headrace.__file__).parent)
    yield str(Path(__file__).parents[1])
    yield from sys.path
    for prefix in {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}:
        yield os.path.join(prefix, "lib")
        yield os.path.join(prefix, "lib64")
        yield os.path.join(prefix, "pyvenv.cfg")
    for name in _TOLD:
        yield from filter(None, os.environ.get(name, "").split(os.pathsep))


def usable() -> Iterator[str]:
    """Devices that are read, written and told what to do: the harmless ones, and NVIDIA's GPUs."""
    yield from _DEVICES
    yield from glob("/dev/nvidia*")

"""Lifeline: ties a child process to its parent, so that no end of the parent leaves an orphan.

`python -m headrace_server.lifeline PARENT COMMAND...` becomes a command tied to that parent.
Standard library only: this file also runs inside a model's own, older environment.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def tie_to_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that spawned it ends.

    The signal does not come for a parent that died before it was asked for: so the parent is
    compared afterwards, and the process ends if it has changed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        sys.exit("the parent process is gone")


if __name__ == "__main__":
    tie_to_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command comes as a list.

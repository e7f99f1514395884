"""What a process may touch behind a wall, tried in real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace_server.wall import Wall, lacks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacks()), reason=f"this host lacks {', '.join(lacks())}"),
]

# Runs each statement behind the wall, and says how it ended.
SCRIPT = """
import json, os, sys
from headrace_server.wall import Wall, raise_wall, stay_within

raise_wall(Wall.from_json(sys.argv[1]))
told = []
for statement in json.loads(sys.argv[2]):
    try:
        exec(statement)
    except BaseException as error:
        told.append(type(error).__name__)
    else:
        told.append("done")
print(json.dumps(told))
"""


@pytest.fixture
def wall(tmp_path: Path) -> Wall:
    scratch, models = tmp_path / "scratch", tmp_path / "models"
    scratch.mkdir()
    for name in ("mine", "yours"):
        (models / name).mkdir(parents=True)
        (models / name / "file").write_text(name)
    (tmp_path / "secret").write_text("secret")
    return Wall(str(scratch), str(models))


def outcomes(wall: Wall, *statements: str, before: str = "") -> list[str]:
    """How each of *statements* ends behind *wall*: "done", or the exception's type."""
    ran = subprocess.run(
        [sys.executable, "-P", "-c", before + SCRIPT, wall.to_json(), json.dumps(statements)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        # As the daemon starts its children: in a group of their own.
        start_new_session=True,
    )
    assert ran.returncode == 0, ran.stderr
    told: list[str] = json.loads(ran.stdout.splitlines()[-1])
    return told


def refused(wall: Wall, *statements: str) -> None:
    told = outcomes(wall, *statements)
    assert dict(zip(statements, told, strict=True)) == dict.fromkeys(statements, "PermissionError")


def allowed(wall: Wall, *statements: str) -> None:
    told = outcomes(wall, *statements)
    assert dict(zip(statements, told, strict=True)) == dict.fromkeys(statements, "done")


def test_models_packages_and_what_the_host_tells_everybody_are_read(wall: Wall) -> None:
    allowed(
        wall,
        f"open({wall.models + '/mine/file'!r}).read()",
        f"os.listdir({wall.models!r})",
        "import numpy, decimal, ctypes.util, xml.dom.minidom",
        "open('/proc/self/status').read(); open('/proc/thread-self/stat').read()",
        "open('/proc/meminfo').read(); os.listdir('/sys/devices/system/cpu')",
        "os.urandom(4); open('/dev/null', 'w').write('x')",
    )


def test_nothing_else_is_read(wall: Wall, tmp_path: Path) -> None:
    refused(
        wall,
        f"open({str(tmp_path / 'secret')!r})",
        f"open({wall.models + '/../secret'!r})",
        f"os.listdir({str(tmp_path)!r})",
        "open('/etc/passwd')",
        f"os.listdir({str(Path.home())!r})",
        f"os.symlink({str(tmp_path / 'secret')!r}, 'link'); open('link')",
    )


def test_further_places_are_read_where_the_operator_names_them(wall: Wall, tmp_path: Path) -> None:
    more = Wall(wall.scratch, wall.models, (str(tmp_path / "secret"),))

    allowed(more, f"open({str(tmp_path / 'secret')!r}).read()")


def test_its_own_folder_is_its_home_and_all_that_it_writes(wall: Wall, tmp_path: Path) -> None:
    file = f"{wall.models}/mine/file"
    allowed(
        wall,
        "import tempfile; tempfile.mkstemp(); tempfile.mkdtemp()",
        "open(os.path.expanduser('~/x'), 'w').write('x')",
        "os.makedirs('a/b'); open('a/f', 'w').close(); os.rename('a/f', 'a/b/f')",
        "import shutil; shutil.rmtree('a')",
        f"assert os.getcwd() == {wall.scratch!r}",
    )
    refused(
        wall,
        f"open({file!r}, 'a')",
        f"open({file!r}, 'w')",
        f"os.truncate({file!r}, 0)",
        f"os.unlink({file!r})",
        f"os.chmod({file!r}, 0o777)",
        f"os.chown({file!r}, 0, 0)",
        f"os.setxattr({file!r}, 'user.x', b'x')",
        f"os.mkdir({str(tmp_path / 'new')!r})",
        f"os.rename({file!r}, {file + '2'!r})",
        "os.mkfifo('/tmp/headrace-fifo')",
        "os.mknod('device', 0o20600, os.makedev(1, 3))",
    )
    assert (tmp_path / "models" / "mine" / "file").read_text() == "mine"


def test_no_socket_is_opened(wall: Wall) -> None:
    refused(
        wall,
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_INET6)",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        # Its ends could be joined to other sockets.
        "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "import socket; socket.socketpair()[0].connect('/run/x')",
        "import socket; socket.socketpair()[0].bind('')",
    )
    allowed(wall, "import socket; a, b = socket.socketpair(); a.send(b'x'); b.recv(1)")


def test_no_program_is_run_and_no_process_started(wall: Wall) -> None:
    refused(
        wall,
        "os.execv('/bin/true', ['true'])",
        "import subprocess; subprocess.run(['/bin/true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.fork()",
        "import multiprocessing as m; m.get_context('fork').Process(target=print).start()",
        "if os.system('true'): raise PermissionError",
    )
    allowed(
        wall,
        "from threading import Thread; t = Thread(target=print); t.start(); t.join()",
        "from concurrent.futures import ThreadPoolExecutor as P; P(4).submit(len, 'a').result()",
    )


def test_other_processes_are_out_of_reach(wall: Wall) -> None:
    refused(
        wall,
        f"os.kill({os.getpid()}, 0)",
        f"os.kill({os.getpid()}, 15)",
        "os.kill(-1, 0)",
        f"os.setpriority(os.PRIO_PROCESS, {os.getpid()}, 5)",
        f"import resource; resource.prlimit({os.getpid()}, resource.RLIMIT_NOFILE)",
        f"os.pidfd_open({os.getpid()})",
        f"open('/proc/{os.getpid()}/environ', 'rb')",
        f"open('/proc/{os.getpid()}/cmdline', 'rb')",
        f"open('/proc/{os.getpid()}/mem', 'r+b')",
    )
    allowed(
        wall,
        "os.kill(os.getpid(), 0)",
        "os.nice(1)",
        "import resource; resource.getrlimit(resource.RLIMIT_NOFILE)",
        "import signal; signal.raise_signal(signal.SIGWINCH)",
    )


def test_the_system_stays_as_it_is(wall: Wall) -> None:
    calls = {"mount": 165, "unshare": 272, "ptrace": 101, "bpf": 321, "shmget": 29, "keyctl": 250}
    script = "import ctypes; c = ctypes.CDLL(None, use_errno=True)\n"
    tried = [
        f"{script}if c.syscall({number}, 0, 0, 0) < 0: raise OSError(ctypes.get_errno(), {name!r})"
        for name, number in calls.items()
    ]
    if os.uname().machine == "x86_64":
        refused(wall, *tried)
    refused(wall, "os.chroot('.')")
    # As if the kernel had none: who finds none goes on without.
    absent = (425, 435, 1000)  # io_uring_setup, clone3, one to come.
    told = outcomes(
        wall,
        *(
            f"{script}c.syscall({number}, 0, 0, 0)\nassert ctypes.get_errno() == 38"
            for number in absent
        ),
    )
    assert told == ["done"] * 3


def test_no_core_is_dumped_and_no_file_grows_without_end(wall: Wall) -> None:
    allowed(wall, "import resource as r; assert r.getrlimit(r.RLIMIT_CORE) == (0, 0)")
    assert outcomes(wall, "open('big', 'wb').truncate(1 << 33)") == ["OSError"]


def test_a_thread_is_held_to_one_model_and_so_is_what_it_starts(wall: Wall) -> None:
    mine, yours = (f"{wall.models}/{name}/file" for name in ("mine", "yours"))
    within = f"""
from pathlib import Path; from threading import Thread
seen = []
def read(*paths):
    for path in paths:
        try:
            open(path).close(); open('x', 'w').close()
            seen.append('read')
        except PermissionError:
            seen.append('refused')
def narrow():
    stay_within(Path({wall.models!r}, 'mine'))
    read({mine!r}, {yours!r})
    inner = Thread(target=read, args=({mine!r}, {yours!r})); inner.start(); inner.join()
thread = Thread(target=narrow); thread.start(); thread.join()
read({yours!r})
assert seen == %s, seen
"""
    allowed(wall, within % ["read", "refused", "read", "refused", "read"])
    # A framework's own threads open files for all models of a process.
    open_to_code = Wall(wall.scratch, wall.models, runs_code=True)
    allowed(open_to_code, within % (["read"] * 5))


def test_named_memory_is_for_models_with_code_alone(wall: Wall) -> None:
    lock = "import multiprocessing as m; m.get_context('fork').Lock()"
    refused(wall, lock)
    allowed(Wall(wall.scratch, wall.models, runs_code=True), lock)


def test_no_wall_is_raised_beside_other_threads(wall: Wall) -> None:
    before = (
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    with pytest.raises(AssertionError, match="before there is a second thread"):
        outcomes(wall, before=before)

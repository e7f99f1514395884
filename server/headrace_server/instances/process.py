"""Process: starting our child processes, and talking to them over one socket each.

Children are spawned from one permanent thread: a child's parent-death signal fires when the thread
that spawned it ends, not when the process does.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import headrace

from ..completions import Completions
from ..frames import Frame, FrameSocket, Kind

# Frames taken from one socket before the others get their turn.
_BURST_MAX = 64
_EXIT_S_MAX = 5.0

# Whether a child is given an environment variable of ours.
Keeps = Callable[[str], bool]


def python_of_ours(module: str) -> list[str]:
    """The command that runs *module* in the environment of this process."""
    # -P: the directory we were started in must not shadow a module of the child's.
    return [sys.executable, "-P", "-m", module]


def python_of(interpreter: str) -> list[str]:
    """The command that runs a worker under the Python *interpreter* of another environment."""
    boot = Path(__file__).parents[1] / "worker" / "boot.py"
    contract = Path(headrace.__file__).parent
    return [interpreter, "-I", str(boot), str(contract)]


class Spawner:
    """The permanent thread from which all children are spawned.

    *environment* is what every child finds in its own, beside ours.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment or {}
        self._jobs: queue.SimpleQueue[
            tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]] | None
        ] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="spawner", daemon=True)
        self._thread.start()

    def spawn(
        self,
        command: Sequence[str],
        arguments: Sequence[str],
        fd: int,
        environment: dict[str, str],
        keeps: Keeps | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `command --fd FD --parent PID arguments...` with *fd* inherited.

        Of our own environment it finds what *keeps* says, else all; *environment* in any case.
        """
        inherited = {name: said for name, said in os.environ.items() if not keeps or keeps(name)}

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [*command, "--fd", str(fd), "--parent", str(os.getpid()), *arguments],
                pass_fds=(fd,),
                stdin=subprocess.DEVNULL,
                env={**inherited, **self._environment, **environment},
                start_new_session=True,
            )

        future: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((start, future))
        return future.result()

    def close(self) -> None:
        """End the thread; children that still live get their parent-death signal."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            start, future = job
            try:
                future.set_result(start())
            except BaseException as error:  # noqa: BLE001 - the end of this thread would end all children.
                future.set_exception(error)


class Process:
    """One child and our end of its socket.

    Once `start_watching` was called, frames arrive on the completions thread, at *on_frame*; the
    end of the process at *on_end*, once, after its last frame. A process that closed its socket
    counts as ended; so does one whose own children still hold that socket.
    """

    def __init__(
        self,
        spawner: Spawner,
        completions: Completions,
        command: Sequence[str],
        arguments: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        keeps: Keeps | None = None,
        *,
        on_frame: Callable[[Frame], None],
        on_end: Callable[[], None],
    ) -> None:
        self._completions = completions
        self._on_frame = on_frame
        self._on_end = on_end
        # Frames that the process has not taken yet. Bounded by its instances and their slots.
        self._outbox: deque[tuple[Kind, bytes, tuple[int, ...]]] = deque()
        self._lock = threading.Lock()
        self._socket, theirs = FrameSocket.pair()
        with theirs:
            self._popen = spawner.spawn(
                command, arguments, theirs.fileno(), environment or {}, keeps
            )
        self.pid = self._popen.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._is_over = False

    def start_watching(self) -> None:
        """Begin to call back. Apart from the constructor, so that the caller can note us first."""
        self._completions.watch(self._socket.fileno(), self._on_readable)
        self._completions.watch(self._pidfd, self._on_exit)

    def send(self, kind: Kind, body: bytes, fds: Sequence[int] = ()) -> None:
        """Send a frame; never waits.

        Frames that a process does not take, because it is stopped or starved, wait on our side:
        no thread of the daemon may hang on one worker.

        Raises:
            OSError: The process is gone.
        """
        with self._lock:
            if not self._outbox:
                try:
                    self._socket.send_nowait(kind, body, fds)
                except BlockingIOError:
                    self._completions.watch_writable(self._socket.fileno(), self._flush)
                else:
                    return
            # The caller may close its descriptors before the frame is sent.
            self._outbox.append((kind, body, tuple(os.dup(fd) for fd in fds)))

    def send_json(self, kind: Kind, body: object, fds: Sequence[int] = ()) -> None:
        """Send a JSON frame; see `send`."""
        self.send(kind, json.dumps(body).encode(), fds)

    def hang_up(self) -> None:
        """Ask the process to end: it sees the end of its socket."""
        self._socket.shutdown()

    def stop(self) -> None:
        """End the process, and wait for it; what lingers is killed."""
        self.hang_up()
        try:
            self._popen.wait(_EXIT_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()

    def end_now(self) -> None:
        """Kill the process without waiting for it; its end is told as any other."""
        self._popen.kill()

    def kill(self) -> int:
        """Kill the process if it still runs, and wait; its exit code."""
        self._popen.kill()
        return self._popen.wait()

    def _flush(self) -> None:
        with self._lock:
            while self._outbox:
                kind, body, fds = self._outbox[0]
                try:
                    self._socket.send_nowait(kind, body, fds)
                except BlockingIOError:
                    return
                except OSError:
                    # The end of the process is told by its socket.
                    self._drop_outbox()
                    break
                self._outbox.popleft()
                _close_all(fds)
            self._completions.unwatch_writable(self._socket.fileno())

    def _drop_outbox(self) -> None:
        while self._outbox:
            _close_all(self._outbox.popleft()[2])

    def _on_readable(self) -> None:
        for _ in range(_BURST_MAX):
            try:
                frame = self._socket.recv_nowait()
            except BlockingIOError:
                return
            except ConnectionError:
                frame = None
            if frame is None:
                self._finish()
                return
            self._on_frame(frame)

    def _on_exit(self) -> None:
        """The process is gone, though something may still hold its end of the socket."""
        while not self._is_over:
            try:
                frame = self._socket.recv_nowait()
            except (BlockingIOError, ConnectionError):
                frame = None
            if frame is None:
                self._finish()
            else:
                self._on_frame(frame)

    def _finish(self) -> None:
        self._is_over = True
        with self._lock:
            self._drop_outbox()
            self._completions.unwatch(self._socket.fileno())
            self._completions.unwatch(self._pidfd)
            self._socket.close()
            os.close(self._pidfd)
        self._on_end()


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)

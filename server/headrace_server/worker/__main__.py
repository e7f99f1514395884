"""Worker process: receives frames and hands them to the instance they are for.

`python -m headrace_server.worker --fd N --parent PID`. Of ours it imports the standard library and
numpy only; the framework comes with the model. It ends when its socket does, even while a model
computes, and when its parent dies.
"""

import argparse
import contextlib
import os
import signal

from ..arena import ArenaView
from ..batchframes import RunFrame
from ..childlog import log_uncaught
from ..frames import FrameSocket, Kind
from ..lifeline import tie_to_parent
from .loop import InstanceThread


def main() -> None:
    """Serve frames until the socket ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    log_uncaught()
    tie_to_parent(arguments.parent)
    # Ctrl-C and a terminal's hang-up are for the daemon, which then ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(FrameSocket.inherited(arguments.fd))
    # Threads may be deep in a model's call: no one waits for them.
    os._exit(0)


def serve(frames: FrameSocket) -> None:
    """Hand out frames until the daemon's end of the socket closes."""
    arena: ArenaView | None = None
    instances: dict[int, InstanceThread] = {}
    # The daemon may be gone again; then the first recv says so.
    with contextlib.suppress(OSError):
        frames.send_json(Kind.HELLO, {"pid": os.getpid()})
    while (frame := frames.recv()) is not None:
        match frame.kind:
            case Kind.RUN:
                run = RunFrame.unpack(frame.body)
                if (instance := instances.get(run.instance)) is not None:
                    instance.submit(run)
                else:
                    lost = {"batch": run.batch, "type": "UnknownInstance"}
                    frames.send_json(Kind.RUN_FAILED, lost)
            case Kind.ARENA:
                arena = ArenaView(frame.fds[0], frame.json()["bytes"])
            case Kind.LOAD:
                assert arena is not None, "the arena comes before the first model"
                spec = frame.json()
                instances[spec["instance"]] = InstanceThread(spec, frames, arena.memory)
            case Kind.UNLOAD:
                number = frame.json()["instance"]
                if (unloaded := instances.pop(number, None)) is not None:
                    unloaded.close()
                    # Its memory must not hang on this name until the next one goes.
                    del unloaded
                else:
                    frames.send_json(Kind.UNLOADED, {"instance": number})


if __name__ == "__main__":
    main()

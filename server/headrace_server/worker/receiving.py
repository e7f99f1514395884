"""Receiving: a worker's frames, each handed to the instance it is for."""

import contextlib
import os

from ..arena import ArenaView
from ..batchframes import RunFrame
from ..frames import FrameSocket, Kind
from .loop import InstanceThread


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

"""Worker process: receives frames and hands them to the instance they are for.

`python -m headrace_server.worker --fd N --parent PID`. Of ours it imports the standard library and
numpy only; the framework comes with the model. It ends when its socket does, even while a model
computes, and when its parent dies. With `--wall` it is confined before all else: see the package
wall.
"""

import argparse
import os
import signal

from ..childlog import log_uncaught
from ..frames import FrameSocket
from ..lifeline import tie_to_parent
from ..wall import Wall, raise_wall


def main() -> None:
    """Serve frames until the socket ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--wall", type=Wall.from_json)
    arguments = parser.parse_args()
    log_uncaught()
    tie_to_parent(arguments.parent)
    # Ctrl-C and a terminal's hang-up are for the daemon, which then ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if arguments.wall is not None:
        raise_wall(arguments.wall)
    # Only now: with numpy come the threads of its BLAS, which no wall would hold.
    from .receiving import serve  # noqa: PLC0415

    serve(FrameSocket.inherited(arguments.fd))
    # Threads may be deep in a model's call: no one waits for them.
    os._exit(0)


if __name__ == "__main__":
    main()

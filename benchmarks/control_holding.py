"""Control of floods: the bare transport, which holds every ModelInfer and answers none.

What a call that waits costs without a queue. ServerLive tells, as text, how many there are.
Usage: control_holding.py PORT
"""

import sys

from pygrpc_native import EVENT_CALL, NativeGrpcFront

METHODS = ("ModelInfer", "ServerLive")


def main() -> None:
    """Serve until killed."""
    front = NativeGrpcFront(
        f"127.0.0.1:{sys.argv[1]}",
        [(f"/inference.GRPCInferenceService/{name}", False) for name in METHODS],
        io_threads=1,
        # Without it nobody is told of a caller that leaves; the daemon asks for it too.
        call_details=True,
        metrics=True,
    )
    front.start()
    print(front.bound_port, flush=True)
    held: dict[int, bytes | None] = {}
    while (events := front.recv_batch_details(256)) is not None:
        for kind, call, method, payload, _key, _details in events:
            if kind != EVENT_CALL:
                held.pop(call, None)
            elif METHODS[method] == "ModelInfer":
                held[call] = payload
            else:
                front.respond(call, str(len(held)).encode())


if __name__ == "__main__":
    main()

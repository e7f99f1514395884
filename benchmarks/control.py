"""Control: the bare transport. Decodes one ModelInferRequest per call and answers it at once.

What any Python server on this transport must cost; every figure of the benchmarks stands beside it.
Usage: control.py PORT [VALUES]; with VALUES it answers only as many of the input's values.
"""

import sys

import numpy as np
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from headrace.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse


def answer(payload: bytes, values: int | None = None) -> bytes:
    """The first *values* of the first input, sent back."""
    request = ModelInferRequest.FromString(payload)
    x = np.frombuffer(request.raw_input_contents[0], np.float32)[:values]
    response = ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    response.outputs.add(name="y", datatype="FP32", shape=x.shape)
    response.raw_output_contents.append(x.tobytes())
    return response.SerializeToString()


def main() -> None:
    """Serve until killed."""
    front = NativeGrpcFront(
        f"127.0.0.1:{sys.argv[1]}", [("/inference.GRPCInferenceService/ModelInfer", False)]
    )
    front.start()
    values = int(sys.argv[2]) if len(sys.argv) > 2 else None
    print(front.bound_port, flush=True)
    while (events := front.recv_batch(64)) is not None:
        for kind, call, _method, payload, _key in events:
            if kind == EVENT_CALL:
                front.respond(call, answer(payload or b"", values))


if __name__ == "__main__":
    main()

"""Bare: what an ONNX model of models.py costs when onnxruntime alone runs it.

Usage: bare.py NAME ROWS SECONDS. Prints CPU ms per row of batches of ROWS rows.
"""

import sys
import time

import numpy as np
import onnxruntime

import models


def main() -> None:
    """Run, print."""
    name, rows, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        models.graph(name).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (row, _) = models.GRAPHS[name]
    batch = {"x": np.random.default_rng(0).normal(size=(rows, *row)).astype(np.float32)}
    session.run(None, batch)
    runs = 0
    before = time.process_time()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        session.run(None, batch)
        runs += 1
    print((time.process_time() - before) * 1e3 / (runs * rows))


if __name__ == "__main__":
    main()

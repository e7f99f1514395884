"""Direct: the benchmark's CNN on a device, called in a loop by a process that serves nobody.

The same batch of images again and again, from the host and back to it, each waited for: what a
caller without a server does. On a GPU the images lie in page-locked memory.
Usage: gpu_direct.py TRACKING_URI DEVICE ROWS SECONDS; prints JSON: rows/s, and the milliseconds of
copying in, computing and copying out one batch, each by itself.
"""

import json
import sys
import time
from collections.abc import Callable

import mlflow
import mlflow.pytorch
import torch

import models
from headrace_server.demo.train import ALIAS

_WARM_CALLS = 10
_TIMED_CALLS = 20


def main() -> None:
    """Load, warm up, measure."""
    uri, device, rows, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    mlflow.set_tracking_uri(uri)
    network = mlflow.pytorch.load_model(f"models:/cnn@{ALIAS}", device=device).eval()
    images = torch.from_numpy(models.cnn_rows(rows)["image"])
    if device != "cpu":
        images = images.pin_memory()
    with torch.inference_mode():
        for _ in range(_WARM_CALLS):
            network(images.to(device)).cpu()
        calls = 0
        began = time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            network(images.to(device, non_blocking=True)).cpu()
            calls += 1
        there = images.to(device)
        result = network(there)
        parts_ms = {
            "copy_in_ms": _ms(lambda: images.to(device, non_blocking=True), device),
            "compute_ms": _ms(lambda: network(there), device),
            "copy_out_ms": _ms(result.cpu, device),
        }
    print(json.dumps({"rows_per_s": calls * rows / spent, **parts_ms}))


def _ms(call: Callable[[], object], device: str) -> float:
    """How long *call* takes, with whatever it set going on the device: the best of many."""
    took = []
    for _ in range(_TIMED_CALLS):
        _wait(device)
        began = time.perf_counter()
        call()
        _wait(device)
        took.append(time.perf_counter() - began)
    return min(took) * 1e3


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()

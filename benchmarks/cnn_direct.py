"""Direct: the benchmark's CNN called in a loop, in a process that serves nobody.

One thread, inference mode, the same array of images again and again: what a core can do at most.
Usage: cnn_direct.py TRACKING_URI; then a line "ROWS SECONDS" on its input is answered by a line of
the rows/s at that batch size.
"""

import sys
import time

import mlflow
import mlflow.pytorch
import torch

import models
from headrace_server.demo.train import ALIAS

# Calls before the clock runs.
_WARM_CALLS = 3


def main() -> None:
    """Answer until the input ends."""
    mlflow.set_tracking_uri(sys.argv[1])
    torch.set_num_threads(1)
    network = mlflow.pytorch.load_model(f"models:/cnn@{ALIAS}").eval()
    print("ready", flush=True)
    for line in sys.stdin:
        rows, seconds = line.split()
        print(_rows_per_s(network, int(rows), float(seconds)), flush=True)


def _rows_per_s(network: torch.nn.Module, rows: int, seconds: float) -> float:
    images = torch.from_numpy(models.cnn_rows(rows)["image"])
    with torch.inference_mode():
        for _ in range(_WARM_CALLS):
            network(images)
        calls = 0
        began = time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            network(images)
            calls += 1
    return calls * rows / spent


if __name__ == "__main__":
    main()

"""Direct: the benchmark's CNN called in a loop, in a process that serves nobody.

Inference mode, the same array of images again and again: what a core can do at most.
Usage: cnn_direct.py TRACKING_URI ROWS SECONDS [THREADS]; prints the rows/s.
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
    """Load, warm up, measure."""
    uri, rows, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    mlflow.set_tracking_uri(uri)
    torch.set_num_threads(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    network = mlflow.pytorch.load_model(f"models:/cnn@{ALIAS}").eval()
    images = torch.from_numpy(models.cnn_rows(rows)["image"])
    with torch.inference_mode():
        for _ in range(_WARM_CALLS):
            network(images)
        calls = 0
        began = time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            network(images)
            calls += 1
    print(calls * rows / spent)


if __name__ == "__main__":
    main()

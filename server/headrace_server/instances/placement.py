"""Placement: which device each instance of a model goes to. Pure."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

# MLflow flavors whose adapters compute on a GPU; a test holds them against the adapters. Where the
# choice is ours, a model of any other one goes to a worker that holds no GPU.
ACCELERATED: Final = frozenset(
    {
        "keras",
        "onnx",
        "pytorch",
        "sentence_transformers",
        "tensorflow",
        "transformers",
        "xgboost",
    }
)


def placed(
    devices: str, instances: int, left_bytes: Mapping[str, int], each_bytes: int = 0
) -> tuple[str, ...]:
    """The device of each instance.

    Args:
        devices: Several, separated by commas, each of which gets *instances*; they take turns, so
            that the first ones stand alone on their devices. Or "auto" or "cuda": *instances* in
            all, each on the GPU with the fewest of them and room for one, the emptiest of these.
        instances: How many.
        left_bytes: Room on each GPU; empty where none is known. Then "cuda" is the first one, and
            "auto" stays what it is: the worker looks.
        each_bytes: What one needs; 0 where that is not known.
    """
    if devices not in ("auto", "cuda"):
        names = ["cuda:0" if name == "cuda" else name for name in devices.split(",")]
        return tuple(names) * instances
    if not left_bytes:
        return ("cuda:0" if devices == "cuda" else devices,) * instances
    counts: Counter[str] = Counter()
    chosen = []
    for _ in range(instances):
        left = {name: left_bytes[name] - each_bytes * counts[name] for name in left_bytes}
        # Where none has room it is the emptiest that will say so.
        roomy = [name for name in left if left[name] >= each_bytes] or [
            max(left, key=lambda n: left[n])
        ]
        best = min(roomy, key=lambda name: (counts[name], -left[name]))
        counts[best] += 1
        chosen.append(best)
    return tuple(chosen)

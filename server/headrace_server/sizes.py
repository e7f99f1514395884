"""Sizes: the next of a few allowed ones, where a model is not run with every number of rows.

Compiled models and CUDA graphs exist for some sizes only. Standard library only: this file also
runs inside a model's own, older environment.
"""

from bisect import bisect_left
from collections.abc import Sequence


def padded_size(count: int, sizes: Sequence[int]) -> int:
    """The smallest of *sizes*, which ascend, that holds *count*; *count* where none does."""
    at = bisect_left(sizes, count)
    return sizes[at] if at < len(sizes) else count

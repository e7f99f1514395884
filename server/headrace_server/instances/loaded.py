"""LoadedInstance: what the daemon knows of one model instance in a worker."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ..types import Batching


@dataclass(slots=True, eq=False)
class LoadedInstance:
    """One model instance in a worker.

    Attributes:
        number: What the worker's frames know it by.
        spec: The LOAD frame, sent again to every new process.
        found: What the worker reported; set once loaded.
        is_up: Whether the worker has it loaded now.
        loads: How often it was loaded; tells a slot's batch from one of an earlier process.
        failed_reloads: How many processes ended while they loaded it again, or before, in a row.
        on_change: Told when `is_up` changes after the first load; on the completions thread.
        on_fail: Told why a new process could not load it again; on the completions thread.
        on_find: Told what traffic has shown of whether it batches, and the outputs where nothing
            was known of them; on the completions thread.
    """

    number: int
    spec: dict[str, Any]
    found: Future[dict[str, Any]]
    is_up: bool = False
    loads: int = 0
    failed_reloads: int = 0
    on_change: Callable[["LoadedInstance"], None] | None = None
    on_fail: Callable[[str], None] | None = None
    on_find: Callable[[Batching, list[Any]], None] | None = None

    @property
    def exec_s_max(self) -> float:
        """How long it may work on one batch (seconds)."""
        ms: int = self.spec["exec_ms_max"]
        return ms / 1e3

"""Service: which model and version a request means, and whether there is room for it.

The transports' one counterpart. It has a plan made once per kind of request (planning.py), and
hands bursts of requests to the schedulers they are planned for.
"""

import threading
from collections.abc import Callable, Sequence

from .errors import ResourceExhausted
from .planning import Ask, plan
from .repository.repository import Repository
from .types import Plan, Request, Target


class Service:
    """Plans and admission. Safe from any thread.

    Attributes:
        repository: The models.
        on_failure: Told the reason of every request that fails before it reaches a queue.
        is_leaving: Whether the daemon is about to end: it calls itself not ready.
        is_refusing: Whether it takes no new requests any more.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        queue_bytes_max: int,
        on_failure: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Serve what *repository* holds.

        Args:
            repository: The models.
            queue_bytes_max: Bytes of tensors that may wait in all queues together.
            on_failure: Told the reason of every request that fails before it reaches a queue.
        """
        self.repository = repository
        self.on_failure = on_failure
        # Set one after the other when the daemon is about to end; read by the transports.
        self.is_leaving = False
        self.is_refusing = False
        self._queue_bytes_max = queue_bytes_max
        # No less than the bytes that wait: what was submitted since they were last counted, and
        # what there was then. Counting them takes longer the more models there are.
        self._queued_bytes_most = 0
        self._counting = threading.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether callers should send requests here."""
        return self.repository.is_ready and not self.is_leaving

    @property
    def generation(self) -> int:
        """Changes whenever a plan may have become wrong."""
        return self.repository.generation

    def plan(self, ask: Ask) -> Plan:
        """What every request that looks like *ask* will need; see `planning.plan`.

        Raises:
            ModelNotFound, ModelLoading, ModelUnavailable: The model cannot be asked.
            InvalidRequest: The tensors or outputs do not fit it.
        """
        return plan(self.repository.find(ask.model, ask.version), ask)

    def submit(self, target: Target, requests: Sequence[Request]) -> None:
        """Queue *requests* where they are planned for; each is answered through its reply."""
        nbytes = sum(request.nbytes for request in requests)
        with self._counting:
            if self._queued_bytes_most + nbytes > self._queue_bytes_max:
                self._queued_bytes_most = self.repository.queued_bytes
            queued = self._queued_bytes_most
            has_room = queued + nbytes <= self._queue_bytes_max
            if has_room:
                self._queued_bytes_most += nbytes
        if not has_room:
            error = ResourceExhausted(
                f"the server is full: {queued} bytes wait, {nbytes} more would exceed "
                f"queue_bytes_max = {self._queue_bytes_max}"
            )
            for request in requests:
                self.on_failure(error.reason)
                request.reply.fail(request, error)
            return
        target.submit(requests)

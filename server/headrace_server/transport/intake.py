"""Intake: what every transport does with a call's message, from bytes to a submitted request.

Both listeners refuse the same message with the same words because this is where they refuse it.
"""

import time
from collections.abc import Callable

from ..errors import SERVER_ENDS, Draining, HeadraceError, ResourceExhausted
from ..faults import fault
from ..service import Service
from ..types import Plan, Reply, Request, Target, Timing
from .decoder import Decoder

_INFINITY = float("inf")

# Of a message, where its answer goes, what the call is known by, now, and the deadline.
Decode = Callable[[bytes, Reply, object, float, float], tuple[Plan, Request]]


class Intake:
    """Takes messages one by one and submits them as a burst. Used by one thread.

    Attributes:
        refused_at: When a message was last refused because the daemon is about to end (seconds).
    """

    def __init__(self, service: Service, reply: Reply, *, message_bytes_max: int) -> None:
        """Take messages for *service*.

        Args:
            service: Where requests go.
            reply: Where their answers go.
            message_bytes_max: Longest message.
        """
        self._service = service
        self._reply = reply
        self._message_bytes_max = message_bytes_max
        self._decoder = Decoder(service)
        self._burst: dict[Target, list[Request]] = {}
        # Of the burst, those whose callers asked when they passed their steps.
        self._timings: list[Timing] = []
        self._now = 0.0
        self.refused_at = -_INFINITY

    def begin(self) -> None:
        """A burst begins: look at the clock, and at what is served."""
        self._now = time.monotonic()
        self._decoder.begin_burst()

    def take(
        self,
        payload: bytes,
        call: object,
        left_s: float | None,
        *,
        is_timed: bool = False,
        decode: Decode | None = None,
    ) -> tuple[Target, Request]:
        """Make *payload* part of the burst; where it goes, for a caller that may leave.

        Args:
            payload: The message.
            call: What the transport knows the call by.
            left_s: Seconds until the caller stops waiting; None for never.
            is_timed: Whether the caller asked when the request passed its steps.
            decode: What reads the message; None where it is a ModelInferRequest.

        Raises:
            HeadraceError: It is refused. Counted already.
        """
        if self._service.is_refusing or len(payload) > self._message_bytes_max:
            refusal = self._refusal(len(payload))
            self._service.on_failure(refusal.reason)
            raise refusal
        now = self._now
        try:
            deadline_at = _INFINITY if left_s is None else now + left_s
            read = self._decoder.decode if decode is None else decode
            plan, request = read(payload, self._reply, call, now, deadline_at)
        except HeadraceError as error:
            self._service.on_failure(error.reason)
            raise
        except Exception:  # noqa: BLE001 - one message must not cost the others theirs.
            # No caller may see our exception's text.
            own = fault("decode_failed")
            self._service.on_failure(own.reason)
            raise own from None
        if is_timed:
            request.timing = Timing(time.monotonic())
            self._timings.append(request.timing)
        target = plan.target
        requests = self._burst.get(target)
        if requests is None:
            self._burst[target] = [request]
        else:
            requests.append(request)
        return target, request

    def submit(self) -> None:
        """The burst is over: hand it to the schedulers, each its part at once."""
        burst, self._burst = self._burst, {}
        if self._timings:
            now = time.monotonic()
            for timing in self._timings:
                timing.submitted_at = now
            self._timings.clear()
        for target, requests in burst.items():
            try:
                self._service.submit(target, requests)
            except Exception:  # noqa: BLE001 - this thread must outlive any single fault.
                error = fault("submit_failed", requests=len(requests))
                for request in requests:
                    self._reply.fail(request, error)

    def _refusal(self, nbytes: int) -> HeadraceError:
        if self._service.is_refusing:
            self.refused_at = self._now
            return Draining(SERVER_ENDS)
        return ResourceExhausted(
            f"the message has {nbytes} bytes, message_bytes_max is {self._message_bytes_max}"
        )

"""Native: what runs models, through pygrpc-native, whose HTTP/2 work runs outside the GIL.

Calls arrive in bursts on the receiver thread, are decoded, grouped by model and submitted; answers
go out from whatever thread has them. Everything else is passed on to the grpcio server on a Unix
socket behind it.
"""

import threading
import time
from collections.abc import Collection

from pygrpc_native import EVENT_CALL, NativeGrpcFront

from headrace.timings import ASKED

from ..errors import HeadraceError
from ..service import Service
from ..types import Outputs, Request, Target
from .encoder import Encoder
from .guard import Guard
from .intake import Intake
from .requestlog import RequestLog
from .status import number_of
from .timings import trailing
from .typed.directory import METHODS, TypedDirectory

INFER = "/inference.GRPCInferenceService/ModelInfer"

# Calls taken in one entry into Python. A burst is answered sooner the smaller it is, and costs less
# per call the larger it is.
_BURST_MAX = 256
# At the end: how often to look whether all answers are written, for how long no call must have come
# before the connections go, and how long that is waited for (seconds).
_LOOK_S = 0.01
_QUIET_S = 0.1
_QUIET_S_MAX = 1.0


class NativeTransport:
    """The listener; a Reply to the requests it submits."""

    def __init__(
        self,
        service: Service,
        target: str,
        *,
        fallback: str,
        message_bytes_max: int,
        typed: TypedDirectory,
        guard: Guard | None = None,
        is_logging: bool = False,
    ) -> None:
        """Bind to *target*.

        Args:
            service: Where requests go.
            target: host:port, or unix:path.
            fallback: Path of the Unix socket that serves the other methods.
            message_bytes_max: Longest message, either way.
            typed: The models' own services.
            guard: Decides which calls may pass; None for all.
            is_logging: Whether every request gets a line in the log.

        Raises:
            RuntimeError, OSError: The address cannot be bound.
        """
        self._log = RequestLog(self) if is_logging else None
        self._intake = Intake(service, self._log or self, message_bytes_max=message_bytes_max)
        self._encoder = Encoder(message_bytes_max)
        # Open calls, so that a caller that leaves can be found. Owned by no lock: single operations
        # on a dict are atomic, and whoever pops an entry ends the call.
        self._open: dict[int, tuple[Target, Request]] = {}
        self._typed = typed
        # Number of a typed method -> its model, and whether it is PredictRow.
        self._typed_methods: dict[int, tuple[str, bool]] = {}
        self._guard = guard
        self._on_failure = service.on_failure
        self._front = NativeGrpcFront(
            target,
            [(INFER, False)],
            io_threads=1,
            call_details=True,
            # Each call's key is then this header's value, as bytes; its peer, as text, without it.
            client_key_metadata="authorization" if guard else None,
            # These alone tell at the end which calls are still being written.
            metrics=True,
        )
        self._front.set_fallback(fallback)
        self._thread = threading.Thread(target=self._receive, name="receiver", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on; 1 for a Unix socket, as grpcio has it."""
        return self._front.bound_port

    def start(self) -> None:
        """Begin to take calls: ModelInfer, and those of the typed services that are known by now.

        Methods can only be added before; the server behind takes those of models that come later.
        """
        for service, model in self._typed.services.items():
            paths = [(f"/{service}/{method}", False) for method in METHODS]
            for number, (path, _) in zip(self._front.add_methods(paths), paths, strict=True):
                self._typed_methods[number] = (model, path.endswith("/PredictRow"))
        self._front.start()
        self._thread.start()

    def close(self, grace_s: float) -> None:
        """Close the listener and every connection, once what was answered is written.

        A caller that does not read its answer is given *grace_s*; one that goes on sending is told
        for a moment to go elsewhere, since what is on its way then would end as cancelled.
        """
        if self._thread.ident is not None:
            self._wait_written(grace_s)
        self._front.close()
        if self._thread.ident is not None:
            self._thread.join()

    def answer(self, request: Request, outputs: Outputs, start: int, stop: int) -> None:
        """See `types.Reply`."""
        encode = request.encode or self._encoder.encode
        payload = encode(request, outputs, start, stop)
        call = request.call
        if self._open.pop(call, None) is None:  # type: ignore[call-overload]
            return
        if request.timing is None:
            self._front.respond(call, payload)  # type: ignore[arg-type]
        else:
            request.timing.trip = outputs.trip
            self._front.respond(call, payload, None, trailing(request))  # type: ignore[arg-type]

    def fail(self, request: Request, error: HeadraceError) -> None:
        """See `types.Reply`."""
        call = request.call
        if self._open.pop(call, None) is not None:  # type: ignore[call-overload]
            self._front.fail(call, number_of(error), error.message)  # type: ignore[arg-type]

    def _wait_written(self, grace_s: float) -> None:
        """Wait until every answer is written to its end, and no new calls come."""
        began = quiet_since = time.monotonic()
        last = -1
        while (now := time.monotonic()) < began + grace_s:
            started, ended = self._calls()
            if started != last:
                last, quiet_since = started, now
            is_quiet = now - quiet_since >= _QUIET_S or now - began >= _QUIET_S_MAX
            if is_quiet and started == ended:
                return
            time.sleep(_LOOK_S)

    def _calls(self) -> tuple[int, int]:
        """How many calls have come, and how many answers were written to their end."""
        metrics = self._front.metrics()
        assert metrics is not None, "the front was made with metrics"
        # Those of the server behind it too.
        calls = metrics["methods"].values()
        return (
            sum(method["started"] for method in calls),
            sum(status["count"] for method in calls for status in method["status"].values()),
        )

    def _receive(self) -> None:
        front, intake, guard, log = self._front, self._intake, self._guard, self._log
        typed_methods = self._typed_methods
        while (events := front.recv_batch_details(_BURST_MAX)) is not None:
            intake.begin()
            passed: Collection[object] = () if guard is None else guard.passed(INFER)
            for kind, call, method, payload, key, details in events:
                if kind != EVENT_CALL:
                    self._cancel(call)
                    continue
                assert payload is not None, "a call comes with its message"
                if log is not None:
                    log.begin(call, details[1] if details else "")
                try:
                    if guard is not None and key not in passed:
                        self._check(guard, key)
                    assert details is not None, "the front was made with call_details"
                    metadata, _, left_s = details
                    typed = typed_methods.get(method)
                    decode = typed and self._typed.reader(typed[0], metadata, is_row=typed[1])
                    self._open[call] = intake.take(
                        payload, call, left_s, is_timed=ASKED in metadata, decode=decode
                    )
                except HeadraceError as error:
                    front.fail(call, number_of(error), error.message)
                    if log is not None:
                        log.refuse(call, payload, error, *typed_methods.get(method, ())[:1])
            intake.submit()

    def _check(self, guard: Guard, key: object) -> None:
        try:
            guard.check(INFER, key if isinstance(key, bytes) else None)
        except HeadraceError as error:
            self._on_failure(error.reason)
            raise

    def _cancel(self, call: int) -> None:
        entry = self._open.pop(call, None)
        if entry is not None:
            target, request = entry
            target.cancel(request)
            if self._log is not None:
                self._log.leave(request)

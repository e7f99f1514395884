"""Requestlog: one line per finished request, for whoever asks for it by `request_log`.

A RequestLog stands between the scheduler and a transport as the Reply of each request. Where it is
not asked for, none is made, and no request passes one.
"""

import time
from urllib.parse import unquote

import structlog

from headrace.oip.open_inference_pb2 import ModelInferRequest

from ..errors import Cancelled, DeadlinePassed, HeadraceError
from ..types import Outputs, Reply, Request

# Of an id or a name that a caller chose.
_TEXT_CHARS_MAX = 128

_log = structlog.get_logger("headrace")


class RequestLog:
    """A Reply that passes answers on to *inner* and writes their line. Safe from any thread."""

    def __init__(self, inner: Reply) -> None:
        self._inner = inner
        # Calls without a line so far: whoever takes one out writes it, so that each has one.
        self._open: dict[object, tuple[str, float]] = {}

    def begin(self, call: object, peer: str) -> None:
        """A call came from *peer*."""
        self._open[call] = (peer, time.monotonic())

    def answer(self, request: Request, outputs: Outputs, start: int, stop: int) -> None:
        """See `types.Reply`."""
        # An answered request forgets its call.
        call = request.call
        self._inner.answer(request, outputs, start, stop)
        self._end(call, request, "OK", "")

    def fail(self, request: Request, error: HeadraceError) -> None:
        """See `types.Reply`."""
        call = request.call
        self._inner.fail(request, error)
        self._end(call, request, error.code, error.message)

    def leave(self, request: Request) -> None:
        """The caller left, or its deadline passed, before the answer."""
        is_late = request.is_late(time.monotonic())
        self._end(
            request.call,
            request,
            DeadlinePassed.code if is_late else Cancelled.code,
            "the caller left",
        )

    def refuse(self, call: object, payload: bytes, error: HeadraceError, model: str = "") -> None:
        """The call was answered with *error* before there was a request.

        Of one to a typed service, *model* is whose it is.
        """
        try:
            stated = ModelInferRequest.FromString(b"" if model else payload)
        except Exception:  # noqa: BLE001 - protobuf's DecodeError has no stable import path.
            stated = ModelInferRequest()
        stated.model_name = stated.model_name or model
        self._write(
            call, stated.id, stated.model_name, stated.model_version, 0, error.code, error.message
        )

    def _end(self, call: object, request: Request, status: str, error: str) -> None:
        stated = ModelInferRequest()
        try:
            stated.MergeFromString(request.id_field)
        except Exception:  # noqa: BLE001 - an id that is not UTF-8: it is echoed, not shown.
            stated.id = "?"
        name, version = request.key.model
        self._write(call, stated.id, name, version, request.rows, status, error)

    def _write(
        self,
        call: object,
        request_id: str,
        model: str,
        version: str,
        rows: int,
        status: str,
        error: str,
    ) -> None:
        peer, began = self._open.pop(call, (None, 0.0))
        if peer is None:
            return
        _log.info(
            "request",
            request_id=_shown(request_id),
            model=_shown(model),
            version=_shown(version),
            rows=rows,
            status=status,
            ms=round((time.monotonic() - began) * 1e3, 3),
            peer=unquote(peer.removeprefix("ipv4:").removeprefix("ipv6:")),
            **({"error": error} if error else {}),
        )


def _shown(text: str) -> str:
    """A caller's text as a line may hold it: printable, and of bounded length."""
    if not text.isprintable():
        text = text.encode("unicode_escape").decode()
    return text if len(text) <= _TEXT_CHARS_MAX else f"{text[: _TEXT_CHARS_MAX - 3]}..."

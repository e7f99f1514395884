"""Security: what `[tls]` and `[auth]` ask of the listeners, kept in step with their files."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import structlog

from ..errors import HeadraceError
from ..settings import AuthSettings, TlsSettings
from .files import Contents, FileWatch, read_files
from .guard import Guard
from .status import status_of
from .tls import ServerTls
from .tokens import parse_tokens

_log = structlog.get_logger("headrace")


class Security:
    """The certificate and the tokens, read at start and again when their files change.

    Attributes:
        guard: What lets calls pass; None where all may.
        credentials: What the grpcio listener takes; None for plain text.
    """

    def __init__(self, tls: TlsSettings, auth: AuthSettings) -> None:
        """Read and check every file.

        Raises:
            UsageError: One cannot be read, or does not hold what it should.
        """
        self._watch = FileWatch()
        self.credentials: grpc.ServerCredentials | None = None
        if tls.cert or tls.key or tls.client_ca:
            certificate = ServerTls(tls)
            self.credentials = certificate.credentials()
            self._watch.add(
                "certificate", certificate.paths, certificate.contents, certificate.take
            )
        self.guard: Guard | None = None
        if auth.tokens:
            contents = read_files((auth.tokens,))
            tokens = parse_tokens(auth.tokens, *contents)
            self.guard = guard = Guard(tokens, open_health=auth.open_health)

            def take(contents: Contents) -> Mapping[str, object]:
                tokens = parse_tokens(auth.tokens, *contents)
                guard.replace(tokens)
                return {"tokens": [token.name for token in tokens]}

            self._watch.add("tokens", (auth.tokens,), contents, take)

    def start(self) -> None:
        """Begin to look after the files."""
        self._watch.start()

    def close(self) -> None:
        """Look after them no more."""
        self._watch.close()

    def warn(self, *, is_reachable: bool, has_wire: bool) -> None:
        """Tell the operator what others could read or do.

        Args:
            is_reachable: Whether other machines reach the server.
            has_wire: Whether what is said passes a network, if only that of this machine.
        """
        if self.credentials is not None or not has_wire:
            return
        if self.guard is not None:
            _log.warning(
                "tokens_in_plain_text", why="without TLS whoever reads the wire reads the tokens"
            )
        elif is_reachable:
            _log.warning(
                "open_to_the_network", why="without [tls] and [auth] whoever reaches it may call it"
            )


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls to a grpcio server before their messages are received."""

    def __init__(self, guard: Guard, on_failure: Callable[[str], None]) -> None:
        """Let *guard* decide; *on_failure* hears the reason of each refusal."""
        self._guard = guard
        self._on_failure = on_failure

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Hand the call on, or give it a handler that refuses it."""
        header = None
        for key, value in handler_call_details.invocation_metadata:
            if key == "authorization":
                header = value
                break
        try:
            self._guard.check(handler_call_details.method, header)
        except HeadraceError as error:
            self._on_failure(error.reason)
            return _refusal(error)
        return await continuation(handler_call_details)


def _refusal(error: HeadraceError) -> "grpc.RpcMethodHandler[Any, Any]":
    # Streams: a call of any kind is refused without waiting for its messages.
    async def refuse(_: object, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        await context.abort(status_of(error), error.message)

    return grpc.stream_stream_rpc_method_handler(refuse)

"""Errors: what a caller of the client can catch, one class per gRPC status that matters.

    HeadraceClientError       any status, also those without a class of their own
      InvalidArgument         the request does not fit the model: change it
        InputMismatch         found out here, before anything was sent
      NotFound                no such model, version or alias is served
      FailedPrecondition      the model failed to load or was unloaded: an operator must act
      Unavailable             nobody answers, loading, draining, a worker was lost: retry
      ResourceExhausted       queue full, or a message over a limit: back off, or send less
      DeadlineExceeded        the timeout passed before the answer
      Cancelled               the call was cancelled
      Internal                the model raised; the message says what
        InvalidResponse       the answer is not what the protocol says
      Unauthenticated         no or wrong credentials
      PermissionDenied        the credentials do not allow it
      Unimplemented           the server does not know the method

A timeout while waiting for a future is not among them: that is TimeoutError, and the call goes on.
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # The rest of the package stays free of I/O.
    import grpc


class HeadraceClientError(Exception):
    """Root of the errors that a call ends with.

    Attributes:
        code: The name of the gRPC status, such as "INVALID_ARGUMENT".
        message: The sentence that came with it.
    """

    code: str = "UNKNOWN"

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        # Only a status without a class of its own differs from its class.
        if code:
            self.code = code

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class InvalidArgument(HeadraceClientError):
    """The request can never be served as it is."""

    code = "INVALID_ARGUMENT"


class InputMismatch(InvalidArgument):
    """Data does not fit the model's inputs; nothing was sent.

    Attributes:
        input: The input's name; empty where the data as a whole does not fit.
        expected: What the model wants.
        got: What was given.
    """

    def __init__(self, *, input: str, expected: str, got: str) -> None:  # noqa: A002 - the noun.
        where = f"input {input!r}: " if input else ""
        super().__init__(f"{where}expected {expected}, got {got}")
        self.input = input
        self.expected = expected
        self.got = got


class NotFound(HeadraceClientError):
    """No model, version or alias of that name is served."""

    code = "NOT_FOUND"


class FailedPrecondition(HeadraceClientError):
    """The model is known but cannot be asked until an operator acts."""

    code = "FAILED_PRECONDITION"


class Unavailable(HeadraceClientError):
    """Nobody answers now; asking again later may help."""

    code = "UNAVAILABLE"


class ResourceExhausted(HeadraceClientError):
    """A queue is full or a message is over a limit."""

    code = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(HeadraceClientError):
    """The timeout passed before the answer."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(HeadraceClientError):
    """The call was cancelled before the answer."""

    code = "CANCELLED"


class Internal(HeadraceClientError):
    """The model raised, or the server has a fault."""

    code = "INTERNAL"


class InvalidResponse(Internal):
    """The answer cannot be read as the protocol says; another kind of server, or a fault."""


class Unauthenticated(HeadraceClientError):
    """Credentials are missing or wrong."""

    code = "UNAUTHENTICATED"


class PermissionDenied(HeadraceClientError):
    """The credentials do not allow this call."""

    code = "PERMISSION_DENIED"


class Unimplemented(HeadraceClientError):
    """The server does not know the method."""

    code = "UNIMPLEMENTED"


_BY_CODE: Final[dict[str, type[HeadraceClientError]]] = {
    error.code: error
    for error in (
        InvalidArgument,
        NotFound,
        FailedPrecondition,
        Unavailable,
        ResourceExhausted,
        DeadlineExceeded,
        Cancelled,
        Internal,
        Unauthenticated,
        PermissionDenied,
        Unimplemented,
    )
}


def error_of(error: "grpc.RpcError") -> HeadraceClientError:
    """The error that stands for a call that gRPC ended, synchronous or asyncio."""
    code = error.code().name
    message = error.details() or "the server gave no reason"
    found = _BY_CODE.get(code)
    return HeadraceClientError(message, code=code) if found is None else found(message)

"""Status: our errors as gRPC status codes, and what is said of trying again."""

from typing import Any, Final, NoReturn

import grpc

from ..errors import HeadraceError

# gRPC's clients with a retry policy wait as long, or with -1 do not send again.
_RETRY_KEY: Final = "grpc-retry-pushback-ms"


def status_of(error: HeadraceError) -> grpc.StatusCode:
    """The gRPC status of *error*."""
    return grpc.StatusCode[error.code]


def number_of(error: HeadraceError) -> int:
    """The same as the number that travels in grpc-status."""
    number: int = status_of(error).value[0]
    return number


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", error: HeadraceError) -> NoReturn:
    """End a call of grpc.aio with *error*."""
    await context.abort(status_of(error), error.message, _pushback(error))
    raise AssertionError("context.abort always raises")


def _pushback(error: HeadraceError) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of *error*: when to try again, where that is to be said.

    pygrpc-native takes no metadata whose names are gRPC's own, so its calls end without.
    """
    return () if error.retry_ms is None else ((_RETRY_KEY, str(error.retry_ms)),)

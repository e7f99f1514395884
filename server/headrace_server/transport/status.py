"""Status: our errors as gRPC status codes."""

import grpc

from ..errors import HeadraceError


def status_of(error: HeadraceError) -> grpc.StatusCode:
    """The gRPC status of *error*."""
    return grpc.StatusCode[error.code]


def number_of(error: HeadraceError) -> int:
    """The same as the number that travels in grpc-status."""
    number: int = status_of(error).value[0]
    return number

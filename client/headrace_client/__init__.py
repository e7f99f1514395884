"""The typed client: predictions from a headrace server, by name and with numpy.

    from headrace_client import Client

    with Client("127.0.0.1:8001") as client:
        print(client.predict("iris", [[5.1, 3.5, 1.4, 0.2]]).array)

Needs no framework, no MLflow and no pandas, and lives beside other clients of the protocol in one
process.
"""

from headrace.signature import TensorSpec

from .aio import AsyncClient
from .client import Client
from .errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    HeadraceClientError,
    InputMismatch,
    Internal,
    InvalidArgument,
    InvalidResponse,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from .futures import PredictionFuture
from .security import Tls
from .timings import Timings
from .types import ModelMetadata, ModelStatus, Prediction

__all__ = [
    "AsyncClient",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "FailedPrecondition",
    "HeadraceClientError",
    "InputMismatch",
    "Internal",
    "InvalidArgument",
    "InvalidResponse",
    "ModelMetadata",
    "ModelStatus",
    "NotFound",
    "PermissionDenied",
    "Prediction",
    "PredictionFuture",
    "ResourceExhausted",
    "TensorSpec",
    "Timings",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]

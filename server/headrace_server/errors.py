"""Errors: everything that can go wrong with a request or a model, and the status it becomes.

    HeadraceError                  code
      InvalidRequest               INVALID_ARGUMENT     the caller must change the request
      ModelNotFound                NOT_FOUND            no such model, version or alias is served
      ModelUnavailable             FAILED_PRECONDITION  failed or unloaded: an operator must act
      ModelLoading                 UNAVAILABLE          retry later
      Draining                     UNAVAILABLE          retry elsewhere
      InstanceLost                 UNAVAILABLE          the worker died, twice; retry
      RequestEndsWorkers           INTERNAL             alone in its batch, it ended two workers
      RegistryUnavailable          UNAVAILABLE          the registry does not answer; retry
        RegistryAbsent             UNAVAILABLE          there is none where it should be
      RegistryDenied               FAILED_PRECONDITION  the registry does not let us in
      LoadFailed                   FAILED_PRECONDITION  a model cannot be loaded, and why
      SignatureChanged             FAILED_PRECONDITION  not the one that the caller was made for
      ResourceExhausted            RESOURCE_EXHAUSTED   queue, message or arena is full
      DeadlinePassed               DEADLINE_EXCEEDED
        DeadlineInfeasible         DEADLINE_EXCEEDED    it cannot be met, by the learned times
      Cancelled                    CANCELLED            the caller left
      ModelFailed                  INTERNAL             the model raised; never its traceback
        OutOfMemory                RESOURCE_EXHAUSTED   with as few rows as it may have
      InternalError                INTERNAL             our own bug; the log has the error id
      Unauthenticated              UNAUTHENTICATED      the token is missing or wrong
      PermissionDenied             PERMISSION_DENIED    the token is not for this method

`code` is the name of a gRPC status, so that nothing below the transport imports grpc. `reason` is
the value of the metric's label. `retry_ms` tells a caller when to try again, where that is not
theirs to choose: milliseconds, or -1 for not at all.
"""

import re
from typing import ClassVar

# A message travels percent-encoded in an HTTP/2 header: three bytes for each that is not ASCII.
MESSAGE_BYTES_MAX = 1000
# Loading takes seconds: a caller who asks ten times in each learns nothing earlier.
LOADING_RETRY_MS = 1000
# What a request is told that comes while the daemon ends.
SERVER_ENDS = "the server is about to end: retry elsewhere"
# A path, or a URI of what lies elsewhere, in which a slash begins none.
_PATH = re.compile(
    r"\b(?:https?|s3|gs|wasbs?|abfss?|mlflow-artifacts|models|runs):/[^\s'\"]*"
    r"|(?<![\w./])/[^\s'\":,;()]+"
)


def without_paths(text: str) -> str:
    """*text* without absolute paths: they tell a caller of our host, not of their request."""
    return _PATH.sub(lambda found: "<path>" if found[0].startswith("/") else found[0], text)


class HeadraceError(Exception):
    """Root of all errors that reach a caller."""

    code: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "internal"
    retry_ms: int | None = None

    @property
    def message(self) -> str:
        """The sentence for the caller: printable, bounded in length, and sure to be encodable."""
        text = str(self)
        if not text.isprintable():
            text = "".join(char if char.isprintable() else "?" for char in text)
        bytes_max = MESSAGE_BYTES_MAX if text.isascii() else MESSAGE_BYTES_MAX // 3
        encoded = text.encode(errors="replace")
        if len(encoded) <= bytes_max:
            return encoded.decode()
        return encoded[: bytes_max - 4].decode(errors="ignore") + " ..."


class InvalidRequest(HeadraceError):
    """The request can never be served as it is."""

    code = "INVALID_ARGUMENT"
    reason = "invalid"


class ModelNotFound(HeadraceError):
    """No model, version or alias of that name is served."""

    code = "NOT_FOUND"
    reason = "not_found"


class ModelUnavailable(HeadraceError):
    """The model is known but failed to load or was unloaded."""

    code = "FAILED_PRECONDITION"
    reason = "unavailable"


class ModelLoading(HeadraceError):
    """The model is still on its way."""

    code = "UNAVAILABLE"
    reason = "loading"
    retry_ms = LOADING_RETRY_MS


class Draining(HeadraceError):
    """The daemon is about to end and takes no new requests."""

    code = "UNAVAILABLE"
    reason = "draining"


class InstanceLost(HeadraceError):
    """The worker that had the batch died or stopped answering.

    Who is told so of a suspect has had all the runs that the model's settings allow, and a caller
    who sends it again runs it once more: rather not without being asked.

    Attributes:
        is_suspect: Whether the batch may be why: its instance was at work on it.
    """

    code = "UNAVAILABLE"
    reason = "worker_lost"

    def __init__(self, text: str, *, is_suspect: bool = True) -> None:
        super().__init__(text)
        self.is_suspect = is_suspect
        if is_suspect:
            self.retry_ms = -1


class RequestEndsWorkers(HeadraceError):
    """A request that was alone in its batch ended its worker, or hung it, each time it was run."""

    reason = "ends_workers"


class RegistryUnavailable(HeadraceError):
    """The model registry, or where it keeps its files, does not answer: it may do so later."""

    code = "UNAVAILABLE"
    reason = "registry"


class RegistryAbsent(RegistryUnavailable):
    """Where the registry should be is none: a database that is not there, or another server."""


class RegistryDenied(HeadraceError):
    """The model registry does not let us in; the message names what it knows callers by."""

    code = "FAILED_PRECONDITION"
    reason = "registry"


class LoadFailed(HeadraceError):
    """A model cannot be loaded; the message says why."""

    code = "FAILED_PRECONDITION"
    reason = "load"


class SignatureChanged(HeadraceError):
    """The model's signature asks for more, or other things, than the caller was made for."""

    code = "FAILED_PRECONDITION"
    reason = "signature"


class ResourceExhausted(HeadraceError):
    """A queue, the arena or a message limit is full; retry with backoff, or send less."""

    code = "RESOURCE_EXHAUSTED"
    reason = "exhausted"


class DeadlinePassed(HeadraceError):
    """The caller's deadline passed before the answer."""

    code = "DEADLINE_EXCEEDED"
    reason = "deadline"


class DeadlineInfeasible(DeadlinePassed):
    """The answer is expected after the caller's deadline: the request was refused at once."""

    reason = "infeasible"


class Cancelled(HeadraceError):
    """The caller left before the answer."""

    code = "CANCELLED"
    reason = "cancelled"


class ModelFailed(HeadraceError):
    """The model raised: the exception's type and message, never its traceback, paths or data.

    Attributes:
        error_id: Under which the log holds the whole exception.
    """

    code = "INTERNAL"
    reason = "model"

    def __init__(self, kind: str, text: str, error_id: str) -> None:
        super().__init__(
            f"{kind}: {text} (error id {error_id})" if text else f"{kind} (error id {error_id})"
        )
        self._kind = kind
        self.error_id = error_id

    def without_text(self) -> "ModelFailed":
        """The same for a batch of several callers: the text may quote the rows of one of them."""
        return type(self)(self._kind, "", self.error_id)


class OutOfMemory(ModelFailed):
    """The model ran out of memory, on the device or the host, and fewer rows would not help."""

    code = "RESOURCE_EXHAUSTED"
    reason = "out_of_memory"


class RowsMixed(ModelFailed):
    """The answer to a batch is not a row per row: which rows are whose, nobody knows."""


class InternalError(HeadraceError):
    """A fault of headrace's own; the log holds the traceback under the error id."""


class Unauthenticated(HeadraceError):
    """The call came without a token, or with one that the server does not know."""

    code = "UNAUTHENTICATED"
    reason = "unauthenticated"


class PermissionDenied(HeadraceError):
    """The call's token has no scope that the method needs."""

    code = "PERMISSION_DENIED"
    reason = "denied"


class UsageError(Exception):
    """A person's mistake on the command line or in the settings: one sentence, no traceback."""

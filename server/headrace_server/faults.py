"""Faults: errors of the server's own. The log holds the exception; the caller gets its number."""

import secrets

import structlog

from .errors import InternalError, ModelFailed

_log = structlog.get_logger("headrace")


def new_error_id() -> str:
    """An id that the log and a caller's message share."""
    return secrets.token_hex(6)


def refused_answer(model: str, why: str) -> ModelFailed:
    """Log that an answer of *model* cannot be carried, and make the error that says so.

    It tells the whole of it, since it is made for the one caller whose rows they are.
    """
    error_id = new_error_id()
    _log.error("answer_refused", error_id=error_id, model=model, why=why)
    return ModelFailed("OutputsUnlike", why, error_id)


def fault(event: str, error: BaseException | None = None, **fields: object) -> InternalError:
    """Log an exception under a new error id, and make the error that tells a caller that id.

    Args:
        event: What went wrong, as the log names it.
        error: The exception; None for the one being handled, if any.
        fields: What else the line says.
    """
    error_id = new_error_id()
    _log.error(event, error_id=error_id, exc_info=error or True, **fields)
    return InternalError(f"an error of the server's own (error id {error_id})")

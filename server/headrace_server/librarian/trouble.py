"""Trouble: what an exception of MLflow's means, in few words, and whether it may pass.

MLflow wraps most of what goes wrong below it, the exceptions of downloads among them, and keeps
their text alone. So what is not told by a code is told by that text.
"""

import enum
import re
from dataclasses import dataclass

import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError


class Kind(enum.Enum):
    """What can be done about it."""

    NOT_FOUND = "there is no such thing"
    PASSING = "it may be answered later"
    DENIED = "we are not let in"
    STRANGE = "what answers is no MLflow server"
    REFUSED = "it was asked for what cannot be"
    OTHER = "anything else"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What went wrong.

    Attributes:
        kind: What can be done about it.
        why: What happened, in few words; may be empty where it may pass.
    """

    kind: Kind
    why: str


# The status that a server answered with, as MLflow, requests, urllib3 and botocore write it.
_STATUS = re.compile(
    r"failed with error code (\d{3})\b|too many (\d{3}) error responses|"
    r"\b(\d{3}) (?:Client|Server) Error\b|An error occurred \((\d{3})\)"
)
_NOT_FOUND = frozenset({"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"})
# Statuses of a server that is busy, or has us slow down. Those from 500 on are its own failures,
# but for one that says it will never do what was asked.
_BUSY = frozenset({408, 425, 429})
_NEVER = 501
# What is told of connections and names, by Python and by the libraries of object stores.
_PASSING = {
    r"(?i)timed[ -]?out|timeout": "no answer in time",
    r"(?i)connection refused|could not connect to the endpoint": "the connection was refused",
    r"(?i)connection (?:reset|aborted|broken)|connection was closed|IncompleteRead|broken pipe|"
    r"RemoteDisconnected|ended prematurely": "the connection broke",
    r"NameResolutionError|Name or service not known|(?i:name resolution)": "it has no address",
    r"(?i)network is unreachable|no route to host": "there is no way to it",
    r"SlowDown|Throttling|RequestLimitExceeded|ServiceUnavailable|\(InternalError\)": "it is busy",
}
# Failures of this host, such as a full disk, that MLflow wraps as if they were the server's. What
# is left out is told of connections.
_OURS = re.compile(r"\[Errno (?:(?!11\]|32\])\d{1,2}|122)\] [^:]*")
_NO_JSON = "not in a valid JSON format"
# The user name and password in a URL.
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*@")


def trouble_of(error: Exception, *, is_server: bool, is_store: bool) -> Trouble:
    """What *error* means.

    Args:
        error: What was raised.
        is_server: Whether an MLflow server was asked, which also hands out files.
        is_store: Whether a store of files on the network was asked, such as S3. With neither it
            was a database or a directory.
    """
    text = _CREDENTIALS.sub("***@", str(error))
    code = getattr(error, "error_code", "")
    told = _told_status(error, text)
    status = told or _meant_status(error)
    cause = f"HTTP {told}" if told else _cause(text)
    if code in _NOT_FOUND or (not code and status == 404):
        return Trouble(Kind.NOT_FOUND, "")
    if isinstance(error, OperationalError):
        return Trouble(Kind.PASSING, "")
    if is_server and status in (401, 403):
        return Trouble(Kind.DENIED, f"HTTP {status}")
    if is_server and (_NO_JSON in text or isinstance(error, requests.JSONDecodeError)):
        return Trouble(Kind.STRANGE, "what it says is no JSON")
    if (is_server or is_store) and not told and (ours := _OURS.search(text)):
        return Trouble(Kind.OTHER, ours[0])
    is_failing = status >= 500 and status != _NEVER
    # What says no more than that something failed counts only of a server as a failure of its own.
    is_down = status in _BUSY or (is_failing and (is_server or bool(told) or status > 500))
    if is_down or (is_store and not told and cause):
        return Trouble(Kind.PASSING, cause or _first_line(text, error))
    return Trouble(Kind.REFUSED if status == 400 else Kind.OTHER, _first_line(text, error))


def _told_status(error: Exception, text: str) -> int:
    """The HTTP status that a server answered with; 0 where none is told."""
    if isinstance(error, requests.RequestException) and error.response is not None:
        return error.response.status_code
    # Of several files the first that failed speaks for all.
    found = _STATUS.search(text)
    return int(next(filter(None, found.groups()))) if found else 0


def _meant_status(error: Exception) -> int:
    """The HTTP status that the kind of exception stands for; 0 for none."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    return 503 if isinstance(error, requests.RequestException) else 0


def _cause(text: str) -> str:
    return next((why for pattern, why in _PASSING.items() if re.search(pattern, text)), "")


def _first_line(text: str, error: Exception) -> str:
    """What happened, without the page that MLflow and SQLAlchemy may put behind it."""
    lines = [line for line in text.splitlines() if line.strip("# ")] or [type(error).__name__]
    # A failed download says only in its third line what happened, behind a heading per file.
    if lines[0].endswith(":") and len(lines) > 2:
        return f"{lines[0]} {lines[2]}"
    return lines[0]

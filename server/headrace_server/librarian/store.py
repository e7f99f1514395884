"""Store: MLflow's client of one registry, and whatever it raises as one of our errors.

Only MLflow's public API is used. The client is opened by the first question that needs it: a model
in a directory is served without one.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from ..errors import (
    HeadraceError,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    RegistryUnavailable,
)
from ..settings.uris import shown_uri

_SQLITE_HEADER = b"SQLite format 3\0"


class Store:
    """A tracking server or database. Safe from several threads.

    Attributes:
        tracking_uri: Where it is.
        shown_uri: The same without credentials.
        is_remote: Whether it is a server.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self.shown_uri = shown_uri(tracking_uri)
        self.is_remote = tracking_uri.startswith(("http://", "https://"))
        self._lock = threading.Lock()
        self._opened: MlflowClient | None = None

    def client(self) -> MlflowClient:
        """MLflow's client, opened where none was.

        Raises:
            RegistryUnavailable: It is a database that is not there.
        """
        with self._lock:
            if self._opened is None:
                self._check_sqlite()
                uri = self.tracking_uri
                self._opened = MlflowClient(tracking_uri=uri, registry_uri=uri)
            return self._opened

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Turn whatever MLflow raises when asked for *what* into one of our errors."""
        try:
            yield
        except HeadraceError:
            raise
        except Exception as error:
            raise self._error_of(error, what) from error

    def registered(self, name: str) -> Any:
        """MLflow's entry of the registered model *name*.

        Raises:
            ModelNotFound, RegistryUnavailable: It cannot be had.
        """
        with self.asking(f"registered model {name!r}"):
            return self.client().get_registered_model(name)

    def _check_sqlite(self) -> None:
        """Refuse a database that is not there: MLflow would make one, or try for minutes."""
        if not self.tracking_uri.startswith("sqlite:///"):
            return
        path = self.tracking_uri.removeprefix("sqlite:///").partition("?")[0]
        try:
            with open(path, "rb") as file:
                header = file.read(len(_SQLITE_HEADER))
        except OSError as error:
            raise RegistryUnavailable(
                f"the registry at {self.shown_uri} cannot be opened: {error.strerror}"
            ) from error
        if header not in (_SQLITE_HEADER, b""):
            raise RegistryUnavailable(f"{path} is no SQLite database, so no registry")

    def _error_of(self, error: Exception, what: str) -> HeadraceError:
        code = getattr(error, "error_code", "")
        status = _http_status(error)
        if code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND") or (not code and status == 404):
            return ModelNotFound(f"there is no {what}")
        is_down = status in (429, 503, 504) or (self.is_remote and status >= 500)
        if is_down or isinstance(error, OperationalError):
            return RegistryUnavailable(
                f"the registry at {self.shown_uri} does not answer, or fails, when asked for "
                f"the {what}: retry"
            )
        if status == 400:
            return InvalidRequest(f"the registry refuses the {what}: {_first_line(error)}")
        return LoadFailed(f"the {what} cannot be had: {_first_line(error)}")


def _http_status(error: Exception) -> int:
    """The HTTP status that tells what kind of error it is; 0 for none."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    if isinstance(error, requests.RequestException):
        return 503 if error.response is None else error.response.status_code
    return 0


def _first_line(error: Exception) -> str:
    """What happened, without the page that MLflow and SQLAlchemy may put behind it."""
    lines = [line for line in str(error).splitlines() if line.strip("# ")] or [type(error).__name__]
    # A failed download says only in its third line what happened, behind a heading per file.
    if lines[0].endswith(":") and len(lines) > 2:
        return f"{lines[0]} {lines[2]}"
    return lines[0]

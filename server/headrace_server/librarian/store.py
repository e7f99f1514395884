"""Store: MLflow's client of one registry, and whatever it raises as one of our errors.

Only MLflow's public API is used. The client is opened by the first question that needs it: a model
in a directory is served without one. What an error of MLflow's means is read in trouble.py.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow import MlflowClient

from ..errors import (
    HeadraceError,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    RegistryAbsent,
    RegistryDenied,
    RegistryUnavailable,
)
from ..settings.uris import shown_uri
from .trouble import Kind, trouble_of

_SQLITE_HEADER = b"SQLite format 3\0"

# Where MLflow looks for what a server wants to know us by.
_LOGIN = (
    "expected another user name and password, in the tracking URI or as MLFLOW_TRACKING_USERNAME "
    "and MLFLOW_TRACKING_PASSWORD, or a token as MLFLOW_TRACKING_TOKEN"
)


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
            RegistryAbsent: It is a database that is not there.
        """
        with self._lock:
            if self._opened is None:
                self._check_sqlite()
                uri = self.tracking_uri
                self._opened = MlflowClient(tracking_uri=uri, registry_uri=uri)
            return self._opened

    @contextmanager
    def asking(self, what: str, where: str = "") -> Iterator[None]:
        """Turn whatever MLflow raises when asked for *what* into one of our errors.

        *where* is the place that is asked where it is not the registry itself: a store of files.
        """
        try:
            yield
        except HeadraceError:
            raise
        except Exception as error:
            raise self._error_of(error, what, where) from error

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
            raise RegistryAbsent(
                f"the registry at {self.shown_uri} cannot be opened: {error.strerror}"
            ) from error
        if header not in (_SQLITE_HEADER, b""):
            raise RegistryAbsent(f"{path} is no SQLite database, so no registry")

    def _error_of(self, error: Exception, what: str, where: str) -> HeadraceError:
        is_server = self.is_remote and not where
        trouble = trouble_of(error, is_server=is_server, is_store=bool(where))
        asked = shown_uri(where) if where else f"the registry at {self.shown_uri}"
        why = trouble.why.replace(self.tracking_uri, self.shown_uri)
        match trouble.kind:
            case Kind.NOT_FOUND:
                return ModelNotFound(f"there is no {what}")
            case Kind.PASSING:
                return RegistryUnavailable(
                    f"{asked} does not answer, or fails, when asked for the {what}"
                    f"{f': {why}' if why else ''}"
                )
            case Kind.STRANGE:
                return RegistryAbsent(f"{asked} does not answer as an MLflow server does: {why}")
            case Kind.DENIED:
                return RegistryDenied(f"{asked} does not let us have the {what} ({why}): {_LOGIN}")
            case Kind.REFUSED:
                return InvalidRequest(f"the registry refuses the {what}: {why}")
            case Kind.OTHER:
                return LoadFailed(f"the {what} cannot be had: {why}")

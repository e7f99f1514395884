"""Preparing: what a model needs beside its files, brought about or told by the librarian.

The environment that its workers run in before it is loaded, and the field numbers of its typed
service once its signature is known.
"""

import time
from typing import Any

import structlog

from headrace.typed import FieldNumbers, describe

from ..errors import HeadraceError
from ..instances.process import python_of
from .librarian import Fetched, Librarian
from .model import ModelVersion

_log = structlog.get_logger("headrace")


class Preparing:
    """Prepares models. Called on the thread that loads them, which may wait for minutes."""

    def __init__(self, librarian: Librarian, *, writes_tags: bool) -> None:
        """Nothing is prepared yet.

        Args:
            librarian: Makes environments, and keeps numbers in the registry.
            writes_tags: Whether it may write them there.
        """
        self._librarian = librarian
        self._writes_tags = writes_tags
        # Digests of models whose requirements were told not to be met.
        self._warned: set[str] = set()
        # The field numbers of each name's typed service, as last seen.
        self._fields: dict[str, FieldNumbers] = {}

    def command(self, model: ModelVersion, fetched: Fetched) -> list[str]:
        """What runs the workers of *model*; empty for our own Python.

        Raises:
            LoadFailed: Its environment cannot be made.
        """
        settings = model.settings
        if settings.environment == "daemon":
            self._warn_of_mismatches(model, fetched)
            return []
        began = time.monotonic()

        def progress(report: dict[str, Any]) -> None:
            model.reason = f"its environment is being made: {report['line']}"

        _log.info("environment_wanted", model=model.name, version=model.version)
        python = self._librarian.environment(
            fetched.path,
            progress,
            installer=settings.environment_installer,
            s_max=settings.environment_s_max,
        )
        model.reason = ""
        _log.info(
            "environment_ready",
            model=model.name,
            version=model.version,
            seconds=round(time.monotonic() - began, 3),
        )
        return python_of(python)

    def number_fields(self, model: ModelVersion) -> None:
        """Give the fields of *model*'s typed service their numbers, as earlier versions had them.

        Whatever goes wrong, the model is served: by the numbers that this daemon knows.
        """
        if model.signature is None:
            return
        known = self._fields.get(model.name, FieldNumbers())
        trouble = ""
        try:
            wanted = describe(model.name, model.signature, known).numbers
            if model.registered:
                wanted, trouble = self._librarian.number_fields(
                    model.registered, wanted, writes=self._writes_tags
                )
            model.fields = self._fields[model.name] = wanted
        except (HeadraceError, ValueError) as error:
            model.fields = known
            trouble = error.message if isinstance(error, HeadraceError) else str(error)
        if trouble:
            _log.warning(
                "fields_not_numbered", model=model.name, version=model.version, why=trouble
            )

    def _warn_of_mismatches(self, model: ModelVersion, fetched: Fetched) -> None:
        """Say once what the model's requirements ask for and our environment lacks."""
        if fetched.mismatches and fetched.digest not in self._warned:
            self._warned.add(fetched.digest)
            _log.warning(
                "requirements_mismatch",
                model=model.name,
                version=model.version,
                mismatches=list(fetched.mismatches),
                remedy='environment = "model" runs it with the packages that it was logged with',
            )

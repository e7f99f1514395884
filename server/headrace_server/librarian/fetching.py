"""Fetching: the files of a source that no longer moves, into our cache, and what they are."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModelStatus
from mlflow.models import Model

from headrace.signature import Signature

from ..errors import LoadFailed, RegistryUnavailable
from .cache import Cache, digest_of
from .download import Progress, download, download_file
from .example import write_example
from .formats import why_no_data
from .mlmodel import Description, describe, load
from .places import is_allowed, links_out
from .reference import local_path
from .requirements import Requirements
from .safety import Rules, judge
from .store import Store


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model in our cache.

    Attributes:
        path: Its directory.
        digest: SHA-256 over its files.
        flavor: MLflow's flavor key; "pyfunc" where there is only python_function.
        config: That flavor's entry in MLmodel.
        pyfunc: The python_function entry; empty where there is none.
        signature: None where its inputs are not known.
        example: Path of its input example as named tensors, or None.
        has_code: Whether modules were logged with it.
        mlflow_version: What it was logged with; empty where it does not say.
        mismatches: Its requirements that the daemon's environment does not meet.
        is_data: Whether it is loaded without executing any code of its own.
    """

    path: str
    digest: str
    flavor: str
    config: dict[str, Any]
    pyfunc: dict[str, Any]
    signature: Signature | None
    example: str | None
    has_code: bool
    mlflow_version: str
    mismatches: list[str]
    is_data: bool

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**plain, "signature": None if self.signature is None else self.signature.to_json()}


class Fetcher:
    """A store, and our cache of its models. Safe from several threads."""

    def __init__(self, store: Store, cache: Cache, rules: Rules) -> None:
        self._store = store
        self._cache = cache
        self._rules = rules

    def fetch(self, source: str, progress: Progress) -> Fetched:
        """Bring a *source* that `resolve` gave into the cache, unless it is there.

        Raises:
            ModelNotFound: It is gone.
            LoadFailed: It is no model, or one that cannot be read or may not be loaded.
            RegistryUnavailable: The registry does not answer, or the model is still being logged.
        """
        entry = self._held(source) or self._bring(source, progress)
        files = entry / "model"
        description = self._judged(load(files, source), files, source)
        example = entry / "example.npz"
        return Fetched(
            path=str(files),
            digest=entry.name,
            flavor=description.flavor,
            config=description.config,
            pyfunc=description.pyfunc,
            signature=description.signature,
            example=str(example) if example.exists() else None,
            has_code=description.has_code,
            mlflow_version=description.mlflow_version,
            mismatches=Requirements.of(files).mismatches(),
            is_data=not why_no_data(description, files),
        )

    def signature(self, source: str) -> Signature | None:
        """The signature of a *source* that `resolve` gave, for which its MLmodel file is enough.

        Raises:
            ModelNotFound: It is gone.
            LoadFailed: It is no model, or one that cannot be read.
            RegistryUnavailable: The registry does not answer, or the model is still being logged.
        """
        directory = local_path(source)
        if directory is not None:
            return describe(load(Path(directory), source), source).signature
        with self._cache.staging() as stage:
            with self._store.asking(f"MLmodel file of {source}"):
                location = self._location(source)
            with self._store.asking(f"MLmodel file of {source}", _store_of(location)):
                file = download_file(f"{location}/MLmodel", stage, self._store.tracking_uri)
            return describe(load(file.parent, source), source).signature

    # Into the cache.

    def _held(self, source: str) -> Path | None:
        directory = local_path(source)
        if directory is None:
            if self._rules.bound_places:  # It may have been fetched when other rules held.
                self._place(source)
            return self._cache.recall(self._key(source))
        self._place(source)
        with self._store.asking(f"content of {source}"):  # Its files may have changed since.
            return self._cache.entry(digest_of(Path(directory)))

    def _bring(self, source: str, progress: Progress) -> Path:
        with self._cache.staging() as stage:
            with self._store.asking(f"content of {source}"):
                location = self._place(source)
            with self._store.asking(f"content of {source}", _store_of(location)):
                came = download(location, stage / "download", self._store.tracking_uri, progress)
            files = stage / "model"
            os.rename(came, files)
            # What cannot be served is not kept.
            model = load(files, source)
            description = self._judged(model, files, source)
            write_example(model, files, description.signature, stage / "example.npz")
            digest = digest_of(files)
            entry = self._cache.publish(stage, digest)
        if local_path(source) is None:
            self._cache.remember(self._key(source), digest)
        return entry

    def _judged(self, model: Model, files: Path, source: str) -> Description:
        """What an MLmodel file says of a model that may be loaded."""
        description = describe(model, source)
        judge(self._rules, description, files, source)
        return description

    def _place(self, source: str) -> str:
        """Where the files of *source* lie, all of them in a place that is allowed."""
        with self._store.asking(f"content of {source}"):
            location = self._location(source)
            directory = local_path(location)
            leads_on = self._rules.sources and location.startswith(("runs:", "models:"))
            if leads_on or not is_allowed(location, self._rules.sources):
                raise LoadFailed(
                    f"{source} is refused: its files are in {location}, and "
                    f"{self._rules.allowed_sources}"
                )
            if directory is None or not os.path.isdir(directory):
                return location
            for name, target in links_out(directory, source).items():
                if not self._rules.sources or not self._rules.pickle:
                    raise LoadFailed(
                        f"{source} is refused: {name!r} is a link that leads out of the model"
                    )
                if not is_allowed(target, self._rules.sources):
                    raise LoadFailed(
                        f"{source} is refused: {name!r} is a link to {target}, and "
                        f"{self._rules.allowed_sources}"
                    )
            return location

    def _location(self, source: str) -> str:
        directory = local_path(source)
        if directory is not None:
            return directory
        if not source.startswith("models:/"):
            return source
        model = self._store.client().get_logged_model(source.removeprefix("models:/"))
        if model.status == LoggedModelStatus.PENDING:
            raise RegistryUnavailable(f"{source} is still being logged: retry")
        return str(model.artifact_location)

    def _key(self, source: str) -> str:
        # An artifact's path says nothing without the server that hands it out.
        return f"{self._store.tracking_uri}\n{source}"


def _store_of(location: str) -> str:
    """*location* where it is in a store of its own on the network; else empty."""
    is_ours = local_path(location) is not None or location.startswith(
        ("mlflow-artifacts:", "runs:")
    )
    return "" if is_ours else location

"""Resolving: model URIs to sources that no longer move.

Every answer of MLflow is made text where it gives an int from one store and a str from another.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

from ..errors import InvalidRequest, ModelNotFound
from .download import listing
from .listed import listed
from .places import is_allowed
from .reference import (
    FORMS,
    Alias,
    Artifacts,
    Directory,
    Latest,
    LoggedModel,
    RunModel,
    Version,
    name_of,
    parse,
)
from .safety import Rules
from .store import Store

# The alias that "serve everything" prefers.
_CHAMPION = "champion"
# Whoever may write to the registry may write many tags, and long ones.
_TAG_PREFIX = "headrace."
_TAGS_MAX = 64
_TAG_CHARS_MAX = 256
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a URI stands for now.

    Attributes:
        name: The name to serve it by.
        version: Decimal number as text; "1" for what is not registered.
        source: A URI that no longer moves.
        followed: The alias, or "latest", that chose the version; else empty.
        tags: Those of the registered version that begin with "headrace.".
        registered: The registered model that it is a version of; empty for none.
    """

    name: str
    version: str
    source: str
    followed: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    registered: str = ""


class Resolver:
    """What URIs stand for in one store. Safe from several threads."""

    def __init__(self, store: Store, rules: Rules) -> None:
        self._store = store
        self._rules = rules

    def resolve(self, uri: str, name: str | None = None) -> Resolved:
        """What *uri* stands for now, to be served by *name* where one is given.

        Raises:
            InvalidRequest: It has none of the accepted forms, or names what is no model.
            ModelNotFound: There is no such model, version, alias, run or directory.
            RegistryUnavailable: The registry does not answer.
        """
        reference = parse(uri)
        given = reference.path if isinstance(reference, Directory) else uri
        if not is_allowed(given, self._rules.sources):
            raise InvalidRequest(f"{uri} is refused: {self._rules.allowed_sources}")
        match reference:
            case Version():
                found = self._version(reference)
            case Alias():
                found = self._alias(reference)
            case Latest():
                found = self._latest(reference)
            case LoggedModel():
                found = self._logged(reference)
            case RunModel():
                found = self._of_run(reference)
            case Artifacts():
                found = self._artifacts(reference)
            case Directory():
                found = _directory(reference)
            case _:
                assert_never(reference)
        return found if name is None else replace(found, name=name)

    def list_models(self) -> list[str]:
        """The URI of every registered model: its champion, else its latest version.

        Models that have no version yet are left out, as are prompts, which MLflow keeps beside,
        and URIs that are not allowed.
        """
        uris = []
        for model in self._registered_models():
            if _CHAMPION in model.aliases:
                uris.append(f"models:/{model.name}@{_CHAMPION}")
            elif _highest(model) is not None:
                uris.append(f"models:/{model.name}/latest")
        return [uri for uri in uris if is_allowed(uri, self._rules.sources)]

    # What a reference stands for.

    def _version(self, wanted: Version) -> Resolved:
        try:
            with self._store.asking(f"version {wanted.number} of model {wanted.name!r}"):
                version = self._store.client().get_model_version(wanted.name, wanted.number)
        except ModelNotFound:
            self._store.registered(wanted.name)  # Says so where the whole model is unknown.
            raise
        return self._pinned(version, "")

    def _alias(self, wanted: Alias) -> Resolved:
        try:
            with self._store.asking(f"alias {wanted.alias!r} of model {wanted.name!r}"):
                version = self._store.client().get_model_version_by_alias(wanted.name, wanted.alias)
        except (ModelNotFound, InvalidRequest) as error:
            aliases = sorted(self._store.registered(wanted.name).aliases)
            raise ModelNotFound(
                f"model {wanted.name!r} has no alias {wanted.alias!r}; it has {listed(aliases)}"
            ) from error
        return self._pinned(version, wanted.alias)

    def _latest(self, wanted: Latest) -> Resolved:
        version = _highest(self._store.registered(wanted.name))
        if version is None:
            raise ModelNotFound(f"model {wanted.name!r} has no version yet")
        return self._pinned(version, "latest")

    def _pinned(self, version: Any, followed: str) -> Resolved:
        name, number = str(version.name), str(version.version)
        source = str(version.source)
        if not source.startswith("models:/m-"):
            # Registered from a run's artifacts, a bare path or another registered model.
            with self._store.asking(f"version {number} of model {name!r}"):
                source = str(self._store.client().get_model_version_download_uri(name, number))
        return Resolved(name, number, source, followed, _our_tags(version.tags), name)

    def _logged(self, wanted: LoggedModel) -> Resolved:
        with self._store.asking(f"logged model {wanted.model_id!r}"):
            model = self._store.client().get_logged_model(wanted.model_id)
        return Resolved(str(model.name), "1", f"models:/{wanted.model_id}")

    def _of_run(self, wanted: RunModel) -> Resolved:
        with self._store.asking(f"run {wanted.run_id!r}"):
            run = self._store.client().get_run(wanted.run_id).info
        logged = self._models_of(run)
        for model in logged:
            if model.name == wanted.path:
                return Resolved(str(model.name), "1", f"models:/{model.model_id}")
        # Before MLflow 3 a model was a directory among the artifacts of its run.
        location = f"{run.artifact_uri}/{wanted.path}"
        if not self._has_mlmodel(location):
            names = sorted({str(model.name) for model in logged})
            raise ModelNotFound(
                f"run {wanted.run_id!r} has no model {wanted.path!r}; it has {listed(names)}"
            )
        return Resolved(name_of(wanted.path), "1", location)

    def _artifacts(self, wanted: Artifacts) -> Resolved:
        if not self._store.is_remote:
            raise InvalidRequest(
                f"{wanted.uri} needs an MLflow server: the registry is at {self._store.shown_uri}"
            )
        if not self._has_mlmodel(wanted.uri):
            raise ModelNotFound(f"there is no MLmodel file in {wanted.uri}")
        return Resolved(name_of(wanted.uri), "1", wanted.uri)

    # What the registry holds.

    def _registered_models(self) -> Iterator[Any]:
        token = None
        while True:
            with self._store.asking("list of registered models"):
                page = self._store.client().search_registered_models(
                    max_results=_PAGE, page_token=token
                )
            yield from page
            token = page.token
            if not token:
                return

    def _models_of(self, run: Any) -> list[Any]:
        """The logged models of a run, newest first."""
        models: list[Any] = []
        token = None
        while True:
            with self._store.asking(f"models of run {run.run_id!r}"):
                page = self._store.client().search_logged_models(
                    experiment_ids=[run.experiment_id],
                    filter_string=f"source_run_id = '{run.run_id}'",
                    max_results=_PAGE,
                    order_by=[{"field_name": "creation_timestamp", "ascending": False}],
                    page_token=token,
                )
            models.extend(page)
            token = page.token
            if not token:
                return models

    def _has_mlmodel(self, location: str) -> bool:
        try:
            with self._store.asking(f"directory {location}"):
                infos = listing(location, self._store.tracking_uri)
        except ModelNotFound:
            return False
        return any(os.path.basename(info.path) == "MLmodel" for info in infos)


def _directory(wanted: Directory) -> Resolved:
    path = wanted.path
    if not os.path.isdir(path):
        raise ModelNotFound(f"there is no directory {path}: {FORMS}")
    if not os.path.isfile(os.path.join(path, "MLmodel")):
        raise InvalidRequest(f"{path} has no MLmodel file: it is no MLflow model")
    return Resolved(name_of(path), "1", path)


def _our_tags(tags: dict[str, Any]) -> dict[str, str]:
    """Those of a version's *tags* that speak to us, cut to what a sane setting needs."""
    ours = sorted(name for name in tags if name.startswith(_TAG_PREFIX))
    return {name[:_TAG_CHARS_MAX]: str(tags[name])[:_TAG_CHARS_MAX] for name in ours[:_TAGS_MAX]}


def _highest(model: Any) -> Any:
    """The version of a registered model with the highest number; None where it has none."""
    # These are the latest of each stage; no version is without one.
    return max(model.latest_versions, key=lambda version: int(version.version), default=None)

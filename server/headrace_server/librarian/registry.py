"""Registry: model URIs to sources that no longer move, and such sources to files in our cache.

Only MLflow's public API is used, and every answer of it is made text where MLflow gives an int from
one store and a str from another. The store is opened by the first question that needs it: a model
in a directory is served without one.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, assert_never
from urllib.parse import urlsplit

import requests
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from headrace.signature import Signature
from headrace.typed import FieldNumbers

from ..errors import (
    HeadraceError,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    RegistryUnavailable,
)
from .cache import Cache, digest_of
from .download import Progress, download, download_file, listing
from .environment import Environment, Environments, Say
from .example import write_example
from .fields import TAG as FIELDS_TAG
from .fields import numbers_in, tags_of
from .mlmodel import Description, describe, load
from .places import is_allowed, links_out
from .reference import (
    FORMS,
    Alias,
    Artifacts,
    Directory,
    Latest,
    LoggedModel,
    RunModel,
    Version,
    local_path,
    name_of,
    parse,
)
from .requirements import Requirements
from .safety import Rules, is_data, judge

# The alias that "serve everything" prefers.
_CHAMPION = "champion"
_LISTED_MAX = 8
# Whoever may write to the registry may write many tags, and long ones.
_TAG_PREFIX = "headrace."
_TAGS_MAX = 64
_TAG_CHARS_MAX = 256
_PAGE = 100
_SQLITE_HEADER = b"SQLite format 3\0"


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


@dataclass(frozen=True, slots=True)
class Numbered:
    """The field numbers of a model's typed service.

    Attributes:
        numbers: All that were ever given.
        trouble: Why they could not be written back; empty where they were, or need not be.
    """

    numbers: FieldNumbers
    trouble: str


def _silent(done: int, total: int | None) -> None:
    """Progress that no one asked for."""


class Registry:
    """A tracking server or database, and our cache of its models. Safe from several threads."""

    def __init__(self, tracking_uri: str, cache_dir: str, rules: Rules | None = None) -> None:
        self._rules = rules or Rules()
        self._environments = Environments(Path(cache_dir) / "environments")
        self._tracking_uri = tracking_uri
        self._is_remote = tracking_uri.startswith(("http://", "https://"))
        self._cache = Cache(cache_dir)
        self._lock = threading.Lock()
        self._opened: MlflowClient | None = None

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
            raise InvalidRequest(f"{uri} is refused: {self._allowed_sources()}")
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

    def fetch(self, source: str, progress: Progress = _silent) -> Fetched:
        """Bring a *source* that `resolve` gave into the cache, unless it is there.

        Raises:
            ModelNotFound: It is gone.
            LoadFailed: It is no model, or one that cannot be read or may not be loaded.
            RegistryUnavailable: The registry does not answer, or the model is still being logged.
        """
        entry = self._held(source) or self._bring(source, progress)
        files = entry / "model"
        description = self._judged(describe(load(files, source), source), files, source)
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
            is_data=is_data(description, files),
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
            with self._asking(f"MLmodel file of {source}"):
                file = download_file(f"{self._location(source)}/MLmodel", stage, self._tracking_uri)
            return describe(load(file.parent, source), source).signature

    def number_fields(self, name: str, wanted: FieldNumbers, *, writes: bool) -> Numbered:
        """The field numbers of the typed service of the registered model *name*.

        Those that its tags hold stay; what is *wanted* beside them gets the next ones, which are
        written back if *writes*.

        Raises:
            RegistryUnavailable, ModelNotFound: Its tags cannot be read.
            LoadFailed: They hold something else.
        """
        tags = self._registered(name).tags
        try:
            known = numbers_in(tags)
            merged = FieldNumbers.from_text(known.merged(wanted).to_text())
        except ValueError as error:
            raise LoadFailed(f"the tags {FIELDS_TAG} of model {name!r}: {error}") from error
        trouble = ""
        if writes and merged != known:
            try:
                with self._asking(f"registered model {name!r}"):
                    for key, text in tags_of(merged).items():
                        if tags.get(key) != text:
                            self._client().set_registered_model_tag(name, key, text)
            except HeadraceError as error:
                trouble = error.message
        return Numbered(merged, trouble)

    def environment(self, model: Path, say: Say, *, installer: str, s_max: float) -> Environment:
        """An environment for the model in the directory *model*; see `Environments.of`.

        Raises:
            LoadFailed: It cannot be made, or making it might execute code that is not allowed.
        """
        if not self._rules.pickle:
            raise LoadFailed(
                'environment = "model" is refused, since allow_pickle = false: installing the '
                "packages that a model names can execute code"
            )
        return self._environments.of(model, say, installer=installer, s_max=s_max)

    # What a reference stands for.

    def _version(self, wanted: Version) -> Resolved:
        try:
            with self._asking(f"version {wanted.number} of model {wanted.name!r}"):
                version = self._client().get_model_version(wanted.name, wanted.number)
        except ModelNotFound:
            self._registered(wanted.name)  # Says so where the whole model is unknown.
            raise
        return self._pinned(version, "")

    def _alias(self, wanted: Alias) -> Resolved:
        try:
            with self._asking(f"alias {wanted.alias!r} of model {wanted.name!r}"):
                version = self._client().get_model_version_by_alias(wanted.name, wanted.alias)
        except (ModelNotFound, InvalidRequest) as error:
            aliases = sorted(self._registered(wanted.name).aliases)
            raise ModelNotFound(
                f"model {wanted.name!r} has no alias {wanted.alias!r}; it has {_listed(aliases)}"
            ) from error
        return self._pinned(version, wanted.alias)

    def _latest(self, wanted: Latest) -> Resolved:
        version = _highest(self._registered(wanted.name))
        if version is None:
            raise ModelNotFound(f"model {wanted.name!r} has no version yet")
        return self._pinned(version, "latest")

    def _pinned(self, version: Any, followed: str) -> Resolved:
        name, number = str(version.name), str(version.version)
        source = str(version.source)
        if not source.startswith("models:/m-"):
            # Registered from a run's artifacts, a bare path or another registered model.
            with self._asking(f"version {number} of model {name!r}"):
                source = str(self._client().get_model_version_download_uri(name, number))
        return Resolved(name, number, source, followed, _our_tags(version.tags), name)

    def _logged(self, wanted: LoggedModel) -> Resolved:
        with self._asking(f"logged model {wanted.model_id!r}"):
            model = self._client().get_logged_model(wanted.model_id)
        return Resolved(str(model.name), "1", f"models:/{wanted.model_id}")

    def _of_run(self, wanted: RunModel) -> Resolved:
        with self._asking(f"run {wanted.run_id!r}"):
            run = self._client().get_run(wanted.run_id).info
        logged = self._models_of(run)
        for model in logged:
            if model.name == wanted.path:
                return Resolved(str(model.name), "1", f"models:/{model.model_id}")
        # Before MLflow 3 a model was a directory among the artifacts of its run.
        location = f"{run.artifact_uri}/{wanted.path}"
        if not self._has_mlmodel(location):
            names = sorted({str(model.name) for model in logged})
            raise ModelNotFound(
                f"run {wanted.run_id!r} has no model {wanted.path!r}; it has {_listed(names)}"
            )
        return Resolved(name_of(wanted.path), "1", location)

    def _artifacts(self, wanted: Artifacts) -> Resolved:
        if not self._is_remote:
            raise InvalidRequest(
                f"{wanted.uri} needs an MLflow server: the registry is at {self._shown_uri()}"
            )
        if not self._has_mlmodel(wanted.uri):
            raise ModelNotFound(f"there is no MLmodel file in {wanted.uri}")
        return Resolved(name_of(wanted.uri), "1", wanted.uri)

    # What the registry holds.

    def _registered(self, name: str) -> Any:
        with self._asking(f"registered model {name!r}"):
            return self._client().get_registered_model(name)

    def _registered_models(self) -> Iterator[Any]:
        token = None
        while True:
            with self._asking("list of registered models"):
                page = self._client().search_registered_models(max_results=_PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _models_of(self, run: Any) -> list[Any]:
        """The logged models of a run, newest first."""
        models: list[Any] = []
        token = None
        while True:
            with self._asking(f"models of run {run.run_id!r}"):
                page = self._client().search_logged_models(
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
            with self._asking(f"directory {location}"):
                infos = listing(location, self._tracking_uri)
        except ModelNotFound:
            return False
        return any(os.path.basename(info.path) == "MLmodel" for info in infos)

    # Into the cache.

    def _held(self, source: str) -> Path | None:
        directory = local_path(source)
        if directory is None:
            if self._rules.bound_places:  # It may have been fetched when other rules held.
                self._place(source)
            return self._cache.recall(self._key(source))
        self._place(source)
        with self._asking(f"content of {source}"):  # Its files may have changed since.
            return self._cache.entry(digest_of(Path(directory)))

    def _bring(self, source: str, progress: Progress) -> Path:
        with self._cache.staging() as stage:
            with self._asking(f"content of {source}"):
                location = self._place(source)
                came = download(location, stage / "download", self._tracking_uri, progress)
            files = stage / "model"
            os.rename(came, files)
            # What cannot be served is not kept.
            model = load(files, source)
            description = self._judged(describe(model, source), files, source)
            write_example(model, files, description.signature, stage / "example.npz")
            digest = digest_of(files)
            entry = self._cache.publish(stage, digest)
        if local_path(source) is None:
            self._cache.remember(self._key(source), digest)
        return entry

    def _judged(self, description: Description, files: Path, source: str) -> Description:
        judge(self._rules, description, files, source)
        return description

    def _place(self, source: str) -> str:
        """Where the files of *source* lie, all of them in a place that is allowed."""
        with self._asking(f"content of {source}"):
            location = self._location(source)
            directory = local_path(location)
            leads_on = self._rules.sources and location.startswith(("runs:", "models:"))
            if leads_on or not is_allowed(location, self._rules.sources):
                raise LoadFailed(
                    f"{source} is refused: its files are in {location}, and "
                    f"{self._allowed_sources()}"
                )
            if directory is None or not os.path.isdir(directory):
                return location
            for name, target in links_out(directory, source).items():
                if not self._rules.pickle:
                    raise LoadFailed(
                        f"{source} is refused, since allow_pickle = false: {name!r} is a link that "
                        "leads out of the model"
                    )
                if not is_allowed(target, self._rules.sources):
                    raise LoadFailed(
                        f"{source} is refused: {name!r} is a link to {target}, and "
                        f"{self._allowed_sources()}"
                    )
            return location

    def _allowed_sources(self) -> str:
        return f"allow_sources has {_listed(list(self._rules.sources))}"

    def _location(self, source: str) -> str:
        directory = local_path(source)
        if directory is not None:
            return directory
        if not source.startswith("models:/"):
            return source
        model = self._client().get_logged_model(source.removeprefix("models:/"))
        if model.status == LoggedModelStatus.PENDING:
            raise RegistryUnavailable(f"{source} is still being logged: retry")
        return str(model.artifact_location)

    def _key(self, source: str) -> str:
        # An artifact's path says nothing without the server that hands it out.
        return f"{self._tracking_uri}\n{source}"

    # The store, and its errors.

    def _client(self) -> MlflowClient:
        with self._lock:
            if self._opened is None:
                self._check_sqlite()
                uri = self._tracking_uri
                self._opened = MlflowClient(tracking_uri=uri, registry_uri=uri)
            return self._opened

    def _check_sqlite(self) -> None:
        """Refuse a database that is not there: MLflow would make one, or try for minutes."""
        if not self._tracking_uri.startswith("sqlite:///"):
            return
        path = self._tracking_uri.removeprefix("sqlite:///").partition("?")[0]
        try:
            with open(path, "rb") as file:
                header = file.read(len(_SQLITE_HEADER))
        except OSError as error:
            raise RegistryUnavailable(
                f"the registry at {self._shown_uri()} cannot be opened: {error.strerror}"
            ) from error
        if header not in (_SQLITE_HEADER, b""):
            raise RegistryUnavailable(f"{path} is no SQLite database, so no registry")

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turn whatever MLflow raises when asked for *what* into one of our errors."""
        try:
            yield
        except HeadraceError:
            raise
        except Exception as error:
            raise self._error(error, what) from error

    def _error(self, error: Exception, what: str) -> HeadraceError:
        code = getattr(error, "error_code", "")
        status = _http_status(error)
        if code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND") or (not code and status == 404):
            return ModelNotFound(f"there is no {what}")
        is_down = status in (429, 503, 504) or (self._is_remote and status >= 500)
        if is_down or isinstance(error, OperationalError):
            return RegistryUnavailable(
                f"the registry at {self._shown_uri()} does not answer, or fails, when asked for "
                f"the {what}: retry"
            )
        if status == 400:
            return InvalidRequest(f"the registry refuses the {what}: {_first_line(error)}")
        return LoadFailed(f"the {what} cannot be had: {_first_line(error)}")

    def _shown_uri(self) -> str:
        """The registry's address without its credentials."""
        parts = urlsplit(self._tracking_uri)
        if not parts.netloc:
            return self._tracking_uri.partition("?")[0]
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


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


def _http_status(error: Exception) -> int:
    """The HTTP status that tells what kind of error it is; 0 for none."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    if isinstance(error, requests.RequestException):
        return 503 if error.response is None else error.response.status_code
    return 0


def _listed(names: list[str]) -> str:
    if not names:
        return "none"
    more = len(names) - _LISTED_MAX
    shown = ", ".join(names[:_LISTED_MAX])
    return f"{shown} and {more} more" if more > 0 else shown


def _first_line(error: Exception) -> str:
    """What happened, without the page that MLflow and SQLAlchemy may put behind it."""
    lines = [line for line in str(error).splitlines() if line.strip("# ")] or [type(error).__name__]
    # A failed download says only in its third line what happened, behind a heading per file.
    if lines[0].endswith(":") and len(lines) > 2:
        return f"{lines[0]} {lines[2]}"
    return lines[0]

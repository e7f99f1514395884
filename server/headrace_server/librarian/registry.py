"""Registry: what the librarian can be asked: a tracking server or database, and our cache.

Each question has a file of its own: resolving.py, fetching.py, fields.py, environment.py.
"""

from pathlib import Path

from headrace.signature import Signature
from headrace.typed import FieldNumbers

from ..errors import LoadFailed
from .cache import Cache
from .download import Progress, silent
from .environment import Environment, Environments, Say
from .fetching import Fetched, Fetcher
from .fields import Numbered, number_fields
from .resolving import Resolved, Resolver
from .safety import Rules
from .store import Store


class Registry:
    """One registry, and our cache of its models. Safe from several threads."""

    def __init__(self, tracking_uri: str, cache_dir: str, rules: Rules | None = None) -> None:
        self._rules = rules or Rules()
        self._store = Store(tracking_uri)
        self._resolver = Resolver(self._store, self._rules)
        self._fetcher = Fetcher(self._store, Cache(cache_dir), self._rules)
        self._environments = Environments(Path(cache_dir) / "environments")

    def resolve(self, uri: str, name: str | None = None) -> Resolved:
        """What *uri* stands for now; see `Resolver.resolve`."""
        return self._resolver.resolve(uri, name)

    def list_models(self) -> list[str]:
        """The URI of every registered model; see `Resolver.list_models`."""
        return self._resolver.list_models()

    def fetch(self, source: str, progress: Progress = silent) -> Fetched:
        """Bring a *source* into the cache; see `Fetcher.fetch`."""
        return self._fetcher.fetch(source, progress)

    def signature(self, source: str) -> Signature | None:
        """The signature of a *source*; see `Fetcher.signature`."""
        return self._fetcher.signature(source)

    def number_fields(self, name: str, wanted: FieldNumbers, *, writes: bool) -> Numbered:
        """The field numbers of a typed service; see `fields.number_fields`."""
        return number_fields(self._store, name, wanted, writes=writes)

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

"""Config: what `headrace config` prints, with the registry's tags where it is asked to look."""

import os
from contextlib import ExitStack

from .completions import Completions
from .errors import HeadraceError, UsageError
from .instances.process import Spawner
from .repository.librarian import Librarian, rules_of
from .settings import Settings, split_model
from .settings.shown import Known, as_json, as_toml
from .settings.sources import config_path


def config(
    settings: Settings, *, config_file: str | None, is_json: bool, asks_registry: bool
) -> str:
    """The settings that hold, as headrace.toml or as JSON.

    Args:
        settings: What holds.
        config_file: The file that the command line names.
        is_json: Whether JSON is wanted.
        asks_registry: Whether to resolve the models to serve, for their versions' tags.

    Raises:
        UsageError: A model's URI stands for nothing, or something was said of one not served.
    """
    known = served_models(settings) if asks_registry else None
    render = as_json if is_json else as_toml
    return render(settings, config_path(config_file, os.environ), known)


def served_models(settings: Settings) -> list[Known]:
    """The models that `headrace serve` would serve, as the registry knows them now.

    Raises:
        UsageError: A URI stands for nothing, or something was said of a model that is not served.
    """
    with ExitStack() as stack:
        spawner = Spawner()
        stack.callback(spawner.close)
        completions = Completions()
        completions.start()
        stack.callback(completions.close)
        librarian = Librarian(
            spawner,
            completions,
            tracking_uri=settings.server.tracking_uri,
            cache_dir=settings.server.cache_dir,
            rules=rules_of(settings.server),
        )
        stack.callback(librarian.close)
        try:
            known = [_known(librarian, item) for item in settings.served or librarian.list_models()]
        except HeadraceError as error:
            raise UsageError(str(error)) from None
    settings.check_names(model.name for model in known)
    return known


def _known(librarian: Librarian, item: str) -> Known:
    name, uri = split_model(item)
    resolved = librarian.resolve(uri)
    return Known(name or resolved.name, resolved.version, resolved.tags)

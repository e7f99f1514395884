"""Registry: whether the librarian, as the daemon starts it, gets an answer in time."""

from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack
from threading import Thread

from .finding import Finding, Setup, ok, problem, warning

# Its process imports mlflow first, and asks a server that does not answer twice (seconds).
REGISTRY_S_MAX = 30.0

_SET_LOGIN = "export MLFLOW_TRACKING_USERNAME=... MLFLOW_TRACKING_PASSWORD=..."
_SET_URI = "--tracking-uri URI, MLFLOW_TRACKING_URI, or tracking_uri in headrace.toml"


def check_registry(setup: Setup) -> Iterator[Finding]:
    """Yield one finding: how many models the registry holds, or why it does not say."""
    from ..errors import HeadraceError, RegistryDenied, RegistryUnavailable  # noqa: PLC0415 - see _ask.
    from ..settings import shown_uri  # noqa: PLC0415

    uri = f"the registry at {shown_uri(setup.tracking_uri)}"
    try:
        models = _ask(setup)
    except FutureTimeout:
        yield problem(
            "registry",
            f"{uri} did not answer within {REGISTRY_S_MAX:.0f} s",
            f"see whether it runs and can be reached from here; {_SET_URI} names another",
        )
    except RegistryUnavailable as error:
        yield problem("registry", str(error), f"start it, or name the right one: {_SET_URI}")
    except RegistryDenied as error:
        yield problem("registry", str(error), _SET_LOGIN)
    except HeadraceError as error:
        yield problem("registry", f"{uri}: {error}", f"name the right one: {_SET_URI}")
    else:
        count = len(models)
        if count:
            yield ok("registry", f"{uri} answers and holds {count} model{'s' * (count > 1)}")
        else:
            yield warning(
                "registry",
                f"{uri} answers, but holds no registered model with a version",
                "register one, or serve a directory: headrace serve NAME=./model-directory",
            )


def _ask(setup: Setup) -> list[str]:
    # Only the server's extra brings what these import.
    from .. import logs  # noqa: PLC0415
    from ..completions import Completions  # noqa: PLC0415
    from ..instances.process import Spawner  # noqa: PLC0415
    from ..repository.librarian import Librarian  # noqa: PLC0415

    answer: Future[list[str]] = Future()
    with ExitStack() as stack:
        spawner = Spawner(logs.child_environment("json", "critical"))
        stack.callback(spawner.close)
        completions = Completions()
        completions.start()
        stack.callback(completions.close)
        librarian = Librarian(
            spawner, completions, tracking_uri=setup.tracking_uri, cache_dir=setup.cache_dir
        )
        # Ends the question too, where it still waits.
        stack.callback(librarian.close)

        def ask() -> None:
            try:
                answer.set_result(librarian.list_models())
            except Exception as error:  # noqa: BLE001 - told to whoever waits.
                answer.set_exception(error)

        Thread(target=ask, name="doctor-registry", daemon=True).start()
        return answer.result(REGISTRY_S_MAX)

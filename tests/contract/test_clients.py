"""The two clients: whoever knows one knows the other."""

import inspect

from headrace_client import AsyncClient, Client

# What the language names otherwise for asyncio.
SYNC_ONLY = {"__enter__": "__aenter__", "__exit__": "__aexit__"}


def methods(kind: type) -> dict[str, list[tuple[str, object, object, object]]]:
    """The parameters of each public method: name, kind, default and type."""
    return {
        SYNC_ONLY.get(name, name): [
            (
                parameter.name,
                parameter.kind,
                parameter.default,
                # Those of the asyncio client may also come asynchronously.
                "items" if parameter.name == "items" else _shown(parameter.annotation),
            )
            for parameter in inspect.signature(method).parameters.values()
        ]
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") or name in {"__init__", *SYNC_ONLY, *SYNC_ONLY.values()}
    }


def _shown(annotation: object) -> str:
    return str(annotation).replace("grpc.aio._base_channel.Channel", "grpc.Channel")


def test_the_asyncio_client_has_every_method_of_the_other_with_the_same_parameters() -> None:
    assert methods(AsyncClient) == methods(Client)


def test_every_method_of_the_asyncio_client_is_awaited_or_looped_over() -> None:
    plain = {
        name
        for name, method in inspect.getmembers(AsyncClient, inspect.isfunction)
        if not name.startswith("_") and not inspect.iscoroutinefunction(method)
    }

    assert plain == {"predict_many", "predict_as_completed"}
    for name in plain:
        assert "AsyncIterator" in str(inspect.signature(getattr(AsyncClient, name)))


def test_the_asyncio_methods_refer_to_those_of_the_other_for_what_they_do() -> None:
    described = {
        name: inspect.getdoc(method) or ""
        for name, method in inspect.getmembers(AsyncClient, inspect.isfunction)
        if not name.startswith("_") and name != "close"
    }

    assert {name for name, text in described.items() if f"`Client.{name}`" not in text} == set()

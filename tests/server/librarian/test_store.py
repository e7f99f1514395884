"""Store: what MLflow raises, as an error of ours that tells no secrets."""

import pytest
import requests

from headrace_server.errors import RegistryUnavailable
from headrace_server.librarian.store import Store


def test_a_password_is_not_shown_whatever_it_holds() -> None:
    store = Store("http://someone:pass/word@127.0.0.1:1")

    with pytest.raises(RegistryUnavailable) as caught, store.asking("list of registered models"):
        raise requests.ConnectionError

    assert "the registry at http://***@127.0.0.1:1 does not answer" in caught.value.message
    assert "word" not in caught.value.message

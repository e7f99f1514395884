"""Models of texts through a running daemon: strings in, BYTES out."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import models
from headrace_client import Client
from serving import Daemon, untried

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(not find_spec("transformers"), reason="needs transformers"),
]

SERVED = {"hf_classifier": "mood", "hf_generator": "writer"}
TEXTS = ["the cat sat on a mat", "a good day"]


@pytest.fixture(scope="module", name="client")
def _client(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Client]:
    store = tmp_path_factory.mktemp("texts")
    for name, registered in SERVED.items():
        models.log(name, store, registered)
    uri = models.tracking_uri(store)
    running = Daemon("--tracking-uri", uri, *untried(*SERVED.values()), cwd=store, cache=cache)
    running.wait("ready")
    with Client(running.address) as client:
        yield client
    assert running.stop() == 0


def test_texts_are_classified_as_mlflow_does_it(client: Client) -> None:
    answer = client.predict("mood", TEXTS)

    expected = models.model("hf_classifier").expected({"input-0": np.array(TEXTS, object)})
    assert answer.strings("label").tolist() == expected["label"].tolist()
    assert answer["score"].tolist() == pytest.approx(expected["score"].tolist())
    assert client.metadata("mood").outputs[0].datatype == "BYTES"


def test_parameters_of_a_request_reach_a_generation(client: Client) -> None:
    short = client.predict("writer", TEXTS, parameters={"max_new_tokens": 1})
    long = client.predict("writer", TEXTS, parameters={"max_new_tokens": 6})

    for text, one, six in zip(
        TEXTS, short.strings("output-0"), long.strings("output-0"), strict=True
    ):
        assert one.startswith(text)
        assert six.startswith(one)
        assert len(six) > len(one)

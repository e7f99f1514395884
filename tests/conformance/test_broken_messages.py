"""Messages cut off or changed anywhere, over both transports: refused, never a fault of ours."""

import random
from typing import Any

import numpy as np
import pytest

import models
from calling import Caller, chain, ending, message, typed
from headrace.datatypes import DATATYPES
from headrace.oip.open_inference_pb2 import ModelInferRequest

pytestmark = pytest.mark.slow

X = np.zeros((1, 4), np.float32)


def whole() -> ModelInferRequest:
    """A message with every kind of field."""
    request = message("graph", {"x": X}, model_version="1", id="seven", outputs=["y"])
    request.parameters["timeout"].int64_param = 10_000_000
    request.parameters["headers"].string_param = "none"
    return request


def test_a_message_that_was_cut_anywhere_is_refused(callers: dict[str, Caller]) -> None:
    payload = whole().SerializeToString(deterministic=True)
    endings = []
    for caller in callers.values():
        assert caller.ask(payload).code == "OK"
        calls = [caller.submit(payload[:size]) for size in range(len(payload))]
        endings.append([ending(call) for call in calls])
        assert caller.ask(payload).code == "OK"

    assert endings[0] == endings[1]
    # What is left may be a message, which names no model or lacks its tensors.
    assert {told.code for told in endings[0]} == {"INVALID_ARGUMENT", "NOT_FOUND"}
    assert {told.details.partition(":")[0] for told in endings[0]} >= {
        "the message is not a ModelInferRequest",
        "model 'graph'",
        "input 'x'",
    }


def mutated(payload: bytes, chance: random.Random) -> bytes:
    """*payload* with one to three things cut off, changed, put in, taken out or doubled."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randint(0, len(payload))
        some = chance.randbytes(chance.randint(1, 4))
        end = at + chance.randint(1, 20)
        match chance.randrange(6):
            case 0:
                payload = payload[:at]
            case 1:
                payload = payload[:at] + some + payload[at + len(some) :]
            case 2:
                payload = payload[:at] + some + payload[at:]
            case 3:
                payload = payload[:at] + payload[end:]
            case 4:
                payload = payload[:end] + payload[at:]
            case _:
                flipped = bytes(byte ^ 1 << chance.randrange(8) for byte in payload[at : at + 1])
                payload = payload[:at] + flipped + payload[at + 1 :]
    return payload


@pytest.mark.parametrize("seed", range(4))
def test_no_broken_message_is_an_error_of_the_servers(caller: Caller, seed: int) -> None:
    chance = random.Random(seed)
    good = [
        whole().SerializeToString(deterministic=True),
        message("iris", models.model("iris_pipeline").rows(2), id="2").SerializeToString(),
        message("echo", {"x": chain(b"a", b"bc").reshape(2, 1)}).SerializeToString(),
        typed("graph", "x", DATATYPES["FP32"], X).SerializeToString(),
    ]
    pid = caller.daemon.process.pid

    calls: list[tuple[int | None, Any]] = []
    for _ in range(400):
        calls.append((None, caller.submit(mutated(chance.choice(good), chance))))
        kind = chance.randrange(len(good))
        calls.append((kind, caller.submit(good[kind])))
    endings = [(kind, ending(call)) for kind, call in calls]

    assert all(told.code == "OK" for kind, told in endings if kind is not None)
    codes = {told.code for kind, told in endings if kind is None}
    assert codes <= {
        "OK",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
    }
    assert "INVALID_ARGUMENT" in codes
    assert caller.daemon.process.poll() is None
    assert caller.daemon.process.pid == pid

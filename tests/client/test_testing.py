"""The fake server that callers test against."""

import asyncio
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array, Map, Object, Property

from headrace.signature import Signature
from headrace.signature import TensorSpec as OurSpec
from headrace.typed import SIGNATURE_PARAMETER, fingerprint
from headrace_client import (
    AsyncClient,
    Client,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from headrace_client.signatures import signature_from_mlflow
from headrace_client.testing import FakeServer
from headrace_server.librarian.mlmodel import signature_of

IRIS = Signature(
    tuple(OurSpec(name, "FP64", (-1,), "double") for name in ("length", "width")),
    (OurSpec("label", "INT64", (-1,), "long"),),
)
EVERYTHING = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.string, "name"),
            ColSpec(DataType.datetime, "at"),
            ColSpec(DataType.binary, "blob"),
            ColSpec(DataType.integer, "age", required=False),
            ColSpec(Array(DataType.double), "path"),
            ColSpec(Object([Property("x", DataType.long)]), "point"),
            ColSpec(Map(DataType.string), "tags"),
        ]
    ),
    outputs=Schema([ColSpec(DataType.string, "text"), ColSpec(DataType.datetime, "then")]),
    params=ParamSchema(
        [
            ParamSpec("scale", DataType.double, 2.0),
            ParamSpec("words", DataType.string, ["a"], (-1,)),
        ]
    ),
)
TENSORS = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 3))]),
    outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 2), "y")]),
)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.target, timeout_s=20) as client:
        yield client


def longest(inputs: dict[str, Any]) -> Any:
    return (inputs["length"] > inputs["width"]).astype(np.int64)


def test_a_function_answers_as_a_model(server: FakeServer, client: Client) -> None:
    server.serve("iris", IRIS, longest, version="7")

    prediction = client.predict("iris", [[1.0, 2.0], [2.0, 1.0]])

    assert prediction["label"].tolist() == [0, 1]
    assert prediction.version == "7"
    assert [spec.name for spec in client.metadata("iris").inputs] == ["length", "width"]
    (asked,) = server.asked
    assert asked.model == "iris"
    assert asked.inputs["length"].tolist() == [1.0, 2.0]


def test_the_asyncio_client_is_answered_too(server: FakeServer) -> None:
    server.serve("iris", IRIS, longest)

    async def main() -> list[int]:
        async with AsyncClient(server.target, timeout_s=20) as client:
            found: list[int] = (await client.predict("iris", [[2.0, 1.0]])).array.tolist()
            return found

    assert asyncio.run(main()) == [1]


@pytest.mark.parametrize("signature", [EVERYTHING, TENSORS, ModelSignature(inputs=TENSORS.inputs)])
def test_mlflows_own_signature_is_read_as_the_server_reads_it(signature: ModelSignature) -> None:
    assert signature_from_mlflow(signature.to_dict()) == signature_of(signature)


@pytest.mark.parametrize("wrong", [{"inputs": [{"name": "x"}]}, {"inputs": "[3]"}])
def test_what_is_no_signature_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected a signature as MLflow writes it"):
        signature_from_mlflow(wrong)


def test_values_come_as_a_model_would_see_them(server: FakeServer, client: Client) -> None:
    seen: dict[str, Any] = {}

    def answer(inputs: dict[str, Any], scale: float, words: list[str]) -> dict[str, Any]:
        seen.update(inputs, scale=scale, words=words)
        return {"text": inputs["name"], "then": inputs["at"]}

    server.serve("all", EVERYTHING.to_dict(), answer)
    row = {
        "name": "Ann",
        "at": "2024-01-02T03:04:05",
        "blob": b"\xff",
        "path": [1, 2.5],
        "point": {"x": 3},
        "tags": {"a": "b"},
    }
    prediction = client.predict("all", [row], parameters={"scale": 3})

    assert seen["name"].tolist() == ["Ann"]
    assert seen["at"].tolist() == [np.datetime64("2024-01-02T03:04:05", "ns").item()]
    assert seen["blob"].tolist() == [b"\xff"]
    assert (seen["path"][0], seen["point"][0], seen["tags"][0]) == (
        [1.0, 2.5],
        {"x": 3},
        {"a": "b"},
    )
    assert "age" not in seen
    assert (seen["scale"], seen["words"]) == (3.0, ["a"])
    assert prediction.strings("text").tolist() == ["Ann"]
    assert prediction["then"].view("datetime64[ns]").tolist() == seen["at"].tolist()


def test_missing_values_come_as_none_nan_or_nat(server: FakeServer, client: Client) -> None:
    seen: dict[str, Any] = {}

    def answer(inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        seen.update(inputs)
        return {"text": np.array(["x"] * 2, object), "then": np.zeros(2, "datetime64[ns]")}

    optional = [
        ColSpec(DataType.string, "note", required=False),
        ColSpec(DataType.boolean, "is_new", required=False),
        ColSpec(DataType.double, "size", required=False),
        ColSpec(Array(DataType.double), "path", required=False),
        ColSpec(DataType.datetime, "at", required=False),
        ColSpec(DataType.binary, "raw", required=False),
    ]
    signature = ModelSignature(inputs=Schema(optional), outputs=EVERYTHING.outputs)
    server.serve("some", signature.to_dict(), answer)
    full = {
        "note": "a",
        "is_new": True,
        "size": 1.0,
        "path": [1.0],
        "at": "2024-01-02",
        "raw": b"\xff",
    }
    expected = {**full, "at": 1_704_153_600_000_000_000}
    none = {"size": np.nan, "at": None}

    client.predict("some", [full, dict.fromkeys(full)])
    found = {name: values.tolist() for name, values in seen.items()}
    np.testing.assert_equal(found, {k: [v, none.get(k)] for k, v in expected.items()})

    client.predict("some", {name: [None, None] for name in full})
    assert [seen[name].tolist() for name in ("note", "is_new", "raw")] == [[None, None]] * 3
    # As any client may send it.
    sent = {"size": np.ones(2), "at": np.zeros(2, np.int64), "at.is_null": np.zeros(2, bool)}
    client.infer("some", {**sent, "size.is_null": np.array([True, False])})
    np.testing.assert_equal(seen["size"], [np.nan, 1.0])
    client.infer("some", {"at.is_null": np.ones(2, bool), "size.is_null": np.ones(2, bool)})
    assert np.isnat(seen["at"]).all()
    assert np.isnan(seen["size"]).all()
    with pytest.raises(InvalidArgument, match=r"'raw\.is_null': expected true in"):
        client.infer("some", {"raw.is_null": np.array([True, False])})


def test_a_signature_may_come_from_a_server(server: FakeServer, client: Client) -> None:
    server.serve("all", EVERYTHING.to_dict(), lambda *_, **__: None)
    with FakeServer() as second, Client(second.target, timeout_s=20) as other:
        second.serve("all", client.metadata("all"), lambda *_, **__: None)
        assert other.metadata("all") == client.metadata("all")
        assert other.metadata("all").signature == signature_of(EVERYTHING)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"y": np.zeros((1, 2), np.float32), "z": [1]}, r"expected \['y'\], got \['y', 'z'\]"),
        (np.zeros((2, 2), np.float32), r"expected shape \[1, 2\], got \[2, 2\]"),
        (np.array([["a", "b"]]), "expected FP32, got object"),
    ],
)
def test_an_answer_that_the_model_would_not_give_is_an_error(
    server: FakeServer, client: Client, given: Any, said: str
) -> None:
    server.serve("net", TENSORS.to_dict(), lambda _: given)

    with pytest.raises(Internal, match=said):
        client.predict("net", np.zeros((1, 3), np.float32))


def test_errors_come_as_a_test_wants_them(server: FakeServer, client: Client) -> None:
    server.serve("iris", IRIS, longest)
    server.fail_next(Unavailable("draining"), ResourceExhausted("full"))

    with pytest.raises(Unavailable, match="draining"):
        client.predict("iris", [[1.0, 2.0]])
    with pytest.raises(ResourceExhausted, match="full"):
        client.predict("iris", [[1.0, 2.0]])
    assert client.predict("iris", [[1.0, 2.0]]).array.tolist() == [0]

    def raises(_: Any) -> Any:
        raise KeyError("x")

    server.serve("bad", IRIS, raises)
    with pytest.raises(Internal, match="KeyError: 'x'"):
        client.predict("bad", [[1.0, 2.0]])
    with pytest.raises(NotFound, match="no model 'nobody'"):
        client.predict("nobody", [[1.0, 2.0]])
    with pytest.raises(NotFound, match="has version 1, not '2'"):
        client.predict("iris", [[1.0, 2.0]], version="2")


def test_a_generated_client_is_written_from_it_and_answered_by_it(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve("iris", IRIS, longest)
    file = tmp_path / "written_iris_client.py"
    command = [sys.executable, "-m", "headrace_server.cli", "stub", "iris"]
    subprocess.run([*command, "--server", server.target, "-o", file], check=True, timeout=60)
    monkeypatch.syspath_prepend(tmp_path)
    written = importlib.import_module(file.stem)

    with written.IrisClient(server.target) as iris:
        assert iris.predict(length=2.0, width=1.0).label == 1


def test_a_generated_client_of_another_signature_is_told_what_changed(
    server: FakeServer, client: Client
) -> None:
    server.serve("iris", IRIS, longest)
    row = {"length": np.ones(1), "width": np.ones(1)}
    older = Signature((IRIS.inputs[0],), IRIS.outputs)

    assert client.infer("iris", row, parameters={SIGNATURE_PARAMETER: fingerprint(IRIS)})
    with pytest.raises(FailedPrecondition, match="input 'width' is new, and not optional"):
        client.infer("iris", row, parameters={SIGNATURE_PARAMETER: fingerprint(older)})


def test_requests_that_do_not_fit_are_refused(server: FakeServer, client: Client) -> None:
    server.serve("iris", IRIS, longest)

    with pytest.raises(InvalidArgument, match="missing input 'width'"):
        client.infer("iris", {"length": np.ones(1)})
    with pytest.raises(InvalidArgument, match=r"expected integers up to 2\*\*53"):
        client.infer("iris", {"length": np.array([2**60]), "width": np.ones(1)})
    assert server.asked == []
    assert client.ready()
    assert [status.name for status in client.models()] == ["iris"]

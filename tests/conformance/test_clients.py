"""Our clients and Triton's, each over both transports: they get the same answer."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import models
from calling import Caller
from headrace_client import AsyncClient, Client, InvalidArgument

pytestmark = pytest.mark.slow

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


def ours(address: str) -> Any:
    with Client(address) as client:
        assert client.ready()
        assert client.ready("graph")
        assert not client.ready("nothing")
        assert client.metadata("graph").inputs[0].name == "x"
        assert "graph" in {status.name for status in client.models()}
        with pytest.raises(InvalidArgument, match="expected FP32, got FP64"):
            client.infer("graph", {"x": ROWS.astype(np.float64)})
        futures = [client.submit("graph", ROWS, request_id=str(k)) for k in range(50)]
        assert [future.result().id for future in futures] == [str(k) for k in range(50)]
        answer = client.predict(
            "graph", ROWS, request_id="seven", outputs=["y"], priority=1, timings=True
        )
        assert answer.timings is not None
        assert sum(answer.timings.steps_ns.values()) == answer.timings.total_ns
        assert answer.timings.batch_rows == 2
        return answer["y"]


def ours_aio(address: str) -> Any:
    async def ask() -> Any:
        async with AsyncClient(address) as client:
            assert await client.ready("graph")
            many = [client.predict("graph", ROWS) for _ in range(50)]
            answers = await asyncio.gather(*many)
            assert all(np.array_equal(answer["y"], answers[0]["y"]) for answer in answers)
            timed = await client.predict("graph", ROWS, priority=1, timings=True)
            assert timed.timings is not None
            assert timed.timings.batch_rows == 2
            with pytest.raises(InvalidArgument, match="expected FP32, got FP64"):
                await client.infer("graph", {"x": ROWS.astype(np.float64)})
            return answers[0]["y"]

    return asyncio.run(ask())


def wanted(triton: Any) -> Any:
    tensor = triton.InferInput("x", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS)
    return tensor


def tritons(address: str) -> Any:
    triton = pytest.importorskip("tritonclient.grpc")
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("graph")
        assert client.get_server_metadata().name == "headrace"
        assert client.get_model_metadata("graph").inputs[0].name == "x"
        assert "graph" in {model.name for model in client.get_model_repository_index().models}
        asked = {"model_name": "graph", "inputs": [wanted(triton)], "request_id": "seven"}
        answer = client.infer(**asked, outputs=[triton.InferRequestedOutput("y")])
        packed = client.infer(**asked, compression_algorithm="gzip", client_timeout=30)
        assert answer.get_response().id == "seven"
        np.testing.assert_array_equal(answer.as_numpy("y"), packed.as_numpy("y"))
        with pytest.raises(Exception, match="is not served") as caught:
            client.infer("nothing", asked["inputs"])
        error: Any = caught.value
        assert error.status() == "StatusCode.NOT_FOUND"
        return answer.as_numpy("y")


def tritons_aio(address: str) -> Any:
    triton = pytest.importorskip("tritonclient.grpc.aio")

    async def ask() -> Any:
        async with triton.InferenceServerClient(address) as client:
            assert await client.is_model_ready("graph")
            many = [client.infer("graph", [wanted(triton)], request_id=str(k)) for k in range(50)]
            answers = await asyncio.gather(*many)
            ids = [answer.get_response().id for answer in answers]
            assert ids == [str(k) for k in range(50)]
            return answers[0].as_numpy("y")

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [ours, ours_aio, tritons, tritons_aio])
def test_a_client_asks_everything_it_can(caller: Caller, ask: Callable[[str], Any]) -> None:
    (expected,) = models.model("onnx_named").expected({"x": ROWS}).values()

    np.testing.assert_allclose(ask(caller.daemon.address), expected, rtol=1e-5, atol=1e-6)

"""The asyncio client against the same double of the server."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import grpc
import numpy as np
import pytest

import oip_double
from headrace_client import (
    AsyncClient,
    DeadlineExceeded,
    HeadraceClientError,
    InputMismatch,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Timings,
    Unavailable,
)
from oip_double import Double, ServedModel

ROW = np.array([[5.1, 3.5, 1.4, 0.2]])


@pytest.fixture
def double() -> Iterator[Double]:
    models = {"iris": oip_double.iris(), "doubler": oip_double.doubler()}
    with oip_double.serving(models) as double:
        yield double


def test_predictions_metadata_models_and_readiness(double: Double) -> None:
    async def ask() -> None:
        async with AsyncClient(double.target, timeout_s=20) as client:
            assert repr(client) == f"<AsyncClient {double.target}>"
            prediction = await client.predict("iris", ROW, request_id="r", outputs=["total"])
            assert (list(prediction), prediction.id) == (["total"], "r")
            many = await asyncio.gather(
                *(client.predict("doubler", np.full((1, 3), i)) for i in range(20))
            )
            assert [answer.array[0, 0] for answer in many] == [2.0 * i for i in range(20)]
            plain = await client.infer("doubler", {"x": np.ones((1, 3), np.float32)})
            assert plain.array.tolist() == [[2.0, 2.0, 2.0]]
            assert (await client.metadata("iris", "1")).versions == ("1",)
            assert [model.name for model in await client.models()] == ["iris", "doubler", "broken"]
            assert await client.ready()
            assert await client.ready("iris")
            assert not await client.ready("nothing")

    asyncio.run(ask())


def test_a_channel_of_the_callers_is_used_and_stays_open(double: Double) -> None:
    async def ask() -> None:
        async with grpc.aio.insecure_channel(double.target) as channel:
            for _ in range(2):
                async with AsyncClient(channel, timeout_s=20) as client:
                    assert (await client.predict("iris", ROW))["longest"].tolist() == [0]

    asyncio.run(ask())


def test_timings_and_priorities(double: Double) -> None:
    double.timings = '{"queue_ns": 7, "total_ns": 7, "batch_rows": 4}'

    async def ask() -> None:
        async with AsyncClient(double.target, timeout_s=20) as client:
            x = np.ones((1, 3), np.float32)
            told = [
                await client.predict("iris", ROW, timings=True, priority=2),
                await client.infer("doubler", {"x": x}, timings=True, priority=1),
                await (await client.submit("iris", ROW, timings=True)),
            ]
            assert [one.timings for one in told] == [Timings({"queue": 7}, 7, 4)] * 3
            assert (await client.predict("iris", ROW)).timings is None
            double.failures = [(grpc.StatusCode.UNAVAILABLE, "draining")]
            with pytest.raises(Unavailable, match="draining"):
                await client.predict("iris", ROW, timings=True)

    asyncio.run(ask())
    assert double.timings_asked == [True, True, True, False, True]
    sent = [request.parameters for request in double.infer_requests]
    assert [given["priority"].int64_param for given in sent if "priority" in given] == [2, 1]


def test_a_changed_model_is_asked_again_once_and_an_unchanged_one_never(double: Double) -> None:
    async def ask() -> None:
        async with AsyncClient(double.target, timeout_s=20) as client:
            await client.predict("iris", ROW)
            old = double.models["iris"]
            inputs = tuple(replace(spec, datatype="FP32") for spec in old.inputs)
            double.models["iris"] = replace(old, inputs=inputs, version="2")
            assert (await client.predict("iris", ROW)).version == "2"

            sent = len(double.infer_requests)
            double.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "no")]
            with pytest.raises(InvalidArgument, match="no"):
                await client.predict("iris", ROW)
            assert len(double.infer_requests) == sent + 1

            with pytest.raises(InputMismatch):
                await client.predict("iris", {"petal_width": [1.0]})
            assert len(double.infer_requests) == sent + 1

            del double.models["iris"]
            with pytest.raises(NotFound):
                await client.predict("iris", ROW)

    asyncio.run(ask())


def test_a_submitted_request_is_a_task_that_was_checked_before(double: Double) -> None:
    async def ask() -> None:
        async with AsyncClient(double.target, timeout_s=20) as client:
            rows = [np.full((1, 3), i) for i in range(20)]
            tasks = [await client.submit("doubler", row) for row in rows]
            for row in rows:
                row[:] = -1  # What was submitted is on its way as it was.
            answers = await asyncio.gather(*tasks)
            assert [answer.array[0, 0] for answer in answers] == [2.0 * i for i in range(20)]

            sent = len(double.infer_requests)
            with pytest.raises(InputMismatch):
                await client.submit("iris", {"petal_width": [1.0]})
            assert len(double.infer_requests) == sent

            double.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "no")]
            asked = len(double.metadata_asked)
            with pytest.raises(InvalidArgument, match="no"):
                await (await client.submit("doubler", rows[0]))
            await (await client.submit("doubler", rows[0]))
            assert len(double.metadata_asked) == asked + 1

            double.is_holding = True
            task = await client.submit("doubler", rows[0])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            double.release.set()

    asyncio.run(ask())


def test_models_are_loaded_and_unloaded(double: Double) -> None:
    async def ask() -> None:
        async with AsyncClient(double.target, timeout_s=20) as client:
            await client.load("iris")
            await client.load("flowers", "models:/iris/3", timeout=20)
            await client.unload("iris")
            double.repository_failures = [(grpc.StatusCode.NOT_FOUND, "no such model")]
            with pytest.raises(NotFound, match="no such model"):
                await client.load("nothing")
            double.is_holding = True
            with pytest.raises(DeadlineExceeded):
                await client.load("slow", timeout=0.05)
            double.release.set()

    asyncio.run(ask())
    assert double.loads[:2] == [("iris", ""), ("flowers", "models:/iris/3")]
    assert double.unloads == ["iris"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ResourceExhausted),
        (grpc.StatusCode.DATA_LOSS, HeadraceClientError),
    ],
)
def test_a_status_has_the_error_of_the_synchronous_client(
    double: Double, status: grpc.StatusCode, expected: type[HeadraceClientError]
) -> None:
    async def ask() -> None:
        async with AsyncClient(double.target, timeout_s=20) as client:
            with pytest.raises(HeadraceClientError, match="why") as caught:
                await client.predict("iris", ROW)
            assert type(caught.value) is expected
            assert caught.value.code == status.name

    double.failures = [(status, "why")]
    asyncio.run(ask())


def test_a_call_ends_at_its_timeout_and_a_cancelled_task_at_once(double: Double) -> None:
    async def ask() -> None:
        async with AsyncClient(double.target, timeout_s=20) as client:
            await client.predict("iris", ROW)
            double.is_holding = True
            with pytest.raises(DeadlineExceeded):
                await client.predict("iris", ROW, timeout=0.05)
            task = asyncio.create_task(client.predict("iris", ROW))
            # One turn of the loop, in which the task begins.
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            double.release.set()
            assert (await client.predict("iris", ROW)).version == "1"

    asyncio.run(ask())


def test_a_server_that_is_not_there_is_unavailable_and_not_ready() -> None:
    async def ask(target: str) -> None:
        async with AsyncClient(target, timeout_s=20) as client:
            with pytest.raises(Unavailable):
                await client.predict("iris", ROW)
            assert not await client.ready()

    with oip_double.serving({}) as gone:
        target = gone.target
    asyncio.run(ask(target))


def test_messages_over_the_limit_are_refused(double: Double) -> None:
    async def ask() -> None:
        async with AsyncClient(double.target, message_bytes_max=2000) as client:
            with pytest.raises(ResourceExhausted):
                await client.infer("wide", {"x": np.zeros(1)})

    double.models["wide"] = ServedModel((), lambda tensors: {"y": np.zeros(1000)})
    asyncio.run(ask())

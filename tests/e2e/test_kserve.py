"""kserve's own client against a daemon. Each test asks from a fresh interpreter (strangers.py)."""

import json

import pytest

import models
import strangers
from serving import Daemon

pytestmark = [strangers.needs_kserve, pytest.mark.slow]

PREAMBLE = """
import asyncio
import json
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from kserve.protocol.infer_type import RequestedOutput

address = sys.argv[1]


def raw(name, array, datatype):
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def run(ask):
    async def asked():
        async with InferenceGRPCClient(address) as client:
            return await ask(client)

    return asyncio.run(asked())
"""

STATES = """
async def ask(client):
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("graph")
    assert not await client.is_model_ready("nothing")


run(ask)
"""

METADATA = """
with grpc.insecure_channel(address) as channel:
    stub = GRPCInferenceServiceStub(channel)
    server = stub.ServerMetadata(messages.ServerMetadataRequest(), timeout=10)
    model = stub.ModelMetadata(messages.ModelMetadataRequest(name="graph"), timeout=10)

assert server.name == "headrace", server
assert [(x.name, x.datatype, list(x.shape)) for x in model.inputs] == [("x", "FP32", [-1, 4])]
assert [(y.name, y.datatype, list(y.shape)) for y in model.outputs] == [("y", "FP32", [-1, 3])]
"""

INFER = """
import headrace_client

rows = np.arange(8, dtype=np.float32).reshape(2, 4)
ways = {
    "raw": raw("x", rows, "FP32"),
    "typed": InferInput("x", [2, 4], "FP32", data=rows.ravel().tolist()),
}


async def ask(client):
    return {
        way: await client.infer(
            InferRequest("graph", [tensor], "seven", request_outputs=[RequestedOutput("y")])
        )
        for way, tensor in ways.items()
    }


with headrace_client.Client(address) as client:
    ours = client.infer("graph", {"x": rows}).array
for way, answer in run(ask).items():
    assert (answer.model_name, answer.model_version, answer.id) == ("graph", "1", "seven"), way
    np.testing.assert_array_equal(answer.get_output_by_name("y").as_numpy(), ours)
"""

STRINGS = """
city, rooms, area = json.loads(sys.argv[2]).values()
flower = np.array(json.loads(sys.argv[3]))
shape = [len(city)]
ways = {
    "raw": [
        raw("city", np.array(city, object), "BYTES"),
        raw("rooms", np.array(rooms, np.int64), "INT64"),
        raw("area", np.array(area), "FP64"),
    ],
    "typed": [
        InferInput("city", shape, "BYTES", data=city),
        InferInput("rooms", shape, "INT64", data=rooms),
        InferInput("area", shape, "FP64", data=area),
    ],
}


async def ask(client):
    answers = {
        way: (await client.infer(InferRequest("mixed", tensors))).outputs[0].as_numpy()
        for way, tensors in ways.items()
    }
    labels = await client.infer(InferRequest("labels", [raw("input-0", flower, "FP64")]))
    answers["labels"] = np.array([item.decode() for item in labels.outputs[0].as_numpy()])
    return answers


print(json.dumps({name: answer.ravel().tolist() for name, answer in run(ask).items()}))
"""

ERRORS = """
async def ask(client):
    for model, tensor in {
        "nothing": raw("x", np.zeros((1, 4), np.float32), "FP32"),
        "graph": raw("x", np.zeros((1, 5), np.float32), "FP32"),
    }.items():
        try:
            await client.infer(InferRequest(model, [tensor]))
        except grpc.aio.AioRpcError as error:
            print(model, error.code().name)


run(ask)
"""


def test_kserve_reads_the_states_of_server_and_models(daemon: Daemon) -> None:
    strangers.run(PREAMBLE + STATES, daemon.address)


def test_kserve_reads_metadata(daemon: Daemon) -> None:
    strangers.run(PREAMBLE + METADATA, daemon.address)


def test_kserve_infers_with_raw_and_with_typed_contents_as_we_do(daemon: Daemon) -> None:
    strangers.run(PREAMBLE + INFER, daemon.address)


def test_kserve_sends_and_reads_strings(daemon: Daemon) -> None:

    mixed, labels = models.model("mixed_columns"), models.model("string_labels")
    columns = json.dumps({name: column.tolist() for name, column in mixed.rows(5).items()})
    flowers = json.dumps(labels.rows(3)["input-0"].tolist())

    answers = json.loads(strangers.run(PREAMBLE + STRINGS, daemon.address, columns, flowers))

    expected = mixed.expected(mixed.rows(5))["output-0"].ravel().tolist()
    assert answers["raw"] == pytest.approx(expected)
    assert answers["typed"] == pytest.approx(expected)
    assert answers["labels"] == labels.expected(labels.rows(3))["output-0"].tolist()


def test_kserve_is_told_what_was_wrong(daemon: Daemon) -> None:
    told = strangers.run(PREAMBLE + ERRORS, daemon.address)

    assert told.splitlines() == ["nothing NOT_FOUND", "graph INVALID_ARGUMENT"]

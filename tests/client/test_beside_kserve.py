"""headrace_client and kserve in one process, imported in either order, both really asking."""

import pytest

import oip_double
import strangers

pytestmark = [strangers.needs_kserve, pytest.mark.slow]

IMPORTS = {
    "headrace first": ("import headrace_client", "import kserve"),
    "kserve first": ("import kserve", "import headrace_client"),
}

ASK = """
import asyncio
import sys

import numpy as np

target = sys.argv[1]
x = np.arange(6, dtype=np.float32).reshape(2, 3)

with headrace_client.Client(target) as client:
    ours = client.predict("doubler", x).array


async def ask():
    tensor = kserve.InferInput("x", [2, 3], "FP32")
    tensor.set_data_from_numpy(x)
    async with kserve.InferenceGRPCClient(target) as client:
        assert await client.is_server_ready()
        assert await client.is_model_ready("doubler")
        return await client.infer(kserve.InferRequest("doubler", [tensor]))


answer = asyncio.run(ask())
np.testing.assert_array_equal(ours, 2 * x)
np.testing.assert_array_equal(answer.get_output_by_name("y").as_numpy(), 2 * x)
"""

EXCHANGE = """
import numpy as np
from headrace.oip import open_inference_pb2 as our_types
from kserve.protocol.grpc import grpc_predict_v2_pb2 as their_types

x = np.arange(6, dtype=np.int64).reshape(2, 3)

tensor = kserve.InferInput("x", [2, 3], "INT64", parameters={"unit": "mm"})
tensor.set_data_from_numpy(x)
wanted = [kserve.protocol.infer_type.RequestedOutput("y")]
theirs = kserve.InferRequest("m", [tensor], "seven", request_outputs=wanted).to_grpc()
ours = our_types.ModelInferRequest.FromString(theirs.SerializeToString())
assert (ours.model_name, ours.id, ours.outputs[0].name) == ("m", "seven", "y"), ours
assert ours.inputs[0].parameters["unit"].string_param == "mm", ours
assert ours.raw_input_contents[0] == x.tobytes()
again = their_types.ModelInferRequest.FromString(ours.SerializeToString())
assert again == theirs

ours = our_types.ModelInferResponse(model_name="m", model_version="3", id="seven")
ours.outputs.add(name="y", datatype="INT64", shape=[2, 3])
ours.raw_output_contents.append(x.tobytes())
theirs = their_types.ModelInferResponse.FromString(ours.SerializeToString())
read = kserve.InferResponse.from_grpc(theirs)
assert (read.model_version, read.id) == ("3", "seven"), read
np.testing.assert_array_equal(read.get_output_by_name("y").as_numpy(), x)
"""


@pytest.fixture(params=IMPORTS.values(), ids=list(IMPORTS))
def imports(request: pytest.FixtureRequest) -> str:
    return "\n".join(request.param)


def test_both_clients_ask_one_server_from_one_process(imports: str) -> None:
    with oip_double.serving({"doubler": oip_double.doubler()}) as double:
        strangers.run(imports + ASK, double.target)

    ours, theirs = double.infer_requests
    assert ours.raw_input_contents == theirs.raw_input_contents
    for mine, other in zip(ours.inputs, theirs.inputs, strict=True):
        assert (mine.name, mine.datatype, mine.shape) == (other.name, other.datatype, other.shape)


def test_messages_of_either_definition_are_read_by_the_other(imports: str) -> None:
    strangers.run(imports + EXCHANGE)

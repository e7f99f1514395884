"""headrace_client and tritonclient in one process, imported in either order, both really asking."""

import pytest

import oip_double
import strangers

pytestmark = [strangers.needs_tritonclient, pytest.mark.slow]

IMPORTS = {
    "headrace first": ("import headrace_client", "import tritonclient.grpc"),
    "tritonclient first": ("import tritonclient.grpc", "import headrace_client"),
}

ASK = """
import sys
import numpy as np

target = sys.argv[1]
x = np.arange(6, dtype=np.float32).reshape(2, 3)

with headrace_client.Client(target) as client:
    ours = client.predict("doubler", x).array

triton = tritonclient.grpc.InferenceServerClient(target)
tensor = tritonclient.grpc.InferInput("x", [2, 3], "FP32")
tensor.set_data_from_numpy(x)
theirs = triton.infer("doubler", [tensor]).as_numpy("y")
index = triton.get_model_repository_index().models
triton.close()

np.testing.assert_array_equal(ours, 2 * x)
np.testing.assert_array_equal(theirs, 2 * x)
assert [model.name for model in index] == ["doubler", "broken"], index
"""


@pytest.mark.parametrize("imports", IMPORTS.values(), ids=IMPORTS.keys())
def test_both_clients_ask_one_server_from_one_process(imports: tuple[str, str]) -> None:
    with oip_double.serving({"doubler": oip_double.doubler()}) as double:
        strangers.run("\n".join((*imports, ASK)), double.target)

    assert len(double.infer_requests) == 2
    ours, theirs = double.infer_requests
    assert ours.raw_input_contents == theirs.raw_input_contents
    assert ours.inputs == theirs.inputs

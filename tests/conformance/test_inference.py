"""ModelInfer over both transports: what goes in comes out, in every form and at every size."""

from typing import Any

import grpc
import numpy as np
import pytest

import models
from calling import Caller, answers, chain, ending, message, typed
from headrace.datatypes import BYTES, DATATYPES, Datatype
from headrace.tensors import encode

pytestmark = pytest.mark.slow

ROW = np.array([[5.0, 3.0, 1.0, 0.5]], np.float32)


def values(datatype: Datatype) -> np.ndarray[Any, Any]:
    """Two rows of two, with the extremes of *datatype*."""
    if datatype is BYTES:
        return chain(b"", b"text", "\u00e9".encode(), b"a" * 300).reshape(2, 2)
    if datatype.name == "BOOL":
        return np.array([[True, False], [False, True]])
    if datatype.dtype.kind == "f":
        return np.array([[0.5, -1.5], [np.inf, np.nan]], datatype.dtype)
    bounds = np.iinfo(datatype.dtype.str)
    return np.array([[bounds.min, bounds.max], [0, 1]], datatype.dtype)


@pytest.mark.parametrize("datatype", DATATYPES.values(), ids=lambda datatype: datatype.name)
def test_every_datatype_comes_back_raw_from_raw_and_from_typed_contents(
    caller: Caller, datatype: Datatype
) -> None:
    x = values(datatype)
    # numpy has no BF16: a model sees, and answers, FP32.
    returned = DATATYPES["FP32"] if datatype.name == "BF16" else datatype
    requests = [message("echo", {"x": x}, datatypes={"x": datatype})]
    if datatype.contents is not None:
        requests.append(typed("echo", "x", datatype, x))

    for request in requests:
        response = caller.ask(request).response

        assert [output.datatype for output in response.outputs] == [returned.name]
        assert list(response.outputs[0].shape) == [2, 2]
        assert list(response.raw_output_contents) == [bytes(encode(x, returned))]


@pytest.mark.parametrize("text", ["", "seven", "\u00fc\u4e16\u754c", "\0", "i" * 10_000])
def test_ids_are_echoed(caller: Caller, text: str) -> None:
    for _ in range(2):
        assert caller.ask(message("graph", {"x": ROW}, id=text)).response.id == text


def test_the_model_and_the_version_that_answered_are_named(caller: Caller) -> None:
    for version in ("", "1"):
        response = caller.ask(message("graph", {"x": ROW}, model_version=version)).response

        assert (response.model_name, response.model_version) == ("graph", "1")


@pytest.mark.parametrize("rows", [1, 2, 64, 65, 200, 1000])
def test_rows_are_answered_in_their_order_however_many_batches_they_fill(
    caller: Caller, rows: int
) -> None:
    """A batch holds 64 rows."""
    original = models.model("onnx_named")
    tensors = {"x": np.arange(rows * 4, dtype=np.float32).reshape(rows, 4) / 1000}

    got = answers(caller.ask(message("graph", tensors)).response)

    (expected,) = original.expected(tensors).values()
    np.testing.assert_allclose(got["y"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [3, 200])
def test_texts_are_answered_however_many_batches_they_fill(caller: Caller, rows: int) -> None:
    original = models.model("string_labels")
    tensors = original.rows(rows)

    got = answers(caller.ask(message("labels", tensors)).response)

    (expected,) = original.expected(tensors).values()
    assert [text.decode() for text in got["output-0"].tolist()] == expected.tolist()


def test_outputs_that_were_asked_for_are_answered(caller: Caller) -> None:
    assert list(answers(caller.ask(message("graph", {"x": ROW}, outputs=["y"])).response)) == ["y"]


def test_a_scalar_goes_beside_rows(caller: Caller) -> None:
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    requests = [
        message("scaled", {"scale": np.array(factor, np.float32), "x": x}) for factor in (2, 3, 4)
    ]

    calls = [caller.submit(request) for request in requests]

    for factor, call in zip((2, 3, 4), calls, strict=True):
        np.testing.assert_array_equal(answers(ending(call).response)["y"], factor * x)


def test_no_rows_are_answered_with_no_rows(caller: Caller) -> None:
    before = caller.metric("headrace_batches_total")
    answered = caller.metric("headrace_requests_total")

    graph = caller.ask(message("graph", {"x": np.empty((0, 4), np.float32)}, id="7")).response
    columns = {name: np.empty(0) for name in models.IRIS_COLUMNS}
    iris = caller.ask(message("iris", columns, outputs=["output-0"])).response
    labels = caller.ask(message("labels", {"input-0": np.empty((0, 4))})).response
    empty_typed = caller.ask(
        typed("graph", "x", DATATYPES["FP32"], np.empty((0, 4), np.float32))
    ).response

    assert graph.id == "7"
    assert answers(graph)["y"].shape == (0, 3)
    assert answers(empty_typed)["y"].shape == (0, 3)
    assert [list(output.shape) for output in iris.outputs] == [[0]]
    assert [(output.datatype, list(output.shape)) for output in labels.outputs] == [("BYTES", [0])]
    assert caller.metric("headrace_batches_total") == before
    assert caller.metric("headrace_requests_total") == answered + 4


def test_a_request_may_be_compressed_and_its_answer_is_not(caller: Caller) -> None:
    """An answer is compressed for nobody: it would cost more than loopback or a rack does."""
    x = np.zeros((64, 4), np.float32)
    caller.ask(message("graph", {"x": x}))
    for _ in range(2):
        call = caller.submit(message("graph", {"x": x}), compression=grpc.Compression.Gzip)

        assert answers(ending(call).response)["y"].shape == (64, 3)
        assert dict(call.initial_metadata()).get("grpc-encoding", "identity") == "identity"


def test_metadata_of_a_call_is_accepted(caller: Caller) -> None:
    metadata = (("x-request-id", "7"), ("trace-bin", b"\0\xff"), ("user", "a" * 4000))

    assert caller.ask(message("graph", {"x": ROW}), metadata=metadata).code == "OK"


def test_large_tensors_go_and_come(caller: Caller) -> None:
    x = np.arange(1 << 18, dtype=np.float32).reshape(4, -1)

    for _ in range(3):
        got = answers(caller.ask(message("echo", {"x": x}, id="large")).response)

        np.testing.assert_array_equal(got["output-0"], x)


def test_many_requests_in_flight_get_each_their_own_answer(caller: Caller) -> None:
    calls = [
        caller.submit(message("puppet", {"input-0": np.array([[0.0, k]])}, id=str(k)))
        for k in range(1000)
    ]

    for k, call in enumerate(calls):
        response = ending(call).response
        assert response.id == str(k)
        assert answers(response)["output-0"].tolist() == [[0, k]]


def test_what_is_no_number_is_an_answer(caller: Caller) -> None:
    import puppet

    request = message("puppet", {"input-0": np.array([[puppet.NOT_A_NUMBER, 1.0]])})

    assert np.isnan(answers(caller.ask(request).response)["output-0"]).all()

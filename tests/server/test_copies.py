"""Copies: how often the bytes of a request and its answer are written, as ARCHITECTURE.md says."""

import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from headrace.datatypes import DATATYPES
from headrace.oip.open_inference_pb2 import ModelInferRequest
from headrace.signature import Signature, TensorSpec
from headrace_server.batchframes import TensorRef
from headrace_server.errors import HeadraceError
from headrace_server.service import Service
from headrace_server.transport.decoder import Decoder
from headrace_server.transport.encoder import Encoder
from headrace_server.types import Outputs, Request
from headrace_server.worker.tensors import read_inputs, write_outputs
from house import PATIENCE_S, House

ROWS = 1 << 16
NBYTES = ROWS * 16


class Writer:
    """A transport that keeps the message that it would write."""

    def __init__(self) -> None:
        self.payload = b""
        self.written = threading.Event()
        self._encoder = Encoder()

    def answer(self, request: Request, outputs: Outputs, start: int, stop: int) -> None:
        self.payload = self._encoder.encode(request, outputs, start, stop)
        self.written.set()

    def fail(self, request: Request, error: HeadraceError) -> None:
        raise AssertionError(error)


def plus_zero() -> object:
    """A model whose answer is another array with the numbers it was given."""

    class PlusZero:
        def predict(self, x: npt.NDArray[np.float64]) -> Any:
            return x + 0.0

    return PlusZero()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path, rows_max=ROWS, queue_rows_max=ROWS)
    made.shelf.put("a", "1", plus_zero())
    made.load("a", "a")
    yield made
    made.close()


@pytest.mark.slow
def test_a_tensor_is_written_into_the_arena_once_and_its_answer_there_and_into_the_message(
    house: House,
) -> None:
    """The message itself is the caller's: its tensor is a view. Nothing else holds the bytes."""
    decoder = Decoder(Service(house.repository, queue_bytes_max=1 << 30))
    decoder.begin_burst()
    numbers = np.random.default_rng(0)
    # The first ones bring the plan, and slots that are large enough.
    for _ in range(3):
        x = numbers.random((ROWS, 2))
        message = ModelInferRequest(model_name="a", raw_input_contents=[x.tobytes()])
        message.inputs.add(name="x", datatype="FP64", shape=x.shape)
        payload = message.SerializeToString()
        writer = Writer()

        tracemalloc.start()
        plan, request = decoder.decode(payload, writer, None, 0.0, float("inf"))
        plan.target.submit([request])
        assert writer.written.wait(PATIENCE_S)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert writer.payload.endswith(x.tobytes())

    (tensor,) = request.tensors
    assert isinstance(tensor, memoryview)
    assert tensor.obj is payload
    assert NBYTES < peak < 1.1 * NBYTES
    (worker,) = house.pool.workers
    assert bytes(worker.arena.memory).count(x[1000:1010].tobytes()) == 2


def test_a_worker_reads_the_arena_in_place() -> None:
    memory = memoryview(bytearray(4096))
    signature = Signature((TensorSpec("x", "FP64", (-1, 2)), TensorSpec("n", "INT64", (-1, 1))))
    refs = [
        TensorRef("x", DATATYPES["FP64"].code, (4, 2), 0, 64),
        TensorRef("n", DATATYPES["INT64"].code, (4, 1), 64, 32),
        TensorRef("y", DATATYPES["FP32"].code, (4, 1), 128, 16),
    ]

    arrays = read_inputs(refs, memory, signature)

    whole = np.frombuffer(memory, np.uint8)
    assert all(np.shares_memory(array, whole) for array in arrays.values())


@pytest.mark.parametrize(
    ("given", "declared"), [("FP32", "FP64"), ("BF16", "FP32"), ("BYTES", "BYTES")]
)
def test_a_worker_copies_what_must_change_its_form(given: str, declared: str) -> None:
    memory = memoryview(bytearray(64))
    ref = TensorRef("x", DATATYPES[given].code, (4, 1), 0, 16)

    array = read_inputs([ref], memory, Signature((TensorSpec("x", declared, (-1, 1)),)))["x"]

    assert not np.shares_memory(array, np.frombuffer(memory, np.uint8))


def test_a_worker_writes_outputs_into_the_arena_without_another_copy() -> None:
    memory = memoryview(bytearray(2 * NBYTES))
    output = np.random.default_rng(0).random((ROWS, 2))

    tracemalloc.start()
    refs, fds = write_outputs({"y": output, "turned": output.T}, memory, 0, 2 * NBYTES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert fds == ()
    assert peak < NBYTES / 10
    written = [bytes(memory[ref.offset : ref.offset + ref.nbytes]) for ref in refs]
    assert written == [output.tobytes(), output.T.tobytes()]

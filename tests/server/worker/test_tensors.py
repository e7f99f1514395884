"""Outputs that a device has brought home to their slot, or elsewhere."""

from typing import Any

import numpy as np
import numpy.typing as npt

from headrace_server.batchframes import Place
from headrace_server.worker.tensors import write_outputs

SIDE, NBYTES = 256, 512


def arena() -> memoryview:
    return memoryview(bytearray(1024))


def at(memory: memoryview, offset: int, values: list[float]) -> npt.NDArray[Any]:
    array = np.frombuffer(memory, np.float32, len(values), offset)
    array[:] = values
    return array


def written(memory: memoryview, outputs: dict[str, npt.NDArray[Any]]) -> dict[str, list[float]]:
    refs, fds = write_outputs(outputs, memory, SIDE, NBYTES, may_be_there=True)
    assert fds == ()
    assert all(ref.place is Place.ARENA for ref in refs)
    return {
        ref.name: np.frombuffer(memory, np.float32, ref.nbytes // 4, ref.offset).tolist()
        for ref in refs
    }


def test_outputs_that_are_there_stay_where_they_are() -> None:
    memory = arena()
    y, z = at(memory, SIDE + 64, [1.0, 2.0]), at(memory, SIDE, [3.0])
    before = bytes(memory)

    assert written(memory, {"y": y, "z": z}) == {"y": [1.0, 2.0], "z": [3.0]}
    assert bytes(memory) == before


def test_columns_of_one_matrix_that_is_there_are_not_written_over_one_another() -> None:
    memory = arena()
    matrix = at(memory, SIDE, [float(n) for n in range(40)]).reshape(10, 4)
    expected = {str(c): matrix[:, c].tolist() for c in range(4)}

    assert written(memory, {str(c): matrix[:, c] for c in range(4)}) == expected


def test_outputs_of_which_one_is_there_are_all_right() -> None:
    memory = arena()
    there = at(memory, SIDE, [1.0, 2.0, 3.0])

    outputs = {"elsewhere": np.array([7.0, 8.0, 9.0], np.float32), "there": there}
    assert written(memory, outputs) == {"elsewhere": [7.0, 8.0, 9.0], "there": [1.0, 2.0, 3.0]}


def test_what_lies_in_another_slot_is_copied() -> None:
    memory = arena()
    other = at(memory, 0, [5.0])

    refs, _ = write_outputs({"y": other}, memory, SIDE, NBYTES, may_be_there=True)

    assert refs[0].offset == SIDE

"""Batchframes: what is packed is read as it was."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.datatypes import BY_CODE
from headrace_server.batchframes import DoneFrame, Place, RunFrame, TensorRef
from headrace_server.types import Instants
from strategies import names

uint64 = st.integers(0, 2**64 - 1)
references = st.builds(
    TensorRef,
    name=st.just("") | names,
    code=st.sampled_from(sorted(BY_CODE)),
    shape=st.lists(st.integers(0, 2**62), max_size=6).map(tuple),
    offset=uint64,
    nbytes=uint64,
    place=st.sampled_from(Place),
    row_ends=uint64,
)
tensors = st.lists(references, max_size=5).map(tuple)
runs = st.builds(
    RunFrame,
    batch=uint64,
    instance=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 2**32 - 1),
    inputs=tensors,
    outputs=st.lists(names, max_size=4).map(tuple),
    out_offset=uint64,
    out_bytes=uint64,
    parameters=st.binary(max_size=20),
)
refused = st.none() | st.dictionaries(st.integers(0, 2**32 - 1), names, min_size=1, max_size=3)
answers = st.builds(
    DoneFrame,
    batch=uint64,
    instants=st.builds(Instants, *[uint64] * 4),
    outputs=tensors,
    refused=refused,
)


@given(runs)
def test_a_batch_survives_packing(run: RunFrame) -> None:
    assert RunFrame.unpack(run.pack()) == run


@given(answers)
def test_an_answer_survives_packing(done: DoneFrame) -> None:
    assert DoneFrame.unpack(done.pack()) == done


def test_an_answer_of_which_no_row_is_refused_is_no_longer_for_it() -> None:
    done = DoneFrame(1, Instants(1, 2, 3, 4))

    assert len(DoneFrame(1, Instants(1, 2, 3, 4), refused={}).pack()) == len(done.pack())

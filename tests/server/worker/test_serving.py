"""Serving beside its evidence: nobody pays for what is found out in idle moments."""

import queue
from typing import Any, cast

import pytest

from doubles import FunctionAdapter
from headrace.signature import Signature, TensorSpec
from headrace_server.adapters.conforming import Form
from headrace_server.batchframes import RunFrame
from headrace_server.frames import FrameSocket
from headrace_server.worker.evidence import Evidence
from headrace_server.worker.serving import Serving

SIGNATURE = Signature((TensorSpec("x", "FP64", (-1,)),))


class Idle:
    """An inbox that is idle twice, then ends."""

    def __init__(self) -> None:
        self.waits: list[float | None] = []

    def get(self, block: bool = True, timeout: float | None = None) -> tuple[RunFrame, int] | None:
        self.waits.append(timeout)
        if timeout is not None:
            raise queue.Empty
        return None


class Broken:
    """Evidence that fails itself."""

    def has_work(self) -> bool:
        return True

    def is_overdue(self) -> bool:
        return False

    def weigh(self) -> Any:
        raise RuntimeError("a fault of ours")


def test_evidence_that_fails_is_given_up_and_the_instance_serves_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    inbox = Idle()

    Serving(
        FunctionAdapter(lambda tensors: tensors["x"], SIGNATURE),
        cast("FrameSocket", None),
        memoryview(b""),
        number=1,
        name="m",
        signature=SIGNATURE,
        form=Form(()),
        evidence=cast("Evidence", Broken()),
    ).run(inbox)

    # Waited for an idle moment once; then, without evidence, for batches alone.
    assert [wait is None for wait in inbox.waits] == [False, True]
    assert "evidence_failed" in capfd.readouterr().err

"""Serving: one instance's batches, from frames to its adapter and back.

Batches run one after another. On an asynchronous device the next one is staged and launched before
the last one is waited for.
"""

import json
import os
import queue
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.nulls import masks_of
from headrace.signature import Signature, TensorSpec, spec_json

from ..adapters.base import NO_PARAMS, Adapter, Params, Tensors
from ..adapters.conforming import Conformed, Form
from ..adapters.memory import is_out_of_memory
from ..adapters.proof import Finding, Verdict
from ..batchframes import DoneFrame, RunFrame
from ..childlog import log
from ..errors import without_paths
from ..frames import FrameSocket, Kind
from ..types import Instants
from .evidence import Evidence
from .nulls import without_masks
from .tensors import read_inputs, write_outputs

MESSAGE_CHARS_MAX = 300
# Without a batch for so long an instance is idle (seconds).
_IDLE_S = 0.02


class UnknownOutput(Exception):
    """An output was asked for that the model does not give."""


class OutputMismatch(Exception):
    """The model's answer is not one row per row."""


class DeviceLost(Exception):
    """The device fails at everything since an error; a new process must take over."""


class Inbox(Protocol):
    """Batches with the time at which they came (nanoseconds), then None."""

    def get(self, block: bool = True, timeout: float | None = None) -> tuple[RunFrame, int] | None:
        """The next; raises queue.Empty where there is none, or none within *timeout* (seconds)."""


@dataclass(slots=True)
class _Launched:
    """A batch whose computation was started."""

    run: RunFrame
    params: Params
    batch: Any
    result: Any
    received_ns: int
    staged_ns: int
    computed_ns: int
    # What the evidence wants to see of it; else nothing.
    inputs: Tensors


class Serving:
    """Runs the batches of one loaded model."""

    def __init__(
        self,
        adapter: Adapter,
        frames: FrameSocket,
        memory: memoryview,
        *,
        number: int,
        name: str,
        signature: Signature | None,
        form: Form,
        evidence: Evidence | None = None,
    ) -> None:
        """Serve with *adapter*.

        Args:
            adapter: The model.
            frames: Where outcomes go.
            memory: The arena.
            number: The instance's, by which the daemon knows it.
            name: The model's, for the log.
            signature: What inputs are read by.
            form: What answers are brought into.
            evidence: Looks at what runs, to find out whether the model batches; None where that
                is no question.
        """
        self._adapter = adapter
        self._device = adapter.device
        self._is_asynchronous = adapter.device.is_asynchronous
        self._frames = frames
        self._memory = memory
        self._number = number
        self._name = name
        self._signature = signature
        self._specs = () if signature is None else signature.inputs
        self._masks = masks_of(self._specs)
        self._form = form
        self._evidence = evidence

    def run(self, inbox: Inbox) -> None:
        """Run what comes until None does.

        Raises:
            DeviceLost: This process can run no more batches.
            OSError: The daemon is gone.
        """
        launched: deque[_Launched] = deque()
        ahead_max = 1 if self._is_asynchronous else 0
        while True:
            if len(launched) <= ahead_max:
                try:
                    item = self._next(inbox, is_idle=not launched)
                except queue.Empty:
                    if launched:
                        self._finish(launched.popleft())
                    else:
                        self._weigh()
                    continue
                if item is None:
                    break
                if (started := self._launch(*item)) is not None:
                    launched.append(started)
            if len(launched) > ahead_max:
                self._finish(launched.popleft())
        for last in launched:
            self._finish(last)

    def _next(self, inbox: Inbox, *, is_idle: bool) -> tuple[RunFrame, int] | None:
        """What comes next; raises queue.Empty where there is something else to do first."""
        evidence = self._evidence
        if not is_idle or evidence is None or not evidence.has_work():
            return inbox.get(block=is_idle)
        if evidence.is_overdue():
            raise queue.Empty
        return inbox.get(timeout=_IDLE_S)

    def _weigh(self) -> None:
        """Find out more of whether the model batches, while no batch is here."""
        assert self._evidence is not None, "there is something to find out"
        try:
            finding = self._evidence.weigh()
        except Exception as error:  # noqa: BLE001 - no caller waits for it: none may pay for it.
            log("error", "evidence_failed", error, model=self._name)
            self._evidence = None
            return
        if finding is not None:
            self._tell(finding)

    def _tell(self, finding: Finding) -> None:
        """Have the daemon know; a model that is whole is so for good."""
        outputs: Sequence[TensorSpec] = ()
        if finding.verdict is Verdict.WHOLE:
            self._evidence = None
        elif self._evidence is not None and not self._form.is_known:
            # From now on they are the same whatever shares a batch.
            outputs = self._form.learn(self._evidence.answers)
        report = {
            "instance": self._number,
            "verdict": finding.verdict.value,
            "why": finding.why,
            "outputs": list(map(spec_json, outputs)),
        }
        self._frames.send_json(Kind.FOUND, report)

    def _launch(self, run: RunFrame, received_ns: int) -> _Launched | None:
        adapter, device = self._adapter, self._device
        # The host itself has no streams to tell of a batch: a row's time is microseconds there.
        batch = device.begin(self._side(run)) if self._is_asynchronous else None
        try:
            inputs = read_inputs(run.inputs, self._memory, self._signature)
            # Masks are the last inputs of a batch that has any.
            has_masks = run.inputs[-1].name in self._masks
            if has_masks:
                staged = adapter.stage_nulls(*without_masks(inputs, self._specs, self._masks))
            else:
                staged = adapter.stage(inputs)
            params = _params(run)
            staged_ns = time.monotonic_ns()
            if self._is_asynchronous:
                with device.computing():
                    result = adapter.launch(staged, params)
                result = adapter.fetch(result)
            else:
                result = adapter.launch(staged, params)
        except BaseException as error:  # noqa: BLE001 - a model may raise anything, SystemExit too.
            self._fail(run, batch, error)
            return None
        if self._evidence is None or has_masks or not self._evidence.wants(run.rows):
            inputs = {}
        computed_ns = time.monotonic_ns()
        return _Launched(run, params, batch, result, received_ns, staged_ns, computed_ns, inputs)

    def _finish(self, launched: _Launched) -> None:
        run, batch = launched.run, launched.batch
        try:
            outputs, refused = self._typed(self._adapter.finish(launched.result), launched)
            if self._is_asynchronous:
                self._device.end(batch)
            if launched.inputs and self._evidence is not None and not run.outputs:
                # Before the arena, where both may lie, is used again.
                self._evidence.note(launched.inputs, outputs, launched.params)
            refs, fds = write_outputs(
                outputs,
                self._memory,
                run.out_offset,
                run.out_bytes,
                may_be_there=self._is_asynchronous,
            )
            now_ns = time.monotonic_ns()
            instants = Instants(
                launched.received_ns, launched.staged_ns, launched.computed_ns, now_ns
            )
            body = DoneFrame(run.batch, instants, refs, refused).pack()
        except BaseException as error:  # noqa: BLE001 - a model may raise anything, SystemExit too.
            self._fail(run, batch, error)
            return
        self._frames.send(Kind.DONE, body, fds)
        for fd in fds:
            os.close(fd)

    def _side(self, run: RunFrame) -> memoryview:
        """The output side of the batch's slot."""
        return self._memory[run.out_offset : run.out_offset + run.out_bytes]

    def _typed(self, outputs: Tensors, launched: _Launched) -> Conformed:
        """The outputs asked for, in their datatypes; which rows are refused, and why."""
        run = launched.run
        typed = self._form.conform(self._checked(outputs, run), launched.params, run.outputs)
        if not typed.refused:
            return typed
        refused = {row: _bounded(why) for row, why in typed.refused.items()}
        # Of the answer to a whole request a row need not be one of the request's.
        return Conformed(typed.tensors, refused if run.rows else {0: next(iter(refused.values()))})

    def _checked(self, outputs: Tensors, run: RunFrame) -> Tensors:
        """The outputs asked for, each with a row per row of a batch of several requests."""
        if run.outputs:
            missing = [name for name in run.outputs if name not in outputs]
            if missing:
                raise UnknownOutput(f"unknown output {missing[0]!r}: expected {list(outputs)}")
            outputs = {name: outputs[name] for name in run.outputs}
        if run.rows:
            for name, output in outputs.items():
                if output.shape[:1] != (run.rows,):
                    why = f"output {name!r} has shape {list(output.shape)} for {run.rows} row(s)"
                    if self._evidence is not None:
                        self._tell(Finding(Verdict.WHOLE, why))
                    raise OutputMismatch(why)
        return outputs

    def _fail(self, run: RunFrame, batch: Any, error: BaseException) -> None:
        error_id = uuid.uuid4().hex[:12]
        log("error", "model_raised", error, model=self._name, error_id=error_id)
        if self._device.is_lost():
            # Its batches are run again elsewhere, as those of any worker that ends.
            raise DeviceLost(f"{self._device.name} fails at everything") from error
        # What was begun for the batch must not reach into the next one in its slot.
        self._device.end(batch)
        self._frames.send_json(
            Kind.RUN_FAILED,
            {
                "batch": run.batch,
                "type": type(error).__name__,
                "message": outward(error),
                "error_id": error_id,
                "out_of_memory": is_out_of_memory(error),
            },
        )


def _params(run: RunFrame) -> Params:
    return json.loads(run.parameters) if run.parameters else NO_PARAMS


def outward(error: BaseException) -> str:
    """The first line of an exception's message, bounded, without paths of this host."""
    return _bounded(_text_of(error).strip().partition("\n")[0])


def _bounded(text: str) -> str:
    return without_paths(text)[:MESSAGE_CHARS_MAX]


def _text_of(error: BaseException) -> str:
    """What an exception says; its type where it fails at saying it, or says nothing."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - a model's exception may raise even here.
        return type(error).__name__

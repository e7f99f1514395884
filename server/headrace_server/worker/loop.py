"""Loop: one model instance on a thread of its own, from frames to its adapter and back.

The thread loads the model, tells the daemon what it found, then runs batches one after another. On
an asynchronous device the next batch is staged and launched before the last one is waited for.
"""

import contextlib
import gc
import json
import os
import queue
import sys
import threading
import time
import uuid
import weakref
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from headrace.signature import Signature

from ..adapters import Artifact, LoadError, adapter_of, is_unpickling_allowed
from ..adapters.base import NO_PARAMS, Adapter, Params, Tensors
from ..adapters.memory import is_out_of_memory
from ..adapters.probe import probe
from ..adapters.warmup import Allowed, warm_up
from ..childlog import log
from ..devices import Device, DeviceUnavailable, open_device
from ..errors import without_paths
from ..frames import DoneFrame, FrameSocket, Kind, RunFrame
from ..heap import own_bytes
from ..types import Instants
from .gpumemory import bound_growth
from .tensors import read_inputs, write_outputs

MESSAGE_CHARS_MAX = 300

# One load at a time: torch.export.load, for one, fails when two threads are in it.
_LOADING = threading.Lock()


class UnknownOutput(Exception):
    """An output was asked for that the model does not give."""


class OutputMismatch(Exception):
    """The model's answer is not one row per row."""


@dataclass(slots=True)
class _Launched:
    """A batch whose computation was started."""

    run: RunFrame
    result: Any
    received_ns: int
    staged_ns: int
    computed_ns: int


class InstanceThread:
    """One instance. `submit` and `close` are called from the receiving thread."""

    def __init__(self, spec: dict[str, Any], frames: FrameSocket, memory: memoryview) -> None:
        self._spec = spec
        self._frames = frames
        self._memory = memory
        self._inbox: queue.SimpleQueue[tuple[RunFrame, int] | None] = queue.SimpleQueue()
        self._signature: Signature | None = None
        self._is_batchable = False
        # What the adapter held, to see whether it went with it.
        self._held: list[weakref.ref[Any]] = []
        name = f"instance-{spec['instance']}-{spec['name']}"
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def submit(self, run: RunFrame) -> None:
        """Queue a batch."""
        self._inbox.put((run, time.monotonic_ns()))

    def close(self) -> None:
        """Let the thread end after the batches it has, then free the model and say so."""
        self._inbox.put(None)
        threading.Thread(target=self._bury, name="unloading", daemon=True).start()

    def _bury(self) -> None:
        self._thread.join()
        if any(reference() is not None for reference in self._held):
            # A cycle holds the model, and its memory. To look at every object stops all instances
            # of the process for a while, so it is done only where that is so.
            gc.unfreeze()
            gc.collect()
            gc.freeze()
        # The daemon may be gone meanwhile.
        with contextlib.suppress(OSError):
            self._frames.send_json(Kind.UNLOADED, {"instance": self._spec["instance"]})

    def _main(self) -> None:
        instance, frames = self._spec["instance"], self._frames
        try:
            with _LOADING:
                frames.send_json(Kind.LOADING, {"instance": instance})
                adapter = self._load()
        except BaseException as error:  # noqa: BLE001 - sys.exit at load too: the worker lives.
            if not isinstance(error, LoadError | DeviceUnavailable):
                log("error", "load_failed", error, model=self._spec["name"])
            failure = {"instance": instance, "message": _outward(_text_of(error))}
            frames.send_json(Kind.LOAD_FAILED, failure)
            return
        try:
            self._serve(adapter)
        except BaseException as error:  # noqa: BLE001 - no one would ever answer its batches.
            log("critical", "instance_thread_failed", error, model=self._spec["name"])
            # A process that ends is replaced; a thread that ends is not.
            os._exit(1)
        self._held = _references(adapter)
        adapter.close()

    def _load(self) -> Adapter:
        spec = self._spec
        began = time.monotonic()
        bytes_before = own_bytes()
        signature = spec["signature"]
        example = _read_example(spec["example"])
        artifact = Artifact(
            path=Path(spec["path"]),
            config=spec["config"],
            pyfunc=spec["pyfunc"],
            signature=None if signature is None else Signature.from_json(signature),
            method=spec["method"],
            example=example,
        )
        # Code that was shipped with the model must be importable before it is unpickled.
        if code := artifact.pyfunc.get("code"):
            sys.path.insert(0, str(artifact.path / code))
        # MLflow's pyfunc imports whatever module the MLmodel file names.
        has_pyfunc = bool(artifact.pyfunc) and is_unpickling_allowed()
        adapter_type = adapter_of(spec["flavor"], has_pyfunc=has_pyfunc)
        if artifact.signature is not None and artifact.signature.params and not spec["is_told"]:
            _warn_of_params(spec["name"], adapter_type)
        device = _open(spec, is_accelerated=adapter_type.is_accelerated)
        bound_growth(device.name, spec["gpu_bytes_max"])
        adapter = adapter_type(artifact, device)
        allowed = Allowed.of(spec["sizes"], spec["buckets"])
        found = probe(adapter, example, allowed)
        warm_s = 0.0
        if not found.batchable:
            allowed = replace(allowed, rows=())
        if allowed and found.sample is not None:
            warm_s, signature = warm_up(adapter, found.sample, found.signature, allowed)
            found = replace(found, signature=signature)
        bound_growth(device.name, 0)
        self._signature = found.signature
        self._is_batchable = found.batchable
        # What lives now lives long: the collector, which stops all instances, need not walk it
        # again and again, above all not while the next model is loaded.
        gc.collect()
        gc.freeze()
        self._frames.send_json(
            Kind.LOADED,
            {
                "instance": spec["instance"],
                "signature": None if found.signature is None else found.signature.to_json(),
                "batchable": found.batchable,
                "splits": found.splits,
                "why": found.why,
                "device": adapter.device.name,
                "load_s": time.monotonic() - began,
                "probe_s": found.seconds,
                "warm_s": warm_s,
                "memory_bytes": max(own_bytes() - bytes_before, 0),
            },
        )
        return adapter

    def _serve(self, adapter: Adapter) -> None:
        launched: deque[_Launched] = deque()
        ahead_max = 1 if adapter.device.is_asynchronous else 0
        while True:
            if len(launched) <= ahead_max:
                try:
                    item = self._inbox.get(block=not launched)
                except queue.Empty:
                    self._finish(adapter, launched.popleft())
                    continue
                if item is None:
                    break
                if (started := self._launch(adapter, *item)) is not None:
                    launched.append(started)
            if len(launched) > ahead_max:
                self._finish(adapter, launched.popleft())
        for last in launched:
            self._finish(adapter, last)

    def _launch(self, adapter: Adapter, run: RunFrame, received_ns: int) -> _Launched | None:
        try:
            staged = adapter.stage(read_inputs(run.inputs, self._memory, self._signature))
            staged_ns = time.monotonic_ns()
            result = adapter.launch(staged, _params(run))
        except BaseException as error:  # noqa: BLE001 - a model may raise anything, SystemExit too.
            self._fail(run, error)
            return None
        return _Launched(run, result, received_ns, staged_ns, time.monotonic_ns())

    def _finish(self, adapter: Adapter, launched: _Launched) -> None:
        run = launched.run
        try:
            outputs = self._checked(adapter.finish(launched.result), run)
            refs, fds = write_outputs(outputs, self._memory, run.out_offset, run.out_bytes)
            now_ns = time.monotonic_ns()
            instants = Instants(
                launched.received_ns, launched.staged_ns, launched.computed_ns, now_ns
            )
            body = DoneFrame(run.batch, instants, refs).pack()
        except BaseException as error:  # noqa: BLE001 - a model may raise anything, SystemExit too.
            self._fail(run, error)
            return
        self._frames.send(Kind.DONE, body, fds)
        for fd in fds:
            os.close(fd)

    def _checked(self, outputs: Tensors, run: RunFrame) -> Tensors:
        """The outputs asked for, each with a row per row of the batch."""
        if run.outputs:
            missing = [name for name in run.outputs if name not in outputs]
            if missing:
                raise UnknownOutput(f"unknown output {missing[0]!r}: expected {list(outputs)}")
            outputs = {name: outputs[name] for name in run.outputs}
        if self._is_batchable:
            for name, output in outputs.items():
                if output.shape[:1] != (run.rows,):
                    raise OutputMismatch(
                        f"output {name!r} has shape {list(output.shape)} for {run.rows} rows"
                    )
        return outputs

    def _fail(self, run: RunFrame, error: BaseException) -> None:
        error_id = uuid.uuid4().hex[:12]
        log("error", "model_raised", error, model=self._spec["name"], error_id=error_id)
        self._frames.send_json(
            Kind.RUN_FAILED,
            {
                "batch": run.batch,
                "type": type(error).__name__,
                "message": _outward(_text_of(error)),
                "error_id": error_id,
                "out_of_memory": is_out_of_memory(error),
            },
        )


def _references(adapter: Adapter) -> "list[weakref.ref[Any]]":
    """Weak references to what *adapter* holds, where that is neither code nor a plain value."""
    references = []
    for held in vars(adapter).values():
        if isinstance(held, Adapter):
            references += _references(held)
        elif not isinstance(held, type | ModuleType | FunctionType | partial):
            with contextlib.suppress(TypeError):
                references.append(weakref.ref(held))
    return references


def _open(spec: dict[str, Any], *, is_accelerated: bool) -> Device:
    """The device that was asked for; "auto" is the first GPU.

    An adapter that cannot use an accelerator gets the CPU, whatever was asked for; so does one
    whose device the operator did not name.
    """
    name, threads = spec["device"], spec["threads"]
    if not is_accelerated:
        return open_device("cpu", threads)
    try:
        return open_device("cuda:0" if name == "auto" else name, threads)
    except DeviceUnavailable as error:
        if not spec["may_use_cpu"]:
            raise
        if not spec["is_told"]:
            log("warning", "no_gpu", model=spec["name"], why=str(error))
        return open_device("cpu", threads)


def _params(run: RunFrame) -> Params:
    return json.loads(run.parameters) if run.parameters else NO_PARAMS


def _warn_of_params(model: str, adapter_type: type[Adapter]) -> None:
    if not adapter_type.takes_params:
        why = "MLflow gives models of this flavor none either"
        log("warning", "params_ignored", model=model, why=why)


def _text_of(error: BaseException) -> str:
    """What an exception says; its type where it fails at saying it, or says nothing."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - a model's exception may raise even here.
        return type(error).__name__


def _outward(message: str) -> str:
    """The first line of an exception's message, bounded, without paths of this host."""
    first = message.strip().partition("\n")[0]
    return without_paths(first)[:MESSAGE_CHARS_MAX]


def _read_example(path: str | None) -> Tensors | None:
    if path is None:
        return None
    with np.load(path, allow_pickle=False) as stored:
        return {
            name: stored[name].astype(object) if stored[name].dtype.kind in "US" else stored[name]
            for name in stored.files
        }

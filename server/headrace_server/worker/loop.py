"""Loop: one model instance on a thread of its own.

The thread loads the model, tells the daemon what it found, then runs its batches (serving.py).
"""

import contextlib
import gc
import os
import queue
import sys
import threading
import time
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from headrace.signature import Signature, spec_json, spec_of

from ..adapters import Artifact, LoadError, adapter_of, is_unpickling_allowed
from ..adapters.base import Adapter, Tensors, default_params
from ..adapters.conforming import Form
from ..adapters.probe import Said, probe
from ..adapters.proof import Finding, Verdict
from ..adapters.warmup import Allowed, predict_padded, warm_up
from ..batchframes import RunFrame
from ..childlog import log
from ..devices import Device, DeviceUnavailable, open_device
from ..frames import FrameSocket, Kind
from ..heap import own_bytes
from ..wall import stay_within
from .evidence import Evidence, Predict
from .gpumemory import bound_growth
from .serving import Serving, outward

# One load at a time: torch.export.load, for one, fails when two threads are in it.
_LOADING = threading.Lock()


class InstanceThread:
    """One instance. `submit` and `close` are called from the receiving thread."""

    def __init__(self, spec: dict[str, Any], frames: FrameSocket, memory: memoryview) -> None:
        self._spec = spec
        self._frames = frames
        self._memory = memory
        self._inbox: queue.SimpleQueue[tuple[RunFrame, int] | None] = queue.SimpleQueue()
        self._signature: Signature | None = None
        self._form = Form(())
        self._evidence: Evidence | None = None
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
            stay_within(Path(self._spec["path"]).parent)
            with _LOADING:
                frames.send_json(Kind.LOADING, {"instance": instance})
                adapter = self._load()
        except BaseException as error:  # noqa: BLE001 - sys.exit at load too: the worker lives.
            if not isinstance(error, LoadError | DeviceUnavailable):
                log("error", "load_failed", error, model=self._spec["name"])
            failure = {"instance": instance, "message": outward(error)}
            frames.send_json(Kind.LOAD_FAILED, failure)
            return
        try:
            Serving(
                adapter,
                self._frames,
                self._memory,
                number=instance,
                name=self._spec["name"],
                signature=self._signature,
                form=self._form,
                evidence=self._evidence,
            ).run(self._inbox)
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
            tuning=spec["tuning"],
        )
        # Code that was shipped with the model must be importable before it is unpickled.
        if code := artifact.pyfunc.get("code"):
            sys.path.insert(0, str(artifact.path / code))
        # MLflow's pyfunc imports whatever module the MLmodel file names.
        has_pyfunc = bool(artifact.pyfunc) and is_unpickling_allowed()
        adapter_type = adapter_of(spec["flavor"], has_pyfunc=has_pyfunc)
        if artifact.signature is not None and artifact.signature.params and not spec["is_told"]:
            _warn_of_params(spec["name"], adapter_type)
        device = _open(spec, self._memory, is_accelerated=adapter_type.is_accelerated)
        bound_growth(device.name, spec["gpu_bytes_max"])
        try:
            adapter = adapter_type(artifact, device)
            adapter.notes += [
                f"{setting} does not apply to {spec['flavor']}"
                for setting in sorted(artifact.tuning.keys() - adapter_type.tunes)
            ]
            allowed = Allowed.of(spec["sizes"], spec["buckets"])
            said = _said(spec)
            found = probe(adapter, example, allowed, said)
            verdict = found.finding.verdict
            warm_s = 0.0
            if verdict is not Verdict.BATCHED:
                allowed = replace(allowed, rows=())
            if allowed and found.sample is not None:
                warm_s, signature = warm_up(adapter, found.sample, found.signature, allowed)
                found = replace(found, signature=signature)
        finally:
            # Also where the model does not load: others of this process must not be held to it.
            bound_growth(device.name, 0)
        outputs = found.outputs if found.signature is None else found.signature.outputs
        if spec["outputs"] is not None:
            # As another instance of the model was seen to answer, or this one in another process.
            outputs = tuple(map(spec_of, spec["outputs"]))
        elif not outputs and spec["known"] is not None:
            outputs = tuple(map(spec_of, spec["known"]["outputs"]))
        signature = found.signature
        self._signature = None if signature is None else replace(signature, outputs=outputs)
        self._form = form = Form(outputs, default_params(signature))
        # Instances that answer whatever comes would each settle their outputs by themselves.
        is_settled = form.is_known or spec["is_only"]
        if verdict is not Verdict.WHOLE and said.batched is None and is_settled:
            predict: Predict = adapter.predict
            if allowed.rows:
                predict = partial(predict_padded, adapter, sizes=allowed.rows)
            self._evidence = Evidence(
                lambda tensors, params: form.conform(predict(tensors, params), params).tensors,
                verdict,
                precision=said.precision,
            )
        # What lives now lives long: the collector, which stops all instances, need not walk it
        # again and again, above all not while the next model is loaded.
        gc.collect()
        gc.freeze()
        self._frames.send_json(
            Kind.LOADED,
            {
                "instance": spec["instance"],
                "signature": None if self._signature is None else self._signature.to_json(),
                "outputs": list(map(spec_json, outputs)),
                "verdict": verdict.value,
                "why": found.finding.why,
                "rows_max": found.rows_max,
                "rows_proven": found.rows_proven,
                "notes": list(adapter.notes),
                "device": adapter.device.name,
                "load_s": time.monotonic() - began,
                "probe_s": found.seconds,
                "warm_s": warm_s,
                "memory_bytes": max(own_bytes() - bytes_before, 0),
            },
        )
        return adapter


def _said(spec: dict[str, Any]) -> Said:
    """What a LOAD frame says of how the model may be batched."""
    known = spec["known"]
    return Said(
        spec["batched"],
        spec["is_deterministic"],
        None if known is None else Finding(Verdict(known["verdict"]), known["why"]),
        spec["tuning"].get("precision", "fp32"),
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


def _open(spec: dict[str, Any], arena: memoryview, *, is_accelerated: bool) -> Device:
    """The device that was asked for; "auto" is the first GPU.

    An adapter that cannot use an accelerator gets the CPU, whatever was asked for; so does one
    whose device the operator did not name.
    """
    name, threads = spec["device"], spec["threads"]
    if not is_accelerated:
        return open_device("cpu", threads)
    try:
        return open_device("cuda:0" if name == "auto" else name, threads, arena)
    except DeviceUnavailable as error:
        if not spec["may_use_cpu"]:
            raise
        if not spec["is_told"]:
            log("warning", "no_gpu", model=spec["name"], why=str(error))
        return open_device("cpu", threads)


def _warn_of_params(model: str, adapter_type: type[Adapter]) -> None:
    if not adapter_type.takes_params:
        why = "MLflow gives models of this flavor none either"
        log("warning", "params_ignored", model=model, why=why)


def _read_example(path: str | None) -> Tensors | None:
    if path is None:
        return None
    with np.load(path, allow_pickle=False) as stored:
        return {
            name: stored[name].astype(object) if stored[name].dtype.kind in "US" else stored[name]
            for name in stored.files
        }

"""Onnx: graphs that MLflow's onnx flavor saved, run by a session of our own.

The signature's inputs are fed to the graph's by name, or by position where none has the same, and
in the graph's own types. FP64 is rounded to FP32, as MLflow does it; any other cast that would
change a value is refused, as onnxruntime refuses all. Neither onnx nor MLflow is imported.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.datatypes import DATATYPES, datatype_of
from headrace.signature import Signature, TensorSpec

from ..devices import Device
from ..devices.cpu import dense
from .base import (
    NO_PARAMS,
    Adapter,
    Array,
    Artifact,
    LoadError,
    Params,
    Tensors,
    all_required,
    loading,
    matched,
    stack_columns,
)
from .raw import named

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

# As many kinds of batches have their inputs bound: by the addresses and shapes that they have.
_BINDINGS_MAX = 64

_PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxAdapter(Adapter):
    """An onnxruntime session on the device."""

    is_accelerated = True
    tunes = frozenset({"providers"})

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, device)
        if artifact.method:
            raise LoadError(
                f"an ONNX graph has no methods, so {artifact.method!r} cannot be called"
            )
        with loading("onnx", ("onnxruntime",)):
            self._session = _open(artifact, device, self.notes)
        graph_inputs = [_spec(node) for node in self._session.get_inputs()]
        if not graph_inputs:
            raise LoadError("the graph has no inputs")
        graph_outputs = [node.name for node in self._session.get_outputs()]
        # A session does without no input.
        self._signature = all_required(
            artifact.signature or _graph_signature(self._session, graph_inputs)
        )
        inputs = self._signature.inputs
        self._is_table = len(graph_inputs) == 1 and all(spec.is_column for spec in inputs)
        self._feeds: dict[str, _Feed] = {}
        if self._is_table:
            self._matrix = _Feed(graph_inputs[0], _common(inputs))
            if {spec.datatype for spec in inputs} == {"FP64"} and self._matrix.is_rounded:
                # What is rounded but once may be so where it is laid.
                self._matrix.stacked = np.dtype(np.float32)
        else:
            own = {spec.name: spec for spec in graph_inputs}
            names = matched([spec.name for spec in inputs], list(own), "the graph's")
            self._feeds = {
                spec.name: _Feed(own[names[spec.name]], DATATYPES[spec.datatype].dtype)
                for spec in inputs
            }
        self._asked, self._names = _outputs(graph_outputs, self._signature)
        # Only numbers lie on a GPU, and the session must compute on the device's own stream.
        nodes = [*self._session.get_inputs(), *self._session.get_outputs()]
        is_plain = any(_DATATYPES.get(node.type, "BYTES") == "BYTES" for node in nodes)
        self._is_bound = device.stream_handle is not None and not is_plain
        self._run_options = _run_options() if self._is_bound else None
        self._bindings: dict[tuple[Any, ...], Any] = {}

    @property
    def signature(self) -> Signature:
        """The artifact's, else the graph's own inputs and outputs."""
        return self._signature

    def stage(self, tensors: Tensors) -> dict[str, Any]:
        """What the graph is fed, by the graph's input names: arrays, or tensors on a GPU."""
        if self._is_table:
            feed = self._matrix
            table = stack_columns(list(tensors.values()), feed.stacked)
            fed = {feed.name: feed.fitted(table)}
        else:
            feeds = self._feeds
            fed = {feeds[name].name: feeds[name].fitted(array) for name, array in tensors.items()}
        if not self._is_bound:
            return fed
        return {name: self.device.stage(array) for name, array in fed.items()}

    def launch(self, staged: dict[str, Any], params: Params = NO_PARAMS) -> list[Any]:
        """Run the graph; on a GPU the results may not be there yet."""
        if self._is_bound:
            return self._run_bound(staged)
        results: list[Any] = self._session.run(self._asked, staged)
        return results

    def fetch(self, launched: list[Any]) -> list[Any]:
        """Begin to bring the outputs home."""
        return [self.device.fetch(one) for one in launched] if self._is_bound else launched

    def finish(self, launched: list[Any]) -> Tensors:
        """Name the outputs."""
        if self._is_bound:
            launched = [self.device.finish(one) for one in launched]
        # Classifiers made by skl2onnx return a dict of labels and probabilities per row: these are
        # its values as they are, as in MLflow's answer.
        return named(list(zip(self._names, launched, strict=True)))

    def _run_bound(self, staged: dict[str, Any]) -> list[Any]:
        """Run the graph from and to torch tensors on the device; nothing is waited for."""
        binding = self._bound_inputs(staged)
        device = next(iter(staged.values())).device
        for name in self._asked:
            binding.bind_output(name, device.type, device.index or 0)
        self._session.run_with_iobinding(binding, self._run_options)
        outputs = [_shared(value) for value in binding.get_outputs()]
        # Else the next run would write into them, and they may be on their way home.
        binding.clear_binding_outputs()
        return outputs

    def _bound_inputs(self, staged: dict[str, Any]) -> Any:
        """A binding with *staged* as its inputs.

        torch hands the same memory out again, so that batches of as many rows in the same slot find
        the binding of the last one.
        """
        key = tuple((tensor.data_ptr(), tensor.shape) for tensor in staged.values())
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._session.io_binding()
            for name, tensor in staged.items():
                place, index = tensor.device.type, tensor.device.index or 0
                dtype = np.dtype(str(tensor.dtype).partition(".")[2])
                binding.bind_input(
                    name, place, index, dtype, tuple(tensor.shape), tensor.data_ptr()
                )
            if len(self._bindings) >= _BINDINGS_MAX:
                self._bindings.clear()
            self._bindings[key] = binding
        return binding

    def close(self) -> None:
        """Let go of the session, which frees what it holds on the device."""
        self._bindings.clear()
        del self._session


def _open(artifact: Artifact, device: Device, notes: list[str]) -> Any:
    import onnxruntime

    kind, _, index = device.name.partition(":")
    wanted = artifact.tuning.get("providers", ("cuda",)) if kind == "cuda" else ()
    options = {"device_id": index}
    if device.stream_handle is not None:
        options["user_compute_stream"] = str(device.stream_handle)
    providers: list[Any] = [(_PROVIDERS[name], options) for name in wanted]
    if wanted:
        # The CUDA libraries that came with torch serve it too.
        onnxruntime.preload_dlls()
    # By path, not by bytes: tensors may lie in files beside the graph.
    session = onnxruntime.InferenceSession(
        str(artifact.file("data")),
        sess_options=_options(artifact.config.get("onnx_session_options") or {}, device.threads),
        providers=[*providers, "CPUExecutionProvider"],
    )
    # onnxruntime goes on without a provider that does not start.
    missing = [name for name in wanted if _PROVIDERS[name] not in session.get_providers()]
    if missing and len(missing) == len(wanted):
        raise LoadError(
            f"onnxruntime could not start its {' or '.join(missing)} provider on {device.name}"
        )
    notes += [f"onnxruntime could not start its {name} provider" for name in missing]
    return session


def _shared(value: Any) -> Any:
    """A torch tensor over the memory of an OrtValue; as dlpack has it, BOOL is a byte."""
    from torch.utils.dlpack import from_dlpack

    # onnxruntime's own class lacks the protocol that what it wraps speaks.
    tensor = from_dlpack(value._ortvalue)  # noqa: SLF001
    return tensor.bool() if value.data_type() == "tensor(bool)" else tensor


def _run_options() -> Any:
    """A run waits for nothing at its end: who wants the outputs waits for their stream."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def _options(wanted: dict[str, Any], threads: int) -> Any:
    """Session options as MLflow reads them from an MLmodel file, with *threads* as the default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = wanted.get("intra_op_num_threads") or threads
    if inter_op_num_threads := wanted.get("inter_op_num_threads"):
        options.inter_op_num_threads = inter_op_num_threads
    if mode := wanted.get("execution_mode"):
        options.execution_mode = getattr(onnxruntime.ExecutionMode, f"ORT_{mode.upper()}")
    if level := wanted.get("graph_optimization_level"):
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(level)
    for key, value in (wanted.get("extra_session_config") or {}).items():
        options.add_session_config_entry(key, value)
    return options


def _spec(node: Any) -> TensorSpec:
    """An input or output of the graph; an axis that has a name or nothing for a size may be any."""
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise LoadError(f"{node.name!r} of the graph is a {node.type}, which no datatype carries")
    sizes = (size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, datatype, tuple(sizes))


def _graph_signature(session: Any, inputs: list[TensorSpec]) -> Signature:
    """The graph's own signature; its outputs stay open where one is no tensor."""
    nodes = session.get_outputs()
    are_tensors = all(node.type in _DATATYPES for node in nodes)
    return Signature(tuple(inputs), tuple(map(_spec, nodes)) if are_tensors else ())


def _common(specs: Sequence[TensorSpec]) -> np.dtype[Any]:
    """What MLflow's DataFrame makes of such columns as one matrix."""
    return np.result_type(*(DATATYPES[spec.datatype].dtype for spec in specs))


class _Feed:
    """What one input of the graph is fed with.

    Attributes:
        name: The graph's name for it.
        stacked: The dtype in which columns are laid side by side for it.
        is_rounded: Whether it is FP32 of FP64.
    """

    def __init__(self, target: TensorSpec, source: np.dtype[Any]) -> None:
        """An input *target* of the graph, for arrays of the dtype *source*.

        Raises:
            LoadError: Only one of them is text.
        """
        self.name = target.name
        self._axes = len(target.shape)
        self._datatype = target.datatype
        self._dtype = DATATYPES[target.datatype].dtype
        if (source.kind == "O") != (self._dtype.kind == "O"):
            raise LoadError(
                f"input {target.name!r} of the graph is {target.datatype}, and the signature's "
                f"{datatype_of(source).name}"
            )
        self.is_rounded = (source, self._dtype) == (np.dtype(np.float64), np.dtype(np.float32))
        self._is_checked = not self.is_rounded and not _is_exact(source, self._dtype)
        self.stacked = source

    def fitted(self, array: Array) -> Array:
        """*array* in the graph's type and rank: a column has one axis here and may have two there.

        Raises:
            ValueError: It has a value that the graph's type does not hold.
        """
        if array.dtype != self._dtype:
            if self._is_checked:
                _check_exact(array, self._dtype, self.name, self._datatype)
            with np.errstate(over="ignore"):
                array = array.astype(self._dtype)
        array = dense(array)
        if array.ndim == 1 and self._axes == 2:
            return array[:, np.newaxis]
        if array.ndim == 2 and self._axes == 1 and array.shape[1] == 1:
            return array[:, 0]
        return array


def _is_exact(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Whether *target* holds every value of *source*; numpy takes FP64 to hold any integer."""
    is_wide = source.kind in "iu" and source.itemsize == 8 and target.kind == "f"
    return np.can_cast(source, target, "safe") and not is_wide


def _check_exact(array: Array, dtype: np.dtype[Any], name: str, datatype: str) -> None:
    if array.dtype.kind in "iu" and dtype.kind == "f":
        # Up to here every integer has a float of its own.
        limit = 2 ** (np.finfo(dtype).nmant + 1)
        is_held = bool(((array >= -limit) & (array <= limit)).all())
    else:
        with np.errstate(all="ignore"):
            cast = array.astype(dtype).astype(array.dtype)
        is_held = np.array_equal(cast, array, equal_nan=array.dtype.kind == dtype.kind == "f")
    if not is_held:
        raise ValueError(f"input {name!r} of the graph is {datatype}, which does not hold a value")


def _outputs(graph_outputs: list[str], signature: Signature) -> tuple[list[str], list[str]]:
    """Which outputs to ask the graph for, and what to call them.

    The signature's names where it has the graph's names in any order, or as many of its own.
    """
    declared = [spec.name for spec in signature.outputs]
    if set(declared) == set(graph_outputs):
        return declared, declared
    return graph_outputs, declared if len(declared) == len(graph_outputs) else graph_outputs


ADAPTER = OnnxAdapter

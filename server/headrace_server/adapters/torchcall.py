"""Torchcall: a torch callable as the operator wants it run: precision, layout, compiled, in graphs.

What cannot be had leaves the call as it was, and a note that says why.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..childlog import log
from ..devices import Device
from .base import cause
from .raw import mapped

# Modes of torch.compile that keep outputs in memory of a graph, where the next run overwrites them.
_GRAPHED_MODES = frozenset({"reduce-overhead", "max-autotune"})


class TorchCall:
    """A callable on a device, called in inference mode with tensors by position, name or in a dict.

    Attributes:
        notes: What of the tuning could not be had, a sentence each.
    """

    def __init__(self, call: Callable[..., Any], device: Device, tuning: Mapping[str, Any]) -> None:
        """Wrap *call*.

        Args:
            call: A module, or a method of one.
            device: Where it computes.
            tuning: The settings `precision`, `compile`, `channels_last` and `cuda_graphs`; what is
                missing is as torch has it.
        """
        import torch

        self.notes: list[str] = []
        self._plain = self._call = call
        self._is_on_gpu = device.name.startswith("cuda")
        self._half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
            tuning.get("precision", "")
        )
        self._autocast: AbstractContextManager[Any] = nullcontext()
        if self._half is not None:
            kind = "cuda" if self._is_on_gpu else "cpu"
            self._autocast = torch.autocast(kind, self._half)
        if tuning.get("precision") == "tf32":
            self._allow_tf32()
        self._is_channels_last = bool(tuning.get("channels_last"))
        if self._is_channels_last:
            self._reorder(call)
        mode = tuning.get("compile", "")
        self._is_overwriting = self._is_on_gpu and mode in _GRAPHED_MODES
        # Whether the first call of what was compiled is still to come: then it is compiled.
        self._is_unproven = bool(mode)
        if mode:
            self._call = torch.compile(call, mode=mode)
        self._wants_graphs = bool(tuning.get("cuda_graphs"))
        if self._wants_graphs and not self._is_on_gpu:
            self._wants_graphs = False
            self._note(f"cuda_graphs does not apply to {device.name}")
        self._graphs: dict[Any, _Graph] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it, by its graph where these shapes have one."""
        import torch

        with torch.inference_mode():
            if self._graphs and not kwargs and (graph := self._graphs.get(_key(args))) is not None:
                return graph.replay(args)
            return self._run(args, kwargs)

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Capture a graph for tensors of these shapes, where graphs are wanted."""
        if not self._wants_graphs:
            return
        if kwargs or not all(hasattr(one, "data_ptr") for one in args):
            self._note("no CUDA graph: the model is called with more than tensors by position")
            return
        import torch

        try:
            with torch.inference_mode():
                self._graphs[_key(args)] = _Graph(lambda *given: self._run(given, {}), args)
        except Exception as error:  # noqa: BLE001 - a model that synchronises, or asks for values.
            self._note(f"no CUDA graph for {_shapes(args)}: {cause(error)}")

    def close(self) -> None:
        """Let go of the callable."""
        self._graphs.clear()
        del self._plain, self._call

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_channels_last:
            args = tuple(_each_tensor(_last, one) for one in args)
            kwargs = {name: _each_tensor(_last, value) for name, value in kwargs.items()}
        with self._autocast:
            result = self._first(args, kwargs) if self._is_unproven else self._call(*args, **kwargs)
        if self._half is not None or self._is_overwriting:
            return _each_tensor(self._own, result)
        return result

    def _first(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The first call of what was compiled; the plain call stays where that fails alone."""
        try:
            result = self._call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a compiler may raise anything.
            # What the model itself raises, it raises here too.
            result = self._plain(*args, **kwargs)
            self._call, self._is_overwriting = self._plain, False
            self._note(f"not compiled: {cause(error)}")
        self._is_unproven = False
        return result

    def _own(self, tensor: Any) -> Any:
        """*tensor* in the datatype that it has without autocast, in memory of its own."""
        if tensor.dtype is self._half:
            return tensor.float()
        return tensor.clone() if self._is_overwriting else tensor

    def _allow_tf32(self) -> None:
        import torch

        if not self._is_on_gpu:
            self._note("precision = tf32 does not apply to cpu")
            return
        # Switches of the process, which is this model's own.
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True

    def _reorder(self, call: Callable[..., Any]) -> None:
        import torch

        module: Any = getattr(call, "__self__", call)
        try:
            module.to(memory_format=torch.channels_last)
        except Exception as error:  # noqa: BLE001 - whatever the artifact holds.
            self._is_channels_last = False
            self._note(f"not channels_last: {cause(error)}")

    def _note(self, why: str) -> None:
        if why not in self.notes:
            self.notes.append(why)
            log("warning", "not_tuned", why=why)


class _Graph:
    """One captured run: tensors are copied into its inputs, and out of its outputs.

    Both copies are of the device and on the stream that computes, so the graph's own memory is
    never in use twice. It has not been run on a GPU.
    """

    def __init__(self, run: Callable[..., Any], args: tuple[Any, ...]) -> None:
        import torch

        self._inputs = tuple(torch.empty_like(one).copy_(one) for one in args)
        # What is done once, as choosing kernels, must not be captured.
        for _ in range(3):
            run(*self._inputs)
        torch.cuda.current_stream().synchronize()
        self._graph = torch.cuda.CUDAGraph()
        # Other instances of this process go on computing meanwhile.
        with torch.cuda.graph(
            self._graph,
            stream=torch.cuda.current_stream(),
            capture_error_mode="thread_local",
        ):
            self._outputs = run(*self._inputs)

    def replay(self, args: tuple[Any, ...]) -> Any:
        """Run with *args*; the results are the caller's."""
        for kept, given in zip(self._inputs, args, strict=True):
            kept.copy_(given, non_blocking=True)
        self._graph.replay()
        return _each_tensor(lambda tensor: tensor.clone(), self._outputs)


def _each_tensor(change: Callable[[Any], Any], result: Any) -> Any:
    """*result* with *change* made to its tensors, wherever a model's answer has them."""
    import torch

    return mapped(lambda one: change(one) if isinstance(one, torch.Tensor) else one, result)


def _last(tensor: Any) -> Any:
    """*tensor* with its channels last, where it is a batch of images."""
    import torch

    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _key(args: tuple[Any, ...]) -> Any:
    return tuple((one.shape, one.dtype) for one in args)


def _shapes(args: tuple[Any, ...]) -> str:
    return ", ".join(str(list(one.shape)) for one in args)

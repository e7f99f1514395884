"""Pytorch: modules that MLflow's pytorch flavor saved, pickled or as torch.export programs (pt2).

Tensors go in by position in the signature's order, or by the names of `forward` where these are the
signature's, or as one dict where it takes that. A table of columns goes in as one float32 matrix,
as MLflow's own wrapper does it.
"""

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from headrace.datatypes import BYTES, DATATYPES
from headrace.signature import Signature

from ..devices import Device
from ..devices.pipeline import Fetched
from .base import (
    NO_PARAMS,
    Adapter,
    Artifact,
    LoadError,
    Params,
    Tensors,
    all_required,
    default_params,
    is_unpickling_allowed,
    loading,
    name_outputs,
    stack_columns,
)
from .raw import mapped
from .torchcall import TorchCall
from .torchinputs import TorchInputs

# MLflow's own pickle module differs from the standard one in writing only.
READS_LIKE_PICKLE = frozenset({"mlflow.pytorch.pickle_module", "cloudpickle", "pickle"})


class PytorchAdapter(Adapter):
    """A torch module in inference mode on its device."""

    is_accelerated = True
    tunes = frozenset({"precision", "compile", "channels_last", "cuda_graphs"})
    takes_params = True

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, device)
        with loading("torch", ("torch", "cloudpickle")):
            import torch

            torch.set_num_threads(device.threads)
            module = _load(artifact, device.name)
        if not callable(module):
            raise LoadError(f"the artifact holds a {type(module).__name__}, not a torch module")
        _refuse_forecasts(module)
        call = getattr(module, artifact.method, None) if artifact.method else module
        if not callable(call):
            raise LoadError(f"{type(module).__name__} has no method {artifact.method!r}")
        self._module = call
        self._call = TorchCall(call, device, artifact.tuning)
        self.notes = self._call.notes
        inputs = artifact.signature.inputs if artifact.signature is not None else ()
        for spec in inputs:
            if DATATYPES[spec.datatype] is BYTES:
                raise LoadError(f"torch takes no strings, but input {spec.name!r} is BYTES")
        self._is_table = bool(inputs) and all(spec.is_column for spec in inputs)
        params = () if artifact.signature is None else artifact.signature.params
        self._inputs = TorchInputs(
            getattr(module, artifact.method or "forward", None), {spec.name for spec in params}
        )
        if not self._is_table:
            self._inputs.check([spec.name for spec in inputs])

    @property
    def signature(self) -> Signature | None:
        """The artifact's; no module does without an input."""
        signature = self.artifact.signature
        return None if signature is None else all_required(signature)

    def stage(self, tensors: Tensors) -> dict[str, Any]:
        """Tensors on the device, by input name; one unnamed matrix for a table of columns."""
        if self._is_table:
            return {"": self.device.stage(stack_columns(list(tensors.values()), np.float32))}
        return {name: self.device.stage(array) for name, array in tensors.items()}

    def launch(self, staged: dict[str, Any], params: Params = NO_PARAMS) -> Any:
        """Call the module, with *params* as keyword arguments, as MLflow's own wrapper does.

        On an asynchronous device the result may not be there yet.
        """
        args, kwargs = self._inputs.arrange(staged)
        return self._call(*args, **kwargs, **params)

    def prepare(self, tensors: Tensors) -> None:
        """Have a graph captured for *tensors*, where graphs are wanted."""
        batch = self.device.begin()
        try:
            args, kwargs = self._inputs.arrange(self.stage(tensors))
            with self.device.computing():
                self._call.prepare(*args, **kwargs, **default_params(self.signature))
        finally:
            self.device.end(batch)

    def fetch(self, launched: Any) -> Any:
        """Begin to bring every tensor home."""
        import torch

        def fetched(value: Any) -> Any:
            return self.device.fetch(value) if isinstance(value, torch.Tensor) else value

        return mapped(fetched, launched)

    def finish(self, launched: Any) -> Tensors:
        """Bring every tensor to the host, and name it."""
        found = mapped(self._host, launched)
        return name_outputs(tuple(found) if isinstance(found, list) else found, self.signature)

    def close(self) -> None:
        """Let go of the module."""
        import torch

        self._call.close()
        if isinstance(self._module, torch.fx.GraphModule):
            # An exported program refers to itself: its weights would wait for the collector.
            vars(self._module).clear()
        del self._module

    def _host(self, value: Any) -> Any:
        import torch

        is_there = isinstance(value, torch.Tensor | Fetched)
        return self.device.finish(value) if is_there else value


def _load(artifact: Artifact, device: str) -> Any:
    import torch

    data = artifact.file("model_data")
    exported, pickled = data / "model.pt2", data / "model.pth"
    is_exported = exported.exists() and not pickled.exists()
    if not is_unpickling_allowed():
        if not is_exported:
            raise LoadError(
                f"{data.name!r} is pickled, which MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false "
                "forbids: expected 'model.pt2'"
            )
        _check_exported(exported)
    if pickled.exists():
        return _unpickle(pickled, device)
    if data.is_file():
        return _unpickle(data, device)
    if not is_exported:
        raise LoadError(f"{data.name!r} holds neither 'model.pth' nor 'model.pt2'")
    program = torch.export.load(exported)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    # Exported programs are fixed in evaluation mode; calling eval() on one raises.
    return program.module()


def _check_exported(file: Path) -> None:
    """Hold an exported program against MLflow's own check.

    torch.export.load itself unpickles what an archive may hold beside the program.

    Raises:
        MlflowException: It holds what is no tensor, or this torch is too old to tell (before 2.10).
    """
    import mlflow.pytorch

    check = getattr(mlflow.pytorch, "_validate_pt2_archive_is_pickle_free", None)
    if check is None:
        raise LoadError("this MLflow cannot tell whether a pt2 archive is safe: expected 3.17")
    check(str(file))


def _unpickle(file: Path, device: str) -> Any:
    import torch

    info = file.with_name("pickle_module_info.txt")
    module = info.read_text().strip() if info.exists() else "pickle"
    with warnings.catch_warnings():
        # torch.load recognizes TorchScript and says so in a warning.
        warnings.simplefilter("ignore")
        model = torch.load(
            file,
            map_location=device,
            pickle_module=import_module("pickle" if module in READS_LIKE_PICKLE else module),
            weights_only=False,
        )
    return model.eval().to(device) if isinstance(model, torch.nn.Module) else model


def _refuse_forecasts(module: Any) -> None:
    """Models that MLflow asks by a `predict` of their own, with a DataFrame."""
    if any(
        kind.__module__.partition(".")[0] == "pytorch_forecasting" for kind in type(module).__mro__
    ):
        raise LoadError("models of pytorch_forecasting are not served")


ADAPTER = PytorchAdapter

"""Networks: torch modules that do what their rows say on a GPU, and a house that serves them.

Each is defined in a function, so that its pickle holds it: a worker does not know this module. All
take and give rows of two FP64, as the models of House do.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from headrace.signature import Signature, TensorSpec
from headrace_server.adapters import Adapter, Artifact
from headrace_server.adapters.base import Tensors
from headrace_server.errors import ModelNotFound
from headrace_server.gpus.nvml import Gpus
from headrace_server.instances.bookings import Bookings
from headrace_server.repository.librarian import Fetched, Resolved
from house import SIGNATURE, House

# What the first number of a row may ask for.
BAD_INDEX = 901.0  # An index out of bounds: on a GPU an assertion of the device, which is sticky.
ALL_MEMORY = 902.0  # More memory than there is.
CONFIG: Mapping[str, str] = {"model_data": "data"}


def doubling(megabytes: int = 0) -> torch.nn.Module:
    """y = 2x, with so many megabytes of weights that have no part in it."""

    class Doubling(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle = torch.nn.Parameter(torch.zeros(megabytes << 18))
            self.factor = torch.nn.Parameter(torch.full((1,), 2.0, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.factor

    return Doubling()


def indexing() -> torch.nn.Module:
    """y = 2x, but for a row that asks for BAD_INDEX."""

    class Indexing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            table = torch.arange(900, dtype=x.dtype, device=x.device)
            # Rows of the tests begin with small whole numbers.
            first = table[x[:, 0].long()]
            return torch.stack([2 * first, 2 * x[:, 1]], dim=1)

    return Indexing()


def greedy() -> torch.nn.Module:
    """y = 2x, but for a row that asks for ALL_MEMORY."""

    class Greedy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if float(x[:, 0].max()) == 902.0:
                if not x.is_cuda:
                    raise MemoryError("a row said so")
                total = torch.cuda.mem_get_info(x.device)[1]
                torch.empty(2 * total, dtype=torch.uint8, device=x.device)
            return x * 2.0

    return Greedy()


def hungry(rows_max: int) -> torch.nn.Module:
    """y = 2x, out of memory with more than *rows_max* rows; on a GPU it really asks for too much.

    One or two rows, with which a model is tried at load, cost nothing.
    """

    class Hungry(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.is_cuda and len(x) > 2:
                # As much as there would be for rows_max rows and a half.
                total = torch.cuda.mem_get_info(x.device)[1]
                each = int(total / (rows_max + 0.5))
                torch.empty(len(x) * each, dtype=torch.uint8, device=x.device)
            elif len(x) > rows_max:
                raise MemoryError(f"{len(x)} rows")
            return x * 2.0

    return Hungry()


def lavish(fraction: float) -> torch.nn.Module:
    """y = 2x, by way of so much of all the memory of its GPU."""

    class Lavish(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.is_cuda:
                total = torch.cuda.mem_get_info(x.device)[1]
                torch.empty(int(total * fraction), dtype=torch.uint8, device=x.device)
            return x * 2.0

    return Lavish()


def wide(width: int, layers: int) -> torch.nn.Module:
    """*layers* square layers of *width* float32."""
    steps = [torch.nn.Linear(width, width, bias=False) for _ in range(layers)]
    return torch.nn.Sequential(*steps).eval()


def begin(adapter: Adapter, tensors: Tensors) -> tuple[Any, Any]:
    """Stage and launch a batch, as a worker does; for `end`."""
    batch = adapter.device.begin()
    staged = adapter.stage(tensors)
    with adapter.device.computing():
        launched = adapter.launch(staged)
    return batch, adapter.fetch(launched)


def end(adapter: Adapter, begun: tuple[Any, Any]) -> Tensors:
    """The answer to what `begin` has begun; the first that began ends first."""
    batch, launched = begun
    answer = {name: array.copy() for name, array in adapter.finish(launched).items()}
    adapter.device.end(batch)
    return answer


def save_network(network: torch.nn.Module, folder: Path) -> Path:
    """*network* in a directory as MLflow's pytorch flavor lays it out; the directory."""
    (folder / "data").mkdir(parents=True)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    torch.save(network, folder / "data" / "model.pth", pickle_module=cloudpickle)
    (folder / "data" / "pickle_module_info.txt").write_text("cloudpickle")
    return folder


def artifact_of(folder: Path, width: int) -> Artifact:
    """What an adapter loads a saved `wide` from."""
    spec = TensorSpec("x", "FP32", (-1, width)), TensorSpec("y", "FP32", (-1, width))
    return Artifact(folder, CONFIG, {}, Signature(spec[:1], spec[1:]))


class NetworkShelf:
    """A librarian that knows the networks a test has told it of."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sources: dict[str, str] = {}

    def put(self, uri: str, network: torch.nn.Module) -> None:
        """From now on *uri* stands for *network*."""
        folder = self._directory / f"network-{len(self._sources)}"
        self._sources[uri] = str(save_network(network, folder))

    def source(self, uri: str) -> Path:
        """The directory of what *uri* stands for."""
        return Path(self._sources[uri])

    def resolve(self, uri: str) -> Resolved:
        if uri not in self._sources:
            raise ModelNotFound(f"there is no {uri}")
        return Resolved("any", "1", self._sources[uri], "")

    def fetch(self, source: str, progress: object = None) -> Fetched:
        return Fetched(source, source, "pytorch", dict(CONFIG), {}, SIGNATURE, None)


class GpuHouse(House):
    """The daemon without transports; its models are networks.

    Attributes:
        networks: Where a test puts them.
    """

    def __init__(self, directory: Path, gpus: Gpus, fraction: float = 0.9, **how: Any) -> None:
        super().__init__(directory, bookings=Bookings(gpus, fraction), **how)
        self.networks = NetworkShelf(directory)
        self.shelf.resolve = self.networks.resolve  # type: ignore[method-assign]
        self.shelf.fetch = self.networks.fetch  # type: ignore[method-assign]

"""House: the daemon without transports, its models in real worker processes."""

import struct
import threading
from pathlib import Path
from typing import Any, cast

import cloudpickle
import psutil

from doubles import RecordingReply
from headrace.datatypes import DATATYPES
from headrace.signature import Signature, TensorSpec
from headrace_server.completions import Completions
from headrace_server.errors import HeadraceError, ModelNotFound
from headrace_server.instances.bookings import Bookings
from headrace_server.instances.confined import Confinement
from headrace_server.instances.pool import WorkerPool
from headrace_server.instances.process import Spawner
from headrace_server.repository.librarian import Fetched, Librarian, Resolved
from headrace_server.repository.model import ModelVersion
from headrace_server.repository.repository import Repository
from headrace_server.repository.tried import Tried
from headrace_server.settings import ModelSettings
from headrace_server.types import InputLayout, Request

PATIENCE_S = 60.0

SIGNATURE = Signature((TensorSpec("x", "FP64", (-1, 2)),), (TensorSpec("y", "FP64", (-1, 2)),))


class Shelf:
    """A librarian that knows what a test has told it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = 0
        self._uris: dict[str, tuple[str, str]] = {}

    def put(self, uri: str, version: str, model: object) -> None:
        """From now on *uri* stands for *model*."""
        self._files += 1
        source = self._directory / str(self._files)
        source.mkdir()
        is_bytes = isinstance(model, bytes)
        pickled = cast("bytes", model) if is_bytes else cloudpickle.dumps(model)
        (source / "model.pkl").write_bytes(pickled)
        self._uris[uri] = (version, str(source))

    def resolve(self, uri: str) -> Resolved:
        if uri not in self._uris:
            raise ModelNotFound(f"there is no {uri}")
        return Resolved("any", *self._uris[uri], "")

    def fetch(self, source: str, progress: object = None) -> Fetched:
        config = {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}
        pyfunc = {"predict_fn": "predict"}
        return Fetched(source, source, "sklearn", config, pyfunc, SIGNATURE, None)


class House:
    """The daemon without transports, and a hand on what its models are."""

    def __init__(
        self,
        directory: Path,
        *,
        drain_s: float = 30.0,
        bookings: Bookings | None = None,
        confinement: Confinement | None = None,
        **how: Any,
    ) -> None:
        self.reply = RecordingReply()
        self.shelf = Shelf(directory)
        self.spawner = Spawner()
        self.completions = Completions()
        self.completions.start()
        self.pool = WorkerPool(
            self.spawner,
            self.completions,
            arena_bytes_max=64 << 20,
            cpu_workers_max=1,
            confinement=confinement,
        )
        self.repository = Repository(
            cast("Librarian", self.shelf),
            self.pool,
            self.completions,
            settings_of=lambda *_: ModelSettings(**{"trial": False, **how}),
            device="cpu",
            bookings=bookings,
            tried=Tried(str(directory / "tried")),
            drain_s=drain_s,
        )
        self.changed = threading.Condition()
        self.repository.watch(self._on_change)

    def load(self, name: str, uri: str = "") -> None:
        self.repository.begin_load(name, uri).result(PATIENCE_S)

    def unload(self, name: str) -> None:
        self.repository.begin_unload(name).result(PATIENCE_S)

    def request(self, model: ModelVersion, *row: float) -> Request:
        layout = InputLayout("x", DATATYPES["FP64"], (2,), 16)
        key = model.batch_key((layout,), (), is_whole=False)
        return Request(key, 1, [struct.pack("<2d", *row)], self.reply, None, 16)

    def submit(self, name: str, *row: float) -> Request:
        model = self.repository.find(name)
        one = self.request(model, *row)
        model.scheduler.submit([one])
        return one

    def ask(self, name: str, *row: float) -> tuple[float, ...]:
        answer = self.reply.wait_for(self.submit(name, *row))
        assert not isinstance(answer, HeadraceError), answer
        return struct.unpack("<2d", answer["y"])

    def process(self) -> psutil.Process:
        (worker,) = self.pool.workers
        return psutil.Process(worker.pid)

    def close(self) -> None:
        self.repository.close(0.0)
        self.pool.close()
        self.completions.close()
        self.spawner.close()

    def _on_change(self) -> None:
        with self.changed:
            self.changed.notify_all()

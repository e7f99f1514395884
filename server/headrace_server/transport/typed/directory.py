"""Directory: which typed services there are now, kept in step with the repository."""

import threading
from collections.abc import Mapping
from functools import partial

import structlog

from headrace.typed import PACKAGE, service_name

from ...repository.model import ModelVersion, State
from ...service import Service
from ...types import Plan, Reply, Request
from ..intake import Decode
from .binding import Binding, Metadata, NoTypedService

METHODS = ("Predict", "PredictRow")

_log = structlog.get_logger("headrace")


class TypedDirectory:
    """The typed service of every served model. Safe from any thread.

    Attributes:
        services: Full name of each service -> the served name of its model; replaced as a whole.
            A model keeps its place in it while it loads, and when it failed or was unloaded.
    """

    def __init__(self, service: Service, message_bytes_max: int) -> None:
        self.services: Mapping[str, str] = {}
        self._service = service
        self._message_bytes_max = message_bytes_max
        # Served name -> the version that it stood for when it was last looked at, and its binding.
        self._bound: dict[str, tuple[ModelVersion, Binding | NoTypedService]] = {}
        self._clashing: set[str] = set()
        self._lock = threading.Lock()

    @property
    def bindings(self) -> list[Binding]:
        """Those of all models that are ready to be asked."""
        return [each for _, each in list(self._bound.values()) if isinstance(each, Binding)]

    def refresh(self) -> None:
        """Look at what is served; called whenever that may have changed."""
        with self._lock:
            served = self._service.repository.served
            self._name(served)
            for model in served:
                if model.state is State.READY and model.name not in self._clashing:
                    self._bind(model)
                elif model.state in (State.FAILED, State.UNLOADED):
                    self._bound.pop(model.name, None)

    def binding_of(self, symbol: str) -> Binding | None:
        """That of the service or message whose full name is *symbol*."""
        package = ".".join(symbol.split(".")[:3])
        for binding in self.bindings:
            if binding.service.package == package:
                return binding
        return None

    def reader(self, model: str, metadata: Metadata, *, is_row: bool) -> Decode:
        """What reads a call's message; `is_row` for PredictRow."""
        return partial(self._decode, model, metadata, is_row)

    def _decode(
        self,
        name: str,
        metadata: Metadata,
        is_row: bool,
        payload: bytes,
        reply: Reply,
        call: object,
        now: float,
        deadline_at: float,
    ) -> tuple[Plan, Request]:
        model = self._service.repository.find(name)
        # First of all: why a model that is not ready cannot be asked.
        model.scheduler  # noqa: B018
        bound, binding = self._bound.get(name, (None, None))
        if bound is not model:
            with self._lock:
                binding = self._bind(model)
        if not isinstance(binding, Binding):
            raise NoTypedService(str(binding))
        return binding.decode(
            self._service, payload, metadata, reply, call, now, deadline_at, is_row=is_row
        )

    # Under the lock.

    def _name(self, served: list[ModelVersion]) -> None:
        names = {model: service for service, model in self.services.items()}
        added: dict[str, str] = {}
        for model in served:
            if model.name in names or model.name in self._clashing:
                continue
            service = service_name(model.name)
            owner = self.services.get(service) or added.get(service)
            if owner is None:
                added[service] = model.name
            else:
                self._clashing.add(model.name)
                _log.warning(
                    "typed_service_clash",
                    model=model.name,
                    service=service,
                    why=f"model {owner!r} has it: serve one of them by another name",
                )
        if added:
            self.services = {**self.services, **added}

    def _bind(self, model: ModelVersion) -> Binding | NoTypedService:
        bound, binding = self._bound.get(model.name, (None, None))
        if bound is not model or binding is None:
            try:
                binding = Binding(model, self._message_bytes_max)
            except NoTypedService as error:
                binding = error
                _log.info(
                    "no_typed_service", model=model.name, version=model.version, why=error.message
                )
            self._bound[model.name] = (model, binding)
        return binding


def method_of(path: str, services: Mapping[str, str]) -> tuple[str, bool] | None:
    """The model that the method at *path* is of, and whether it is PredictRow; None for others."""
    if not path.startswith(f"/{PACKAGE}."):
        return None
    service, _, method = path[1:].partition("/")
    model = services.get(service)
    return (model, method == "PredictRow") if model and method in METHODS else None

"""Aio: the client for asyncio, method for method that of client.py."""

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Mapping,
    Sequence,
)
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import grpc
import grpc.aio
import numpy.typing as npt

from headrace.oip import open_inference_pb2 as oip
from headrace.oip.inference_service_pb2_grpc import GRPCInferenceServiceStub
from headrace.timings import ASKED

from .calls import INFER_METHOD, Parameter
from .channel import DEFAULT_TARGET, DEFAULT_TIMEOUT_S, MESSAGE_BYTES_MAX
from .connection import connection_to
from .deadlines import check_seconds, deadline_at, left_s
from .errors import HeadraceClientError, InvalidArgument, NotFound, Unavailable, error_of
from .forks import Inherited, check_aio, watch
from .hedges import first_answer_aio
from .inputs import Data, Form
from .many import IN_FLIGHT_MAX, as_completed_aio, check_bounds, in_order_aio, raising_aio
from .security import Tls, call_metadata
from .session import AS_IS, Ask, Session, load_request
from .types import ModelMetadata, ModelStatus, Prediction, statuses_of

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


class AsyncClient:
    """A connection to a server, for one event loop: make it where that loop runs.

    Arguments, answers and errors are those of `Client`. Cancelling a task cancels its request.
    """

    def __init__(
        self,
        target: str | Sequence[str] | grpc.aio.Channel = DEFAULT_TARGET,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        token: str | None = None,
        tls: bool | Tls | None = None,
        attempts_max: int = 1,
        hedge_after_s: float | None = None,
        wait_for_ready: bool = False,
    ) -> None:
        check_aio()
        self._timeout_s = check_seconds("timeout_s", timeout_s)
        self._metadata = call_metadata(token)
        self._timed_metadata = (*(self._metadata or ()), ASKED)
        self._hedge_after_s = (
            None if hedge_after_s is None else check_seconds("hedge_after_s", hedge_after_s)
        )
        self._is_owner = not isinstance(target, grpc.aio.Channel)
        if isinstance(target, grpc.aio.Channel):
            self._target, self._channel = "a channel", target
        else:
            to = connection_to(
                target,
                tls=tls,
                message_bytes_max=message_bytes_max,
                attempts_max=attempts_max,
                wait_for_ready=wait_for_ready,
            )
            self._target, self._channel = to.target, to.open_aio()
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._infer: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            INFER_METHOD, None, None
        )
        self._session = Session()
        watch(self, AsyncClient._leave_to_parent, is_aio=True)

    async def predict(
        self,
        model: str,
        data: Data,
        *,
        version: str = "",
        timeout: float | None = None,  # noqa: ASYNC109 - gRPC's own deadline, which travels.
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        request_id: str = "",
        timings: bool = False,
    ) -> Prediction:
        """See `Client.predict`."""
        deadline = self._deadline_at(timeout)
        ask = Ask(model, version, data, outputs, parameters, request_id, priority, timings)
        form = self._session.form(model, version)
        if form is None:
            return await self._send(ask, await self._learn(model, version, deadline), deadline)
        try:
            return await self._send(ask, form, deadline)
        except (InvalidArgument, NotFound):
            changed = await self._relearn(form, ask, deadline)
            if changed is None:
                raise
        return await self._send(ask, changed, deadline)

    async def submit(
        self,
        model: str,
        data: Data,
        *,
        version: str = "",
        timeout: float | None = None,  # noqa: ASYNC109
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        request_id: str = "",
        timings: bool = False,
    ) -> "asyncio.Task[Prediction]":
        """See `Client.submit`; the future is a task, to be held on to and awaited."""
        deadline = self._deadline_at(timeout)
        ask = Ask(model, version, data, outputs, parameters, request_id, priority, timings)
        form = self._session.form(model, version) or await self._learn(model, version, deadline)
        try:
            payload = self._session.encode(ask, form)
        except InvalidArgument:
            changed = await self._relearn(form, ask, deadline)
            if changed is None:
                raise
            form = changed
            payload = self._session.encode(ask, form)
        return asyncio.create_task(self._finish(ask, form, payload, deadline))

    @overload
    def predict_many(
        self,
        model: str,
        items: Iterable[Data] | AsyncIterable[Data],
        *,
        in_flight_max: int = IN_FLIGHT_MAX,
        errors: Literal["raise"] = "raise",
        version: str = "",
        timeout: float | None = None,
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> AsyncIterator[Prediction]: ...
    @overload
    def predict_many(
        self,
        model: str,
        items: Iterable[Data] | AsyncIterable[Data],
        *,
        in_flight_max: int = IN_FLIGHT_MAX,
        errors: Literal["yield"],
        version: str = "",
        timeout: float | None = None,
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> AsyncIterator[Prediction | HeadraceClientError]: ...
    def predict_many(
        self,
        model: str,
        items: Iterable[Data] | AsyncIterable[Data],
        *,
        in_flight_max: int = IN_FLIGHT_MAX,
        errors: Literal["raise", "yield"] = "raise",
        version: str = "",
        timeout: float | None = None,
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> AsyncIterator[Prediction] | AsyncIterator[Prediction | HeadraceClientError]:
        """See `Client.predict_many`; the items may come asynchronously."""
        if errors not in ("raise", "yield"):
            raise ValueError(f"errors: expected 'raise' or 'yield', got {errors!r}")
        check_bounds(in_flight_max, timeout)
        send = partial(
            self.submit,
            model,
            version=version,
            timeout=timeout,
            priority=priority,
            outputs=outputs,
            parameters=parameters,
        )
        outcomes = in_order_aio(send, items, in_flight_max)
        return raising_aio(outcomes) if errors == "raise" else outcomes

    def predict_as_completed(
        self,
        model: str,
        items: Iterable[Data] | AsyncIterable[Data],
        *,
        in_flight_max: int = IN_FLIGHT_MAX,
        version: str = "",
        timeout: float | None = None,
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> AsyncIterator[tuple[int, Prediction | HeadraceClientError]]:
        """See `Client.predict_as_completed`; the items may come asynchronously."""
        check_bounds(in_flight_max, timeout)
        send = partial(
            self.submit,
            model,
            version=version,
            timeout=timeout,
            priority=priority,
            outputs=outputs,
            parameters=parameters,
        )
        return as_completed_aio(send, items, in_flight_max)

    async def infer(
        self,
        model: str,
        tensors: Mapping[str, npt.ArrayLike],
        *,
        version: str = "",
        timeout: float | None = None,  # noqa: ASYNC109
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        request_id: str = "",
        timings: bool = False,
    ) -> Prediction:
        """See `Client.infer`."""
        ask = Ask(model, version, tensors, outputs, parameters, request_id, priority, timings)
        return await self._send(ask, AS_IS, self._deadline_at(timeout))

    async def exchange(
        self,
        payload: bytes,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> bytes:
        """See `Client.exchange`."""
        deadline = self._deadline_at(timeout)
        return (await self._answered(payload, deadline, self._hedge_after_s, is_timed=False))[0]

    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """See `Client.metadata`."""
        return (await self._learn(model, version, self._deadline_at(None))).metadata

    async def models(self) -> tuple[ModelStatus, ...]:
        """See `Client.models`."""
        request = oip.RepositoryIndexRequest()
        deadline = self._deadline_at(None)
        return statuses_of(await self._call(self._stub.RepositoryIndex, request, deadline))

    async def load(
        self,
        model: str,
        uri: str = "",
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> None:
        """See `Client.load`."""
        request = load_request(model, uri)
        try:
            await self._call(self._stub.RepositoryModelLoad, request, self._deadline_at(timeout))
        finally:
            self._session.forget_all(model)

    async def unload(self, model: str, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """See `Client.unload`."""
        request = oip.RepositoryModelUnloadRequest(model_name=model)
        await self._call(self._stub.RepositoryModelUnload, request, self._deadline_at(timeout))

    async def ready(self, model: str | None = None, version: str = "") -> bool:
        """See `Client.ready`."""
        deadline = self._deadline_at(None)
        try:
            if model is None:
                server = oip.ServerReadyRequest()
                return (await self._call(self._stub.ServerReady, server, deadline)).ready
            request = oip.ModelReadyRequest(name=model, version=version)
            return (await self._call(self._stub.ModelReady, request, deadline)).ready
        except Unavailable:
            return False

    async def close(self) -> None:
        """Close the connection, unless it was given as a channel; calls in flight are cancelled."""
        if self._is_owner:
            await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _leave_to_parent(self) -> object:
        """In a forked child: this client's connection is the parent's."""
        inherited: Any = Inherited()
        left = (self._channel, self._stub, self._infer)
        self._channel = self._stub = self._infer = inherited
        self._is_owner = False
        return left

    def __repr__(self) -> str:
        return f"<AsyncClient {self._target}>"

    async def _send(self, ask: Ask, form: Form, deadline: float) -> Prediction:
        payload = self._session.encode(ask, form)
        return await self._ask(ask, form, payload, deadline, self._hedge_after_s)

    async def _ask(
        self, ask: Ask, form: Form, payload: bytes, deadline: float, hedge_after_s: float | None
    ) -> Prediction:
        answer, trailing = await self._answered(
            payload, deadline, hedge_after_s, is_timed=ask.timings
        )
        return self._session.decode(ask, form, answer, trailing)

    async def _answered(
        self, payload: bytes, deadline: float, hedge_after_s: float | None, *, is_timed: bool
    ) -> tuple[bytes, Iterable[tuple[str, str | bytes]] | None]:
        """The bytes of an answer, and for a timed request what came behind it."""
        if not is_timed and hedge_after_s is None:
            return await self._call(self._infer, payload, deadline), None
        metadata = self._timed_metadata if is_timed else self._metadata
        try:
            if hedge_after_s is None:
                call = self._infer(payload, timeout=left_s(deadline), metadata=metadata)
                answer = await call
            else:
                answer, call = await first_answer_aio(
                    lambda: self._infer(payload, timeout=left_s(deadline), metadata=metadata),
                    hedge_after_s,
                )
        except grpc.RpcError as error:
            raise error_of(error) from error
        return answer, await call.trailing_metadata()

    async def _learn(self, model: str, version: str, deadline: float) -> Form:
        request = oip.ModelMetadataRequest(name=model, version=version)
        answer = await self._call(self._stub.ModelMetadata, request, deadline)
        return self._session.learn(model, version, answer)

    async def _relearn(self, form: Form, ask: Ask, deadline: float) -> Form | None:
        """The form the model has now; None where *form* was right, or the server does not say."""
        self._session.forget(ask.model, ask.version)
        try:
            now = await self._learn(ask.model, ask.version, deadline)
        except HeadraceClientError:
            # The error that made us ask says more.
            return None
        return None if now.metadata == form.metadata else now

    async def _finish(self, ask: Ask, form: Form, payload: bytes, deadline: float) -> Prediction:
        try:
            return await self._ask(ask, form, payload, deadline, None)
        except (InvalidArgument, NotFound):
            self._session.forget(ask.model, ask.version)
            raise

    async def _call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Answer]",
        request: _Request,
        deadline: float,
    ) -> _Answer:
        try:
            return await method(request, timeout=left_s(deadline), metadata=self._metadata)
        except grpc.RpcError as error:
            raise error_of(error) from error

    def _deadline_at(self, timeout: float | None) -> float:
        return deadline_at(timeout, self._timeout_s)

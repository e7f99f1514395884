"""Client: predictions from a headrace server, for threads.

Data becomes bytes in inputs.py and calls.py; here is only what is sent when, and how long it may
take. aio.py is the same for asyncio.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import grpc
import numpy.typing as npt

from headrace.oip import open_inference_pb2 as oip
from headrace.oip.inference_service_pb2_grpc import GRPCInferenceServiceStub
from headrace.timings import ASKED

from .calls import INFER_METHOD, Parameter
from .channel import DEFAULT_TARGET, DEFAULT_TIMEOUT_S, MESSAGE_BYTES_MAX
from .connection import connection_to
from .deadlines import check_seconds, deadline_at, left_s
from .errors import HeadraceClientError, InvalidArgument, NotFound, Unavailable, error_of
from .forks import Inherited, watch
from .futures import PredictionFuture
from .hedges import first_answer
from .inputs import Data, Form
from .many import IN_FLIGHT_MAX, as_completed, check_bounds, in_order, raising
from .security import Tls, call_metadata
from .session import AS_IS, Ask, Session, load_request
from .types import ModelMetadata, ModelStatus, Prediction, statuses_of

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


class Client:
    """A connection to a server. Safe from any thread; close it, or use it in a with statement.

    What a model takes is asked once per model and version; again when the server, or this client,
    finds that a request no longer fits, and when another version has answered.
    """

    def __init__(
        self,
        target: str | Sequence[str] | grpc.Channel = DEFAULT_TARGET,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        token: str | None = None,
        tls: bool | Tls | None = None,
        attempts_max: int = 1,
        hedge_after_s: float | None = None,
        wait_for_ready: bool = False,
    ) -> None:
        """Prepare a connection; nothing is sent before the first call.

        Args:
            target: "host:port", "host" (port 8001), either behind "grpcs://" for TLS, or a name
                that gRPC resolves, as "unix:path". Calls go in turn to every address that DNS
                has of it, or to all of a list. Or a channel, which others may use too: it is not
                closed here, and what says how to connect (limits, TLS, retries) is its own affair.
            timeout_s: How long a call may take where it does not say so itself: seconds above 0, at
                most a year. No call is without a deadline.
            message_bytes_max: The longest message that is sent or accepted.
            token: What the server knows us by, where it wants to.
            tls: Whether the connection is encrypted: True with the system's authorities, or a `Tls`
                with what differs; None leaves it to *target*.
            attempts_max: How often a prediction, or a question about a model, is sent at most (1 to
                5) where it ends as Unavailable, unless the server says not to. More than 1 may run
                a model twice for one call.
            hedge_after_s: Seconds after which a prediction is sent once more, for whichever answer
                comes first; None for never. It may run a model twice for one call. Not for `submit`
                and the streams, where requests wait behind each other by design.
            wait_for_ready: Whether a call waits for a server, as long as its timeout, rather than
                fail at once where none answers.

        Raises:
            ValueError: *target* is no address, *token* no token, a file of *tls* cannot be used, or
                a number is out of its range.
        """
        self._timeout_s = check_seconds("timeout_s", timeout_s)
        self._metadata = call_metadata(token)
        self._timed_metadata = (*(self._metadata or ()), ASKED)
        self._hedge_after_s = (
            None if hedge_after_s is None else check_seconds("hedge_after_s", hedge_after_s)
        )
        self._is_owner = not isinstance(target, grpc.Channel)
        if isinstance(target, grpc.Channel):
            self._target, self._channel = "a channel", target
        else:
            to = connection_to(
                target,
                tls=tls,
                message_bytes_max=message_bytes_max,
                attempts_max=attempts_max,
                wait_for_ready=wait_for_ready,
            )
            self._target, self._channel = to.target, to.open()
        self._stub = GRPCInferenceServiceStub(self._channel)
        # Bytes in, bytes out: the session does what a serialiser would.
        self._infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            INFER_METHOD, None, None
        )
        self._session = Session()
        watch(self, Client._leave_to_parent)

    def predict(
        self,
        model: str,
        data: Data,
        *,
        version: str = "",
        timeout: float | None = None,
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        request_id: str = "",
        timings: bool = False,
    ) -> Prediction:
        """Ask *model* for its answer to *data*.

        Args:
            model: The name it is served by.
            data: An array (the only input, or a matrix with a column per input), arrays or lists by
                name, a sequence of mappings (one per row), or a pandas DataFrame. Values are cast
                to the datatypes of the inputs where that is safe.
            version: A number, "@" and an alias, or empty for the version the name is served by.
            timeout: Seconds for the whole call; None for the client's.
            priority: How urgent it is among the requests for the model: 1 is the most, up to the
                model's `priority_levels`. None for the model's default.
            outputs: Names of the outputs wanted; None for all.
            parameters: Parameters of the request.
            request_id: What the prediction's `id` shall be.
            timings: Whether the prediction's `timings` shall say where its time went on the server.

        Raises:
            InputMismatch: *data* does not fit the model's inputs; it was not sent.
            HeadraceClientError: The call failed, in the class of its status.
            TypeError: *data* or a parameter is of a type that cannot be sent.
            ValueError: *timeout* is no number of seconds above 0.
        """
        deadline = self._deadline_at(timeout)
        ask = Ask(model, version, data, outputs, parameters, request_id, priority, timings)
        form = self._session.form(model, version)
        if form is None:
            return self._send(ask, self._learn(model, version, deadline), deadline)
        try:
            return self._send(ask, form, deadline)
        except (InvalidArgument, NotFound):
            changed = self._relearn(form, ask, deadline)
            if changed is None:
                raise
        return self._send(ask, changed, deadline)

    def submit(
        self,
        model: str,
        data: Data,
        *,
        version: str = "",
        timeout: float | None = None,
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        request_id: str = "",
        timings: bool = False,
    ) -> PredictionFuture:
        """Send what `predict` sends, and return before the answer.

        Many requests may be in flight; bounding them is the caller's part. The first for a model
        waits for its metadata. A request that fails because the model has changed is not repeated,
        but the next one fits. None is hedged: nobody waits for it who could send it once more.

        Raises:
            InputMismatch: *data* does not fit the model's inputs; it was not sent.
            HeadraceClientError: The model's metadata cannot be had.
            TypeError: *data* or a parameter is of a type that cannot be sent.
            ValueError: *timeout* is no number of seconds above 0.
        """
        deadline = self._deadline_at(timeout)
        ask = Ask(model, version, data, outputs, parameters, request_id, priority, timings)
        form = self._session.form(model, version) or self._learn(model, version, deadline)
        try:
            payload = self._session.encode(ask, form)
        except InvalidArgument:
            changed = self._relearn(form, ask, deadline)
            if changed is None:
                raise
            form = changed
            payload = self._session.encode(ask, form)
        metadata = self._timed_metadata if timings else self._metadata
        call = self._infer.future(payload, timeout=left_s(deadline), metadata=metadata)
        return PredictionFuture(
            call,
            decode=lambda answer: self._session.decode(
                ask, form, answer, call.trailing_metadata() if timings else None
            ),
            on_error=lambda error: self._forget(ask, error),
        )

    @overload
    def predict_many(
        self,
        model: str,
        items: Iterable[Data],
        *,
        in_flight_max: int = IN_FLIGHT_MAX,
        errors: Literal["raise"] = "raise",
        version: str = "",
        timeout: float | None = None,
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> Iterator[Prediction]: ...
    @overload
    def predict_many(
        self,
        model: str,
        items: Iterable[Data],
        *,
        in_flight_max: int = IN_FLIGHT_MAX,
        errors: Literal["yield"],
        version: str = "",
        timeout: float | None = None,
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> Iterator[Prediction | HeadraceClientError]: ...
    def predict_many(
        self,
        model: str,
        items: Iterable[Data],
        *,
        in_flight_max: int = IN_FLIGHT_MAX,
        errors: Literal["raise", "yield"] = "raise",
        version: str = "",
        timeout: float | None = None,
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> Iterator[Prediction] | Iterator[Prediction | HeadraceClientError]:
        """What *model* answers to each of *items*, in their order, with several in flight at once.

        Whoever leaves the loop cancels what is in flight. Requests are those of `submit`.

        Args:
            model: The name it is served by.
            items: What `predict` takes, one request each; taken as there is room, so it may be
                endless.
            in_flight_max: Requests that have been sent and not been answered, at most.
            errors: "raise" ends with the first error, at its item's turn; "yield" gives the error
                in place of that item's prediction, and goes on.
            version: As for `predict`, and so are the others; *timeout* is of each request.
            timeout: Seconds for each request.
            priority: Of each request.
            outputs: Of each request.
            parameters: Of each request.

        Raises:
            HeadraceClientError: As *errors* says.
            TypeError: An item or a parameter is of a type that cannot be sent.
            ValueError: *in_flight_max* is below one, or *timeout* no number of seconds.
        """
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
        outcomes = in_order(send, items, in_flight_max)
        return raising(outcomes) if errors == "raise" else outcomes

    def predict_as_completed(
        self,
        model: str,
        items: Iterable[Data],
        *,
        in_flight_max: int = IN_FLIGHT_MAX,
        version: str = "",
        timeout: float | None = None,
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> Iterator[tuple[int, Prediction | HeadraceClientError]]:
        """The place of each of *items* and its prediction or error, the first to end first.

        Arguments are those of `predict_many`; an error never ends the loop.

        Raises:
            TypeError: An item or a parameter is of a type that cannot be sent.
            ValueError: *in_flight_max* is below one, or *timeout* no number of seconds.
        """
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
        return as_completed(send, items, in_flight_max)

    def infer(
        self,
        model: str,
        tensors: Mapping[str, npt.ArrayLike],
        *,
        version: str = "",
        timeout: float | None = None,
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        request_id: str = "",
        timings: bool = False,
    ) -> Prediction:
        """Ask *model* with named arrays as they are: nothing is asked first, cast or checked.

        The way for models without a signature, and to leave out optional inputs. Arguments are
        those of `predict`.

        Raises:
            InputMismatch: No datatype carries an array; nothing was sent.
            HeadraceClientError: The call failed, in the class of its status.
            TypeError: A parameter is of a type that cannot be sent.
            ValueError: *timeout* is no number of seconds above 0.
        """
        ask = Ask(model, version, tensors, outputs, parameters, request_id, priority, timings)
        return self._send(ask, AS_IS, self._deadline_at(timeout))

    def exchange(
        self,
        payload: bytes,
        *,
        timeout: float | None = None,
    ) -> bytes:
        """Send the bytes of a ModelInferRequest as they are, for those of its answer.

        What stubs are built on: see `headrace stub`.

        Args:
            payload: The request.
            timeout: Seconds for the whole call; None for the client's.

        Raises:
            HeadraceClientError: The call failed, in the class of its status.
            ValueError: *timeout* is no number of seconds above 0.
        """
        return self._answered(payload, self._deadline_at(timeout), is_timed=False)[0]

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """What *model* is and takes, as the server says now.

        Raises:
            HeadraceClientError: The call failed; NotFound for a model that is not served.
        """
        return self._learn(model, version, self._deadline_at(None)).metadata

    def models(self) -> tuple[ModelStatus, ...]:
        """Every model version that the server holds, ready or not.

        Raises:
            HeadraceClientError: The call failed; Unimplemented where a server keeps no list.
        """
        request = oip.RepositoryIndexRequest()
        return statuses_of(self._call(self._stub.RepositoryIndex, request, self._deadline_at(None)))

    def load(self, model: str, uri: str = "", *, timeout: float | None = None) -> None:
        """Have the server load *model*, and wait until it is ready; requests go on meanwhile.

        A name that is served moves to what its URI stands for now, as where an alias has moved.

        Args:
            model: The name to serve it by.
            uri: What to load, as "models:/iris/3"; a path is one of the server's. Empty for the URI
                that the name was loaded from, else for the registered model of that name.
            timeout: Seconds to wait, None for the client's; the server goes on loading after it. A
                large model may want more than the client's.

        Raises:
            HeadraceClientError: It was not loaded, and the name serves what it did; or the call
                failed otherwise, in the class of its status.
            ValueError: *timeout* is no number of seconds above 0.
        """
        request = load_request(model, uri)
        try:
            self._call(self._stub.RepositoryModelLoad, request, self._deadline_at(timeout))
        finally:
            self._session.forget_all(model)

    def unload(self, model: str, *, timeout: float | None = None) -> None:
        """Have the server answer what it has accepted for *model*, then free it; waits for that.

        Args:
            model: The name it is served by.
            timeout: Seconds to wait, None for the client's; the server goes on after it.

        Raises:
            HeadraceClientError: The call failed; NotFound for a model that the server never held.
            ValueError: *timeout* is no number of seconds above 0.
        """
        request = oip.RepositoryModelUnloadRequest(model_name=model)
        self._call(self._stub.RepositoryModelUnload, request, self._deadline_at(timeout))

    def ready(self, model: str | None = None, version: str = "") -> bool:
        """Whether *model*, or without one the server, can be asked now; False if nobody answers.

        Raises:
            HeadraceClientError: The call failed for another reason.
        """
        deadline = self._deadline_at(None)
        try:
            if model is None:
                server = oip.ServerReadyRequest()
                return self._call(self._stub.ServerReady, server, deadline).ready
            request = oip.ModelReadyRequest(name=model, version=version)
            return self._call(self._stub.ModelReady, request, deadline).ready
        except Unavailable:
            return False

    def close(self) -> None:
        """Close the connection, unless it was given; calls in flight end as Cancelled."""
        if self._is_owner:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _leave_to_parent(self) -> object:
        """In a forked child: this client's connection is the parent's."""
        inherited: Any = Inherited()
        left = (self._channel, self._stub, self._infer)
        self._channel = self._stub = self._infer = inherited
        self._is_owner = False
        return left

    def __repr__(self) -> str:
        return f"<Client {self._target}>"

    def _send(self, ask: Ask, form: Form, deadline: float) -> Prediction:
        payload = self._session.encode(ask, form)
        answer, trailing = self._answered(payload, deadline, is_timed=ask.timings)
        return self._session.decode(ask, form, answer, trailing)

    def _answered(
        self, payload: bytes, deadline: float, *, is_timed: bool
    ) -> tuple[bytes, Iterable[tuple[str, str | bytes]] | None]:
        """The bytes of an answer, and for a timed request what came behind it."""
        if not is_timed and self._hedge_after_s is None:
            return self._call(self._infer, payload, deadline), None
        metadata = self._timed_metadata if is_timed else self._metadata
        call: grpc.Call
        try:
            if self._hedge_after_s is None:
                answer, call = self._infer.with_call(
                    payload, timeout=left_s(deadline), metadata=metadata
                )
            else:
                answer, call = first_answer(
                    lambda: self._infer.future(
                        payload, timeout=left_s(deadline), metadata=metadata
                    ),
                    self._hedge_after_s,
                )
        except grpc.RpcError as error:
            raise error_of(error) from error
        return answer, call.trailing_metadata()

    def _learn(self, model: str, version: str, deadline: float) -> Form:
        request = oip.ModelMetadataRequest(name=model, version=version)
        answer = self._call(self._stub.ModelMetadata, request, deadline)
        return self._session.learn(model, version, answer)

    def _relearn(self, form: Form, ask: Ask, deadline: float) -> Form | None:
        """The form the model has now; None where *form* was right, or the server does not say."""
        self._session.forget(ask.model, ask.version)
        try:
            now = self._learn(ask.model, ask.version, deadline)
        except HeadraceClientError:
            # The error that made us ask says more.
            return None
        return None if now.metadata == form.metadata else now

    def _forget(self, ask: Ask, error: HeadraceClientError) -> None:
        if isinstance(error, InvalidArgument | NotFound):
            self._session.forget(ask.model, ask.version)

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Request, _Answer]",
        request: _Request,
        deadline: float,
    ) -> _Answer:
        try:
            return method(request, timeout=left_s(deadline), metadata=self._metadata)
        except grpc.RpcError as error:
            raise error_of(error) from error

    def _deadline_at(self, timeout: float | None) -> float:
        return deadline_at(timeout, self._timeout_s)

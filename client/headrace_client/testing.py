"""Testing: a server for tests of callers, in their own process, that holds to a signature.

    def answer(inputs):
        return {"label": np.zeros(len(inputs["sepal_length"]), np.int64)}

    with FakeServer() as server:
        server.serve("iris", signature, answer)
        with Client(server.target) as client:
            client.predict("iris", row)

It listens on a free local port, so what is tested connects as it does in production, with any
client. Requests are checked as headrace checks them; answers are checked against the declared
outputs, so that a test cannot rely on what the model does not give.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeAlias

import grpc
import numpy as np

from headrace.cells import CellError, read_cell
from headrace.datatypes import BYTES, DATATYPES, EXACT_INTEGER_MAX, datatype_of
from headrace.elements import TensorError
from headrace.jsontext import write_json
from headrace.metadata import tell_signature
from headrace.nulls import mask_name
from headrace.oip import open_inference_pb2 as oip
from headrace.parameters import fill_parameters
from headrace.signature import Given, Signature, SignatureMismatch, TensorSpec, common_rows
from headrace.tensors import decode, encode
from headrace.typed import SIGNATURE_KEY, SIGNATURE_PARAMETER, drift

from .channel import MESSAGE_BYTES_MAX
from .errors import (
    FailedPrecondition,
    HeadraceClientError,
    Internal,
    InvalidArgument,
    NotFound,
)
from .signatures import signature_from_metadata, signature_from_mlflow
from .types import Array, ModelMetadata

# Takes the inputs by name, and the signature's parameters as keywords; gives the outputs by name,
# or the only one.
Answer: TypeAlias = Callable[..., Any]

_SERVICE: Final = "inference.GRPCInferenceService"
# Parameters of the protocol's, which no model sees.
_PROTOCOL_PARAMETERS: Final = {"priority", "timeout"}
_TOLERATED: Final = {
    *("content_type", "headers", "binary_data", "binary_data_output", "binary_data_size"),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that the fake took.

    Attributes:
        model: The name it was for.
        inputs: What the answer was made from.
        parameters: Those of the signature, completed by their defaults.
    """

    model: str
    inputs: Mapping[str, Array]
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Model:
    signature: Signature
    answer: Answer
    version: str


class FakeServer:
    """Models made of a signature and a function. Safe from any thread; close it, or use `with`.

    Attributes:
        target: Where it listens, for any client.
        asked: Every request that fitted its model, in the order in which they came.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._models: dict[str, _Model] = {}
        self._errors: deque[HeadraceClientError] = deque()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="fake")
        limits = [
            (f"grpc.max_{way}_message_length", MESSAGE_BYTES_MAX) for way in ("send", "receive")
        ]
        self._server = grpc.server(self._threads, options=limits)
        methods: dict[str, Callable[[Any], Any]] = {
            "ServerLive": lambda _: oip.ServerLiveResponse(live=True),
            "ServerReady": lambda _: oip.ServerReadyResponse(ready=True),
            "ModelReady": lambda ask: oip.ModelReadyResponse(ready=ask.name in self._models),
            "ModelMetadata": self._metadata,
            "RepositoryIndex": self._index,
            "ModelInfer": self._infer,
        }
        handlers = {name: _handler(name, method) for name, method in methods.items()}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, handlers),)
        )
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def serve(
        self,
        model: str,
        signature: Signature | ModelMetadata | Mapping[str, Any],
        answer: Answer,
        *,
        version: str = "1",
    ) -> None:
        """Serve *answer* as *model*; another model of that name is replaced.

        Args:
            model: The name it is served by.
            signature: What it takes and gives: by hand, as `Client.metadata` told it, or the
                `signature` entry of an MLmodel file.
            answer: Called with the inputs by name, in the declared types: text as str, instants as
                datetime64[ns], arrays and objects as Python's own; what is missing is NaN, NaT, or
                None in an array of objects. Parameters of the signature come as keywords. An error
                of the client that it raises is what the caller gets; any other error is INTERNAL.
            version: The version it answers as.

        Raises:
            ValueError: *signature* is none.
        """
        if isinstance(signature, ModelMetadata):
            signature = signature_from_metadata(signature)
        elif not isinstance(signature, Signature):
            signature = signature_from_mlflow(signature)
        self._models[model] = _Model(signature, answer, version)

    def fail_next(self, *errors: HeadraceClientError) -> None:
        """End the next predictions with *errors*, one each, such as `Unavailable("draining")`."""
        self._errors.extend(errors)

    def close(self) -> None:
        """End it; calls in flight are cancelled."""
        self._server.stop(grace=None).wait()
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FakeServer {self.target}: {', '.join(self._models) or 'no models'}>"

    def _find(self, name: str, version: str) -> _Model:
        model = self._models.get(name)
        if model is None:
            raise NotFound(f"no model {name!r} is served: expected one of {list(self._models)}")
        if version not in {"", model.version}:
            raise NotFound(f"model {name!r} has version {model.version}, not {version!r}")
        return model

    def _metadata(self, ask: oip.ModelMetadataRequest) -> oip.ModelMetadataResponse:
        model = self._find(ask.name, ask.version)
        told = oip.ModelMetadataResponse(
            name=ask.name, versions=[model.version], platform="headrace_fake"
        )
        tell_signature(told, model.signature)
        return told

    def _index(self, _: oip.RepositoryIndexRequest) -> oip.RepositoryIndexResponse:
        index = oip.RepositoryIndexResponse()
        for name, model in self._models.items():
            index.models.add(name=name, version=model.version, state="READY")
        return index

    def _infer(self, ask: oip.ModelInferRequest) -> oip.ModelInferResponse:
        with self._lock:
            if self._errors:
                raise self._errors.popleft()
        model = self._find(ask.model_name, ask.model_version)
        _check_signature(model, ask)
        try:
            inputs, rows = _inputs(model.signature, ask)
            parameters = _parameters(model.signature, ask)
            wanted = _wanted(model.signature, ask)
        except (SignatureMismatch, TensorError, CellError) as error:
            raise InvalidArgument(f"model {ask.model_name!r}: {error}") from None
        self.asked.append(Asked(ask.model_name, inputs, parameters))
        outputs = _outputs(model, ask.model_name, model.answer(inputs, **parameters), rows)
        answer = oip.ModelInferResponse(
            model_name=ask.model_name, model_version=model.version, id=ask.id
        )
        for name in wanted or outputs:
            datatype, array = outputs[name]
            answer.outputs.add(name=name, datatype=datatype, shape=array.shape)
            answer.raw_output_contents.append(bytes(encode(array, DATATYPES[datatype])))
        return answer


def _handler(name: str, method: Callable[[Any], Any]) -> Any:
    def answer(ask: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(ask)
        except HeadraceClientError as error:
            _abort(context, error)
        except Exception as error:  # noqa: BLE001 - whatever a test's function raises.
            _abort(context, Internal(f"{type(error).__name__}: {error}"))

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=getattr(oip, f"{name}Request").FromString,
        response_serializer=getattr(oip, f"{name}Response").SerializeToString,
    )


def _abort(context: grpc.ServicerContext, error: HeadraceClientError) -> NoReturn:
    context.abort(grpc.StatusCode[error.code], error.message)
    raise AssertionError("abort raises")


def _check_signature(model: _Model, ask: oip.ModelInferRequest) -> None:
    """Whether a caller that says what it was made for, as a generated client does, still fits."""
    if SIGNATURE_PARAMETER not in ask.parameters:
        return
    try:
        changed = drift(ask.parameters[SIGNATURE_PARAMETER].string_param, model.signature)
    except ValueError as error:
        raise InvalidArgument(f"{SIGNATURE_KEY}: {error}") from None
    if not changed.is_compatible:
        raise FailedPrecondition(
            f"model {ask.model_name!r} version {model.version} has another signature than the "
            f"caller was made for: {changed}"
        )


def _inputs(
    signature: Signature, ask: oip.ModelInferRequest
) -> tuple[dict[str, Array], int | None]:
    """What the model is given, by name, and its number of rows; None where these differ."""
    if len(ask.raw_input_contents) != len(ask.inputs):
        raise SignatureMismatch(
            f"expected {len(ask.inputs)} raw inputs, one per input, got "
            f"{len(ask.raw_input_contents)}; the fake reads no typed contents"
        )
    given = [Given(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in ask.inputs]
    if not signature.inputs:
        return {
            tensor.name: decode(raw, DATATYPES[tensor.datatype], tensor.shape)
            for tensor, raw in zip(given, ask.raw_input_contents, strict=True)
        }, common_rows(given)
    fit = signature.fit(given)
    arrays = [
        decode(raw, DATATYPES[tensor.datatype], tensor.shape)
        for tensor, raw in zip(given, ask.raw_input_contents, strict=True)
    ]
    masks = {given[at].name: arrays[at].reshape(-1) for at in fit.masks}
    inputs = {}
    for spec, at in zip(signature.inputs, fit.order, strict=True):
        mask = masks.get(mask_name(spec.name))
        if at < 0:
            if mask is not None:
                inputs[spec.name] = _nothing_of(spec, mask)
            continue
        array = arrays[at]
        if at in fit.exact and (np.abs(array.astype(np.float64)) > EXACT_INTEGER_MAX).any():
            raise SignatureMismatch(f"input {spec.name!r}: expected integers up to 2**53")
        inputs[spec.name] = _as_declared(spec, array, mask)
    return inputs, fit.rows


def _as_declared(spec: TensorSpec, array: Array, mask: Array | None) -> Array:
    """An input in the type and shape that its declaration says, with nulls where *mask* is true."""
    if spec.is_column:
        array = array.reshape(len(array))
    if spec.datatype != BYTES.name:
        array = array.astype(DATATYPES[spec.datatype].dtype, copy=False)
        if spec.kind == "datetime":
            array = array.view("datetime64[ns]")
        return array if mask is None or not mask.any() else _with_nulls(array, mask)
    items = array.tolist()
    nulls = [False] * len(items) if mask is None else mask.tolist()
    if spec.kind in {"string", "json"}:
        try:
            items = [
                b"" if null else item.decode() for item, null in zip(items, nulls, strict=True)
            ]
        except UnicodeDecodeError:
            raise SignatureMismatch(f"input {spec.name!r}: expected text in UTF-8") from None
    is_json = spec.kind == "json"
    made = np.empty(len(items), object)
    for at, (item, null) in enumerate(zip(items, nulls, strict=True)):
        if not null:
            made[at] = read_cell(item, spec) if is_json else item
    return made


def _nothing_of(spec: TensorSpec, mask: Array) -> Array:
    """A column that has no value in any row."""
    if not mask.all():
        raise SignatureMismatch(
            f"input {mask_name(spec.name)!r}: expected true in every row, since input "
            f"{spec.name!r} is not there"
        )
    zeros = np.zeros(len(mask), "datetime64[ns]" if spec.kind == "datetime" else _dtype_of(spec))
    return _with_nulls(zeros, mask)


def _with_nulls(array: Array, mask: Array) -> Array:
    """NaN among numbers, NaT among instants, None among anything else."""
    kind = array.dtype.kind
    made = array.astype(array.dtype if kind in "fM" else object)
    made[mask] = {"f": np.nan, "M": np.datetime64("NaT", "ns")}.get(kind)
    return made


def _dtype_of(spec: TensorSpec) -> np.dtype[Any]:
    return DATATYPES[spec.datatype].dtype


def _parameters(signature: Signature, ask: oip.ModelInferRequest) -> dict[str, Any]:
    known = {param.name for param in signature.params}
    given = {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
        for name, value in ask.parameters.items()
    }
    expected = known | _PROTOCOL_PARAMETERS
    for name in given:
        if name not in expected | _TOLERATED | {SIGNATURE_PARAMETER}:
            raise SignatureMismatch(
                f"unknown parameter {name!r}: expected one of {sorted(expected)}"
            )
    return fill_parameters(signature.params, given)


def _wanted(signature: Signature, ask: oip.ModelInferRequest) -> list[str]:
    wanted = [output.name for output in ask.outputs]
    known = [spec.name for spec in signature.outputs]
    for name in wanted:
        if known and name not in known:
            raise SignatureMismatch(f"unknown output {name!r}, expected {known}")
    return wanted


def _outputs(
    model: _Model, name: str, given: Any, rows: int | None
) -> dict[str, tuple[str, Array]]:
    """Datatype and array of each output; what does not fit the signature is the test's mistake."""
    specs = model.signature.outputs
    if not isinstance(given, Mapping):
        if len(specs) > 1:
            raise Internal(
                f"the answer of {name!r}: expected {_names(specs)} by name, got one array"
            )
        given = {specs[0].name if specs else "output-0": given}
    if not specs:
        arrays = {output: _array(values) for output, values in given.items()}
        return {output: (datatype_of(one.dtype).name, one) for output, one in arrays.items()}
    if set(given) != {spec.name for spec in specs}:
        raise Internal(f"the answer of {name!r}: expected {_names(specs)}, got {list(given)}")
    return {
        spec.name: (spec.datatype, _declared_output(spec, name, given[spec.name], rows))
        for spec in specs
    }


def _declared_output(spec: TensorSpec, model: str, values: Any, rows: int | None) -> Array:
    where = f"the answer of {model!r}, output {spec.name!r}"
    if spec.kind == "json":
        cells = list(values)
        array = np.empty(len(cells), object)
        array[:] = [write_json(cell) for cell in cells]
    else:
        array = _array(values)
    if spec.kind == "datetime" and array.dtype.kind == "M":
        array = array.astype("datetime64[ns]").view(np.int64)
    target = DATATYPES[spec.datatype].dtype
    if spec.datatype == BYTES.name:
        fits = array.dtype.kind in "OSU"
    else:
        fits = np.can_cast(array.dtype, target, "same_kind")
    if not fits:
        raise Internal(f"{where}: expected {spec.datatype}, got {array.dtype.name}")
    if spec.is_column and array.ndim == 2 and array.size == len(array):
        array = array.reshape(-1)
    is_counted = rows is not None and spec.shape[:1] == (-1,)
    expected = (rows, *spec.shape[1:]) if is_counted else spec.shape
    if len(array.shape) != len(expected) or any(
        want not in (-1, size) for want, size in zip(expected, array.shape, strict=True)
    ):
        raise Internal(f"{where}: expected shape {list(expected)}, got {list(array.shape)}")
    return array if spec.datatype == BYTES.name else array.astype(target, copy=False)


def _array(values: Any) -> Array:
    array = np.asarray(values)
    # numpy's own types for text cut zeros from the end.
    return np.asarray(values, object) if array.dtype.kind in "SU" else array


def _names(specs: tuple[TensorSpec, ...]) -> str:
    return str([spec.name for spec in specs])

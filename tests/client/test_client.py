"""The client against a double of the server, over a real socket."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import grpc
import numpy as np
import pytest

import headrace_client
import oip_double
from headrace_client import (
    Cancelled,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    HeadraceClientError,
    InputMismatch,
    Internal,
    InvalidArgument,
    ModelStatus,
    NotFound,
    PermissionDenied,
    Prediction,
    PredictionFuture,
    ResourceExhausted,
    TensorSpec,
    Timings,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from oip_double import Double, ServedModel, Tensors

ROW = np.array([[5.1, 3.5, 1.4, 0.2]])


@pytest.fixture
def double() -> Iterator[Double]:
    models = {
        "iris": oip_double.iris(),
        "doubler": oip_double.doubler(),
        "greeter": oip_double.greeter(),
    }
    with oip_double.serving(models) as double:
        yield double


@pytest.fixture
def client(double: Double) -> Iterator[Client]:
    with Client(double.target, timeout_s=20) as client:
        yield client


def test_a_channel_of_the_callers_is_used_and_stays_open(double: Double) -> None:
    with grpc.insecure_channel(double.target) as channel:
        with Client(channel, timeout_s=20) as client:
            assert client.predict("iris", ROW)["longest"].tolist() == [0]
        with Client(channel, timeout_s=20) as client:
            assert client.predict("iris", ROW)["longest"].tolist() == [0]


def test_a_matrix_becomes_columns_and_outputs_come_back_by_name(
    double: Double, client: Client
) -> None:
    prediction = client.predict("iris", np.vstack([ROW, 2 * ROW]))

    assert list(prediction) == ["longest", "total"]
    assert prediction["longest"].tolist() == [0, 0]
    np.testing.assert_allclose(prediction["total"], [10.2, 20.4])
    assert (prediction.model, prediction.version, prediction.id) == ("iris", "1", "")
    sent = oip_double.read_tensors(double.infer_requests[0])
    assert {name: array.tolist() for name, array in sent.items()} == {
        name: [ROW[0, i], 2 * ROW[0, i]] for i, name in enumerate(oip_double.IRIS_COLUMNS)
    }


def test_a_request_says_version_id_outputs_and_parameters(double: Double, client: Client) -> None:
    prediction = client.predict(
        "iris",
        ROW,
        version="1",
        outputs=["total"],
        parameters={"timeout": 5_000_000, "greedy": True},
        request_id="r1",
    )

    assert (list(prediction), prediction.id) == (["total"], "r1")
    (sent,) = double.infer_requests
    assert (sent.model_version, sent.id) == ("1", "r1")
    assert sent.parameters["timeout"].int64_param == 5_000_000
    assert sent.parameters["greedy"].bool_param


TOLD = '{"decode_ns": 5, "queue_ns": 7, "answer_ns": 1, "total_ns": 13, "batch_rows": 4}'
TIMINGS = Timings({"decode": 5, "queue": 7, "answer": 1}, 13, 4)


def test_a_caller_who_asks_is_told_where_the_time_went(double: Double) -> None:
    double.timings = TOLD
    caller = "shop"
    with Client(double.target, timeout_s=20, token=caller) as client:
        predicted = client.predict("iris", ROW, timings=True)
        inferred = client.infer("doubler", {"x": np.ones((1, 3), np.float32)}, timings=True)
        submitted = client.submit("iris", ROW, timings=True).result()
        not_asked = client.predict("iris", ROW)

    assert predicted.timings == inferred.timings == submitted.timings == TIMINGS
    assert not_asked.timings is None
    assert double.timings_asked == [True, True, True, False]
    assert set(double.authorizations) == {"Bearer shop"}


def test_a_server_that_tells_no_timings_is_no_error(client: Client) -> None:
    assert client.predict("iris", ROW, timings=True).timings is None


def test_a_call_that_asks_for_timings_fails_like_any_other(double: Double, client: Client) -> None:
    client.predict("iris", ROW)
    double.failures = [(grpc.StatusCode.UNAVAILABLE, "draining")]

    with pytest.raises(Unavailable, match="draining"):
        client.predict("iris", ROW, timings=True)


def test_a_priority_is_a_parameter_beside_the_others(double: Double, client: Client) -> None:
    client.predict("iris", ROW, priority=2, parameters={"greedy": True})
    client.infer("doubler", {"x": np.ones((1, 3), np.float32)}, priority=1)
    client.submit("iris", ROW, priority=0).result()
    client.predict("iris", ROW)

    sent = [dict(request.parameters) for request in double.infer_requests]
    assert [{name: value.int64_param for name, value in given.items()} for given in sent] == [
        {"priority": 2, "greedy": 0},
        {"priority": 1},
        {"priority": 0},
        {},
    ]
    assert sent[0]["greedy"].bool_param


def test_text_goes_out_and_comes_back(client: Client) -> None:
    rows = [{"name": "Ann", "age": 30, "is_new": True}, {"name": "Bo", "age": 4, "is_new": False}]

    assert client.predict("greeter", rows).strings().tolist() == ["hi Ann", "hi Bo"]


def test_named_tensors_are_sent_as_they_are_without_asking_for_metadata(
    double: Double, client: Client
) -> None:
    double.models["free"] = ServedModel((), lambda tensors: {"y": tensors["x"]})
    x = np.arange(4, dtype=np.int16).reshape(2, 2)

    prediction = client.infer("free", {"x": x}, request_id="7")

    np.testing.assert_array_equal(prediction.array, x)
    assert prediction.array.dtype == np.int16
    assert prediction.id == "7"
    assert double.metadata_asked == []


def test_a_model_without_a_signature_takes_arrays_by_name(double: Double, client: Client) -> None:
    double.models["free"] = ServedModel((), lambda tensors: {"y": tensors["x"]})

    assert client.predict("free", {"x": [1, 2]}).array.tolist() == [1, 2]
    with pytest.raises(InputMismatch, match="expected arrays by name"):
        client.predict("free", ROW)


def test_metadata_is_asked_once_per_model_and_version(double: Double, client: Client) -> None:
    for _ in range(3):
        client.predict("iris", ROW)
        client.predict("iris", ROW, version="1")
        client.submit("iris", ROW).result()

    assert double.metadata_asked == [("iris", ""), ("iris", "1")]


def test_more_models_than_are_remembered_can_be_asked(double: Double, client: Client) -> None:
    names = [f"m{i}" for i in range(300)]
    double.models |= dict.fromkeys(names, oip_double.doubler())

    for name in names:
        assert client.predict(name, np.ones((1, 3))).model == name


def test_data_that_does_not_fit_is_never_sent(double: Double, client: Client) -> None:
    with pytest.raises(InputMismatch, match="input 'sepal_width'"):
        client.predict("iris", {"sepal_length": [5.1]})

    assert double.infer_requests == []


def narrower_iris() -> ServedModel:
    """Iris after a change of its signature: FP32 instead of FP64."""
    old = oip_double.iris()
    inputs = tuple(replace(spec, datatype="FP32") for spec in old.inputs)
    return replace(old, inputs=inputs, version="2")


def fewer_columns() -> ServedModel:
    return ServedModel(
        (TensorSpec("petal_length", "FP64", (-1,)),),
        lambda tensors: {"y": tensors["petal_length"]},
        version="2",
    )


def test_a_request_is_repeated_once_when_the_server_has_changed_the_model(
    double: Double, client: Client
) -> None:
    client.predict("iris", ROW)
    double.models["iris"] = narrower_iris()

    assert client.predict("iris", ROW).version == "2"

    assert [request.inputs[0].datatype for request in double.infer_requests] == [
        "FP64",
        "FP64",
        "FP32",
    ]
    assert len(double.metadata_asked) == 2


@pytest.mark.parametrize("call", ["predict", "submit"])
def test_data_for_the_new_model_fits_once_the_old_metadata_refuses_it(
    double: Double, client: Client, call: str
) -> None:
    client.predict("iris", ROW)
    double.models["iris"] = fewer_columns()
    data = {"petal_length": [1.4]}

    answer = (
        client.predict("iris", data) if call == "predict" else client.submit("iris", data).result()
    )

    assert answer.array.tolist() == [1.4]
    assert len(double.infer_requests) == 2


def test_a_refusal_without_a_change_is_not_repeated(double: Double, client: Client) -> None:
    client.predict("iris", ROW)
    double.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "no")] * 2

    with pytest.raises(InvalidArgument, match="no"):
        client.predict("iris", ROW)

    assert len(double.failures) == 1
    assert len(double.metadata_asked) == 2


def test_a_request_is_repeated_at_most_once(double: Double, client: Client) -> None:
    client.predict("iris", ROW)
    double.models["iris"] = narrower_iris()
    double.failures = [
        (grpc.StatusCode.INVALID_ARGUMENT, "one"),
        (grpc.StatusCode.NOT_FOUND, "two"),
    ]

    with pytest.raises(NotFound, match="two"):
        client.predict("iris", ROW)

    assert len(double.infer_requests) == 3


def test_a_first_request_is_not_repeated(double: Double, client: Client) -> None:
    double.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "one")] * 2

    with pytest.raises(InvalidArgument, match="one"):
        client.predict("iris", ROW)

    assert len(double.failures) == 1
    assert len(double.metadata_asked) == 1


def test_a_model_that_is_gone_is_not_found_and_asked_again_when_it_is_back(
    double: Double, client: Client
) -> None:
    client.predict("iris", ROW)
    iris = double.models.pop("iris")
    with pytest.raises(NotFound, match="no model 'iris'"):
        client.predict("iris", ROW)
    double.models["iris"] = iris

    assert client.predict("iris", ROW).version == "1"


def test_an_answer_of_another_version_makes_the_client_ask_what_that_one_takes(
    double: Double, client: Client
) -> None:
    swapped = oip_double.iris()
    swapped = replace(swapped, inputs=swapped.inputs[::-1], version="2")
    client.predict("iris", ROW)
    double.models["iris"] = swapped
    client.predict("iris", ROW)
    client.predict("iris", ROW)

    assert len(double.metadata_asked) == 2
    assert double.infer_requests[-1].inputs[0].name == "petal_width"


STATUSES = [
    (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgument),
    (grpc.StatusCode.NOT_FOUND, NotFound),
    (grpc.StatusCode.FAILED_PRECONDITION, FailedPrecondition),
    (grpc.StatusCode.UNAVAILABLE, Unavailable),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, ResourceExhausted),
    (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
    (grpc.StatusCode.CANCELLED, Cancelled),
    (grpc.StatusCode.INTERNAL, Internal),
    (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
    (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
    (grpc.StatusCode.UNIMPLEMENTED, Unimplemented),
    (grpc.StatusCode.DATA_LOSS, HeadraceClientError),
    (grpc.StatusCode.ABORTED, HeadraceClientError),
]


@pytest.mark.parametrize(("status", "expected"), STATUSES)
def test_every_status_has_its_error(
    double: Double, client: Client, status: grpc.StatusCode, expected: type[HeadraceClientError]
) -> None:
    double.failures = [(status, "the reason")] * 3

    asks: tuple[Callable[[], Prediction], ...] = (
        lambda: client.predict("iris", ROW),
        lambda: client.infer("iris", {"x": ROW}),
        lambda: client.submit("iris", ROW).result(),
    )
    for ask in asks:
        with pytest.raises(HeadraceClientError) as caught:
            ask()
        assert type(caught.value) is expected
        assert (caught.value.code, caught.value.message) == (status.name, "the reason")
        assert str(caught.value) == f"{status.name}: the reason"
        assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_a_server_that_is_not_there_is_unavailable_and_not_ready() -> None:
    with oip_double.serving({}) as gone:
        target = gone.target
    with Client(target, timeout_s=20) as client:
        with pytest.raises(Unavailable):
            client.predict("iris", ROW)
        assert not client.ready()
        assert not client.ready("iris")


def test_readiness_is_the_servers_word(double: Double, client: Client) -> None:
    assert client.ready()
    assert client.ready("iris")
    assert not client.ready("nothing")
    double.is_ready = False
    assert not client.ready()


def test_metadata_says_what_a_model_takes(client: Client) -> None:
    metadata = client.metadata("doubler")

    assert (metadata.name, metadata.versions) == ("doubler", ("1",))
    assert metadata.inputs == (TensorSpec("x", "FP32", (-1, 3)),)
    assert metadata.outputs == (TensorSpec("y", "FP32", (-1, 3)),)
    with pytest.raises(NotFound):
        client.metadata("doubler", "9")


def test_models_are_listed_with_their_states(double: Double, client: Client) -> None:
    double.models = {"iris": oip_double.iris()}

    assert client.models() == (
        ModelStatus("iris", "1", "READY", ""),
        ModelStatus("broken", "1", "UNAVAILABLE", "no such file"),
    )


def test_what_a_server_tells_besides_a_models_state_is_listed_too(
    double: Double, client: Client
) -> None:
    told = replace(oip_double.iris(), rows=7, device="cpu", workers=("cpu-1", "cpu-2"))
    double.models = {"iris": told}

    assert client.models()[0] == ModelStatus(
        "iris", "1", "READY", "", device="cpu", workers=("cpu-1", "cpu-2"), rows=7
    )


def test_models_are_loaded_and_unloaded(double: Double, client: Client) -> None:
    client.load("iris")
    client.load("flowers", "models:/iris/3", timeout=20)
    client.unload("iris")

    assert double.loads == [("iris", ""), ("flowers", "models:/iris/3")]
    assert double.unloads == ["iris"]


def test_what_the_repository_refuses_is_told_in_the_class_of_its_status(
    double: Double, client: Client
) -> None:
    double.repository_failures = [
        (grpc.StatusCode.UNAVAILABLE, "the registry is away"),
        (grpc.StatusCode.NOT_FOUND, "no such model"),
    ]

    with pytest.raises(Unavailable, match="the registry is away"):
        client.load("iris")
    with pytest.raises(NotFound, match="no such model"):
        client.unload("iris")


def test_after_a_load_a_model_is_asked_again_what_it_takes(double: Double, client: Client) -> None:
    """Its columns may stand in another order, which a matrix would not tell."""
    client.predict("iris", ROW)
    old = double.models["iris"]
    double.models["iris"] = replace(old, inputs=old.inputs[::-1], version="2")

    client.load("iris")
    answer = client.predict("iris", ROW)

    assert answer["longest"].tolist() == [3], "the first column is the last input now"


def test_a_call_ends_at_its_timeout(double: Double, client: Client) -> None:
    client.predict("iris", ROW)
    double.is_holding = True

    with pytest.raises(DeadlineExceeded):
        client.predict("iris", ROW, timeout=0.05)
    with pytest.raises(DeadlineExceeded):
        client.submit("iris", ROW, timeout=0.05).result()


def test_many_requests_are_in_flight_at_once(double: Double, client: Client) -> None:
    all_are_there = threading.Barrier(5, timeout=20)

    def answer(tensors: Tensors) -> Tensors:
        all_are_there.wait()
        return {"y": tensors["x"]}

    double.models["doubler"] = replace(oip_double.doubler(), answer=answer)

    futures = [client.submit("doubler", np.full((1, 3), i)) for i in range(5)]

    assert [future.result().array[0, 0] for future in futures] == list(range(5))


def test_a_future_tells_when_it_is_done(double: Double, client: Client) -> None:
    client.predict("iris", ROW)
    double.is_holding = True
    future = client.submit("iris", ROW, request_id="f")
    told: list[PredictionFuture] = []
    done = threading.Event()

    def note(it: PredictionFuture) -> None:
        told.append(it)
        done.set()

    future.add_done_callback(note)

    assert not future.done()
    assert repr(future) == "<PredictionFuture pending>"
    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        future.result(timeout=0.01)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0.01)
    double.release.set()

    assert isinstance(future.result(), Prediction)
    assert future.result().id == "f"
    assert future.exception() is None
    assert future.done()
    assert done.wait(20)
    assert told == [future]
    assert repr(future) == "<PredictionFuture done>"


def test_a_cancelled_future_never_answers(double: Double, client: Client) -> None:
    client.predict("iris", ROW)
    double.is_holding = True
    future = client.submit("iris", ROW)

    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    assert isinstance(future.exception(), Cancelled)
    with pytest.raises(Cancelled):
        future.result()
    assert repr(future) == "<PredictionFuture cancelled>"


def test_a_future_that_failed_makes_the_next_request_ask_for_metadata(
    double: Double, client: Client
) -> None:
    client.predict("iris", ROW)
    double.models["iris"] = narrower_iris()

    assert isinstance(client.submit("iris", ROW).exception(), InvalidArgument)
    assert client.submit("iris", ROW).result().version == "2"


def test_data_that_does_not_fit_is_not_submitted(double: Double, client: Client) -> None:
    for _ in range(2):
        with pytest.raises(InputMismatch):
            client.submit("iris", {"sepal_length": [5.1]})

    assert double.infer_requests == []


def test_messages_over_the_limit_are_refused_both_ways(double: Double) -> None:
    wide = np.zeros((200, 3), np.float32)
    with Client(double.target, message_bytes_max=2000) as client:
        with pytest.raises(ResourceExhausted):
            client.predict("doubler", wide)
        assert double.infer_requests == []
        double.models["wide"] = ServedModel((), lambda tensors: {"y": wide})
        with pytest.raises(ResourceExhausted):
            client.infer("wide", {"x": np.zeros(1)})


def test_messages_of_many_megabytes_pass_by_default(double: Double, client: Client) -> None:
    x = np.random.default_rng(0).random((700_000, 3), np.float32)

    np.testing.assert_array_equal(client.predict("doubler", x).array, 2 * x)


def test_one_client_serves_many_threads(client: Client) -> None:
    answers: dict[int, list[float]] = {}

    def ask(i: int) -> None:
        for _ in range(20):
            answers[i] = client.predict("doubler", np.full((1, 3), i)).array.tolist()[0]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == {i: [2.0 * i] * 3 for i in range(6)}


def test_a_client_shows_where_it_connects_to() -> None:
    with Client("models.example.org") as client:
        assert repr(client) == "<Client models.example.org:8001>"


def test_the_package_exports_what_its_documents_name() -> None:
    assert sorted(headrace_client.__all__) == list(headrace_client.__all__)
    for name in headrace_client.__all__:
        assert getattr(headrace_client, name) is not None

"""Custom models through a running daemon: parameters, optional inputs, instants and JSON."""

import datetime as dt
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
import tritonclient.grpc as triton

import models
from headrace.oip import open_inference_pb2 as oip
from headrace.oip.inference_service_pb2_grpc import GRPCInferenceServiceStub
from headrace.signature import TensorSpec
from headrace_client import Client, InputMismatch, InvalidArgument
from serving import Daemon, untried

pytestmark = pytest.mark.slow

SERVED = {
    "py_weigher": "weigher",
    "py_from_code": "doubler",
    "py_hinted": "upper",
    "py_orders": "orders",
    "py_notes": "notes",
    "py_kinds": "kinds",
    "py_leaning": "leaning",
    "py_streaming": "streaming",
    "py_loader": "scaled",
    "py_loader_too": "scaled-too",
    "sk_params": "line",
}


@pytest.fixture(scope="module", name="daemon")
def _daemon(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Daemon]:
    store = tmp_path_factory.mktemp("custom")
    for name, registered in SERVED.items():
        models.log(name, store, registered)
    uri = models.tracking_uri(store)
    running = Daemon("--tracking-uri", uri, *untried(*SERVED.values()), cwd=store, cache=cache)
    running.wait("ready")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module", name="client")
def _client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.address) as client:
        yield client


def test_parameters_of_a_request_reach_the_model_and_defaults_fill_in(client: Client) -> None:
    rows = {"length": [1.0, 2.0], "count": [3, 4]}

    plain = client.predict("weigher", rows)
    given = client.predict(
        "weigher",
        rows,
        parameters={"scale": 10, "tags": ["x", "y"], "since": "2020-02-03T04:05:06"},
    )

    assert plain["total"].tolist() == [5.25, 8.25]
    assert plain.strings("label").tolist() == ["pa/b2024-01-02"] * 2
    assert given["total"].tolist() == [13.25, 24.25]
    assert given.strings("label").tolist() == ["px/y2020-02-03T04:05:06"] * 2


def test_parameters_of_one_caller_never_touch_another(client: Client) -> None:
    def ask(number: int) -> list[float]:
        scale = number % 3
        answer = client.predict(
            "weigher", {"length": [1.0], "count": [number]}, parameters={"scale": scale}
        )
        found: list[float] = answer["total"].tolist()
        return found

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(120)))

    assert answers == [[number % 3 + number + 0.25] for number in range(120)]


def test_metadata_tells_parameters_kinds_and_what_is_optional(client: Client) -> None:
    assert client.metadata("weigher").parameters == {
        "scale": 2.0,
        "prefix": "p",
        "tags": '["a", "b"]',
        "since": "2024-01-02",
    }
    array = '{"type": "array", "items": {"type": "double"}}'
    assert client.metadata("notes").inputs == (
        TensorSpec("size", "FP64", (-1,)),
        TensorSpec("note", "BYTES", (-1,), "string", optional=True),
        TensorSpec("rank", "INT64", (-1,), optional=True),
        TensorSpec("path", "BYTES", (-1,), "json", optional=True, schema=array),
    )
    kinds = {spec.name: spec.kind for spec in client.metadata("kinds").inputs}
    assert kinds == {
        "at": "datetime",
        "raw": "binary",
        "small": "tensor",
        "path": "json",
        "owner": "json",
        "flags": "json",
    }


def test_a_client_that_knows_the_standard_alone_reads_the_same_metadata(daemon: Daemon) -> None:
    with triton.InferenceServerClient(daemon.address) as client:
        metadata = client.get_model_metadata("notes")

    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
        ("size", "FP64", [-1]),
        ("note", "BYTES", [-1]),
        ("rank", "INT64", [-1]),
        ("path", "BYTES", [-1]),
    ]


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        (
            {"speed": 1},
            "unknown parameter 'speed': expected one of ['prefix', 'priority', 'scale', ",
        ),
        ({"scale": "fast"}, "parameter 'scale': expected double, got str"),
        ({"tags": 3}, "parameter 'tags': expected a JSON list of string as text, got int"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(
    client: Client, parameters: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        client.predict("weigher", {"length": [1.0], "count": [3]}, parameters=parameters)

    assert raised.value.message.startswith(f"model 'weigher': {why}")


def test_a_flavor_that_takes_no_parameters_ignores_them_as_mlflow_does(
    client: Client, daemon: Daemon
) -> None:
    answer = client.predict("line", [[3.0]], parameters={"scale": 5.0})

    np.testing.assert_allclose(answer.array, [6.0])
    assert [line["model"] for line in daemon.events("params_ignored")] == ["line"]
    with pytest.raises(InvalidArgument, match="parameter 'scale': expected double, got str"):
        client.predict("line", [[3.0]], parameters={"scale": "much"})


def test_a_type_hinted_function_and_a_model_from_code_answer(client: Client) -> None:
    assert client.predict("upper", ["oslo", "Łódź"]).strings().tolist() == ["OSLO", "ŁÓDŹ"]
    assert client.predict("doubler", [[1.0, 2.0], [3.0, 4.0]]).array.tolist() == [[2, 4], [6, 8]]


def test_pydantic_models_come_as_dicts_and_go_as_json(client: Client) -> None:
    answer = client.predict("orders", [{"item": "nut"}, {"item": "bolt", "count": 2}])

    assert answer.json() == [{"line": "1 nut", "n": 1}, {"line": "2 bolt", "n": 2}]


def test_optional_inputs_may_be_missing_in_every_form_of_data(client: Client) -> None:
    full = {"size": [1.0, 2.0], "note": ["a", "b"], "rank": [3, 4], "path": [[1.5], []]}
    told = ["size=1.0,note=a,rank=3,path=[1.5]", "size=2.0,note=b,rank=4,path=[]"]

    assert client.predict("notes", full).strings().tolist() == told
    assert client.predict("notes", pd.DataFrame(full)).strings().tolist() == told
    for data in (
        {"size": [1.0, 2.0]},
        pd.DataFrame({"size": [1.0, 2.0]}),
        [{"size": 1.0}, {"size": 2.0}],
    ):
        assert client.predict("notes", data).strings().tolist() == ["size=1.0", "size=2.0"]
    for data in (
        {"size": [1.0, 2.0], "note": None},
        pd.DataFrame({"size": [1.0, 2.0], "note": [None, None]}),
        [{"size": 1.0, "note": None}, {"size": 2.0}],
    ):
        told = client.predict("notes", data).strings().tolist()
        assert told == ["size=1.0,note=None", "size=2.0,note=None"]


def test_nulls_are_nan_among_floats_and_null_in_json(client: Client) -> None:
    answer = client.predict("notes", {"size": [None, 2.0], "path": [None, [1]]})

    assert answer.strings().tolist() == ["size=nan,path=None", "size=2.0,path=[1.0]"]


def test_integers_that_are_missing_are_refused_with_input_and_row(client: Client) -> None:
    for rank, row in (([1, None], 1), ([None, None], 0), (None, 0)):
        with pytest.raises(
            InputMismatch, match=f"input 'rank': .* no value in row {row}"
        ) as raised:
            client.predict("notes", {"size": [1.0, 2.0], "rank": rank})

        assert raised.value.input == "rank"


MOMENT = dt.datetime(2024, 5, 6, 7, 8, 9, 123456)  # noqa: DTZ001 - MLflow's have no time zone.


@pytest.mark.parametrize(
    "at",
    [
        [MOMENT],
        [pd.Timestamp(MOMENT)],
        np.array([MOMENT], "datetime64[us]"),
        pd.Series([MOMENT]),
        ["2024-05-06T07:08:09.123456"],
        [MOMENT.replace(tzinfo=dt.timezone(dt.timedelta(hours=2))) + dt.timedelta(hours=2)],
        [1_714_979_289_123_456_000],
    ],
    ids=lambda at: type(at[0] if isinstance(at, list) else at).__name__,
)
def test_instants_and_objects_arrive_as_what_they_are(client: Client, at: Any) -> None:
    frame = {
        "at": at.to_numpy() if isinstance(at, pd.Series) else at,
        "raw": [b"\x00\xff"],
        "small": [0.5],
        "path": [[1, 2.5]],
        "owner": [{"id": 3, "seen": "2024-01-01T00:00:00"}],
        "flags": [{"a": True}],
    }

    (told,) = client.predict("kinds", frame).json()

    assert told["at"] == "2024-05-06T07:08:09.123456"
    assert (told["raw"], told["path"], told["flags"]) == ("00ff", [1.0, 2.5], {"a": True})
    assert told["owner"] == {"id": 3, "seen": "2024-01-01T00:00:00"}
    assert told["kinds"]["at"] == "Timestamp"


def raw_kinds(**cells: bytes) -> list[triton.InferInput]:
    given = {
        "at": np.array([0], np.int64),
        "raw": np.array([b"r"], object),
        "small": np.array([0.5], np.float32),
        "path": np.array([cells.get("path", b"[1.5]")], object),
        "owner": np.array(
            [cells.get("owner", b'{"id": 1, "seen": "2024-01-01T00:00:00"}')], object
        ),
        "flags": np.array([cells.get("flags", b"{}")], object),
    }
    inputs = []
    for name, array in given.items():
        datatype = {"at": "INT64", "small": "FP32"}.get(name, "BYTES")
        inputs.append(triton.InferInput(name, array.shape, datatype))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def test_another_client_sends_json_as_bytes(daemon: Daemon) -> None:
    with triton.InferenceServerClient(daemon.address) as client:
        answer = client.infer("kinds", raw_kinds(path=b"[1, 2]")).as_numpy("output-0")

    assert json.loads(answer[0])["path"] == [1.0, 2.0]
    assert json.loads(answer[0])["at"] == "1970-01-01T00:00:00"


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ({"path": b"[1"}, "input 'path': row 0: expected JSON, got text that is none"),
        ({"path": b"{}"}, "input 'path': row 0: expected array, got an object"),
        ({"path": b"null"}, "input 'path': row 0: expected array, got null"),
        ({"path": b"\xff"}, "input 'path': row 0: expected JSON, got bytes that are not UTF-8"),
        ({"owner": b"{}"}, "input 'owner': row 0: expected the property 'id', got an object with"),
        ({"flags": b'{"a": 1}'}, "input 'flags': row 0: expected boolean at '.a', got an integer"),
    ],
)
def test_a_bad_cell_is_refused_with_input_and_row(
    daemon: Daemon, cells: dict[str, bytes], why: str
) -> None:
    with (
        triton.InferenceServerClient(daemon.address) as client,
        pytest.raises(triton.InferenceServerException) as raised,
    ):
        client.infer("kinds", raw_kinds(**cells))

    assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert raised.value.message().startswith(why)


def test_a_bad_cell_costs_no_other_caller_its_answer(client: Client) -> None:
    """Requests are checked before they share a batch."""

    def ask(number: int) -> Any:
        path = "[1" if number % 5 == 0 else [number]
        try:
            return client.predict("notes", {"size": [0.5], "path": [path]}).strings().tolist()
        except InvalidArgument as error:
            return error.code

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(60)))

    assert answers == [
        "INVALID_ARGUMENT" if number % 5 == 0 else [f"size=0.5,path=[{number}.0]"]
        for number in range(60)
    ]


def test_text_that_is_none_is_refused_before_the_model_sees_it(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="input 'input-0': row 1: expected text, got bytes"):
        client.infer("upper", {"input-0": np.array([b"ok", b"\xff"], object)})


def test_a_missing_required_input_is_still_missing(client: Client) -> None:
    with pytest.raises(InputMismatch, match=r"input 'size': expected inputs"):
        client.predict("notes", {"note": ["a"]})
    with pytest.raises(InvalidArgument, match="missing input 'size'"):
        client.infer("notes", {"note": np.array(["a"], object)})


def test_a_model_whose_rows_depend_on_each_other_answers_each_request_alone(
    client: Client,
) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.predict("leaning", [[1.0]]).array, range(40)))

    assert [answer.tolist() for answer in answers] == [[0.0]] * 40
    assert client.predict("leaning", [[1.0], [3.0]]).array.tolist() == [-1.0, 1.0]


def test_modules_of_one_name_that_two_models_ship_do_not_meet(client: Client) -> None:
    assert client.predict("scaled", [[1.0]]).array.tolist() == [6.0]
    assert client.predict("scaled-too", [[1.0]]).array.tolist() == [15.0]


def test_a_model_that_only_streams_says_why_it_is_not_served(client: Client) -> None:
    (status,) = [one for one in client.models() if one.name == "streaming"]

    assert status.state == "UNAVAILABLE"
    assert status.reason.startswith("Streaming defines no predict: models that only stream")


def test_a_parameter_without_a_value_is_refused(daemon: Daemon) -> None:
    request = oip.ModelInferRequest(model_name="weigher")
    request.parameters["scale"].SetInParent()
    request.inputs.add(name="length", datatype="FP64", shape=[1]).contents.fp64_contents.append(1)
    request.inputs.add(name="count", datatype="INT64", shape=[1]).contents.int64_contents.append(1)
    with grpc.insecure_channel(daemon.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.ModelInfer(request, timeout=30)

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == "parameter 'scale': expected a value, got none"

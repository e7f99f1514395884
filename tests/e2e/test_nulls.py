"""Rows that lack values, through every door: what is answered is what MLflow answers to them."""

import asyncio
import datetime as dt
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import tritonclient.grpc as triton
from google.protobuf import json_format

import churn
from headrace.oip import open_inference_pb2 as oip
from headrace.oip.inference_service_pb2_grpc import GRPCInferenceServiceStub
from headrace.typed import service_name
from headrace_client import (
    AsyncClient,
    Client,
    InputMismatch,
    Internal,
    InvalidArgument,
)
from headrace_server.asking.connecting import Connection
from headrace_server.asking.predict import predict
from serving import Daemon, untried
from stub_calls import client_class, imported, written
from typed_calls import TypedCaller

pytestmark = pytest.mark.slow

Array = npt.NDArray[Any]
# Answers of these are sums of floats, which a batch may round otherwise.
CLOSE = 1e-6


@pytest.fixture(name="paths", scope="module")
def _paths(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return churn.save(tmp_path_factory.mktemp("churn"))


@pytest.fixture(name="direct", scope="module")
def _direct(paths: Mapping[str, str]) -> Mapping[str, Any]:
    """MLflow's own models."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            name: mlflow.pyfunc.load_model(path, suppress_warnings=True)
            for name, path in paths.items()
        }


@pytest.fixture(name="daemon", scope="module")
def _daemon(paths: Mapping[str, str], cache: Path) -> Iterator[Daemon]:
    uris = [f"{name}={path}" for name, path in paths.items()]
    running = Daemon(*uris, *untried(*paths), cwd=Path(paths["churn"]).parent, cache=cache)
    running.wait("ready")
    yield running
    assert running.stop() == 0


@pytest.fixture(name="client", scope="module")
def _client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.address) as client:
        yield client


def customers_of(name: str, *, rows: int = churn.ROWS, seed: int = 0) -> pd.DataFrame:
    made = churn.customers if name in churn.OF_CUSTOMERS else churn.numbers
    return made(rows, seed)


def values_of(answer: Any) -> Array:
    """What MLflow answers, as one array."""
    return answer.to_numpy() if isinstance(answer, pd.DataFrame) else np.asarray(answer)


def asked(answer: Any) -> Array:
    """What is served, as one array."""
    array: Array = answer.array
    return array


def check(served: Array, expected: Any) -> None:
    wanted = values_of(expected)
    np.testing.assert_allclose(served.reshape(wanted.shape), wanted, rtol=CLOSE, atol=CLOSE)


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as Python has them, with None for what is missing."""
    objects = frame.astype(object).where(frame.notna(), None)
    return [{str(name): value for name, value in row.items()} for _, row in objects.iterrows()]


def lists_of(frame: pd.DataFrame) -> dict[str, list[Any]]:
    rows = rows_of(frame)
    return {name: [row[name] for row in rows] for name in rows[0]}


FORMS: Mapping[str, Callable[[pd.DataFrame], Any]] = {
    "frame": lambda frame: frame,
    "lists": lists_of,
    "rows": rows_of,
    "nullable": lambda frame: frame.convert_dtypes(),
    "objects": lambda frame: frame.astype(object),
    "matrix": lambda frame: frame.astype(object).to_numpy(),
    "masked": lambda frame: {
        name: np.ma.MaskedArray(column.astype(object).to_numpy(), column.isna().to_numpy())
        for name, column in frame.items()
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*churn.OF_CUSTOMERS, *churn.OF_NUMBERS])
def test_the_client_answers_as_mlflow_does_to_the_same_rows(
    client: Client, direct: Mapping[str, Any], name: str, form: str
) -> None:
    frame = customers_of(name)

    check(asked(client.predict(name, FORMS[form](frame))), direct[name].predict(frame))


@pytest.mark.parametrize("name", [*churn.OF_CUSTOMERS, *churn.OF_NUMBERS])
def test_each_caller_gets_the_answer_that_its_rows_have_alone(
    client: Client, direct: Mapping[str, Any], name: str
) -> None:
    """Callers with and without missing values ask at the same time."""
    frames = [customers_of(name, rows=1 + seed % 5, seed=seed) for seed in range(40)]
    frames += [frame.dropna() for frame in frames if len(frame.dropna())]

    def ask(frame: pd.DataFrame) -> Array:
        return asked(client.predict(name, frame))

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, frames * 3))

    for frame, answer in zip(frames * 3, answers, strict=True):
        check(answer, direct[name].predict(frame))


@pytest.mark.parametrize("name", churn.OF_CUSTOMERS)
def test_single_rows_are_answered_as_mlflow_answers_them_or_fail_as_there(
    client: Client, direct: Mapping[str, Any], name: str
) -> None:
    frame = customers_of(name)
    for at, row in enumerate(rows_of(frame)):
        # A slice keeps pandas' type of text, which a frame of nothing but None has not.
        for given, alone in ((frame[at : at + 1], frame[at : at + 1]), (row, pd.DataFrame([row]))):
            try:
                expected = direct[name].predict(alone)
            except ValueError:
                with pytest.raises(Internal, match="unknown categories"):
                    client.predict(name, given)
            else:
                check(asked(client.predict(name, given)), expected)


@pytest.mark.parametrize("name", [*churn.OF_CUSTOMERS, *churn.OF_NUMBERS])
def test_the_client_of_asyncio_answers_alike(
    daemon: Daemon, direct: Mapping[str, Any], name: str
) -> None:
    frame = customers_of(name)

    async def ask() -> list[Array]:
        async with AsyncClient(daemon.address) as client:
            answers = [client.predict(name, given(frame)) for given in FORMS.values()]
            return [asked(one) for one in await asyncio.gather(*answers)]

    for answer in asyncio.run(ask()):
        check(answer, direct[name].predict(frame))


@pytest.mark.parametrize("name", [*churn.OF_CUSTOMERS, *churn.OF_NUMBERS])
def test_a_stub_answers_alike(daemon: Daemon, direct: Mapping[str, Any], name: str) -> None:
    frame = customers_of(name)
    columns = lists_of(frame)
    module = imported(written(name, "--server", daemon.address))

    async def ask() -> Any:
        async with client_class(module, "AsyncStub")(daemon.address) as stub:
            return await stub.predict_batch(**columns)

    with client_class(module, "Stub")(daemon.address) as stub:
        for answer in (stub.predict_batch(**columns), asyncio.run(ask())):
            (values,) = (getattr(answer, field) for field in type(answer).__dataclass_fields__)
            check(values, direct[name].predict(frame))


@pytest.mark.parametrize("name", [*churn.OF_CUSTOMERS, *churn.OF_NUMBERS])
def test_a_typed_service_answers_alike(
    daemon: Daemon, direct: Mapping[str, Any], name: str
) -> None:
    ask_typed(daemon, direct, name)


def test_the_other_transport_answers_alike(
    paths: Mapping[str, str], direct: Mapping[str, Any], cache: Path
) -> None:
    served = f"rules={paths['rules']}"
    daemon = Daemon(
        served, *untried("rules"), "--transport", "grpcio", cwd=Path(paths["rules"]), cache=cache
    )
    try:
        daemon.wait("ready")
        ask_typed(daemon, direct, "rules")
        frame = customers_of("rules")
        with Client(daemon.address) as client:
            check(asked(client.predict("rules", frame)), direct["rules"].predict(frame))
    finally:
        assert daemon.stop() == 0


def ask_typed(daemon: Daemon, direct: Mapping[str, Any], name: str) -> None:
    """Ask by the typed service and compare."""
    frame = customers_of(name)
    with grpc.insecure_channel(daemon.address) as channel:
        typed = TypedCaller(channel, service_name(name))
        message = typed.request()
        for column, values in frame.items():
            nulls = values.isna().tolist()
            is_text = values.dtype == "str"
            filled = values.fillna("") if is_text else values
            getattr(message, str(column)).extend(filled.tolist())
            if is_text:
                getattr(message, f"{column}_is_null").extend(nulls)
        # Twice: the second time the message's layout is known.
        for _ in range(2):
            answer = typed.call(message)
            field = next(iter(answer.DESCRIPTOR.fields_by_name))
            value = getattr(answer, field)
            check(np.array(getattr(value, "values", value)), direct[name].predict(frame))


def test_a_typed_row_says_by_its_mask_that_a_value_is_missing(
    daemon: Daemon, direct: Mapping[str, Any]
) -> None:
    with grpc.insecure_channel(daemon.address) as channel:
        typed = TypedCaller(channel, service_name("rules"))
        message = typed.request("PredictRow")
        given = {"country": "it", "plan.is_null": True, "age": "NaN", "spend": 2.0}
        json_format.ParseDict(given, message)
        answer = typed.call(message)
        message.plan = "basic"
        beside = typed.call(message)
        message.plan_is_null = False
        without = typed.call(message)

    row = pd.DataFrame([{"country": "it", "plan": None, "age": None, "spend": 2.0}])
    assert answer.risk == beside.risk == direct["rules"].predict(row)["risk"][0] == 0.875
    assert without.risk == 0.375


FILES = ("csv", "json", "columns", "jsonl", "parquet")


def written_file(folder: Path, frame: pd.DataFrame, form: str) -> Path:
    path = folder / f"rows.{ {'columns': 'json'}.get(form, form) }"
    if form == "csv":
        frame.to_csv(path, index=False)
    elif form == "parquet":
        frame.to_parquet(path)
    elif form == "columns":
        path.write_text(json.dumps(lists_of(frame)))
    else:
        frame.to_json(path, orient="records", lines=form == "jsonl")
    return path


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("name", [*churn.OF_CUSTOMERS, *churn.OF_NUMBERS])
def test_the_command_answers_as_mlflow_does_to_what_pandas_reads(
    daemon: Daemon, direct: Mapping[str, Any], tmp_path: Path, name: str, form: str
) -> None:
    """Also in requests of their own: of 300 rows the last 44, in which all that is text lacks."""
    frame = customers_of(name, rows=300)
    if name in {"churn", "imputed"}:
        frame.loc[256:, ["country", "plan"]] = None
    else:
        frame = frame[:30]
    path = written_file(tmp_path, frame, form)
    if form == "csv":
        frame = pd.read_csv(path)
    out = io.StringIO()

    predict(name, str(path), connection=Connection(server=daemon.address), output="json", out=out)

    expected = direct[name].predict(frame)
    served = [list(row.values()) for row in json.loads(out.getvalue())]
    check(np.array(served), expected)


def test_any_client_of_the_protocol_can_send_a_mask(
    daemon: Daemon, direct: Mapping[str, Any]
) -> None:
    frame = customers_of("churn")
    inputs = []
    for name, column in frame.items():
        is_text = column.dtype == "str"
        values = column.fillna("").to_numpy(object) if is_text else column.to_numpy()
        one = triton.InferInput(name, [len(frame)], "BYTES" if is_text else "FP64")
        one.set_data_from_numpy(values)
        inputs.append(one)
        if is_text:
            mask = triton.InferInput(f"{name}.is_null", [len(frame), 1], "BOOL")
            mask.set_data_from_numpy(column.isna().to_numpy()[:, None])
            inputs.insert(0, mask)

    with triton.InferenceServerClient(daemon.address) as client:
        metadata = client.get_model_metadata("churn")
        output = metadata.outputs[0].name
        answer = client.infer("churn", inputs).as_numpy(output)

    # The metadata has no more inputs than before.
    assert [one.name for one in metadata.inputs] == list(frame)
    check(answer, direct["churn"].predict(frame))


def test_typed_contents_can_hold_a_mask_too(daemon: Daemon, direct: Mapping[str, Any]) -> None:
    request = oip.ModelInferRequest(model_name="rules")
    for name, values in {"country": ["it", "xx"], "plan": ["pro", "pro"]}.items():
        tensor = request.inputs.add(name=name, datatype="BYTES", shape=[2])
        tensor.contents.bytes_contents.extend(value.encode() for value in values)
    for name in ("age", "spend"):
        tensor = request.inputs.add(name=name, datatype="FP64", shape=[2])
        tensor.contents.fp64_contents.extend([1.0, 2.0])
        mask = request.inputs.add(name=f"{name}.is_null", datatype="BOOL", shape=[2])
        mask.contents.bool_contents.extend([False, True])
    mask = request.inputs.add(name="country.is_null", datatype="BOOL", shape=[2])
    mask.contents.bool_contents.extend([False, True])

    with grpc.insecure_channel(daemon.address) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request)

    frame = pd.DataFrame(
        {"country": ["it", None], "plan": ["pro"] * 2, "age": [1.0, None], "spend": [2.0, None]}
    )
    expected = direct["rules"].predict(frame)["risk"].tolist()
    assert np.frombuffer(answer.raw_output_contents[0]).tolist() == expected == [0.25, 0.375]


# What a model sees of each type of column.

MOMENT = dt.datetime(2024, 1, 2, 12)  # noqa: DTZ001 - MLflow's have no time zone.
FULL: Mapping[str, Any] = {
    "name": ["a", "b", ""],
    "note": ["x", "", "z"],
    "is_new": [True, False, True],
    "is_old": [False, False, True],
    "raw": [b"\xff", b"", b"c"],
    "at": [MOMENT, MOMENT, MOMENT],
    "size": [0.5, 1.5, 2.5],
    "width": np.array([0.5, 1.5, 2.5], np.float32),
    "rank": [1, 2, 3],
    "place": np.array([1, 2, 3], np.int32),
    "path": [[1.0], [], [2.0, 3.0]],
}
# Columns of which rows may lack a value.
OPEN = ("name", "note", "is_new", "is_old", "raw", "at", "size", "width", "path")


def lacking(name: str, *, everywhere: bool = False) -> dict[str, Any]:
    """The rows above, where *name* has no value in the second row, or in none."""
    values = [None] * 3 if everywhere else [FULL[name][0], None, FULL[name][2]]
    return {**FULL, name: values}


def framed(columns: Mapping[str, Any]) -> pd.DataFrame:
    """The columns as pandas makes a frame of them; of 32 bits where MLflow asks for these."""
    frame = pd.DataFrame(dict(columns))
    return frame.astype({"width": np.float32}) if "width" in frame else frame


def seen(client: Client, columns: Any) -> list[str]:
    texts: list[str] = client.predict("seer", columns).strings("seen").tolist()
    return texts


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("name", OPEN)
def test_a_model_sees_what_mlflow_shows_it(
    client: Client, direct: Mapping[str, Any], name: str, everywhere: bool
) -> None:
    columns = lacking(name, everywhere=everywhere)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    expected = direct["seer"].predict(framed(columns))["seen"].tolist()

    assert seen(client, columns) == expected
    assert seen(client, rows) == expected
    assert json.loads(expected[1])[list(FULL).index(name)][2] is True


def test_a_frame_without_any_text_keeps_pandas_type_of_text(
    client: Client, direct: Mapping[str, Any]
) -> None:
    frame = framed(lacking("note"))[1:2]

    assert seen(client, frame) == direct["seer"].predict(frame)["seen"].tolist()
    assert json.loads(seen(client, frame)[0])[1][1:] == ["str", True, "nan"]


def test_all_columns_may_lack_values_at_once(client: Client, direct: Mapping[str, Any]) -> None:
    columns = {**FULL, **{name: lacking(name)[name] for name in OPEN}}

    assert seen(client, columns) == direct["seer"].predict(framed(columns))["seen"].tolist()


@pytest.mark.parametrize("name", ["rank", "place"])
def test_integers_that_are_missing_are_refused_as_mlflow_refuses_them(
    daemon: Daemon, client: Client, direct: Mapping[str, Any], name: str
) -> None:
    columns = lacking(name)
    with pytest.raises(mlflow.MlflowException, match=f"column {name}.*missing values"):
        direct["seer"].predict(framed(columns))

    with pytest.raises(InputMismatch, match=f"input '{name}': .*got no.* in row 1"):
        client.predict("seer", columns)
    named = {
        **{key: np.asarray(value) for key, value in FULL.items() if key not in {"at", "path"}},
        "at": np.zeros(3, np.int64),
        f"{name}.is_null": np.array([False, True, False]),
    }
    kind = "long" if name == "rank" else "integer"
    with pytest.raises(InvalidArgument) as raised:
        client.infer("seer", named)
    assert (
        f"input '{name}': expected {kind} with a value in every row, got a mask of missing values: "
        "MLflow has no null for it" in str(raised.value)
    )


@pytest.mark.parametrize(
    ("name", "mask", "why"),
    [
        ("note.is_null", np.zeros(2, bool), "3"),
        ("note.is_null", np.zeros(3, np.uint8), "expected BOOL, as the mask of 'note', got UINT8"),
        ("note.is_null", np.zeros((3, 2), bool), "as the mask of 'note', got [3, 2]"),
        ("odd.is_null", np.zeros(3, bool), "unknown input 'odd.is_null'"),
        (
            "raw.is_null",
            np.array([True, False, True]),
            "expected true in every row, since input 'raw' is not there, got false in row 1",
        ),
    ],
)
def test_a_mask_that_makes_no_sense_is_refused(
    client: Client, name: str, mask: Array, why: str
) -> None:
    named = {
        **{k: np.asarray(v) for k, v in FULL.items() if k not in {"at", "path", "raw"}},
        "at": np.zeros(3, np.int64),
        name: mask,
    }

    with pytest.raises(InvalidArgument) as raised:
        client.infer("seer", named)

    assert why in str(raised.value)


def test_what_stands_at_a_missing_value_does_not_matter(client: Client) -> None:
    named = {
        **{k: np.asarray(v) for k, v in FULL.items() if k not in {"at", "path", "raw"}},
        "at": np.zeros(3, np.int64),
        "note": np.array([b"x", b"\xff", b"z"], object),
        "note.is_null": np.array([False, True, False]),
        "path": np.array([b"[1.0]", b"", b"no json"], object),
        "path.is_null": np.array([False, True, True]),
        "size.is_null": np.array([True, False, False]),
        "at.is_null": np.array([True, False, False]),
    }

    first, second, third = map(json.loads, client.infer("seer", named).strings().tolist())

    cells = {name: (cell, other, last) for (name, _, _, cell), (*_, other), (*_, last) in
             zip(first, second, third, strict=True)}  # fmt: skip
    assert cells["note"] == ("'x'", "nan", "'z'")
    assert cells["path"] == ("[1.0]", "None", "None")
    assert cells["size"][0] == "np.float64(nan)"
    assert cells["at"][0] == "NaT"
    with pytest.raises(InvalidArgument, match="input 'note': row 1: expected text"):
        client.infer("seer", {**named, "note.is_null": np.array([True, False, False])})
    with pytest.raises(InvalidArgument, match="input 'path': row 2: expected JSON"):
        client.infer("seer", {**named, "path.is_null": np.array([False, True, False])})


def test_the_metadata_tells_which_inputs_take_a_mask(daemon: Daemon) -> None:
    with grpc.insecure_channel(daemon.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        told = stub.ModelMetadata(oip.ModelMetadataRequest(name="seer"))

    nullable = {one.name for one in told.inputs if one.parameters["nullable"].bool_param}
    assert nullable == set(OPEN)


def test_a_model_that_fails_on_a_null_fails_for_its_caller_alone(client: Client) -> None:
    """The encoder knows NaN from its training, but no None."""
    frame = customers_of("churn")
    odd = {"country": None, "plan": "pro", "age": 1.0, "spend": 1.0}

    def ask(number: int) -> bool:
        try:
            client.predict("churn", odd if number % 3 == 0 else frame[number : number + 1])
        except Internal:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(len(frame))))

    assert answers == [number % 3 != 0 for number in range(len(frame))]

"""Signatures that hypothesis makes, served by one daemon: all ways to ask answer as MLflow does."""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import mlflow
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, note, settings
from mlflow.models import ModelSignature

import made_models
from headrace.signature import ParamSpec, Signature, TensorSpec
from headrace.typed import Item, TypedService, describe
from headrace_client import Client
from headrace_server.librarian.mlmodel import signature_of
from made_models import SIGNATURES, Rows
from serving import Daemon
from stub_calls import arguments, client_class, imported, written
from typed_calls import TypedCaller, values_of

pytestmark = [pytest.mark.slow, pytest.mark.long]

# Of each kind of signature; the last one that is made is served, since the first ones are simple.
SIGNATURES_MADE = 8
ROWS_MADE = 15
NO_INSTANT_NS = -62_135_596_800 * 10**9


@dataclass(frozen=True)
class Served:
    """A model that the daemon serves, and what is known of it here."""

    name: str
    made: ModelSignature
    path: str

    @property
    def signature(self) -> Signature:
        """The signature in our terms."""
        found = signature_of(self.made)
        assert found is not None
        return found

    @property
    def params(self) -> tuple[ParamSpec, ...]:
        """The parameters it takes."""
        return self.signature.params

    @property
    def service(self) -> TypedService:
        """What its typed service consists of."""
        return describe(self.name, self.signature)


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture(name="models", scope="module")
def _models(folder: Path) -> Mapping[str, Served]:
    models = {}
    for name, signatures in SIGNATURES.items():
        made = made_models.drawn(signatures, SIGNATURES_MADE)[-1]
        models[name] = Served(name, made, made_models.save(folder / name, made))
    return models


@pytest.fixture(name="daemon", scope="module")
def _daemon(folder: Path, cache: Path, models: Mapping[str, Served]) -> Iterator[Daemon]:
    untried = [word for name in models for word in ("--set", f"{name}.trial=false")]
    uris = [f"{model.name}={model.path}" for model in models.values()]
    running = Daemon(*uris, *untried, cwd=folder, cache=cache)
    for count in range(len(models)):
        # Each wait is bounded; all models together may take longer than one.
        running.wait("model_ready", count=count + 1)
    running.wait("ready")
    assert not running.events("no_typed_service")
    yield running
    assert running.stop() == 0


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_way_to_ask_answers_as_mlflow_does(
    daemon: Daemon, models: Mapping[str, Served], name: str
) -> None:
    served = models[name]
    model = mlflow.pyfunc.load_model(served.path, suppress_warnings=True)
    module = imported(written(name, "--server", daemon.address))
    specs = served.signature.outputs

    with (
        grpc.insecure_channel(daemon.address) as channel,
        Client(daemon.address) as client,
        client_class(module, "Stub")(daemon.address) as stub,
    ):
        typed = TypedCaller(channel, f"{served.service.package}.{served.service.service}")

        @settings(max_examples=ROWS_MADE)
        @given(made_models.rows_of(served.made))
        def ask(rows: Rows) -> None:
            note(f"inputs: {served.made.inputs}")
            expected = [
                plain(spec, values)
                for spec, values in zip(
                    specs, made_models.direct(model, served.made, rows), strict=True
                )
            ]
            assert by_client(client, served, rows) == expected
            for is_raw in (False, True):
                assert by_service(typed, served, rows, is_raw=is_raw) == expected
            assert by_stub(stub.predict_batch, served, rows) == expected
            if not served.service.has_rows:
                return
            for row in range(rows.count):
                of_row = [values[row : row + 1] for values in expected]
                assert by_service(typed, served, rows.one(row), is_row=True) == of_row
                assert by_stub(stub.predict, served, rows.one(row), is_row=True) == of_row

        ask()


# The ways to ask; each gives the values of each output.


def by_client(client: Client, served: Served, rows: Rows) -> list[Any]:
    """By the client of any model."""
    names = [spec.name for spec in served.signature.inputs]
    columns = zip(names, rows.columns, strict=True)
    answer = client.predict(
        served.name,
        {name: column for name, column in columns if column is not None},
        parameters=rows.params or None,
    )
    return [plain(spec, answer[spec.name]) for spec in served.signature.outputs]


def by_stub(method: Any, served: Served, rows: Rows, *, is_row: bool = False) -> list[Any]:
    """By a method of the module that was written."""
    columns = [column[0] if is_row and column is not None else column for column in rows.columns]
    given = arguments(method, [*columns, *(rows.params.get(one.name) for one in served.params)])
    specs: list[TensorSpec | ParamSpec] = [*served.signature.inputs, *served.params]
    left_out = {
        name
        for name, spec in zip(given, specs, strict=True)
        if given[name] is None and (isinstance(spec, ParamSpec) or spec.optional)
    }
    answer = method(**{name: value for name, value in given.items() if name not in left_out})
    outputs = [getattr(answer, field) for field in type(answer).__dataclass_fields__]
    return [
        plain(spec, [values] if is_row else values)
        for spec, values in zip(served.signature.outputs, outputs, strict=True)
    ]


def by_service(
    typed: TypedCaller, served: Served, rows: Rows, *, is_row: bool = False, is_raw: bool = False
) -> list[Any]:
    """By the typed service, from what reflection tells."""
    service = served.service
    columns = {
        item.json: on_the_wire(item.tensor, column)
        for item, column in zip(service.inputs, rows.columns, strict=True)
        if column is not None
    }
    params = {
        item.json: in_json(item, rows.params[item.name])
        for item in service.params
        if item.name in rows.params
    }
    message = typed.filled(columns, is_row=is_row, is_raw=is_raw)
    typed.fill_params(message, params)
    answer = typed.call(message)
    found = [values_of(answer, item.json) for item in service.outputs]
    return [
        plain(item.tensor, [values] if is_row else values)
        for item, values in zip(service.outputs, found, strict=True)
    ]


def on_the_wire(spec: TensorSpec, column: Any) -> Any:
    """A column as the tensor protocol has it."""
    if isinstance(column, np.ndarray):
        return column.astype(object) if column.dtype.kind == "U" else column
    if spec.kind == "datetime":
        moments = [NO_INSTANT_NS if np.isnat(one) else int(one.view("i8")) for one in column]
        return np.array(moments, object)
    if spec.kind == "json":
        column = [json.dumps(one, default=_text_of) for one in column]
    return np.fromiter(column, object, len(column))


def _text_of(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def in_json(item: Item, value: Any) -> Any:
    """A parameter as JSON has it."""
    if isinstance(value, list):
        return [in_json(item, one) for one in value]
    return f"{value}Z" if item.param.kind == "datetime" else value


# What is equal.


def plain(spec: TensorSpec, values: Any) -> Any:
    """The values of an output, whichever way they came."""
    if spec.kind == "json":
        return [
            _within_json(json.loads(one) if isinstance(one, str | bytes) else one) for one in values
        ]
    if spec.kind == "datetime":
        return [_instant(one) for one in values]
    return [_plain(spec, one) for one in values]


def _plain(spec: TensorSpec, value: Any) -> Any:
    if isinstance(value, np.ndarray | list):
        return [_plain(spec, one) for one in value]
    if isinstance(value, bytes) and spec.kind != "binary":
        return value.decode()
    if isinstance(value, float | np.floating):
        return float(value).hex()
    return value.item() if isinstance(value, np.generic) else value


def _instant(value: Any) -> str:
    if isinstance(value, int) and value == NO_INSTANT_NS:
        return "NaT"
    moment = pd.Timestamp(value)
    return "NaT" if moment is pd.NaT else moment.isoformat()


def _within_json(value: Any) -> Any:
    """A value of JSON; all its numbers are doubles."""
    match value:
        case np.ndarray() | list():
            return [_within_json(one) for one in value]
        case dict():
            return {key: _within_json(one) for key, one in value.items()}
        case np.datetime64() | pd.Timestamp():
            return pd.Timestamp(value).isoformat()
        case bytes():
            return base64.b64encode(value).decode()
        case bool() | np.bool_():
            return bool(value)
        case int() | float() | np.number():
            return float(value).hex()
    return value

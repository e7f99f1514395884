"""Outputs in the datatypes that are declared, whatever the values, beside noisy neighbours."""

import json
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import grpc
import mlflow
import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.types.agent import ChatAgentMessage, ChatAgentResponse
from mlflow.types.llm import ChatCompletionResponse
from mlflow.types.responses import ResponsesAgentResponse
from mlflow.types.schema import AnyType
from onnx import TensorProto, helper

from headrace_client import Client, HeadraceClientError, Internal, InvalidArgument
from serving import Daemon, untried
from stub_calls import arguments, client_class, imported, written
from typed_calls import TypedCaller, values_of

pytestmark = pytest.mark.slow

NEIGHBOURS = 6
ASKED = 60
NAN = float("nan")


class Column(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model of one column, by a function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return self.function(model_input["x"])


def _masked(x: Any) -> Any:
    return np.ma.array(x.to_numpy() * 2, mask=x.to_numpy() < 0)


# Each with the type that is declared, and what a request for [1, 2] and its neighbours' for [-1.5]
# is answered: values, or what of the datatype had no room.
COLUMNS: dict[str, tuple[Callable[[Any], Any], Any, str, list[Any], list[Any] | str]] = {
    "none_long": (
        lambda x: [None if v < 0 else int(v) for v in x],
        "long",
        "INT64",
        [1, 2],
        "expected long (INT64), got null",
    ),
    "none_double": (
        lambda x: [None if v < 0 else float(v) for v in x],
        "double",
        "FP64",
        [1.0, 2.0],
        [NAN],
    ),
    "nullable_long": (
        lambda x: pd.Series([None if v < 0 else int(v) for v in x], dtype="Int64"),
        "long",
        "INT64",
        [1, 2],
        "expected long (INT64), got null",
    ),
    "floating_long": (
        lambda x: pd.Series([None if v < 0 else int(v) for v in x]),
        "long",
        "INT64",
        [1, 2],
        "expected long (INT64), got ",
    ),
    "half_long": (
        lambda x: [float(v) if v < 0 else int(v) for v in x],
        "long",
        "INT64",
        [1, 2],
        "expected long (INT64), got -1.5",
    ),
    "none_text": (
        lambda x: [None if v < 0 else f"t{v:g}" for v in x],
        "string",
        "BYTES",
        [b"t1", b"t2"],
        "expected string (BYTES), got null",
    ),
    "text_double": (
        lambda x: ["n/a" if v < 0 else float(v) for v in x],
        "double",
        "FP64",
        [1.0, 2.0],
        "expected double (FP64), got text",
    ),
    "large_double": (
        lambda x: [2**53 + 1 if v < 0 else int(v) for v in x],
        "double",
        "FP64",
        [1.0, 2.0],
        "expected double (FP64), got 9007199254740993",
    ),
    "narrow_double": (
        lambda x: x.to_numpy().astype(np.float32),
        "double",
        "FP64",
        [1.0, 2.0],
        [-1.5],
    ),
    "wide_float": (lambda x: x.to_numpy() / 10, "float", "FP64", [0.1, 0.2], [-0.15]),
    "masked": (_masked, "double", "FP64", [2.0, 4.0], [NAN]),
    "anything": (
        lambda x: [None if v < 0 else {"n": v} for v in x],
        AnyType(),
        "BYTES",
        [b'{"n": 1.0}', b'{"n": 2.0}'],
        [b"null"],
    ),
    "mixed": (
        lambda x: [f"t{v:g}" if v < 0 else v for v in x],
        None,
        "BYTES",
        [b"1.0", b"2.0"],
        [b'"t-1.5"'],
    ),
    "lists": (
        lambda x: [[1] * (2 if v >= 0 else 3) for v in x],
        None,
        "BYTES",
        [b"[1, 1]", b"[1, 1]"],
        [b"[1, 1, 1]"],
    ),
    "counts": (lambda x: [int(v) if v >= 0 else v for v in x], None, "FP64", [1.0, 2.0], [-1.5]),
    "report": (
        lambda x: [{"p": v, "r": 1 / v if v > 0 else NAN} for v in x],
        None,
        "BYTES",
        [b'{"p": 1.0, "r": 1.0}', b'{"p": 2.0, "r": 0.5}'],
        [b'{"p": -1.5, "r": "NaN"}'],
    ),
}


class Nested(torch.nn.Module):
    """Heads in a dict, each with more numbers than a repr would show."""

    def forward(self, x: torch.Tensor) -> Any:
        return {"heads": {"a": x.repeat(1, 400), "b": [x.sum(1)]}, "x": x}


class Two(torch.nn.Module):
    """One output, and none."""

    def forward(self, x: torch.Tensor) -> Any:
        return x * 2, None


class Chat(mlflow.pyfunc.ChatModel):  # type: ignore[misc]
    def predict(self, context: Any, messages: Any, params: Any) -> Any:
        said = {"role": "assistant", "content": messages[0].content.upper()}
        return ChatCompletionResponse.from_dict(
            {"choices": [{"index": 0, "message": said, "finish_reason": "stop"}], "model": "m"}
        )


class Agent(mlflow.pyfunc.ChatAgent):  # type: ignore[misc]
    def predict(self, messages: Any, context: Any = None, custom_inputs: Any = None) -> Any:
        words = messages[0].content.split()
        answered = [
            ChatAgentMessage(role="assistant", content=word, id=str(at))
            for at, word in enumerate(words)
        ]
        return ChatAgentResponse(messages=answered)


class Responder(mlflow.pyfunc.ResponsesAgent):  # type: ignore[misc]
    def predict(self, request: Any) -> Any:
        text = request.input[0].content
        return ResponsesAgentResponse(output=[self.create_text_output_item(text.upper(), "id")])


def zip_map() -> onnx.ModelProto:
    """What skl2onnx puts behind a classifier."""
    graph = helper.make_graph(
        [
            helper.make_node(
                "ZipMap", ["x"], ["p"], domain="ai.onnx.ml", classlabels_strings=["no", "yes"]
            )
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [
            helper.make_value_info(
                "p",
                helper.make_sequence_type_proto(
                    helper.make_map_type_proto(
                        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
                    )
                ),
            )
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def save(folder: Path) -> dict[str, Path]:
    """Every model, in a folder of its name."""
    inputs = Schema([ColSpec("double", "x")])
    for name, (function, declared, *_) in COLUMNS.items():
        outputs = None if declared is None else Schema([ColSpec(declared, "y")])
        mlflow.pyfunc.save_model(
            folder / name,
            python_model=Column(function),
            signature=ModelSignature(inputs, outputs),
            pip_requirements=["numpy"],
        )
    for name, agent in {"chat": Chat(), "agent": Agent(), "responder": Responder()}.items():
        mlflow.pyfunc.save_model(folder / name, python_model=agent, pip_requirements=["numpy"])
    rows = ModelSignature(Schema([TensorSpec(np.dtype(np.float32), (-1, 3))]))
    for name, module in {"nested": Nested(), "two": Two()}.items():
        mlflow.pytorch.save_model(
            module,
            folder / name,
            signature=rows,
            serialization_format="pickle",
            pip_requirements=["torch"],
        )
    pairs = ModelSignature(Schema([TensorSpec(np.dtype(np.float32), (-1, 2), "x")]))
    mlflow.onnx.save_model(
        zip_map(), folder / "zip_map", signature=pairs, pip_requirements=["onnx"]
    )
    names = (*COLUMNS, "chat", "agent", "responder", "nested", "two", "zip_map")
    return {name: folder / name for name in names}


@pytest.fixture(scope="module", name="saved")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    # MLflow traces what agents answer, by threads that stay as long as the process.
    mlflow.tracing.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return save(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module", name="daemon")
def _daemon(
    saved: dict[str, Path], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    served = [f"{name}={path}" for name, path in saved.items()]
    # Rows share batches whatever the proof says: that is what their types must not depend on.
    together = [option for name in COLUMNS for option in ("--set", f"{name}.batched=true")]
    store = tmp_path_factory.mktemp("empty")
    running = Daemon(*served, *together, *untried(*saved), cwd=store, cache=cache)
    running.wait("ready")
    yield running
    assert running.stop() == 0


@pytest.fixture(name="client")
def _client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.address) as client:
        yield client


@contextmanager
def neighbours(client: Client, name: str, rows: Any) -> Iterator[list[Any]]:
    """Others who ask *name* with their *rows* all the while; what they were told."""
    over = threading.Event()
    told: list[Any] = []

    def ask() -> None:
        while not over.is_set():
            try:
                told.append(client.predict(name, rows))
            except HeadraceClientError as error:
                told.append(error)

    threads = [threading.Thread(target=ask) for _ in range(NEIGHBOURS)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        over.set()
        for thread in threads:
            thread.join()


def values(prediction: Any) -> tuple[str, list[Any]]:
    array = prediction.array
    return "BYTES" if array.dtype == object else array.dtype.name, array.tolist()


@pytest.mark.parametrize("name", COLUMNS)
def test_the_type_of_an_output_depends_on_no_value_and_on_no_neighbour(
    client: Client, saved: dict[str, Path], name: str
) -> None:
    _, _, datatype, mine, theirs = COLUMNS[name]
    numpy_name = {"INT64": "int64", "FP64": "float64", "BYTES": "BYTES"}[datatype]
    (output,) = client.metadata(name).outputs
    assert output.datatype == datatype
    right = mlflow.pyfunc.load_model(str(saved[name])).predict(pd.DataFrame({"x": [1.0, 2.0]}))

    with neighbours(client, name, {"x": [-1.5]}) as told:
        answers = [values(client.predict(name, {"x": [1.0, 2.0]})) for _ in range(ASKED)]

    assert answers == [(numpy_name, mine)] * ASKED
    if output.kind == "json":
        assert list(map(json.loads, mine)) == list(right)
    elif datatype != "BYTES":
        assert mine == list(right)
    assert told
    for one in told:
        if isinstance(theirs, str):
            assert isinstance(one, Internal)
            assert one.message.startswith(f"OutputsUnlike: output {output.name!r}: {theirs}")
            assert "(error id " in one.message
        else:
            np.testing.assert_equal(values(one), (numpy_name, theirs))


@pytest.mark.parametrize("name", COLUMNS)
def test_metadata_tensors_typed_service_and_stub_agree(
    daemon: Daemon, client: Client, name: str
) -> None:
    _, _, datatype, mine, theirs = COLUMNS[name]
    (output,) = client.metadata(name).outputs
    plain = [json.loads(one) for one in mine] if output.kind == "json" else mine
    if output.kind != "json" and datatype == "BYTES":
        plain = [one.decode() for one in mine]
    module = imported(written(name, "--server", daemon.address))
    with grpc.insecure_channel(daemon.address) as channel:
        caller = TypedCaller(channel, f"headrace.typed.{name}.{service_of(name)}Predictor")
        answer = caller.call(caller.filled({"x": np.array([1.0, 2.0])}))
        row = caller.call(caller.filled({"x": np.array([1.0])}, is_row=True))
        if isinstance(theirs, str):
            with pytest.raises(grpc.RpcError) as raised:
                caller.call(caller.filled({"x": np.array([-1.5])}))
            assert raised.value.code() is grpc.StatusCode.INTERNAL
            assert theirs in str(raised.value.details())
        else:
            caller.call(caller.filled({"x": np.array([-1.5])}))
    assert values_of(answer, output.name) == plain
    assert values_of(row, output.name) == plain[0]
    with client_class(module, "Stub")(daemon.address) as stub:
        batch = stub.predict_batch(**arguments(stub.predict_batch, [[1.0, 2.0]]))
        found = next(iter(vars_of(batch).values()))
        assert list(found) == plain


def service_of(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def vars_of(answer: Any) -> dict[str, Any]:
    return {field: getattr(answer, field) for field in answer.__dataclass_fields__}


def test_outputs_within_outputs_have_dotted_names_and_all_their_numbers(client: Client) -> None:
    rows = np.random.default_rng(0).random((2, 3)).astype(np.float32)

    with neighbours(client, "nested", rows + 1) as told:
        answers = [client.predict("nested", rows) for _ in range(ASKED)]

    assert not [one for one in told if isinstance(one, HeadraceClientError)]
    names = [spec.name for spec in client.metadata("nested").outputs]
    assert names == ["heads.a", "heads.b.0", "x"]
    for answer in answers:
        assert list(answer) == names
        np.testing.assert_array_equal(answer["heads.a"], np.tile(rows, 400))
        np.testing.assert_allclose(answer["heads.b.0"], rows.sum(1), rtol=1e-6)


def test_an_output_that_is_none_is_null(client: Client) -> None:
    answer = client.predict("two", np.ones((2, 3), np.float32))

    assert answer["output-0"].tolist() == [[2.0] * 3] * 2
    assert answer.json("output-1") == [None, None]


def test_probabilities_keep_their_labels(client: Client, saved: dict[str, Path]) -> None:
    rows = np.array([[0.25, 0.75], [0.1, 0.9]], np.float32)
    right = mlflow.pyfunc.load_model(str(saved["zip_map"])).predict({"x": rows})["p"]

    with neighbours(client, "zip_map", rows[::-1] / 2):
        answers = [client.predict("zip_map", rows).json() for _ in range(ASKED)]

    assert answers == [right] * ASKED
    assert list(right[0]) == ["no", "yes"]


# MLflow's agents.

MESSAGES = [{"role": "user", "content": "a nice day"}]


def test_an_agents_answer_is_encoded_once(client: Client, saved: dict[str, Path]) -> None:
    right = mlflow.pyfunc.load_model(str(saved["responder"])).predict({"input": MESSAGES})

    (answer,) = client.predict("responder", {"input": [MESSAGES]}).json()

    assert answer["output"] == right["output"]
    assert answer["output"][0]["content"][0]["text"] == "A NICE DAY"


def test_what_an_agent_answers_is_one_value_whatever_it_holds(client: Client) -> None:
    (chat,) = client.predict("chat", {"messages": [MESSAGES]}).json()
    (agent,) = client.predict("agent", {"messages": [MESSAGES]}).json()

    assert chat["choices"][0]["message"]["content"] == "A NICE DAY"
    assert [message["content"] for message in agent["messages"]] == ["a", "nice", "day"]
    for name in ("chat", "agent", "responder"):
        (output,) = client.metadata(name).outputs
        assert (output.datatype, output.shape, output.kind) == ("BYTES", (-1,), "json")


@pytest.mark.parametrize(
    ("name", "column"), [("chat", "messages"), ("agent", "messages"), ("responder", "input")]
)
def test_two_rows_for_a_model_that_answers_one_are_an_error(
    client: Client, name: str, column: str
) -> None:
    """MLflow would answer the first and drop the second."""
    with pytest.raises(Internal, match="the model takes one row at a time, got 2"):
        client.predict(name, {column: [MESSAGES, MESSAGES]})
    assert len(client.predict(name, {column: [MESSAGES]}).array) == 1


# JSON in requests.


def test_json_with_a_bare_nan_is_refused_and_its_text_is_a_number_where_one_is_declared(
    client: Client,
) -> None:
    with pytest.raises(InvalidArgument, match="bare NaN"):
        client.infer("chat", {"messages": np.array([b'[{"role": NaN}]'], object)})

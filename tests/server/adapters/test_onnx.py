"""How ONNX graphs are opened, fed and answered."""

import json
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import models
from headrace.datatypes import DATATYPES
from headrace.signature import Signature, TensorSpec
from headrace_server.adapters import Artifact, LoadError
from headrace_server.adapters.conforming import conform
from headrace_server.adapters.onnx import OnnxAdapter
from headrace_server.adapters.probe import probe
from headrace_server.adapters.proof import Finding, Verdict
from headrace_server.devices import open_device
from headrace_server.devices.host import HostDriver, Instant
from headrace_server.devices.pipeline import Pipeline

Opener = Callable[..., OnnxAdapter]
Value = tuple[str, int, Sequence[str | int | None]]
FLOAT, DOUBLE, INT64, STRING = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.INT64,
    TensorProto.STRING,
)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        constants,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.fixture(name="open_graph")
def _open_graph(tmp_path: Path) -> Opener:
    def open_graph(
        graph: onnx.ModelProto, signature: Signature | None = None, **fields: Any
    ) -> OnnxAdapter:
        onnx.save_model(graph, tmp_path / "model.onnx", **fields.pop("save", {}))
        config = {"data": "model.onnx", **fields.pop("config", {})}
        device = fields.pop("device", open_device("cpu"))
        return OnnxAdapter(Artifact(tmp_path, config, {}, signature, **fields), device)

    return open_graph


def added() -> onnx.ModelProto:
    """sum = a + b and difference = a - b, float [rows, 1] each."""
    return build(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["d"])],
        [("a", FLOAT, ["n", 1]), ("b", FLOAT, ["n", 1])],
        [("sum", FLOAT, ["n", 1]), ("d", FLOAT, ["n", 1])],
    )


def specs(*names: str, datatype: str = "FP32") -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, datatype, (-1, 1)) for name in names)


ONE = np.array([[5.0], [7.0]], np.float32)
TWO = np.array([[1.0], [2.0]], np.float32)


def flat(answer: models.Tensors) -> dict[str, Any]:
    return {name: array.ravel().tolist() for name, array in answer.items()}


def test_without_a_signature_the_graph_tells_its_own(open_graph: Opener) -> None:
    adapter = open_graph(added())

    assert adapter.signature == Signature(specs("a", "b"), specs("sum", "d"))
    assert flat(adapter.predict({"a": ONE, "b": TWO})) == {"sum": [6.0, 9.0], "d": [4.0, 5.0]}


@pytest.mark.parametrize(
    ("names", "difference"), [(("b", "a"), [-4.0, -5.0]), (("input-0", "input-1"), [4.0, 5.0])]
)
def test_inputs_are_fed_by_name_else_by_position(
    names: tuple[str, str], difference: list[float], open_graph: Opener
) -> None:
    adapter = open_graph(added(), Signature(specs(*names)))

    assert flat(adapter.predict(dict(zip(names, (ONE, TWO), strict=True))))["d"] == difference


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (("d", "sum"), {"d": [4.0, 5.0], "sum": [6.0, 9.0]}),
        (("output-0", "output-1"), {"output-0": [6.0, 9.0], "output-1": [4.0, 5.0]}),
        (("only",), {"sum": [6.0, 9.0], "d": [4.0, 5.0]}),
        ((), {"sum": [6.0, 9.0], "d": [4.0, 5.0]}),
    ],
)
def test_outputs_take_the_declared_names_where_these_fit(
    declared: tuple[str, ...], expected: dict[str, Any], open_graph: Opener
) -> None:
    adapter = open_graph(added(), Signature(specs("a", "b"), specs(*declared)))

    assert flat(adapter.predict({"a": ONE, "b": TWO})) == expected


def test_columns_are_fed_to_inputs_of_their_name(open_graph: Opener) -> None:
    signature = Signature(tuple(TensorSpec(name, "FP64", (-1,), "double") for name in ("b", "a")))
    adapter = open_graph(added(), signature)

    answer = adapter.predict({"b": np.array([1.0, 2.0]), "a": np.array([5.0, 7.0])})

    assert flat(answer) == {"sum": [6.0, 9.0], "d": [4.0, 5.0]}


def test_a_lone_column_is_fed_to_a_graph_that_takes_one_axis(open_graph: Opener) -> None:
    graph = build(
        [helper.make_node("Neg", ["x"], ["y"])], [("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])]
    )
    signature = Signature((TensorSpec("column", "FP64", (-1,), "double"),))

    answer = open_graph(graph, signature).predict({"column": np.array([1.0, 2.0])})

    assert flat(answer) == {"y": [-1.0, -2.0]}


def test_double_tensors_are_fed_to_float_graphs(open_graph: Opener) -> None:
    adapter = open_graph(added(), Signature(specs("a", "b", datatype="FP64")))

    answer = adapter.predict({"a": ONE.astype(np.float64), "b": TWO.astype(np.float64)})

    assert answer["sum"].dtype == np.float32


@pytest.mark.parametrize(
    ("source", "target", "held", "lost"),
    [
        ("INT64", FLOAT, [2**24, -(2**24)], 2**24 + 1),
        ("INT64", FLOAT, [0, 1], -(2**63)),
        ("UINT64", FLOAT, [0, 1], 2**64 - 1),
        ("INT64", DOUBLE, [2**53, 5], 2**53 + 1),
        ("INT32", FLOAT, [7, -7], 2**24 + 1),
        ("INT64", TensorProto.INT32, [2**31 - 1, -(2**31)], 2**31),
        ("FP64", INT64, [1.0, -2.0], 1.5),
        ("FP64", INT64, [1.0, -2.0], np.nan),
        ("FP32", INT64, [1.0, -2.0], np.inf),
        ("FP32", TensorProto.FLOAT16, [0.5, np.nan], 0.1),
        ("FP32", TensorProto.FLOAT16, [0.5, 2.0], 1e6),
        ("INT64", TensorProto.BOOL, [0, 1], 2),
    ],
)
def test_what_the_graphs_type_does_not_hold_is_refused_and_never_changed(
    source: str, target: int, held: list[Any], lost: Any, open_graph: Opener
) -> None:
    """onnxruntime, and so MLflow, refuses all of another type."""
    graph = build(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", target, ["n"])], [("y", target, ["n"])]
    )
    dtype = DATATYPES[source].dtype
    adapter = open_graph(graph, Signature((TensorSpec("x", source, (-1,)),)))

    (answer,) = adapter.predict({"x": np.array(held, dtype)}).values()
    assert answer.astype(dtype).tolist() == pytest.approx(held, nan_ok=True)
    with pytest.raises(ValueError, match=r"^input 'x' of the graph is \w+, which does not hold"):
        adapter.predict({"x": np.array([held[0], lost], dtype)})


@pytest.mark.parametrize(("source", "target"), [("BYTES", FLOAT), ("FP32", STRING)])
def test_text_is_no_number_nor_a_number_text(source: str, target: int, open_graph: Opener) -> None:
    graph = build(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", target, ["n"])], [("y", target, ["n"])]
    )

    with pytest.raises(
        LoadError, match=r"^input 'x' of the graph is \w+, and the signature's \w+$"
    ):
        open_graph(graph, Signature((TensorSpec("x", source, (-1,)),)))


def test_columns_of_several_datatypes_are_rounded_as_mlflow_rounds_them(
    open_graph: Opener,
) -> None:
    """A DataFrame makes FP64 of integers beside floats, and FP32 of that."""
    graph = build(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", FLOAT, ["n", 2])],
        [("y", FLOAT, ["n", 2])],
    )
    kinds = (TensorSpec("a", "INT64", (-1,), "long"), TensorSpec("b", "FP64", (-1,), "double"))
    rows: models.Tensors = {"a": np.array([2**60 + 2**36 + 1]), "b": np.array([0.1])}

    (answer,) = open_graph(graph, Signature(kinds)).predict(rows).values()

    twice = pd.DataFrame(rows).to_numpy().astype(np.float32)
    assert answer.tolist() == twice.tolist()
    assert answer[0, 0] != rows["a"].astype(np.float32)[0]


def test_a_name_that_the_graph_has_for_another_input_is_an_error_of_loading(
    open_graph: Opener,
) -> None:
    """By position "a" would be fed to "b"."""
    with pytest.raises(LoadError, match=r"^the signature's inputs \['c', 'a'\] do not match the"):
        open_graph(added(), Signature(specs("c", "a")))


def test_misaligned_memory_is_read_right(open_graph: Opener) -> None:
    raw = np.zeros(ONE.nbytes + 1, np.uint8)
    raw[1:] = ONE.view(np.uint8).ravel()
    misaligned = np.frombuffer(raw.tobytes(), np.float32, 2, 1).reshape(2, 1)
    assert not misaligned.flags.aligned

    adapter = open_graph(added())

    assert adapter.stage({"a": misaligned, "b": TWO})["a"].flags.aligned
    assert flat(adapter.predict({"a": misaligned, "b": TWO}))["sum"] == [6.0, 9.0]


def test_strings_go_in_and_come_out(open_graph: Opener) -> None:
    graph = build(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", STRING, ["n"])], [("y", STRING, ["n"])]
    )
    adapter = open_graph(graph)

    assert adapter.signature.inputs == (TensorSpec("x", "BYTES", (-1,)),)
    assert flat(adapter.predict({"x": np.array(["å", "b"], object)})) == {"y": ["å", "b"]}


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        ({"classlabels_int64s": [3, 8]}, INT64, ("3", "8")),
        ({"classlabels_strings": ["no", "yes"]}, STRING, ("no", "yes")),
    ],
)
def test_probabilities_in_dicts_keep_their_labels(
    open_graph: Opener, labels: dict[str, Any], kind: int, names: tuple[str, str]
) -> None:
    """skl2onnx puts a ZipMap behind every classifier unless it is told not to."""
    graph = build(
        [helper.make_node("ZipMap", ["x"], ["p"], domain="ai.onnx.ml", **labels)],
        [("x", FLOAT, ["n", 2])],
        [],
    )
    tensor = helper.make_tensor_type_proto(FLOAT, [])
    rows = helper.make_sequence_type_proto(helper.make_map_type_proto(kind, tensor))
    graph.graph.output.append(helper.make_value_info("p", rows))
    adapter = open_graph(graph)

    found = probe(adapter)

    assert found.finding.verdict is Verdict.BATCHED, found.finding
    assert found.signature == Signature(
        (TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("p", "BYTES", (-1,), "json"),)
    )
    answer = adapter.predict({"x": np.array([[0.25, 0.75], [1.0, 0.0]], np.float32)})
    texts = conform(answer, {spec.name: spec for spec in found.outputs}).tensors["p"]
    assert list(map(json.loads, texts)) == [
        dict(zip(names, (0.25, 0.75), strict=True)),
        dict(zip(names, (1.0, 0.0), strict=True)),
    ]


def test_a_graph_of_a_fixed_batch_is_not_batchable(open_graph: Opener) -> None:
    graph = build(
        [helper.make_node("Neg", ["x"], ["y"])], [("x", FLOAT, [1, 2])], [("y", FLOAT, [1, 2])]
    )

    found = probe(open_graph(graph))

    assert found.finding == Finding(Verdict.WHOLE, "the signature fixes the number of rows")


def test_tensors_beside_the_graph_are_found(open_graph: Opener, tmp_path: Path) -> None:
    graph = models.linear_graph()
    saving = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}

    adapter = open_graph(graph, save=saving)

    assert (tmp_path / "weights.bin").exists()
    assert adapter.predict({"x": np.ones((2, 4), np.float32)})["y"].shape == (2, 3)


@pytest.fixture(name="session_arguments")
def _session_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the next session is opened with."""
    seen: dict[str, Any] = {}
    opened = onnxruntime.InferenceSession

    def record(path: str, **arguments: Any) -> Any:
        seen.update(arguments)
        return opened(path, **arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    return seen


def test_a_session_runs_on_the_cpu_with_the_devices_threads(
    open_graph: Opener, session_arguments: dict[str, Any]
) -> None:
    open_graph(added(), device=open_device("cpu", threads=2))

    assert session_arguments["providers"] == ["CPUExecutionProvider"]
    assert session_arguments["sess_options"].intra_op_num_threads == 2


def test_session_options_of_the_artifact_are_used(
    open_graph: Opener, session_arguments: dict[str, Any]
) -> None:
    wanted = {
        "intra_op_num_threads": 3,
        "inter_op_num_threads": 2,
        "execution_mode": "parallel",
        "graph_optimization_level": 1,
        "extra_session_config": {"session.disable_prepacking": "1"},
    }

    adapter = open_graph(added(), config={"onnx_session_options": wanted})

    options = session_arguments["sess_options"]
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 2
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.get_session_config_entry("session.disable_prepacking") == "1"
    assert flat(adapter.predict({"a": ONE, "b": TWO}))["sum"] == [6.0, 9.0]


def test_a_session_option_that_does_not_exist_is_an_error_of_loading(open_graph: Opener) -> None:
    with pytest.raises(LoadError, match=r"^the model does not load: AttributeError: "):
        open_graph(added(), config={"onnx_session_options": {"execution_mode": "sideways"}})


def test_inputs_that_do_not_match_the_graphs_are_an_error_of_loading(open_graph: Opener) -> None:
    with pytest.raises(LoadError) as raised:
        open_graph(added(), Signature(specs("a", "b", "c")))

    assert str(raised.value) == (
        "the signature's inputs ['a', 'b', 'c'] do not match the graph's ['a', 'b']"
    )


def test_an_input_that_no_datatype_carries_is_an_error_of_loading(open_graph: Opener) -> None:
    graph = build(
        [helper.make_node("Cast", ["x"], ["y"], to=FLOAT)],
        [("x", TensorProto.BFLOAT16, ["n"])],
        [("y", FLOAT, ["n"])],
    )

    with pytest.raises(LoadError, match=r"^'x' of the graph is a tensor\(bfloat16\), which no"):
        open_graph(graph)


def test_a_graph_without_inputs_is_an_error_of_loading(open_graph: Opener) -> None:
    value = numpy_helper.from_array(np.ones(1, np.float32), "x")
    graph = build([helper.make_node("Neg", ["x"], ["y"])], [], [("y", FLOAT, [1])], [value])

    with pytest.raises(LoadError, match=r"^the graph has no inputs$"):
        open_graph(graph)


def test_a_graph_has_no_methods(open_graph: Opener) -> None:
    with pytest.raises(LoadError, match=r"^an ONNX graph has no methods, so 'transform' cannot be"):
        open_graph(added(), method="transform")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, and onnxruntime may use it")
def test_a_gpu_that_onnxruntime_cannot_use_is_no_reason_to_use_the_cpu(
    open_graph: Opener,
) -> None:
    device = types.SimpleNamespace(name="cuda:0", is_asynchronous=True, threads=1)

    with pytest.raises(LoadError, match=r"CUDA provider on cuda:0$|^the model does not load"):
        open_graph(added(), device=device)


def test_no_input_of_a_graph_is_optional() -> None:
    artifact = models.model("onnx_columns").artifact
    assert artifact.signature is not None
    inputs = tuple(replace(spec, optional=True) for spec in artifact.signature.inputs)
    loose = replace(artifact, signature=replace(artifact.signature, inputs=inputs))

    signature = OnnxAdapter(loose, open_device("cpu")).signature

    assert not any(spec.optional for spec in signature.inputs)


class SharedHost(HostDriver):
    """The host as if its stream could be shared: what is bound there goes the way of a GPU."""

    def handle(self, stream: Instant) -> int:
        return 0


def test_a_graph_that_is_bound_to_a_devices_memory_answers_alike(open_graph: Opener) -> None:
    bound = open_graph(added(), device=Pipeline("cpu", SharedHost()))
    fed: models.Tensors = {"a": ONE, "b": TWO}

    assert isinstance(bound.stage(fed)["a"], torch.Tensor)
    assert flat(bound.predict(fed)) == flat(open_graph(added()).predict(fed))


def test_batches_from_the_same_memory_share_a_binding_and_each_has_outputs_of_its_own(
    open_graph: Opener,
) -> None:
    bound = open_graph(added(), device=Pipeline("cpu", SharedHost()))
    assert isinstance(bound, OnnxAdapter)
    staged = bound.stage({"a": ONE, "b": TWO})

    first, *_ = bound.launch(staged)
    kept = first.clone()
    staged["a"] += 1
    second, *_ = bound.launch(staged)

    assert len(bound._bindings) == 1
    assert torch.equal(first, kept)
    assert torch.equal(second, kept + 1)
    other = bound.stage({"a": ONE[:1].copy(), "b": TWO[:1].copy()})
    bound.launch(other)
    assert len(bound._bindings) == 2


def test_bound_outputs_keep_their_datatypes(open_graph: Opener) -> None:
    graph = build(
        [
            helper.make_node("Greater", ["x", "x"], ["is_greater"]),
            helper.make_node("Cast", ["x"], ["whole"], to=INT64),
        ],
        [("x", FLOAT, ["n", 1])],
        [("is_greater", TensorProto.BOOL, ["n", 1]), ("whole", INT64, ["n", 1])],
    )

    answer = open_graph(graph, device=Pipeline("cpu", SharedHost())).predict({"x": ONE})

    assert {name: str(array.dtype) for name, array in answer.items()} == {
        "is_greater": "bool",
        "whole": "int64",
    }
    assert answer["whole"].tolist() == [[5], [7]]


def test_what_cannot_lie_on_a_gpu_is_not_bound(open_graph: Opener) -> None:
    graph = build(
        [helper.make_node("Identity", ["s"], ["t"])],
        [("s", STRING, ["n"])],
        [("t", STRING, ["n"])],
    )

    answer = open_graph(graph, device=Pipeline("cpu", SharedHost())).predict(
        {"s": np.array(["a", "b"], object)}
    )

    assert answer["t"].tolist() == ["a", "b"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
@pytest.mark.parametrize(
    ("tuning", "names"),
    [({}, "cuda"), ({"providers": ("tensorrt", "cuda")}, "tensorrt or cuda")],
)
def test_providers_of_which_none_starts_are_named(
    open_graph: Opener, tuning: dict[str, Any], names: str
) -> None:
    device = Pipeline("cuda:0", HostDriver())

    with pytest.raises(LoadError, match=f"could not start its {names} provider on cuda:0"):
        open_graph(added(), device=device, tuning=tuning)

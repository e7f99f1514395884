"""The pyfunc adapter: what MLflow's own predict gets and gives, without its enforcement."""

import functools
import json
import warnings
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

import models
import pyfunc_models
from headrace.signature import Signature
from headrace_server.adapters import Adapter, Artifact, LoadError, adapter_of
from headrace_server.adapters.base import default_params
from headrace_server.adapters.probe import Probe, probe
from headrace_server.adapters.proof import Verdict
from headrace_server.adapters.pyfunc import PyfuncAdapter
from headrace_server.adapters.samples import synthetic_rows
from headrace_server.devices import open_device
from headrace_server.librarian.example import write_example
from headrace_server.worker.loop import _read_example

# Two loaders in one process would share their modules.
SERVED = [
    name
    for name in pyfunc_models.RECIPES
    if name.startswith("py_") and name not in ("py_streaming", "py_loader_too")
]


@functools.cache
def opened(name: str) -> Adapter:
    return PyfuncAdapter(models.model(name).artifact, open_device("cpu"))


@functools.cache
def by_mlflow(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlflow.pyfunc.load_model(str(models.model(name).path), suppress_warnings=True)


@functools.cache
def probed(name: str) -> Probe:
    model = models.model(name)
    file = models.scratch() / "example.npz"
    found = mlflow.models.Model.load(str(model.path))
    is_written = write_example(found, model.path, model.artifact.signature, file)
    return probe(opened(name), _read_example(str(file) if is_written else None))


def signature_of(name: str) -> Signature:
    signature = models.model(name).artifact.signature
    assert signature is not None
    return signature


def frame_of(name: str, tensors: models.Tensors) -> pd.DataFrame:
    """What a caller of MLflow would have written for these tensors."""
    columns: dict[str, Any] = {}
    for spec in signature_of(name).inputs:
        if spec.name not in tensors:
            continue
        values = tensors[spec.name]
        if spec.kind == "json":
            columns[spec.name] = [json.loads(text, object_hook=_with_instants) for text in values]
        elif spec.kind == "datetime":
            columns[spec.name] = pd.to_datetime(values)
        else:
            columns[spec.name] = values
    return pd.DataFrame(columns)


def _with_instants(value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "seen": np.datetime64(value["seen"])} if "seen" in value else value


@pytest.mark.parametrize("rows", [1, 3])
def test_a_frame_answers_by_its_columns_with_what_the_context_and_parameters_say(rows: int) -> None:
    tensors = models.model("py_weigher").rows(rows)
    given = {"scale": 10.0, "prefix": "q", "tags": ["x"], "since": "2020-02-03T04:05:06"}

    for params in ({}, given):
        expected = by_mlflow("py_weigher").predict(frame_of("py_weigher", tensors), params)
        full = {**default_params(signature_of("py_weigher")), **params}

        answer = opened("py_weigher").predict(tensors, full)

        assert list(answer) == ["total", "label"]
        assert answer["total"].tolist() == expected["total"].tolist()
        assert answer["label"].tolist() == expected["label"].tolist()


def test_without_parameters_the_defaults_hold() -> None:
    tensors = models.model("py_weigher").rows(1)

    answer = opened("py_weigher").predict(tensors)

    assert answer["label"].tolist() == ["pa/b2024-01-02"]


def test_a_model_from_code_whose_predict_takes_the_input_alone() -> None:
    tensors = models.model("py_from_code").rows(4)

    expected = by_mlflow("py_from_code").predict(frame_of("py_from_code", tensors))

    (answer,) = opened("py_from_code").predict(tensors).values()
    np.testing.assert_array_equal(answer, expected)


def test_a_type_hint_of_texts_gets_a_list_of_texts() -> None:
    tensors = models.model("py_hinted").rows(3)

    answer = opened("py_hinted").predict(tensors)

    assert answer["output-0"].tolist() == by_mlflow("py_hinted").predict(
        tensors["input-0"].tolist()
    )


def test_a_type_hint_of_pydantic_models_gets_them_with_their_defaults() -> None:
    cells = np.array(['{"item": "nut"}', '{"item": "bolt", "count": 3}'], object)

    answer = opened("py_orders").predict({"input-0": cells})

    expected = by_mlflow("py_orders").predict([json.loads(cell) for cell in cells])
    assert answer["output-0"].tolist() == expected
    assert expected[0] == {"line": "1 nut", "n": 1}


@pytest.mark.parametrize("left_out", [(), ("note",), ("note", "rank"), ("note", "rank", "path")])
def test_optional_columns_that_were_left_out_are_missing_as_with_mlflow(
    left_out: tuple[str, ...],
) -> None:
    tensors = models.model("py_notes").rows(2)
    given = {name: column for name, column in tensors.items() if name not in left_out}

    answer = opened("py_notes").predict(given)

    expected = by_mlflow("py_notes").predict(frame_of("py_notes", given))
    assert answer["output-0"].tolist() == expected


def test_null_in_an_optional_json_column_is_none_as_with_mlflow() -> None:
    given = {"size": np.array([1.0, 2.0]), "path": np.array(["null", "[1.5]"], object)}

    answer = opened("py_notes").predict(given)

    expected = by_mlflow("py_notes").predict(frame_of("py_notes", given))
    assert answer["output-0"].tolist() == expected
    assert expected[0] == "size=1.0,path=None"


def test_cells_are_the_python_objects_that_mlflow_makes_of_them() -> None:
    tensors = models.model("py_kinds").rows(3)

    answer = opened("py_kinds").predict(tensors)

    expected = by_mlflow("py_kinds").predict(frame_of("py_kinds", tensors))
    assert answer["output-0"].tolist() == expected
    assert expected[0]["at"] == "2023-11-14T22:13:20.123456789"
    assert expected[0]["kinds"]["owner"] == "dict"


def test_an_integer_in_a_cell_of_doubles_becomes_a_float() -> None:
    """JSON knows no difference; MLflow would refuse 2 and take 2.0."""
    tensors = models.model("py_kinds").rows(1)
    tensors["path"] = np.array(["[2]"], object)

    (told,) = opened("py_kinds").predict(tensors)["output-0"]

    assert [type(item) for item in told["path"]] == [float]


def test_named_tensors_are_a_dict_of_arrays() -> None:
    tensors = models.model("py_planes").rows(2)

    answer = opened("py_planes").predict(tensors)

    expected = by_mlflow("py_planes").predict(dict(tensors))
    assert list(answer) == ["sum", "left"]
    for name, array in answer.items():
        np.testing.assert_array_equal(array, expected[name])
        assert array.dtype == np.float32


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"x": np.zeros((2, 2))}, "ndarray None"),
        ({"x": np.zeros(2), "y": np.zeros(2)}, "DataFrame None"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(2)}, "dict None"),
    ],
)
def test_without_a_signature_columns_are_a_table_and_arrays_stay_arrays(
    tensors: models.Tensors, expected: str
) -> None:
    (answer,) = opened("py_unsigned").predict(tensors).values()

    assert answer.tolist() == expected


def test_a_loader_module_without_a_python_model_is_called_by_its_own_predict() -> None:
    tensors = models.model("py_loader").rows(3)

    answer = opened("py_loader").predict(tensors)

    expected = by_mlflow("py_loader").predict(frame_of("py_loader", tensors))
    assert answer["x"].tolist() == expected.tolist() == [0.0, 3.0, 6.0]


def test_another_method_of_a_python_model_can_be_called() -> None:
    artifact = models.model("py_from_code").artifact
    other = Artifact(artifact.path, artifact.config, artifact.pyfunc, artifact.signature, "shape")

    with pytest.raises(LoadError, match=r"^Doubler has no method 'shape'$"):
        PyfuncAdapter(other, open_device("cpu"))


def test_a_model_that_only_streams_is_not_served() -> None:
    with pytest.raises(LoadError, match="Streaming defines no predict: models that only stream"):
        opened("py_streaming")


@pytest.mark.parametrize("name", SERVED)
def test_the_probe_finds_out_whether_rows_may_be_batched(name: str) -> None:
    found = probed(name).finding
    # The label is a parameter, the same for all rows.
    if name == "py_weigher":
        assert found.verdict is Verdict.UNPROVEN, found
    else:
        is_batched = found.verdict is Verdict.BATCHED
        assert is_batched == models.model(name).is_batchable, found


def test_a_model_whose_rows_depend_on_each_other_is_not_batched() -> None:
    found = probed("py_leaning").finding
    assert found.verdict is Verdict.WHOLE
    assert found.why.startswith("rows differ with their neighbours: 'output-0', ")


def test_a_custom_model_that_could_not_be_tried_is_unproven() -> None:
    class Picky(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            raise ValueError("not these rows")

    path = models.scratch() / "picky"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=Picky(),
            signature=mlflow.models.infer_signature(pd.DataFrame({"x": [1.0]})),
            pip_requirements=["numpy"],
        )
    adapter = PyfuncAdapter(models.read_artifact(path, "pyfunc"), open_device("cpu"))

    found = probe(adapter)

    assert found.finding.verdict is Verdict.UNPROVEN
    assert found.finding.why.startswith("not known: the model fails on a made-up row (ValueError")


def test_declared_outputs_are_found_as_declared() -> None:
    found = probed("py_weigher").signature

    assert found is not None
    assert [(s.name, s.datatype, s.kind) for s in found.outputs] == [
        ("total", "FP64", "double"),
        ("label", "BYTES", "string"),
    ]


def test_made_up_cells_are_of_their_types() -> None:
    rows = synthetic_rows(signature_of("py_kinds"), 2)

    assert json.loads(rows["owner"][1]) == {
        "id": 0,
        "seen": "1970-01-01T00:00:00",
        "tags": [""],
    }


def test_a_flavor_without_an_adapter_falls_back_to_python_function_where_there_is_one() -> None:
    assert adapter_of("prophet", has_pyfunc=True) is PyfuncAdapter
    assert adapter_of("sklearn", has_pyfunc=True) is not PyfuncAdapter
    with pytest.raises(LoadError, match="'prophet' has no adapter, and the model no python_f"):
        adapter_of("prophet")


def test_a_module_that_the_model_needs_and_is_not_here_is_named() -> None:
    artifact = models.model("py_from_code").artifact
    path = models.scratch()
    (path / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: no_such_framework\n"
    )

    with pytest.raises(LoadError, match="needs the module 'no_such_framework', which is not here"):
        PyfuncAdapter(Artifact(path, {}, artifact.pyfunc, None), open_device("cpu"))

"""How torch modules are opened, called and answered."""

import contextlib
import io
import sys
import types
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import models
from headrace.signature import ParamSpec, Signature, TensorSpec
from headrace_server.adapters import Artifact, LoadError
from headrace_server.adapters.base import Array
from headrace_server.adapters.pytorch import PytorchAdapter
from headrace_server.devices import open_device
from headrace_server.devices.host import HostDriver
from headrace_server.devices.pipeline import Pipeline

MATRIX = Signature((TensorSpec("input-0", "FP32", (-1, 2)),))
ROWS: models.Tensors = {"input-0": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)}

Opener = Callable[..., PytorchAdapter]


class MetaDriver(HostDriver):
    """torch's device of shapes without values: what computes on it was moved there, as to a GPU."""

    def copy_in(self, stream: Any, host: Array) -> torch.Tensor:
        return torch.from_numpy(host).to("meta")

    def host_form(self, result: torch.Tensor) -> tuple[Any, np.dtype[Any], tuple[int, ...]]:
        assert result.device.type == "meta"
        return result, np.dtype(np.float64), tuple(result.shape)

    def copy_out(self, stream: Any, result: torch.Tensor, host: Array) -> None:
        host[...] = 0


@pytest.fixture(name="open_module")
def _open_module(tmp_path: Path) -> Opener:
    def open_module(module: Any, signature: Signature | None = MATRIX, **fields: Any) -> Any:
        (tmp_path / "data").mkdir(exist_ok=True)
        torch.save(module, tmp_path / "data" / "model.pth")
        artifact = Artifact(tmp_path, {"model_data": "data"}, {}, signature, **fields)
        return PytorchAdapter(artifact, open_device("cpu"))

    return open_module


class Shaped(torch.nn.Module):
    """Returns its input in the way it was told to."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.answer = answer
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> Any:
        first, second = x[:, 0], x[:, 1]
        match self.answer:
            case "tuple":
                return first, second
            case "list":
                return [first, second]
            case "dict":
                return {"b": second, "a": first}
            case "nested":
                return {"heads": {"a": first, "b": [second, {"c": x}]}, "x": x}
            case "lstm":
                return x, (first, second)
            case "none":
                return first, None
            case "bfloat16":
                return x.bfloat16()
            case "parameter":
                return self.weight
            case "training":
                return torch.full_like(first, float(self.training))
            case "dtype":
                return torch.full_like(first, float(x.dtype == torch.float32))
        return x * self.weight

    def doubled(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Keywords(torch.nn.Module):
    """forward(x, scale, shift): y = x * scale + shift."""

    def forward(
        self, x: torch.Tensor, scale: float = 10.0, shift: torch.Tensor | None = None
    ) -> torch.Tensor:
        return x * scale + (0 if shift is None else shift)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("tuple", {"output-0": [1.0, 3.0], "output-1": [2.0, 4.0]}),
        ("list", {"output-0": [1.0, 3.0], "output-1": [2.0, 4.0]}),
        ("dict", {"b": [2.0, 4.0], "a": [1.0, 3.0]}),
        ("tensor", {"output-0": [[1.0, 2.0], [3.0, 4.0]]}),
        (
            "nested",
            {
                "heads.a": [1.0, 3.0],
                "heads.b.0": [2.0, 4.0],
                "heads.b.1.c": [[1.0, 2.0], [3.0, 4.0]],
                "x": [[1.0, 2.0], [3.0, 4.0]],
            },
        ),
        (
            "lstm",
            {
                "output-0": [[1.0, 2.0], [3.0, 4.0]],
                "output-1.0": [1.0, 3.0],
                "output-1.1": [2.0, 4.0],
            },
        ),
        ("none", {"output-0": [1.0, 3.0], "output-1": [None, None]}),
    ],
)
def test_tensors_tuples_lists_and_dicts_are_named(
    answer: str, expected: dict[str, Any], open_module: Opener
) -> None:
    named = open_module(Shaped(answer)).predict(ROWS)

    assert {name: array.tolist() for name, array in named.items()} == expected


def test_a_tuple_takes_the_declared_names(open_module: Opener) -> None:
    outputs = tuple(TensorSpec(name, "FP32", (-1,)) for name in ("low", "high"))

    named = open_module(Shaped("tuple"), Signature(MATRIX.inputs, outputs)).predict(ROWS)

    assert list(named) == ["low", "high"]


def test_bfloat16_comes_back_as_float32(open_module: Opener) -> None:
    answer = open_module(Shaped("bfloat16")).predict(ROWS)["output-0"]

    assert answer.dtype == np.float32
    assert answer.tolist() == ROWS["input-0"].tolist()


def test_a_parameter_can_be_an_answer(open_module: Opener) -> None:
    assert open_module(Shaped("parameter")).predict(ROWS)["output-0"].tolist() == [1.0, 1.0]


def test_a_module_saved_while_training_is_served_in_evaluation_mode(open_module: Opener) -> None:
    answer = open_module(Shaped("training").train()).predict(ROWS)

    assert answer["output-0"].tolist() == [0.0, 0.0]


def test_double_columns_reach_the_module_as_float32(open_module: Opener) -> None:
    signature = Signature(tuple(TensorSpec(n, "FP64", (-1,), "double") for n in "ab"))

    answer = open_module(Shaped("dtype"), signature).predict({"a": np.ones(3), "b": np.ones(3)})

    assert answer["output-0"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # Names that forward does not know: by position.
        (("input-0", "input-1"), [2.0 * 3.0]),
        (("x", "scale"), [2.0 * 3.0]),
        (("scale", "x"), [2.0 * 3.0]),
        # One parameter in between is left out.
        (("x", "shift"), [2.0 * 10.0 + 3.0]),
        (("shift", "x"), [2.0 * 10.0 + 3.0]),
    ],
)
def test_inputs_find_their_parameters_by_name_else_by_position(
    names: tuple[str, str], expected: list[float], open_module: Opener
) -> None:
    signature = Signature(tuple(TensorSpec(name, "FP32", (-1,)) for name in names))
    values = {"x": 2.0, "input-0": 2.0}
    rows: models.Tensors = {name: np.array([values.get(name, 3.0)], np.float32) for name in names}

    assert open_module(Keywords(), signature).predict(rows)["output-0"].tolist() == expected


class Named(torch.nn.Module):
    """forward(x: dict): y = 2 a + b."""

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return 2 * x["a"] + x["b"]


class Unannotated(torch.nn.Module):
    """What it takes only its code tells."""

    def forward(self, x: Any, scale: float = 1.0) -> Any:
        return scale * (2 * x["a"] + x["b"])


class Texts(torch.nn.Module):
    def forward(self, batch: "Mapping[str, torch.Tensor]") -> torch.Tensor:
        return 2 * batch["a"] + batch["b"]


class Lone(torch.nn.Module):
    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return 2 * x["x"]


class Forecast(torch.nn.Module):
    """As those of pytorch_forecasting are."""


class OfForecast(Forecast):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


Forecast.__module__ = "pytorch_forecasting.models"


def exported(module: torch.nn.Module) -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows")
    example = {"a": torch.ones(3, 2), "b": torch.ones(3, 2)}
    axes = ({"a": {0: rows}, "b": {0: rows}},)
    return torch.export.export(module, (example,), dynamic_shapes=axes)


def named(*names: str) -> Signature:
    return Signature(tuple(TensorSpec(name, "FP32", (-1, 2)) for name in names))


AB_ROWS: models.Tensors = {
    "b": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32),
    "a": np.array([[10.0, 20.0], [30.0, 40.0]], np.float32),
}
AB_ANSWER = [[21.0, 42.0], [63.0, 84.0]]


@pytest.mark.parametrize("module", [Named(), Texts()], ids=["annotated", "annotated in quotes"])
@pytest.mark.parametrize("signature", [None, named("b", "a")], ids=["unsigned", "signed"])
def test_named_tensors_are_one_dict_to_a_module_that_takes_it(
    module: Any, signature: Signature | None, open_module: Opener
) -> None:
    adapter = open_module(module, signature)

    assert adapter.predict(AB_ROWS)["output-0"].tolist() == AB_ANSWER
    adapter.close()


def test_one_parameter_takes_several_tensors_as_a_dict(open_module: Opener) -> None:
    given = Signature(named("b", "a").inputs, params=(ParamSpec("scale", "double", 1.0),))

    (answer,) = open_module(Unannotated(), given).predict(AB_ROWS, {"scale": 2.0}).values()

    assert answer.tolist() == (2 * np.array(AB_ANSWER)).tolist()


def test_a_dict_may_hold_a_single_tensor(open_module: Opener) -> None:
    (answer,) = open_module(Lone(), named("x")).predict({"x": AB_ROWS["b"]}).values()

    assert answer.tolist() == [[2.0, 4.0], [6.0, 8.0]]


@pytest.mark.parametrize("module", [Named(), Unannotated()], ids=["annotated", "unannotated"])
def test_a_program_that_was_exported_with_a_dict_gets_one(module: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    torch.export.save(exported(module), tmp_path / "data" / "model.pt2")
    artifact = Artifact(tmp_path, {"model_data": "data"}, {}, named("b", "a"))

    adapter = PytorchAdapter(artifact, open_device("cpu"))

    assert adapter.predict(AB_ROWS)["output-0"].tolist() == AB_ANSWER


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_tells_that_it_takes_a_dict(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Named()), tmp_path / "model.pth")
    artifact = Artifact(tmp_path, {"model_data": "model.pth"}, {}, named("b", "a"))

    adapter = PytorchAdapter(artifact, open_device("cpu"))

    assert adapter.predict(AB_ROWS)["output-0"].tolist() == AB_ANSWER


def test_a_name_that_forward_has_for_another_tensor_is_refused(open_module: Opener) -> None:
    """By position "scale" would be x."""
    signature = Signature(tuple(TensorSpec(name, "FP32", (-1,)) for name in ("scale", "y")))
    rows: models.Tensors = {"scale": np.ones(1, np.float32), "y": np.ones(1, np.float32)}

    with pytest.raises(LoadError, match=r"^the inputs \['scale', 'y'\] are not the parameters "):
        open_module(Keywords(), signature)
    with pytest.raises(ValueError, match=r"^the inputs \['scale', 'y'\] are not the parameters "):
        open_module(Keywords(), None).predict(rows)


def test_a_table_is_rounded_to_float32_as_mlflow_rounds_it(open_module: Opener) -> None:
    """Each column by itself, an integer beside floats too."""
    kinds = (TensorSpec("a", "INT64", (-1,), "long"), TensorSpec("b", "FP64", (-1,), "double"))
    rows: models.Tensors = {"a": np.array([2**60 + 2**36 + 1]), "b": np.array([0.1])}

    (answer,) = open_module(Shaped("tensor"), Signature(kinds)).predict(rows).values()

    assert answer.tolist() == pd.DataFrame(rows).to_numpy(dtype=np.float32).tolist()


def test_models_of_pytorch_forecasting_are_refused(open_module: Opener) -> None:
    """MLflow asks them by a method of their own, with a DataFrame."""
    with pytest.raises(LoadError, match=r"^models of pytorch_forecasting are not served$"):
        open_module(OfForecast())


def test_parameters_are_keyword_arguments_as_with_mlflow(open_module: Opener) -> None:
    params = (ParamSpec("scale", "double", 2.0),)
    adapter = open_module(Keywords(), Signature(MATRIX.inputs, params=params))

    assert adapter.takes_params
    assert adapter.predict(ROWS)["output-0"].tolist() == [[2.0, 4.0], [6.0, 8.0]]
    (answer,) = adapter.predict(ROWS, {"scale": 3.0}).values()
    assert answer.tolist() == [[3.0, 6.0], [9.0, 12.0]]


def test_no_input_of_a_module_is_optional(open_module: Opener) -> None:
    """MLflow says so of columns; the module's call would fail without one."""
    given = Signature(
        (
            TensorSpec("a", "FP64", (-1,), "double"),
            TensorSpec("b", "FP64", (-1,), "double", optional=True),
        )
    )

    signature = open_module(Shaped("tensor"), given).signature

    assert signature is not None
    assert [spec.optional for spec in signature.inputs] == [False, False]


def test_without_a_signature_tensors_go_in_as_they_came(open_module: Opener) -> None:
    adapter = open_module(Keywords(), None)

    assert adapter.signature is None
    answer = adapter.predict({"x": np.array([2.0]), "scale": np.array([3.0])})
    assert answer["output-0"].tolist() == [6.0]


def test_staging_shares_the_callers_memory(open_module: Opener) -> None:
    (staged,) = open_module(Shaped("tensor")).stage(ROWS).values()

    assert staged.data_ptr() == ROWS["input-0"].ctypes.data


@pytest.mark.parametrize("name", ["torch_pickle", "torch_script", "torch_pt2"])
def test_modules_and_exported_programs_are_moved_to_the_device(name: str) -> None:
    model = models.model(name)

    answer = PytorchAdapter(model.artifact, Pipeline("meta", MetaDriver())).predict(model.rows(5))

    assert answer["output-0"].shape == (5, 3)


def test_another_method_can_be_asked_for(open_module: Opener) -> None:
    adapter = open_module(Shaped("tensor"), method="doubled")

    assert adapter.predict(ROWS)["output-0"].tolist() == [[2.0, 4.0], [6.0, 8.0]]


def test_a_method_that_the_module_lacks_is_an_error_of_loading(open_module: Opener) -> None:
    with pytest.raises(LoadError, match=r"^Shaped has no method 'tripled'$"):
        open_module(Shaped("tensor"), method="tripled")


def test_weights_without_a_module_are_not_served(open_module: Opener) -> None:
    with pytest.raises(LoadError, match=r"^the artifact holds a OrderedDict, not a torch module$"):
        open_module(Shaped("tensor").state_dict())


def test_strings_are_refused_at_loading(open_module: Opener) -> None:
    signature = Signature((TensorSpec("text", "BYTES", (-1,), "string"),))

    with pytest.raises(LoadError, match=r"^torch takes no strings, but input 'text' is BYTES$"):
        open_module(Shaped("tensor"), signature)


def test_calls_use_the_devices_threads(open_module: Opener) -> None:
    before = torch.get_num_threads()
    try:
        artifact = open_module(Shaped("tensor")).artifact
        PytorchAdapter(artifact, open_device("cpu", threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_pickle_module_that_the_artifact_names_reads_it(
    open_module: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    reads = []

    class Unpickler(pickle._Unpickler):
        def load(self) -> Any:
            reads.append("own")
            return super().load()

    own = types.ModuleType("own_pickle")
    own.__dict__.update(Unpickler=Unpickler, load=pickle.load)
    monkeypatch.setitem(sys.modules, "own_pickle", own)
    open_module(Shaped("tensor"))
    (tmp_path / "data" / "pickle_module_info.txt").write_text("own_pickle\n")

    open_module(Shaped("tensor"))

    assert reads == ["own"]


def test_a_pickle_module_that_is_missing_is_named(open_module: Opener, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pickle_module_info.txt").write_text("gone_pickle")

    with pytest.raises(LoadError, match=r"^the model needs the module 'gone_pickle', which is not"):
        open_module(Shaped("tensor"))


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    artifact = Artifact(tmp_path, {"model_data": "data"}, {}, MATRIX)

    with pytest.raises(LoadError, match=r"^'data' holds neither 'model\.pth' nor 'model\.pt2'$"):
        PytorchAdapter(artifact, open_device("cpu"))


def test_a_single_file_is_unpickled(tmp_path: Path) -> None:
    torch.save(Shaped("tensor"), tmp_path / "model.pth")
    artifact = Artifact(tmp_path, {"model_data": "model.pth"}, {}, MATRIX)

    adapter = PytorchAdapter(artifact, open_device("cpu"))

    assert adapter.predict(ROWS)["output-0"].tolist() == ROWS["input-0"].tolist()


def test_mlflows_switch_against_unpickling_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported program needs no pickle: MLflow checks that, and loads it."""
    pickled, exported = models.model("torch_pickle"), models.model("torch_pt2")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

    with pytest.raises(LoadError, match=r"is pickled, which .* forbids: expected 'model.pt2'"):
        PytorchAdapter(pickled.artifact, open_device("cpu"))
    adapter = PytorchAdapter(exported.artifact, open_device("cpu"))
    assert adapter.predict(exported.rows(3))["output-0"].shape == (3, 3)


class Touching:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self._mark), "w"))


def test_an_exported_program_with_a_pickle_in_it_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, mark = models.model("torch_pt2").artifact, tmp_path / "mark"
    (tmp_path / "data").mkdir()
    payload = io.BytesIO()
    torch.save(Touching(mark), payload)
    with (
        zipfile.ZipFile(good.path / "data" / "model.pt2") as source,
        zipfile.ZipFile(tmp_path / "data" / "model.pt2", "w") as target,
    ):
        inputs = [name for name in source.namelist() if "sample_inputs" in name]
        assert inputs
        for name in source.namelist():
            target.writestr(name, payload.getvalue() if name in inputs else source.read(name))
    artifact = replace(good, path=tmp_path)

    with monkeypatch.context() as switched:
        switched.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        with pytest.raises(LoadError, match="not a pickle-free payload"):
            PytorchAdapter(artifact, open_device("cpu"))
    assert not mark.exists()
    with contextlib.suppress(LoadError):
        PytorchAdapter(artifact, open_device("cpu"))
    assert mark.exists()
